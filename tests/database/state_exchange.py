"""State merges between harness nodes: everything of one node's tables, read in one snapshot, into another node."""

from __future__ import annotations

from collections.abc import Iterable

import asyncpg
from node_harness import HarnessNode

from sidecar.core.merge.state_rows import gone_source, rows_source, states_query
from sidecar.postgres.fold_limit import FoldLimit
from sidecar.postgres.state_merge import StateMerge, StateMerger


async def merge_states(here: HarnessNode, other: HarnessNode, tables: Iterable[str] | None = None) -> StateMerge:
    """Merge all of ``other``'s states; both have captured everything. Then this node's clock covers the other's."""
    await here.captured()
    await other.captured()
    folds = FoldLimit(here.merge_session, here.settings.limits.merge_function_ms_max)
    merger = StateMerger(
        here.merge_session,
        here.progress,
        here.state.writer_lock,
        lock_timeout_ms=20,
        folds=folds,
        overtaking=here.overtaking,
    )
    total = StateMerge()
    reader = await asyncpg.connect(other.dsn, server_settings={"timezone": "UTC", "search_path": "pg_catalog"})
    try:
        async with reader.transaction(isolation="repeatable_read"):
            clock = dict(await reader.fetch("SELECT node, hlc FROM crdt_state.clock"))
            floor = int(await reader.fetchval("SELECT pg_snapshot_xmax(pg_current_snapshot())::text"))
            for source in other.state.tables.values():
                if tables is not None and source.name not in tables:
                    continue
                target = here.state.tables[source.qualified]
                await merger.prepare(target)
                for rows in (rows_source(source), gone_source(source) + " WHERE t.ctid IS NULL"):
                    chunks: list[bytes] = []

                    async def keep(data: bytes, chunks: list[bytes] = chunks) -> None:
                        chunks.append(data)

                    await reader.copy_from_query(states_query(source, target, floor, rows), output=keep)
                    await merger.fill(target, _stream(chunks))
                here.state.hlc.observe(max(clock.values()))
                total.add(await merger.merge(target, here.state.clock, clock))
                while await merger.merge_aside(target, here.state.clock, clock):
                    pass
                await merger.quarantine_aside(target, other.id, clock[other.id])
    finally:
        await reader.close()
    for node, hlc in clock.items():
        if node != here.id:
            here.state.advance(node, hlc)
            here.state.context[node] = max(here.state.context.get(node, 0), hlc)
            await here.app.execute(
                "INSERT INTO crdt_state.clock AS c VALUES ($1, $2, $2) ON CONFLICT (node)"
                " DO UPDATE SET hlc = greatest(c.hlc, excluded.hlc), change_hlc = greatest(c.hlc, excluded.hlc)",
                node,
                hlc,
            )
    return total


async def _stream(chunks: list[bytes]):  # type: ignore[no-untyped-def]
    for chunk in chunks:
        yield chunk
