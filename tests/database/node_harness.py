"""Nodes without processes and network: capture and merge driven by hand against databases of one server.

Capture is the real loop over the real stream; it can be held back, so that local commits stay uncaptured as long as a
test wants. Change sets are read from the journal of one node and merged into another when the test says so.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import asyncpg
import msgspec

from sidecar.core.catalog import TableSpec
from sidecar.core.changes import ChangeSetHeader, ChangeSetPart, TableChanges
from sidecar.core.pgoutput import parse_lsn
from sidecar.core.wire.bodies import unpack_tables
from sidecar.errors import DirtyRowsError
from sidecar.lab.waiting import wait_until
from sidecar.node.capture import Capture
from sidecar.node.pulse import Pulse
from sidecar.node.rewrite import Rewriter
from sidecar.node.state import CaptureProgress, NodeState
from sidecar.postgres.admin import connect
from sidecar.postgres.attach import initialise
from sidecar.postgres.catalogue_session import CatalogueSession
from sidecar.postgres.fold_limit import SlowFunctionError
from sidecar.postgres.journal import JournalWriter
from sidecar.postgres.journal_reader import JournalReader
from sidecar.postgres.merge import Merger, MergeResult, UniqueSwapError
from sidecar.postgres.merge_batch import MergeSet
from sidecar.postgres.migrations import migrate
from sidecar.postgres.overtaken import Overtaking
from sidecar.postgres.replication import ReplicationStream
from sidecar.postgres.row_errors import is_row_error
from sidecar.postgres.session import Session
from sidecar.settings import LimitSettings, NodeSettings, Settings

DEADLINE_S = 60.0
TRIES_MAX = 50
"""Tries of one merge; the node's own loop has no bound."""

_names = itertools.count(1)
_templates: dict[str, str] = {}


class HeldStream:
    """A replication stream that hands out nothing while it is held; nothing is lost meanwhile."""

    def __init__(self, stream: ReplicationStream) -> None:
        self._stream = stream
        self._batch: list[bytes] | None = None
        self._handed_lsn = stream.server_lsn
        self.together_until = 0
        self.flowing = asyncio.Event()
        self.flowing.set()

    @property
    def server_lsn(self) -> int:
        return self._handed_lsn

    @property
    def busy(self) -> bool:
        return self._stream.busy

    async def read(self, *, backlog: bool = False) -> list[bytes]:
        if self._batch is None:
            self._batch = await self._stream.read(backlog=backlog)
        await self.flowing.wait()
        # What came while the stream was held is one batch, so capture makes one change set of it.
        while self._stream.server_lsn < self.together_until:
            self._batch += await self._stream.read()
        batch, self._batch = self._batch, None
        self._handed_lsn = self._stream.server_lsn
        return batch

    async def aclose(self) -> None:
        await self._stream.aclose()

    def confirm(self, lsn: int) -> None:
        self._stream.confirm(lsn)

    async def rest(self, seconds: float) -> None:
        await self._stream.rest(seconds)

    async def ping(self, until_lsn: int = 0) -> None:
        await self._stream.ping(until_lsn)


@dataclass
class ChangeSet:
    """A change set as it stands in a journal."""

    seq: int
    parts: list[ChangeSetPart]

    @property
    def header(self) -> ChangeSetHeader:
        return self.parts[-1].header

    def tables(self) -> Iterator[TableChanges]:
        for part in self.parts:
            yield from unpack_tables(part.body)

    def rows(self) -> dict[str, int]:
        counts: dict[str, int] = {}
        for table in self.tables():
            counts[table.name] = counts.get(table.name, 0) + table.rows
        return counts


@dataclass
class HarnessNode:
    """One database with everything a sidecar has, but its links."""

    settings: Settings
    state: NodeState
    app: asyncpg.Connection
    merge_session: Session
    merger: Merger
    writer: JournalWriter
    overtaking: Overtaking
    reader: JournalReader
    progress: CaptureProgress
    catalogue: CatalogueSession
    stream: HeldStream
    published: list[int] = field(default_factory=list)
    capture_task: asyncio.Task[None] | None = None

    @property
    def id(self) -> int:
        return self.state.node_id

    @property
    def dsn(self) -> str:
        return self.settings.node.dsn

    def table(self, name: str) -> TableSpec:
        return next(t for t in self.state.tables.values() if t.name == name)

    async def sql(self, text: str, *arguments: Any) -> str:
        """Run as the application."""
        return str(await self.app.execute(text, *arguments))

    async def rows(self, query: str, *arguments: Any) -> list[tuple[Any, ...]]:
        return [tuple(row) for row in await self.app.fetch(query, *arguments)]

    async def value(self, query: str, *arguments: Any) -> Any:
        return await self.app.fetchval(query, *arguments)

    def hold_capture(self) -> None:
        """Local commits stay uncaptured until :meth:`release_capture`, and are captured together then."""
        self.stream.flowing.clear()

    async def release_capture(self) -> None:
        await self.reader.nudge()
        self.stream.together_until = await self.log_end()
        self.stream.flowing.set()
        await self.stream.ping(self.stream.together_until)

    async def log_end(self) -> int:
        return parse_lsn(str(await self.value("SELECT pg_current_wal_lsn()::text")))

    async def captured(self) -> None:
        """Wait until everything committed so far is captured."""
        lsn = parse_lsn(str(await self.value("SELECT pg_current_wal_insert_lsn()::text")))
        async with asyncio.timeout(DEADLINE_S):
            while not await self.progress.captured(lsn, 1.0):
                self.check()

    def check(self) -> None:
        """Raise what ended the capture loop."""
        if self.capture_task is not None and self.capture_task.done():
            self.capture_task.result()

    async def refresh(self) -> None:
        tables, problems = await self.catalogue.refresh()
        if tables is not None:
            self.state.busy_tables = self.catalogue.busy
            self.state.set_tables(tables)
            self.merger.forget_statements()
        assert not [p for p in problems if getattr(p, "severity", "error") == "error"], problems

    async def sets(self, after_hlc: int = 0) -> list[ChangeSet]:
        """The journal's change sets that end above an hlc."""
        rows = await self.app.fetch(
            "SELECT seq, header, body FROM crdt_state.journal WHERE to_hlc > $1 ORDER BY seq, part", after_hlc
        )
        out: list[ChangeSet] = []
        for row in rows:
            header = msgspec.msgpack.decode(row["header"], type=ChangeSetHeader)
            part = ChangeSetPart(header=header, body=row["body"])
            if out and out[-1].seq == row["seq"]:
                out[-1].parts.append(part)
            else:
                out.append(ChangeSet(row["seq"], [part]))
        return out

    def opened(self, change_set: ChangeSet) -> MergeSet:
        return MergeSet(change_set.header, change_set.tables, self.state.tables)

    def observe(self, header: ChangeSetHeader) -> None:
        self.state.hlc.observe(header.to_hlc)

    async def try_merge(self, change_set: ChangeSet) -> MergeResult:
        """The first try only."""
        result = await self.merger.merge([self.opened(change_set)], self.observe)
        self.state.advance(change_set.header.origin, change_set.header.to_hlc)
        self.state.context[change_set.header.origin] = change_set.header.to_hlc
        return result

    async def merge(self, change_set: ChangeSet) -> MergeResult:
        """All tries, as the node's loop makes them."""
        try:
            return await self.try_merge(change_set)
        except Exception as error:
            if not _passes(error) and not is_row_error(error):
                raise
        merge_set, isolate = self.opened(change_set), False
        for _ in range(TRIES_MAX):
            if not await self.merger.wait_for_capture(1.0):
                self.check()
                continue
            try:
                result = await self.merger.merge_locked([merge_set], self.observe, isolate=isolate)
            except Exception as error:
                if is_row_error(error):
                    isolate = True
                elif not _passes(error):
                    raise
            else:
                self.state.advance(change_set.header.origin, change_set.header.to_hlc)
                self.state.context[change_set.header.origin] = change_set.header.to_hlc
                return result
        raise AssertionError(f"not merged in {TRIES_MAX} tries")

    async def merge_from(self, other: HarnessNode, limit: int | None = None) -> MergeResult:
        """Merge what the other has captured and this node lacks, in order, as far as the causal gate lets it."""
        total = MergeResult()
        for change_set in (await other.sets(self.state.clock.get(other.id, 0)))[:limit]:
            if not self.covers(change_set.header):
                break
            result = await self.merge(change_set)
            total.rows += result.rows
            total.conflicts += result.conflicts
            total.quarantined += result.quarantined
        return total

    def covers(self, header: ChangeSetHeader) -> bool:
        own = (header.origin, self.id)
        return all(self.state.clock.get(n, 0) >= hlc for n, hlc in header.context.items() if n not in own)

    async def rewrite(self) -> None:
        """Work off the queue of local rewrites."""
        rewriter = Rewriter(self.state, self.merger)
        async with asyncio.timeout(DEADLINE_S):
            while await self.value("SELECT count(*) FROM crdt_state.rewrite"):
                await rewriter.batch()
                await self.captured()

    async def copy(self, table: str) -> list[str]:
        """The rows of a table as text, in order: byte-equal on nodes that converged."""
        rows = await self.rows(f"SELECT t::text FROM {table} AS t ORDER BY 1")
        return [row[0] for row in rows]

    async def conflicts(self) -> list[asyncpg.Record]:
        return list(await self.app.fetch("SELECT * FROM crdt_state.conflict ORDER BY id"))

    async def quarantine(self) -> list[asyncpg.Record]:
        return list(await self.app.fetch("SELECT * FROM crdt_state.quarantine ORDER BY id"))


def _passes(error: Exception) -> bool:
    lock = getattr(error, "sqlstate", None) in ("55P03", "40P01")
    return isinstance(error, (DirtyRowsError, UniqueSwapError, SlowFunctionError)) or lock


@asynccontextmanager
async def open_node(
    dsn: str, node_id: int, schema: str = "", *, limits: dict[str, Any] | None = None
) -> AsyncIterator[HarnessNode]:
    """Run the schema, attach the database (rows that are there are genesis), start capturing."""
    settings = Settings(
        node=NodeSettings(name=f"n{node_id}", id=node_id, dsn=dsn), limits=LimitSettings(**(limits or {}))
    )
    async with contextlib.AsyncExitStack() as stack:
        app = await asyncpg.connect(dsn, server_settings={"timezone": "UTC"})
        stack.push_async_callback(app.close)
        if schema:
            await app.execute(schema)
        stack.push_async_callback(_drop_slot, app)
        async with await connect(dsn) as admin:
            report = await initialise(admin, settings)
        assert not [p for p in report.problems if p.severity == "error"], "\n".join(map(str, report.problems))
        node = await _assemble(stack, settings, app)
        await node.refresh()
        yield node


async def _drop_slot(app: asyncpg.Connection) -> None:
    """A walsender that was left takes a moment to notice."""

    async def dropped() -> bool:
        await app.execute(
            "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = current_database()"
        )
        return True

    await wait_until(dropped, DEADLINE_S, "the slot is free", tolerate=(asyncpg.ObjectInUseError,))


async def _assemble(stack: contextlib.AsyncExitStack, settings: Settings, app: asyncpg.Connection) -> HarnessNode:
    dsn, limits = settings.node.dsn, settings.limits
    # Replication origins are names of the whole server, so several nodes on it cannot use them; the message suffices.
    upkeep = await Session.open(dsn, purpose="upkeep", origin=False)
    stack.push_async_callback(upkeep.close)
    capture_session = await Session.open(dsn, purpose="capture", origin=False)
    stack.push_async_callback(capture_session.close)
    merge_session = await Session.open(
        dsn, purpose="merge", origin=False, settings={"lock_timeout": f"{limits.lock_timeout_ms}ms"}
    )
    stack.push_async_callback(merge_session.close)
    state = NodeState(settings)
    overtaking = Overtaking()
    partitions = (limits.journal_partition_rows, limits.journal_partition_bytes_max)
    writer = JournalWriter(capture_session, overtaking, state.node_id, *partitions)
    start = await writer.start()
    state.clock.update(start.clock)
    state.hlc.observe(max([start.hlc, start.to_hlc, *start.clock.values()]))
    reader = JournalReader(upkeep)
    progress = CaptureProgress(reader.nudge)
    progress.restart(parse_lsn(start.lsn))
    held = HeldStream(await ReplicationStream.connect(dsn, slot=start.slot, start_lsn=parse_lsn(start.lsn)))
    stack.push_async_callback(held.aclose)
    progress.connect(held.ping)
    merger = Merger(
        merge_session,
        progress,
        state.writer_lock,
        overtaking,
        wait_locked_ms=limits.capture_wait_locked_ms,
        function_ms_max=limits.merge_function_ms_max,
    )
    catalogue = await CatalogueSession.open(settings)
    stack.push_async_callback(catalogue.close)
    node = HarnessNode(
        settings, state, app, merge_session, merger, writer, overtaking, reader, progress, catalogue, held
    )
    capture = Capture(
        state,
        held,  # type: ignore[arg-type]
        writer,
        progress,
        Pulse(),
        resume_lsn=parse_lsn(start.lsn),
        publish=lambda seq, part: node.published.append(seq),
        refresh_tables=node.refresh,
    )
    node.capture_task = asyncio.create_task(capture.run(), name=f"capture of n{state.node_id}")

    async def stop() -> None:
        assert node.capture_task is not None
        node.capture_task.cancel()
        await asyncio.wait({node.capture_task})

    stack.push_async_callback(stop)
    return node


async def migrated_template(server: Any) -> str:
    """The name of a database of this server in which the migrations have run, and nothing else has.

    To copy it costs a fifth of running them. That they run is shown by ``test_migrations.py``, and by whatever starts a
    node with ``sidecar init``.
    """
    address = server.dsn()
    if address not in _templates:
        name = f"migrated_{next(_names)}"
        async with await connect(server.create_database(name)) as admin:
            await migrate(admin)
        _templates[address] = name
    return _templates[address]


@asynccontextmanager
async def cluster(
    server: Any, count: int, schema: str, *, limits: dict[str, Any] | None = None, template: str | None = None
) -> AsyncIterator[list[HarnessNode]]:
    """``count`` nodes with ids from 1, each with a database of its own holding the same genesis."""
    names = [f"harness_{next(_names)}" for _ in range(count)]
    template = template or await migrated_template(server)
    async with contextlib.AsyncExitStack() as stack:
        nodes = []
        for i, name in enumerate(names, 1):
            dsn = server.create_database(name, template)
            stack.callback(server.drop_database, name)
            nodes.append(await stack.enter_async_context(open_node(dsn, i, schema, limits=limits)))
        yield nodes


async def settle(nodes: list[HarnessNode]) -> None:
    """Exchange everything until no node lacks anything."""
    async with asyncio.timeout(DEADLINE_S * 3):
        while True:
            for node in nodes:
                await node.captured()
                await node.rewrite()
            merged = 0
            for node in nodes:
                for other in nodes:
                    if other is not node:
                        merged += (await node.merge_from(other)).rows
            if not merged and not [n for n in nodes if await _lacks(n, nodes)]:
                return


async def _lacks(node: HarnessNode, nodes: list[HarnessNode]) -> bool:
    await node.captured()
    queued = await node.value("SELECT count(*) FROM crdt_state.rewrite")
    return bool(queued) or any([bool(await o.sets(node.state.clock.get(o.id, 0))) for o in nodes if o is not node])


async def converged(nodes: list[HarnessNode], *tables: str) -> list[list[str]]:
    """Settle, then compare the tables of all nodes; returns their rows."""
    await settle(nodes)
    out = []
    for table in tables:
        first = await nodes[0].copy(table)
        for node in nodes[1:]:
            assert await node.copy(table) == first, f"{table}: node {node.id} differs from node {nodes[0].id}"
        out.append(first)
    return out


__all__ = ["ChangeSet", "HarnessNode", "cluster", "converged", "open_node", "settle", "wait_until"]
