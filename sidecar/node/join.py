"""Joining: the rows and row states of another node become part of this one's, then the links stream from there.

First every peer is told of this node (:mod:`.join_peers`), so that its journal keeps what comes after the copy. Then
one snapshot of the other database, read by several sessions at once, is merged by states (:mod:`sidecar.core.merge
.states`), so nothing is lost or counted twice whatever is here already: rows from before, or an earlier try that was
cut short. Local commits go on meanwhile on both sides; this node's are captured as ever. At last the clock covers what
the snapshot's does, and the node runs until it has what the other one had when the copy ended (:mod:`.catch_up`).
"""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from sidecar.core.catalog import TableSpec
from sidecar.core.pgoutput import parse_lsn
from sidecar.core.versions import VersionVector
from sidecar.errors import ConfigurationError, TransientError
from sidecar.node.capture import Capture
from sidecar.node.catch_up import catch_up
from sidecar.node.join_peers import JoinPeers
from sidecar.node.pulse import Pulse
from sidecar.node.state import CaptureProgress, NodeState
from sidecar.node.upkeep import supervise
from sidecar.postgres import join_target
from sidecar.postgres.catalogue_session import CatalogueSession
from sidecar.postgres.fold_limit import FoldLimit
from sidecar.postgres.identity import require_place, take_place
from sidecar.postgres.join_copy import Piece, PieceCopier, is_empty, pieces
from sidecar.postgres.join_source import LOCK_TIMEOUT, JoinSource, Snapshot
from sidecar.postgres.join_truncate import truncate_again
from sidecar.postgres.journal import JournalWriter
from sidecar.postgres.journal_reader import JournalReader
from sidecar.postgres.membership import MembershipStore
from sidecar.postgres.merge import Merger
from sidecar.postgres.overtaken import Overtaking
from sidecar.postgres.problem import errors
from sidecar.postgres.replication import ReplicationStream
from sidecar.postgres.session import Session
from sidecar.postgres.state_merge import StateMerger
from sidecar.settings import Settings

WORKERS = 4
"""Sessions that copy, on either side. More than a server's free cores give nothing."""

COLUMNS_MAX = 100
"""Replicated columns of a table that can be joined: a state merge carries some 16 values for each of them, and a target
list holds 1664 entries (MaxTupleAttributeNumber, access/htup_details.h)."""

ROWS, MILLISECONDS = "rows", "ms"

Report = Callable[[str, int, int, str], None]
"""What is being done, how much of it, of how much (0: not known), and in which unit."""


@dataclass(slots=True)
class Joined:
    """What a join did. ``merged``: rows that were merged by states; ``written_anew``: that only this node had;
    ``quarantined``: that cannot be here."""

    tables: int = 0
    rows: int = 0
    merged: int = 0
    written_anew: int = 0
    quarantined: int = 0
    goal: VersionVector = field(default_factory=dict)
    """The other node's clock when the copy ended."""


@dataclass(frozen=True, slots=True)
class _Here:
    """This node while it joins: capture runs, links do not."""

    state: NodeState
    progress: CaptureProgress
    session: Session
    capture: Capture
    overtaking: Overtaking


async def join(settings: Settings, *, source_name: str, source_dsn: str, report: Report, wait: bool = True) -> Joined:
    """Join from a node. :class:`ConfigurationError` when the tables differ, which is looked at first; a
    :class:`TransientError` means that starting it again goes on with what is here. ``wait``: until this node also has
    what was written while it copied."""
    result = await _copy_all(settings, source_name, source_dsn, report)
    if wait:
        what = f"catching up with {source_name}"
        report(what, 0, 0, MILLISECONDS)
        await catch_up(settings, result.goal, lambda done, way: report(what, done, way, MILLISECONDS))
    return result


async def _copy_all(settings: Settings, source_name: str, source_dsn: str, report: Report) -> Joined:
    async with contextlib.AsyncExitStack() as stack:
        report("comparing tables", 0, 0, ROWS)
        source = await stack.enter_async_context(
            JoinSource.open(source_dsn, name=source_name, cluster=settings.node.cluster)
        )
        if source.node_id == settings.node.id:
            raise ConfigurationError(
                f"{source_name} has this node's id {source.node_id}", mend="a node joins from another"
            )
        here = await stack.enter_async_context(_here(settings))
        pairs = compare(source.tables, here.state.tables)
        result = Joined(tables=len(pairs))
        peers = JoinPeers(here.state, uuid.uuid4().hex)
        copying = _Joining(settings, source, here, peers, pairs, report, result)
        await supervise(here.capture.run(), peers.run(), copying.run())
    return result


def compare(there: dict[str, TableSpec], here: dict[str, TableSpec]) -> list[tuple[TableSpec, TableSpec]]:
    """The tables to copy, as (there, here); :class:`ConfigurationError` that lists every difference."""
    lines = []
    for name, spec in there.items():
        other = here.get(name)
        if other is None:
            lines.append(f"table {name} is not replicated here")
        elif spec.fingerprint() != other.fingerprint():
            lines.append(f"table {name} differs: {', '.join(_differences(spec, other))}")
        elif len(spec.columns) > COLUMNS_MAX:
            lines.append(f"table {name} has more than {COLUMNS_MAX} columns, which no join copies")
    if lines:
        raise ConfigurationError("; ".join(lines), mend="make columns, types and annotations equal, then sidecar init")
    return [(spec, here[name]) for name, spec in there.items()]


def _differences(there: TableSpec, here: TableSpec) -> list[str]:
    out = [] if there.row_rule == here.row_rule else [f"row={there.row_rule} there, row={here.row_rule} here"]
    columns = [
        {
            c.name: f"{c.type_name} {'key' if c in t.key else c.crdt} {c.argument or ''}".strip()
            for c in (*t.key, *t.columns)
        }
        for t in (there, here)
    ]
    for name in sorted({*columns[0], *columns[1]}):
        one, other = (c.get(name, "missing") for c in columns)
        if one != other:
            out.append(f"column {name} is {one} there, {other} here")
    return out or ["the order of its key"]


@asynccontextmanager
async def _here(settings: Settings) -> AsyncIterator[_Here]:
    """This database with its capture, and the right to be its sidecar."""
    dsn, limits = settings.node.dsn, settings.limits
    async with contextlib.AsyncExitStack() as stack:
        upkeep = await Session.open(dsn, purpose="upkeep", origin=False)
        stack.push_async_callback(upkeep.close)
        await upkeep.own_node()
        if not upkeep.privileges.replica_role:
            raise ConfigurationError(
                "session_replication_role may not be set: triggers and foreign keys would fire for every copied row",
                mend="GRANT SET ON PARAMETER session_replication_role TO this role",
            )
        catalogue = await CatalogueSession.open(settings)
        stack.push_async_callback(catalogue.close)
        await require_place(dsn)
        captured = await Session.open(dsn, purpose="capture", origin=True)
        stack.push_async_callback(captured.close)
        state = NodeState(settings)
        overtaking = Overtaking()
        partitions = (limits.journal_partition_rows, limits.journal_partition_bytes_max)
        writer = JournalWriter(captured, overtaking, state.node_id, *partitions)
        start = await writer.start(joining=True)
        if start.node_id != state.node_id:
            raise ConfigurationError(
                f"this database belongs to node {start.node_id}", mend="correct id or dsn in [node]"
            )
        state.clock.update(start.clock)
        state.context = dict(start.context)
        state.hlc.observe(max([start.hlc, start.to_hlc, *start.clock.values()]))
        # A session of its own: a nudge may still be under way when whoever waited for capture goes on.
        nudging = await Session.open(dsn, purpose="nudge", origin=False)
        stack.push_async_callback(nudging.close)
        progress = CaptureProgress(JournalReader(nudging).nudge)
        progress.restart(parse_lsn(start.lsn))

        async def refresh() -> None:
            tables, problems = await catalogue.refresh()
            if tables is not None:
                state.busy_tables = catalogue.busy
                state.set_tables(tables)
            if wrong := errors(problems):
                raise ConfigurationError(wrong[0].line(), mend="sidecar check shows all of them")

        await refresh()
        stream = await ReplicationStream.connect(dsn, slot=start.slot, start_lsn=parse_lsn(start.lsn))
        stack.push_async_callback(stream.aclose)
        progress.connect(stream.ping)
        capture = Capture(
            state,
            stream,
            writer,
            progress,
            Pulse(),
            resume_lsn=parse_lsn(start.lsn),
            publish=lambda seq, part: None,
            refresh_tables=refresh,
        )
        yield _Here(state, progress, upkeep, capture, overtaking)


class _Joining:
    """The steps of one join."""

    def __init__(
        self,
        settings: Settings,
        source: JoinSource,
        here: _Here,
        peers: JoinPeers,
        pairs: Sequence[tuple[TableSpec, TableSpec]],
        report: Report,
        result: Joined,
    ) -> None:
        self._settings = settings
        self._source = source
        self._here = here
        self._peers = peers
        self._pairs = pairs
        self._report = report
        self._result = result
        self._expected = 0
        self._own: VersionVector = {}

    async def run(self) -> None:
        """All of it."""
        state, session = self._here.state, self._here.session
        await MembershipStore(JournalReader(session)).copy(self._source, state.node_id)
        self._report("telling the peers", 0, 0, ROWS)
        await self._peers.known()
        self._report("waiting for the other node's capture", 0, 0, ROWS)
        async with self._source.snapshot() as snapshot:
            self._peers.check_former(self._source.name, snapshot.clock)
            state.hlc.observe(max(snapshot.clock.values()))
            async with state.writer_lock:
                begun = await join_target.begin(
                    session, self._source, snapshot, self._pairs, own=state.clock, node_id=state.node_id
                )
                await take_place(session, self._source.fetch, state.node_id, anew=begun.anew)
                state.advance(state.node_id, snapshot.clock.get(state.node_id, 0))
            # Of a former database of this node nothing is here, so what is lacking of it was not removed here.
            self._own = {**state.clock, state.node_id: 0} if begun.anew else state.clock
            if begun.truncations:
                await self._truncate(begun.truncations)
            todo, filled = await self._plan()
            await self._copy(snapshot, todo)
        for _, target in self._pairs:
            await join_target.queue_wrong_rows(session, target)
        for source, target in filled:
            await self._keep_own_rows(source, target)
        await self._captured()
        async with state.writer_lock:
            await join_target.finish(session, snapshot)
        goal = await self._source.clock()
        self._result.goal = {node: hlc for node, hlc in goal.items() if node != state.node_id}

    async def _truncate(self, truncations: Sequence[tuple[TableSpec, int, int]]) -> None:
        """Delete the genesis rows that an earlier try copied and that were truncated since: nothing over there names
        them any more."""
        settings = {"lock_timeout": LOCK_TIMEOUT}
        session = await Session.open(self._settings.node.dsn, purpose="join", origin=False, settings=settings)
        try:
            state, limits = self._here.state, self._settings.limits
            merger = Merger(
                session,
                self._here.progress,
                state.writer_lock,
                self._here.overtaking,
                wait_locked_ms=limits.capture_wait_locked_ms,
                function_ms_max=limits.merge_function_ms_max,
            )
            for spec, node, hlc in truncations:
                self._report(f"truncating {spec.qualified}", 0, 0, ROWS)
                await truncate_again(merger, state.tables, spec, node, hlc)
        finally:
            await session.close()

    async def _plan(self) -> tuple[list[Piece], list[tuple[TableSpec, TableSpec]]]:
        """The pieces, and the tables in which there are rows here already."""
        todo: list[Piece] = []
        filled = []
        for source, target in self._pairs:
            pages, rows = await self._source.sizes(source)
            empty = await is_empty(self._here.session, target)
            if not empty:
                filled.append((source, target))
            todo += pieces(source, target, pages, empty=empty)
            self._expected += rows
        return todo, filled

    async def _copy(self, snapshot: Snapshot, todo: list[Piece]) -> None:
        waiting = iter(todo)
        async with contextlib.AsyncExitStack() as stack:
            copiers = [await self._copier(stack, snapshot) for _ in range(min(WORKERS, len(todo)))]
            try:
                async with asyncio.TaskGroup() as group:
                    for copier in copiers:
                        group.create_task(self._work(copier, waiting))
            except ExceptionGroup as several:
                raise several.exceptions[0] from None
            # A row that gives up a unique value may stand behind the one that takes it, and with another worker.
            while sum([await copier.merge_aside() for copier in copiers]):
                pass
            self._result.quarantined = sum([await copier.quarantine_aside() for copier in copiers])

    async def _copier(self, stack: contextlib.AsyncExitStack, snapshot: Snapshot) -> PieceCopier:
        state = self._here.state
        # Sessions that make a table longer wait for each other, so copying is not as hasty as merging.
        settings = {"lock_timeout": LOCK_TIMEOUT}
        session = await Session.open(self._settings.node.dsn, purpose="join", origin=False, settings=settings)
        stack.push_async_callback(session.close)
        reader = await stack.enter_async_context(self._source.reader(snapshot))
        limits = self._settings.limits
        merger = StateMerger(
            session,
            self._here.progress,
            state.writer_lock,
            lock_timeout_ms=limits.lock_timeout_ms,
            folds=FoldLimit(session, limits.merge_function_ms_max),
            overtaking=self._here.overtaking,
        )
        return PieceCopier(self._source, snapshot, reader, merger, self._own)

    async def _work(self, copier: PieceCopier, waiting: Iterator[Piece]) -> None:
        for piece in waiting:
            count = await copier.copy(piece)
            self._result.rows += count
            self._result.merged += 0 if piece.straight else count
            self._report(f"copying {piece.target.qualified}", self._result.rows, self._expected, ROWS)

    async def _keep_own_rows(self, source: TableSpec, target: TableSpec) -> None:
        """Rows that only this node has, from before it was attached: the others learn of them as of a new write."""
        self._report(f"comparing what only {target.qualified} here has", self._result.rows, self._expected, ROWS)
        writing = await Session.open(self._settings.node.dsn, purpose="join rows", origin=False)
        try:
            async for keys in join_target.own_rows(self._here.session, target):
                unknown = await join_target.unknown_to(self._source, source, target, keys)
                if unknown:
                    # Perhaps deleted over there a moment ago: then it has left a state when that is captured.
                    await self._source.captured()
                    unknown = await join_target.unknown_to(self._source, source, target, unknown)
                if unknown:
                    await join_target.write_anew(writing, target, unknown)
                    self._result.written_anew += len(unknown)
        finally:
            await writing.close()

    async def _captured(self) -> None:
        """Wait until this node has captured what was committed here."""
        lsn = await JournalReader(self._here.session).log_end()
        if not await self._here.progress.captured(lsn, 60.0):
            raise TransientError("this node does not capture what is committed here", mend="start the join again")
