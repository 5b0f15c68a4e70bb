"""Executes merges: change sets in, one transaction of set-based statements out (invariants 2, 4, 5).

First try: just merge; the statement itself finds dirty rows and then writes nothing. Second try: lock the user rows in
key order, check, wait for capture while they are locked (bounded), merge. In between, wait for capture unlocked.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import asyncpg

from sidecar.core.catalog import TableSpec
from sidecar.core.changes import ChangeSetHeader, TableChanges
from sidecar.core.merge.apply import (
    check_statement,
    lock_statement,
    merge_statement,
    restamp_statement,
    seen_statement,
)
from sidecar.core.merge.quarantine import quarantine_statement
from sidecar.core.merge.shapes import Shapes
from sidecar.core.merge.staging import Argument, Shape, Statement, bind, full_shape
from sidecar.core.pgoutput import parse_lsn, record_end
from sidecar.core.versions import VersionVector
from sidecar.errors import ApplyError, DirtyRowsError, HeldError, ProtocolError, TransientError
from sidecar.postgres.session import Session
from sidecar.postgres.statements import load

Observe = Callable[[ChangeSetHeader], None]
"""Told of each change set before its commit."""

Accepted = dict[int, str]
"""Position -> xmin ('' for no row) seen before capture passed the log: clean after it."""


class CaptureGate(Protocol):
    """What the merge needs of capture."""

    async def captured(self, lsn: int, timeout_s: float) -> bool:
        """Wait until everything committed before ``lsn`` is captured; False after ``timeout_s``."""
        ...


ROW_ERROR_CLASSES = frozenset({"21", "22", "23", "44", "54", "P0"})
"""SQLSTATE classes about a row's data: cardinality, data exception, integrity, check option, limits, raised."""

REASON_CHARS_MAX = 1000
"""Length of a reason in the quarantine; messages quote values, which may be long."""


class UniqueSwapError(TransientError):
    """A unique value is still held by another row of the batch; the next try takes such rows out first."""


class UniqueClashError(ApplyError):
    """Two rows claim the same unique value for good."""


@dataclass(slots=True)
class UnitNotes:
    """What earlier tries learnt about one unit."""

    accepted: Accepted = field(default_factory=dict)
    reinsert: bool = False


@dataclass(frozen=True, slots=True)
class MergeUnit:
    """One table of one part of a change set."""

    spec: TableSpec
    changes: TableChanges
    notes: UnitNotes


@dataclass(slots=True)
class MergeSet:
    """One change set, ready to merge. ``header`` is the last part's. The tables are read anew for every pass, so that a
    change set of any size is merged part by part; only the notes stay in memory."""

    header: ChangeSetHeader
    tables: Callable[[], Iterator[TableChanges]]
    catalogue: Mapping[str, TableSpec]
    notes: dict[int, UnitNotes] = field(default_factory=dict)

    def units(self) -> Iterator[MergeUnit]:
        """The units in order. :class:`HeldError` when a table does not fit the local catalogue (invariant 12)."""
        for i, changes in enumerate(self.tables()):
            if changes.rows:
                yield MergeUnit(local_table(self.catalogue, changes), changes, self.notes.setdefault(i, UnitNotes()))


def local_table(catalogue: Mapping[str, TableSpec], changes: TableChanges) -> TableSpec:
    """Look a peer's table up by name; :class:`HeldError` when it is not here or lacks something."""
    name = f"{changes.schema}.{changes.name}"
    spec = catalogue.get(name)
    if spec is None:
        raise HeldError(
            f"changes of table {name} wait: it is not replicated in this database",
            mend=f"create it and annotate it here: COMMENT ON TABLE {name} IS '@crdt'",
        )
    if {c.name for c in spec.key} != set(changes.key_columns):
        raise HeldError(f"changes of table {name} wait: its primary key differs here", mend="make the keys equal")
    known = {c.name for c in spec.columns}
    missing = [column for column in changes.columns if column not in known]
    if missing:
        raise HeldError(
            f"changes of table {name} wait: column {missing[0]!r} is missing here",
            mend=f"ALTER TABLE {name} ADD COLUMN as on the other node",
        )
    return spec


@dataclass(slots=True)
class MergeResult:
    """What a merge did."""

    rows: int = 0
    conflicts: int = 0
    quarantined: int = 0


class Merger:
    """Merges change sets on one session. Row states are guarded by the caller's writer lock."""

    def __init__(self, session: Session, gate: CaptureGate, writer: asyncio.Lock, *, wait_locked_ms: int) -> None:
        self._session = session
        self._gate = gate
        self._writer = writer
        self._shapes = Shapes()
        self._statements: dict[tuple[TableSpec, Shape], Statement] = {}
        self._locks: dict[TableSpec, tuple[Statement, Statement]] = {}
        self._sql = load("journal")
        self._wait_s = wait_locked_ms / 1000

    @property
    def session(self) -> Session:
        return self._session

    async def merge(self, sets: list[MergeSet], observe: Observe) -> MergeResult:
        """First try: merge the sets in one transaction; :class:`DirtyRowsError` when rows are not clean (the units then
        know which). ``observe(header)`` is called before the commit makes the remote values visible."""
        result = MergeResult()
        async with self._writer, self._session.own_transaction():
            for merge_set in sets:
                await self._merge_set(merge_set, result)
                observe(merge_set.header)
        return result

    async def merge_locked(self, merge_set: MergeSet, observe: Observe, *, isolate: bool = False) -> MergeResult:
        """Second try: user rows locked first, so that nothing slips in; waits for capture, bounded, with the rows
        locked and neither row states nor the writer lock held. With ``isolate``, rows that cannot apply are put into
        quarantine one by one and the others merge."""
        result = MergeResult()
        await self._session.begin()
        try:
            for unit in merge_set.units():
                await self._run(self._lock_statements(unit.spec)[0], unit, {})
            await self._clean_while_locked(merge_set)
            async with self._writer:
                if isolate:
                    await self._isolate_set(merge_set, result)
                else:
                    await self._merge_set(merge_set, result)
                observe(merge_set.header)
                await self._session.commit()
        except BaseException:
            await self._session.rollback()
            raise
        return result

    async def _clean_while_locked(self, merge_set: MergeSet) -> None:
        if await self._check(merge_set) and not await self._gate.captured(await self.log_end(), self._wait_s):
            raise DirtyRowsError("local commits on the rows of a change set are not captured yet")

    async def rewrite(self, merge_set: MergeSet, ids: list[int]) -> None:
        """Bring queued local rows to their merged values, and take them out of the queue."""
        result = MergeResult()
        await self._session.begin()
        try:
            for unit in merge_set.units():
                await self._run(self._lock_statements(unit.spec)[0], unit, {})
            await self._clean_while_locked(merge_set)
            async with self._writer:
                for unit in merge_set.units():
                    await self.merge_unit(merge_set.header, unit, [], result)
                await self._session.connection.execute(self._sql["forget_rewrites"], ids)
                await self._session.commit()
        except BaseException:
            await self._session.rollback()
            raise

    async def read_rewrites(self, limit: int) -> list[tuple[int, int, list[str]]]:
        """The oldest queued rewrites: id, table id, key as text."""
        rows = await self._session.connection.fetch(self._sql["read_rewrites"], limit)
        return [(row["id"], row["table_id"], row["row_key"]) for row in rows]

    async def close_intervals(self, intervals: list[tuple[int, int, int]]) -> None:
        """Raise the clock over intervals ``(origin, from_hlc, to_hlc)`` in which nothing was committed."""
        async with self._session.own_transaction():
            for origin, from_hlc, to_hlc in intervals:
                await self._session.connection.fetchval(self._sql["advance_clock"], origin, from_hlc, to_hlc)

    async def wait_for_capture(self, timeout_s: float) -> bool:
        """Wait until all that is committed now is captured: what a dirty row needs to become clean."""
        return await self._gate.captured(await self.log_end(), timeout_s)

    async def log_end(self) -> int:
        """The end of the log: what is committed now lies before it."""
        connection = self._session.connection
        return record_end(parse_lsn(str(await connection.fetchval(self._sql["insert_lsn"]))))

    async def _check(self, merge_set: MergeSet) -> bool:
        """Whether any row is dirty; remembers the (row, xmin) pairs, which are clean once capture has passed."""
        found = False
        for unit in merge_set.units():
            others: dict[str, Argument] = {"accepted": _accepted(unit)}
            for row in await self._run(self._lock_statements(unit.spec)[1], unit, others):
                unit.notes.accepted[row["ord"]] = sys.intern(row["xmin"])
                found = True
        return found

    async def _merge_set(self, merge_set: MergeSet, result: MergeResult) -> None:
        header = merge_set.header
        await self._advance_clock(header)
        context = self.context_array(header.context)
        for unit in merge_set.units():
            await self.merge_unit(header, unit, context, result)

    async def _isolate_set(self, merge_set: MergeSet, result: MergeResult) -> None:
        header = merge_set.header
        await self._advance_clock(header)
        await self._session.connection.execute("SET CONSTRAINTS ALL IMMEDIATE")
        context = self.context_array(header.context)
        for unit in merge_set.units():
            await self._isolate(header, unit, context, result, 1, unit.changes.rows)

    async def _isolate(
        self, header: ChangeSetHeader, unit: MergeUnit, context: list[int], result: MergeResult, first: int, last: int
    ) -> None:
        """Merge positions ``first..last``; where that fails, the halves; a single row that fails goes to quarantine.

        Rows merged below a savepoint carry a sub-transaction's xid, which their row states must name: a later part of
        the same change set may come back to them, and no wait for capture would make them clean.
        """
        connection = self._session.connection
        await connection.execute("SAVEPOINT isolate")
        try:
            await self.merge_unit(header, unit, context, result, first=first, last=last)
            await self._run(restamp_statement(unit.spec), unit, {"first": first, "last": last})
            await connection.execute("RELEASE SAVEPOINT isolate")
        except (asyncpg.PostgresError, UniqueClashError) as error:
            if not isinstance(error, UniqueClashError) and error.sqlstate[:2] not in ROW_ERROR_CLASSES:
                raise
            await connection.execute("ROLLBACK TO SAVEPOINT isolate; RELEASE SAVEPOINT isolate")
            if first < last:
                middle = (first + last) // 2
                await self._isolate(header, unit, context, result, first, middle)
                await self._isolate(header, unit, context, result, middle + 1, last)
                return
            others: dict[str, Argument] = {
                "origin": header.origin,
                "from_hlc": header.from_hlc,
                "to_hlc": header.to_hlc,
                "position": first,
                "sqlstate": error.sqlstate,
                "reason": " ".join(str(error).split())[:REASON_CHARS_MAX],
            }
            await self._run(quarantine_statement(unit.spec, unit.changes), unit, others)
            result.quarantined += 1

    async def _advance_clock(self, header: ChangeSetHeader) -> None:
        advanced = await self._session.connection.fetchval(
            self._sql["advance_clock"], header.origin, header.from_hlc, header.to_hlc
        )
        if advanced is None:
            interval = f"({header.from_hlc}, {header.to_hlc}]"
            raise ProtocolError(f"change set {interval} of node {header.origin} does not follow its clock here")

    async def merge_unit(
        self,
        header: ChangeSetHeader,
        unit: MergeUnit,
        context: list[int],
        result: MergeResult,
        *,
        first: int = 1,
        last: int | None = None,
    ) -> None:
        """Merge positions ``first..last`` of one unit. :class:`DirtyRowsError` when rows are dirty or slipped away."""
        changes = unit.changes
        shape = full_shape(unit.spec, reinsert=True) if unit.notes.reinsert else self._shapes.pick(unit.spec, changes)
        others: dict[str, Argument] = {
            "origin": header.origin,
            "context": context,
            "accepted": _accepted(unit),
            "from_hlc": header.from_hlc,
            "to_hlc": header.to_hlc,
            "first": first,
            "last": changes.rows if last is None else last,
        }
        try:
            row = (await self._run(self._statement(unit.spec, shape), unit, others))[0]
        except asyncpg.UniqueViolationError as error:
            raise _unique_violation(error, unit) from None
        if row["dirty"]:
            xmins = map(sys.intern, row["dirty_xmin"])
            unit.notes.accepted.update(zip(row["dirty"], xmins, strict=True))
            raise DirtyRowsError(f"{len(row['dirty'])} rows of {unit.spec.qualified} have uncaptured local commits")
        expected = others["last"] - first + 1  # type: ignore[operator]
        if row["staged"] != expected:
            raise ProtocolError(f"{unit.spec.qualified}: {expected} rows announced, {row['staged']} arrays found")
        for step in ("del", "upd", "ins"):
            if row.get(step, 0) != row[f"planned_{step}"]:
                raise DirtyRowsError(f"rows of {unit.spec.qualified} were written while they were merged")
        if any(changes.seen):
            await self._run(seen_statement(unit.spec, full_shape(unit.spec)), unit, others)
        result.rows += row["staged"]
        result.conflicts += row["conflicts"]
        result.quarantined += row["missing"]

    def context_array(self, context: VersionVector) -> list[int]:
        """The context as an array indexed by node id (from 1)."""
        if not context:
            return []
        out = [0] * max(context)
        for node, hlc in context.items():
            out[node - 1] = hlc
        return out

    def forget_statements(self) -> None:
        """After the catalogue changed."""
        self._statements.clear()
        self._locks.clear()
        self._session.forget_statements()

    def _statement(self, spec: TableSpec, shape: Shape) -> Statement:
        found = self._statements.get((spec, shape))
        if found is None:
            found = self._statements[spec, shape] = merge_statement(spec, shape)
        return found

    def _lock_statements(self, spec: TableSpec) -> tuple[Statement, Statement]:
        found = self._locks.get(spec)
        if found is None:
            found = self._locks[spec] = (lock_statement(spec), check_statement(spec))
        return found

    async def _run(self, statement: Statement, unit: MergeUnit, others: dict[str, Argument]) -> list[asyncpg.Record]:
        return await self._session.fetch(statement, bind(statement, unit.spec, unit.changes, others))


def _accepted(unit: MergeUnit) -> str | None:
    """The accepted xmins as an array literal by position; NULL when there are none."""
    if not unit.notes.accepted:
        return None
    elements = [
        f'"{unit.notes.accepted[i]}"' if i in unit.notes.accepted else "NULL" for i in range(1, unit.changes.rows + 1)
    ]
    return "{" + ",".join(elements) + "}"


def _unique_violation(error: asyncpg.UniqueViolationError, unit: MergeUnit) -> Exception:
    """A clash on the key means that a local insert came first: the row is dirty. On another unique index the rows may
    be swapping values within one transaction: they are taken out and put back. If that does not help, it is real."""
    constraint = error.constraint_name or ""
    if error.schema_name == "crdt_state" or constraint == unit.spec.key_index:
        return DirtyRowsError(f"a row of {unit.spec.qualified} was inserted while it was merged")
    if not unit.notes.reinsert:
        unit.notes.reinsert = True
        return UniqueSwapError(f"unique values of {unit.spec.qualified} may be swapping ({constraint})")
    return UniqueClashError(" ".join(str(error).split()), sqlstate=error.sqlstate)


def is_row_error(error: BaseException) -> bool:
    """Whether the error is about the data of some row, so that isolating the row helps."""
    if isinstance(error, ApplyError):
        return True
    sqlstate = getattr(error, "sqlstate", None)
    return isinstance(sqlstate, str) and sqlstate[:2] in ROW_ERROR_CLASSES
