"""Every merge vector on three real databases: captured from ordinary statements, merged in both orders of delivery."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
from node_harness import HarnessNode, cluster, settle

from tests.merge_vectors import ABSENT, MergeVector, literal
from tests.merge_vectors.placed import PLACED, Placed, initial_rows, schema_sql

LATER = 1 << 24
"""What the later node's clock is ahead of the earlier's: more than all its transactions."""


async def run(node: HarnessNode, transactions: Iterable[list[str]], *, apart: bool = False) -> None:
    """One after the other; ``apart``: each is a change set of its own, else all are one."""
    if not apart:
        node.hold_capture()
    for statements in transactions:
        async with node.app.transaction():
            for statement in statements:
                await node.sql(statement)
        if apart:
            await node.captured()
    if not apart:
        await node.release_capture()
    await node.captured()


async def concurrently(
    earlier: HarnessNode, later: HarnessNode, of: dict[int, list[list[str]]], *, apart: bool = False
) -> None:
    """The transactions of both nodes, which do not see each other."""
    await run(earlier, of[earlier.id], apart=apart)
    later.state.hlc.last = max(later.state.hlc.last, earlier.state.hlc.last + LATER)
    await run(later, of[later.id], apart=apart)


def of_nodes(vectors: list[Placed]) -> dict[int, list[list[str]]]:
    return {
        2: [p.statements(t) for p in vectors for t in p.vector.at_b],
        3: [p.statements(t) for p in vectors for t in p.vector.at_c],
    }


async def shown(node: HarnessNode, place: Placed) -> Any:
    [*rows] = await node.rows(f"SELECT v::text FROM {place.table} WHERE id = {place.key}")
    return rows[0][0] if rows else ABSENT


async def expected(node: HarnessNode, vector: MergeVector) -> Any:
    if vector.expected is ABSENT:
        return ABSENT
    return await node.value(f"SELECT {literal(vector.expected, vector.type_name)}::text")


async def siblings(node: HarnessNode, place: Placed) -> list[Any]:
    """The values kept, the latest first; one that is alone is the shown one."""
    spec = node.table(place.table)
    kept = await node.value(
        f"SELECT ARRAY(SELECT w ->> 2 FROM jsonb_array_elements(sib_{spec.columns[0].attnum}) AS w)"
        f" FROM crdt_state.row_{spec.table_id} WHERE k_{spec.key[0].attnum} = {place.key}"
    )
    return kept or [await shown(node, place)]


async def begin(nodes: list[HarnessNode], *, as_genesis: bool) -> None:
    """What every vector starts from, on all nodes."""
    if not as_genesis:
        await run(nodes[0], [initial_rows()])
    await run(nodes[0], [p.statements(t) for p in PLACED for t in p.vector.at_a])
    await settle(nodes)


async def diverge(b: HarnessNode, c: HarnessNode, *, apart: bool = False) -> None:
    """Every vector's concurrent writes, which nobody but their writers has."""
    await concurrently(b, c, of_nodes([p for p in PLACED if p.vector.later == "C"]), apart=apart)
    await concurrently(c, b, of_nodes([p for p in PLACED if p.vector.later == "B"]), apart=apart)


async def wrong_values(nodes: list[HarnessNode]) -> list[Any]:
    """Per vector and node that shows or keeps something else than expected: both."""
    wrong = []
    for place in PLACED:
        wanted = await expected(nodes[0], place.vector)
        for node in nodes:
            got = await shown(node, place)
            several = [v if v is None else str(v) for v in place.vector.siblings or ()]
            kept = await siblings(node, place) if several else []
            if got != wanted or kept != several:
                wrong.append((str(place.vector), node.id, got, wanted, kept))
    return wrong


@pytest.mark.parametrize("first", [2, 3])
@pytest.mark.parametrize("as_genesis", [True, False], ids=["genesis", "inserted"])
async def test_all_vectors(postgres_server, as_genesis: bool, first: int) -> None:  # type: ignore[no-untyped-def]
    """``first``: whose changes node 1, which wrote none of them, merges first; once each a change set of its own."""
    async with cluster(postgres_server, 3, schema_sql(as_genesis=as_genesis)) as nodes:
        a, b, c = nodes
        await begin(nodes, as_genesis=as_genesis)
        await diverge(b, c, apart=first == 3)
        for other in sorted((b, c), key=lambda node: node.id != first):
            await a.merge_from(other)
        await settle(nodes)
        await run(a, [p.statements(t) for p in PLACED for t in p.vector.after])
        await settle(nodes)
        assert await wrong_values(nodes) == []
