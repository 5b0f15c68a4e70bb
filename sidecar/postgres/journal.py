"""The journal as capture writes it, in the transaction that versions the changes; read by :mod:`.journal_reader`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import asyncpg
import msgspec

from sidecar.core.arrays import text_array
from sidecar.core.catalog import TableSpec, quote
from sidecar.core.changes import (
    DELETE,
    INSERT,
    REPLACE,
    ChangeSetHeader,
    ChangeSetPart,
    LocalChanges,
    TableChanges,
    is_truncation,
)
from sidecar.core.merge import capture, capture_elements, counters
from sidecar.core.merge.combine import combine
from sidecar.core.merge.shapes import Shapes, Statements
from sidecar.core.merge.staging import Argument, Statement, bind
from sidecar.core.merge.state_tables import qualified_user_table
from sidecar.core.pgoutput import show_lsn
from sidecar.core.wire.bodies import pack_tables
from sidecar.errors import FatalError
from sidecar.postgres.overtaken import Overtaking
from sidecar.postgres.put_aside import Beat, Isolation, PutAside
from sidecar.postgres.session import Session
from sidecar.postgres.statements import load
from sidecar.postgres.truncate import seen_deletes

GONE_ERRORS = (asyncpg.UndefinedTableError, asyncpg.InvalidSchemaNameError, asyncpg.InsufficientPrivilegeError)
"""A table that was dropped, renamed or given away since its changes were made."""


def journal_row(seq: int, part: ChangeSetPart) -> tuple[Any, ...]:
    """A part as the columns of ``crdt_state.journal``, all but its origin."""
    header = part.header
    return (
        seq,
        header.part,
        header.last,
        header.from_hlc,
        header.to_hlc,
        msgspec.msgpack.encode(header),
        part.body,
        header.format_version,
    )


@dataclass(frozen=True, slots=True)
class JournalStart:
    """Where a restarted node resumes."""

    node_id: int
    hlc: int
    slot: str
    lsn: str
    to_hlc: int
    seq: int
    clock: dict[int, int]
    context: dict[int, int]
    end_hlc: int
    """The end of this node's own last change set; ``to_hlc`` also rises with heartbeats."""
    relaying: bool = False
    """Whether the journal also holds what was merged of late."""


@dataclass(slots=True)
class _Run:
    """A part in the making: what is shipped and which rewrites are queued so far."""

    header: ChangeSetHeader
    shipped: list[TableChanges]
    rewrites: list[int]
    isolate: Beat | None


class JournalWriter:
    """Versions captured changes and appends them to the journal; one per node, on the capture session.

    A partition ends after ``partition_rows`` numbers or with the change set that fills ``partition_bytes``: the rest of
    its numbers is passed over then, because partitions are dropped as a whole, and the newest one never is.
    """

    def __init__(
        self, session: Session, overtaking: Overtaking, node_id: int, partition_rows: int, partition_bytes: int
    ) -> None:
        self._session = session
        self._overtaking = overtaking
        self._node_id = node_id
        self._partition_rows = partition_rows
        self._partition_bytes = partition_bytes
        self._filled_bytes = 0
        self._partitions: set[int] = set()
        self._looked: dict[int, bool] = {}
        self._shapes = Shapes()
        self._statements = Statements()
        self._sql = load("journal")
        self._last_part: tuple[Any, ...] = ()
        self._captured_lsn = 0
        self.parts = 0
        self.put_aside: list[PutAside] = []
        self.seq = 0

    async def start(self, *, joining: bool = False) -> JournalStart:
        """Read where to resume; :class:`FatalError` when the database was not initialised, or a join was begun and not
        finished (``joining``: it goes on)."""
        connection = self._session.connection
        row = await connection.fetchrow(self._sql["read_node"])
        if row is None:
            raise FatalError("this database is not initialised", mend="run sidecar init")
        source = None if joining else await connection.fetchval(load("join")["joining"])
        if source is not None:
            raise FatalError(
                f"this database has begun to join from {source} and holds a part of it",
                mend=f"bring it to its end: sidecar join --from {source}",
            )
        rows = await connection.fetch(self._sql["read_clock"])
        clock = {r["node"]: r["hlc"] for r in rows}
        context = {r["node"]: r["change_hlc"] for r in rows if r["change_hlc"]}
        end_hlc = context.pop(row["id"], 0)
        self.seq = row["seq"]
        await self._overtaking.restore(connection)
        partitions = await connection.fetch(self._sql["partitions"])
        self._filled_bytes = partitions[-1]["bytes"] if partitions else 0
        at = (row["slot"], row["lsn"], row["to_hlc"], row["seq"])
        return JournalStart(row["id"], row["hlc"], *at, clock, context, end_hlc, row["relaying"])

    @asynccontextmanager
    async def change_set(self) -> AsyncIterator[None]:
        """The transaction of one change set: its parts, then :meth:`finish`. Commits on leaving, or leaves no trace."""
        before = self.seq
        seq = self._next_seq()
        await self._ensure_partition(seq)
        async with self._session.own_transaction():
            self.seq = seq
            self._looked.clear()
            self._last_part = ()
            self.parts = 0
            self.put_aside = []
            try:
                yield
            except BaseException:
                self.seq = before
                raise
        self._overtaking.passed(self._captured_lsn)

    def _next_seq(self) -> int:
        seq = self.seq + 1
        if self._filled_bytes >= self._partition_bytes:
            seq += -seq % self._partition_rows
        if seq % self._partition_rows == 0:
            self._filled_bytes = 0
        return seq

    async def take_number(self, size_bytes: int) -> int:
        """The number of a change set of another node, whose parts have this size; its partition is there."""
        seq = self._next_seq()
        await self._ensure_partition(seq)
        self.seq = seq
        self._filled_bytes += size_bytes
        return seq

    async def make_partitions(self, sets: int) -> None:
        """Make the partitions in which the next change sets will stand, if there are no more than ``sets`` of them."""
        for seq in (self.seq + 1, self.seq + sets):
            await self._ensure_partition(seq)

    async def write_part(
        self,
        header: ChangeSetHeader,
        changes: list[LocalChanges],
        specs: Mapping[int, TableSpec],
        *,
        isolate: Beat | None = None,
    ) -> tuple[ChangeSetPart | None, list[int]]:
        """Bring the row states up to date and append the part; ``None`` when nothing of it is shipped. The parts are
        numbered here (``parts`` of them so far): a TRUNCATE makes as many as it needs.

        Also returns the ids of queued rewrites (local rows that must be rewritten by the merge loop). With ``isolate``
        rows that cannot be captured are put aside one by one (``put_aside``); without, they are errors.
        """
        run = _Run(header, [], [], isolate)
        for local in changes:
            spec = specs.get(local.table_id)
            if spec is None:
                await self._put_aside_unknown(header, local)
            elif is_truncation(local.changes):
                await self._truncate(run, spec, local)
                if local.shipped is not None:
                    run.shipped.append(local.shipped)
            else:
                left, queued = await self._overtaking.without(self._session, spec, local, self._node_id)
                run.rewrites += queued
                for changes_left in left:
                    await self._take(run, spec, changes_left)
        if not run.shipped and header.last and not self.parts:
            return None, run.rewrites
        return await self._append(header, run.shipped), run.rewrites

    async def _put_aside_unknown(self, header: ChangeSetHeader, local: LocalChanges) -> None:
        """Of a table that was dropped, or lost its annotation, since its changes were taken in."""
        name = f"{local.changes.schema}.{local.changes.name}"
        rows = "a TRUNCATE" if is_truncation(local.changes) else f"the changes of {local.changes.rows} rows"
        reason = f"{rows} of {name} were not replicated: it was dropped, or is not annotated any more"
        where = (header.origin, header.to_hlc, name, reason, None, "42P01")  # undefined_table
        await self._session.connection.execute(self._sql["quarantine_local"], *where)
        self.put_aside.append(PutAside(name, reason))

    async def _take(self, run: _Run, spec: TableSpec, local: LocalChanges) -> None:
        """Capture the rows of one table."""
        if run.isolate is None and not local.refused:
            pieces = [local]
            run.rewrites += await self._capture(spec, local)
        else:
            isolation = Isolation(
                self._session,
                run.header,
                self._capture,
                self._local_arguments,
                forget=self._looked.clear,
                beat=run.isolate or (lambda: None),
            )
            pieces = await isolation.captured(spec, local)
            run.rewrites += isolation.rewrites
            self.put_aside += isolation.put_aside
        shipped = [piece.shipped for piece in pieces if piece.shipped is not None and piece.shipped.rows]
        run.shipped += [unit.changes for unit in combine([[changes] for changes in shipped])]

    async def _truncate(self, run: _Run, spec: TableSpec, local: LocalChanges) -> None:
        """The rows that a TRUNCATE saw, in parts of their own after what is to be shipped before them."""
        before = msgspec.structs.replace(run.header, last=False)
        async for deletes in seen_deletes(self._session.connection, spec, local, self._node_id):
            await self._take(run, spec, deletes)
            await self._append(before, run.shipped)
            run.shipped.clear()

    async def _append(self, header: ChangeSetHeader, shipped: list[TableChanges]) -> ChangeSetPart:
        """The next part; the last one waits for :meth:`finish`."""
        rows = sum(table.rows for table in shipped)
        header = msgspec.structs.replace(header, part=self.parts, rows=rows)
        self.parts += 1
        part = ChangeSetPart(header=header, body=pack_tables(shipped))
        self._filled_bytes += len(part.body)
        row = journal_row(self.seq, part)
        if header.last:
            self._last_part = row
        else:
            await self._session.connection.execute(self._sql["insert_part"], *row)
        return part

    async def finish(self, lsn: int, to_hlc: int, issued_hlc: int) -> None:
        """Append the last part and record that everything up to ``lsn`` is captured; the last thing in the change set's
        transaction."""
        self._captured_lsn = lsn
        position = (show_lsn(lsn), to_hlc, self._node_id, issued_hlc)
        if self._last_part:
            await self._session.connection.execute(self._sql["finish_with_part"], *position, *self._last_part)
        else:
            await self._session.connection.execute(self._sql["finish"], *position)

    async def close_interval(self, lsn: int, to_hlc: int) -> None:
        """Record that nothing was committed here up to ``lsn`` and ``to_hlc`` beyond what is in the journal."""
        async with self._session.own_transaction():
            await self._session.connection.execute(self._sql["finish"], show_lsn(lsn), to_hlc, self._node_id, to_hlc)
        self._overtaking.passed(lsn)

    async def quarantine(self, table: str, reason: str, hlc: int) -> None:
        """Write down what of a table's changes is not replicated."""
        async with self._session.own_transaction():
            await self._session.connection.execute(
                self._sql["quarantine_local"], self._node_id, hlc, table, reason, None, "0A000"
            )

    async def _capture(self, spec: TableSpec, local: LocalChanges, *, last: int | None = None) -> list[int]:
        changes = local.changes
        shape = self._shapes.pick(spec, changes)
        others = self._local_arguments(spec, local)
        if last is not None:
            others["last"] = last
        counted = [c for c in spec.counters if c.attnum in shape.attnums]
        comes_or_goes = any(op in changes.ops for op in (INSERT, DELETE, REPLACE))
        lifecycle = bool(counted) and comes_or_goes

        async def run(make: Callable[..., Statement], **variant: bool) -> list[Any]:
            statement = self._statements.made(make, spec, shape, **variant)
            return await self._session.fetch(statement, bind(statement, spec, changes, others))

        if counted:
            await run(capture.deltas_statement)
        if lifecycle:
            await run(capture.genesis_statement)
            await self._mark_seen(spec, local, await run(capture.seen_query))
        if comes_or_goes and capture_elements.stamped(spec, shape):
            completed = await run(capture_elements.gone_query)
            for column in spec.elements:
                changes_by_row = {r["ord"]: r["change"].encode() for r in completed if r["attnum"] == column.attnum}
                local.replace_values(column.name, changes_by_row)
        look = capture.looks_at_user_rows(spec, changes, shape) and await self._may_look(spec)
        queued = await run(capture.capture_statement, look=look)
        if lifecycle:
            await run(capture.base_statement)
        if any(c.crdt == "g_counter" and b"-" in local.values_of(c.name) for c in counted):
            await run(counters.decreases_statement)
        if any(local.undone):
            await run(capture_elements.undone_statement)
        return [row["id"] for row in queued]

    async def _may_look(self, spec: TableSpec) -> bool:
        """Whether the user's table can be read now. Capture holds the writer lock, and everything waits for it: so it
        never waits for somebody's ALTER TABLE, nor for one that waits itself. The lock stays for the transaction."""
        known = self._looked.get(spec.table_id)
        if known is None:
            connection = self._session.connection
            lock = f"LOCK TABLE ONLY {qualified_user_table(spec)} IN ACCESS SHARE MODE NOWAIT"
            try:
                await connection.execute(f"SAVEPOINT look; {lock}; RELEASE SAVEPOINT look")
                known = True
            except (asyncpg.LockNotAvailableError, *GONE_ERRORS):
                await connection.execute("ROLLBACK TO SAVEPOINT look; RELEASE SAVEPOINT look")
                known = False
            self._looked[spec.table_id] = known
        return known

    def _local_arguments(self, spec: TableSpec, local: LocalChanges) -> dict[str, Argument]:
        others: dict[str, Argument] = {
            "node": self._node_id,
            "xids": local.xids.decode() or None,
            "images": local.images.decode() or None,
        }
        carried = {name: i for i, name in enumerate(local.changes.columns)}
        for column in (*spec.counters, *spec.elements):
            at = carried.get(column.name)
            old = local.old_images[at] if at is not None and local.old_images else b""
            undone = local.undone[at] if at is not None and local.undone else b""
            others[f"old:{column.attnum}"] = old.decode() or None
            others[f"undone:{column.attnum}"] = undone.decode() or None
        return others

    async def _mark_seen(self, spec: TableSpec, local: LocalChanges, rows: list[Any]) -> None:
        """Put the sums that deletes and re-inserts had seen into the shipped changes."""
        shipped = local.shipped
        if not rows or shipped is None:
            return
        names = {column.attnum: column.name for column in spec.counters}
        by_column: dict[int, dict[int, str]] = {}
        for row in rows:
            by_column.setdefault(row["attnum"], {})[row["ord"]] = row["seen"]
        for attnum, seen in by_column.items():
            values = [seen.get(position) for position in range(1, shipped.rows + 1)]
            literal = text_array([None if value is None else value.encode() for value in values])
            shipped.seen[shipped.columns.index(names[attnum])] = literal

    async def _ensure_partition(self, seq: int) -> None:
        number = seq // self._partition_rows
        if number in self._partitions:
            return
        first = number * self._partition_rows
        name = quote(f"journal_{number}")
        async with self._session.own_transaction():
            await self._session.connection.execute(
                f"CREATE TABLE IF NOT EXISTS crdt_state.{name} PARTITION OF crdt_state.journal"
                f" FOR VALUES FROM ({first}) TO ({first + self._partition_rows})"
            )
        self._partitions.add(number)
