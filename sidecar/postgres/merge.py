"""Executes merges: change sets in, one transaction of set-based statements out (invariants 2, 4, 5).

First try: just merge; the statement itself finds dirty rows and then writes nothing. Second try: lock the user rows in
key order, check, wait for capture while they are locked (bounded), merge. In between, wait for capture unlocked.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Protocol

import asyncpg

from sidecar.core.catalog import TableSpec
from sidecar.core.changes import ChangeSetHeader, is_truncation
from sidecar.core.merge import truncate
from sidecar.core.merge.apply import merge_statement, seen_statement
from sidecar.core.merge.clean import check_statement, lock_statement, restamp_statement, taken_statement
from sidecar.core.merge.quarantine import quarantine_statement
from sidecar.core.merge.shapes import Shapes
from sidecar.core.merge.staging import Argument, Shape, Statement, bind, full_shape
from sidecar.core.merge.unique import parked_columns, unpark_statement
from sidecar.core.pgoutput import parse_lsn, record_end
from sidecar.errors import ApplyError, DirtyRowsError, ProtocolError, TransientError
from sidecar.postgres.fold_limit import FoldLimit
from sidecar.postgres.merge_batch import Batch, MergeSet, MergeUnit, PostponedRow, RowError, UnitNotes
from sidecar.postgres.overtaken import Overtaking
from sidecar.postgres.relay import RelayWriter
from sidecar.postgres.row_errors import is_row_error, reason_of
from sidecar.postgres.session import Privileges, Session
from sidecar.postgres.statements import load
from sidecar.postgres.truncate import genesis_deletes

Observe = Callable[[ChangeSetHeader], None]
"""Told of each change set before its commit."""


class CaptureGate(Protocol):
    """What the merge needs of capture."""

    async def captured(self, lsn: int, timeout_s: float) -> bool:
        """Wait until everything committed before ``lsn`` is captured; False after ``timeout_s``."""
        ...


LOCKED_WAIT_S_MAX = 1.0
"""Longest wait for capture with user rows locked: for rows that are hot while capture is behind. Capture catches up
with what is locked in this time, or the node is too slow for its load."""


class UniqueSwapError(TransientError):
    """A unique value is still held by another row of the batch; the next try takes such rows out first."""


REFERENCE_ERRORS = ("23503", "23001")
"""SQLSTATE of foreign keys, which are checked where the role may not set session_replication_role. Rows come by table,
not in the order of the origin, so another row of the same transaction may mend them."""

POSTPONED_MAX = 1_000
"""Rows of one change set that are tried again at its end. Only of one that is a single part: there a row comes once, so
nothing of it can be overtaken."""

POSTPONED_TRIES_MAX = 4_000
"""Tries of them together, some seconds in which rows are locked: enough for a chain of sixty that comes in its worst
order, or one of a thousand that comes backwards."""


class UniqueClashError(ApplyError):
    """Two rows claim the same unique value for good."""


@dataclass(slots=True)
class MergeResult:
    """What a merge did. ``locked_s``: how long user rows may have been locked for it, in seconds. ``numbers``: those of
    the change sets in the journal; none without relay."""

    rows: int = 0
    conflicts: int = 0
    quarantined: int = 0
    locked_s: float = 0.0
    numbers: list[int] = field(default_factory=list)


def _tell(observe: Observe, sets: Sequence[MergeSet]) -> None:
    for merge_set in sets:
        observe(merge_set.header)


class Merger:
    """Merges change sets on one session. Row states are guarded by the caller's writer lock. ``beat()`` is called
    before every statement of a merge: rows that are isolated one by one take long, and each is a sign of life."""

    def __init__(
        self,
        session: Session,
        gate: CaptureGate,
        writer: asyncio.Lock,
        overtaking: Overtaking,
        *,
        wait_locked_ms: int,
        function_ms_max: int,
        beat: Callable[[], None] = lambda: None,
        relay: RelayWriter | None = None,
    ) -> None:
        self._session = session
        self._gate = gate
        self._writer = writer
        self._overtaking = overtaking
        self._shapes = Shapes()
        self._statements: dict[tuple[TableSpec, Shape], Statement] = {}
        self._locks: dict[TableSpec, tuple[Statement, Statement, Statement]] = {}
        self._sql = load("journal")
        self._wait_s = wait_locked_ms / 1000
        self._folds = FoldLimit(session, function_ms_max)
        self._beat = beat
        self._relay = relay

    @property
    def session(self) -> Session:
        return self._session

    async def merge(self, sets: Sequence[MergeSet], observe: Observe) -> MergeResult:
        """First try: merge the sets in one transaction; :class:`DirtyRowsError` when rows are not clean.
        ``observe(header)`` is called before the commit makes the remote values visible."""
        batch, result = Batch(sets), MergeResult()
        async with self._writer, self._numbered(batch, result), self._session.own_transaction():
            started = time.perf_counter()
            await self._merge_batch(batch, result)
            await self._finish(batch, result)
            _tell(observe, sets)
            await self._still_vacant(batch)
        result.locked_s = time.perf_counter() - started
        return result

    async def merge_locked(
        self, sets: Sequence[MergeSet], observe: Observe, *, isolate: bool = False, tries: int = 0
    ) -> MergeResult:
        """Second try: user rows locked first, so that nothing slips in; waits for capture, bounded, with the rows
        locked and neither row states nor the writer lock held. With ``isolate``, rows that cannot apply are put into
        quarantine one by one and the others merge. ``tries``: how often that was done in vain; the wait doubles each
        time, up to LOCKED_WAIT_S_MAX, because rows that are written all the time are clean only while they are locked.
        """
        batch, result = Batch(sets), MergeResult()
        if self._relay is not None:
            async with self._writer:
                await self._relay.make_room(len(sets))
        started = time.perf_counter()
        async with self._locked(batch, result, min(LOCKED_WAIT_S_MAX, self._wait_s * 2.0 ** min(tries, 12))):
            if isolate:
                await self._isolate_batch(batch, result)
            else:
                await self._merge_batch(batch, result)
            await self._finish(batch, result)
            _tell(observe, sets)
            await self._still_vacant(batch)
        result.locked_s = time.perf_counter() - started
        return result

    async def rewrite(self, merge_set: MergeSet, ids: list[int]) -> None:
        """Bring queued local rows to their merged values, and take them out of the queue."""
        batch, result = Batch([merge_set]), MergeResult()
        async with self._locked(batch, result, self._wait_s):
            for unit in batch.units():
                await self.merge_unit(batch, unit, result)
            await self._session.connection.execute(self._sql["forget_rewrites"], ids)
            await self._finish(batch, result)

    @asynccontextmanager
    async def _numbered(self, batch: Batch, result: MergeResult) -> AsyncIterator[None]:
        """With numbers of the journal for the change sets that are relayed."""
        relayed = batch.relayed()
        if self._relay is None or not relayed:
            yield
            return
        async with self._relay.numbers(relayed) as numbers:
            result.numbers = numbers
            yield

    async def _finish(self, batch: Batch, result: MergeResult) -> None:
        """The last statements of a merge's transaction."""
        await self._overtaking.note(self._session.connection, batch.entered, batch.xids)
        if self._relay is not None and result.numbers:
            await self._relay.append(self._session, result.numbers, batch.relayed())

    async def _still_vacant(self, batch: Batch) -> None:
        """What is inserted from now on gets its version after what was merged; what came before is in the way."""
        for unit in batch.units() if batch.vacant else ():
            vacant = batch.vacant.get(unit.number) if unit.number is not None else None
            if vacant:
                (row,) = await self._run(self._lock_statements(unit.spec)[2], unit, {"vacant": vacant})
                if row["taken"]:
                    raise DirtyRowsError(f"{row['taken']} rows of {unit.spec.qualified} were inserted while it merged")

    @asynccontextmanager
    async def _locked(self, batch: Batch, result: MergeResult, wait_s: float) -> AsyncIterator[None]:
        """An own transaction with all user rows of the batch locked and clean, the writer lock, and numbers."""
        async with contextlib.AsyncExitStack() as stack:
            await self._session.begin()
            try:
                for unit in batch.units():
                    if is_truncation(unit.changes):
                        await self._session.connection.execute(truncate.lock_statement(unit.spec))
                    else:
                        await self._run(self._lock_statements(unit.spec)[0], unit, {})
                await self._clean_while_locked(batch, wait_s)
                try:
                    async with asyncio.timeout(wait_s):
                        await stack.enter_async_context(self._writer)
                except TimeoutError:
                    raise DirtyRowsError("capture is writing; the rows are let go meanwhile") from None
                await stack.enter_async_context(self._numbered(batch, result))
                batch.locked = True
                yield
                await self._session.commit()
            except BaseException:
                await self._session.rollback()
                raise

    async def _clean_while_locked(self, batch: Batch, wait_s: float) -> None:
        dirty = await self._check(batch)
        if dirty and not await self._gate.captured(await self.log_end(), wait_s):
            rows = ", ".join(f"{count} rows of {table}" for table, count in dirty.items())
            raise DirtyRowsError(f"local commits are not captured yet ({rows})")

    async def close_intervals(self, intervals: list[tuple[int, int, int]]) -> None:
        """Raise the clock over intervals ``(origin, from_hlc, to_hlc)`` in which nothing was committed."""
        async with self._session.own_transaction():
            for origin, from_hlc, to_hlc in intervals:
                await self._session.connection.fetchval(self._sql["advance_clock"], origin, from_hlc, to_hlc, 0)

    async def wait_for_capture(self, timeout_s: float, log_end: int | None = None) -> bool:
        """Wait until all that is committed now (or was, when the log ended there) is captured: what a dirty row needs
        to become clean."""
        return await self._gate.captured(await self.log_end() if log_end is None else log_end, timeout_s)

    async def log_end(self) -> int:
        """The end of the log: what is committed now lies before it."""
        connection = self._session.connection
        return record_end(parse_lsn(str(await connection.fetchval(self._sql["insert_lsn"]))))

    async def _check(self, batch: Batch) -> dict[str, int]:
        """How many rows of which tables are dirty; remembers what was seen of each, which is clean once capture has
        passed."""
        found: dict[str, int] = {}
        for unit in batch.units():
            if is_truncation(unit.changes):
                # What it deletes is known only when all that others wrote is captured.
                found[unit.spec.qualified] = found.get(unit.spec.qualified, 0) + 1
                continue
            others: dict[str, Argument] = {"accepted": _accepted(unit)}
            for row in await self._run(self._lock_statements(unit.spec)[1], unit, others):
                unit.notes.accepted[row["ord"]] = sys.intern(row["seen"])
                found[unit.spec.qualified] = found.get(unit.spec.qualified, 0) + 1
        return found

    async def _merge_batch(self, batch: Batch, result: MergeResult) -> None:
        await self._advance_clock(batch)
        for unit in batch.units():
            await self.merge_unit(batch, unit, result)

    async def _isolate_batch(self, batch: Batch, result: MergeResult) -> None:
        if len(batch.sets) > 1:
            raise ValueError("rows are isolated in one change set at a time")
        await self._advance_clock(batch)
        await self._session.connection.execute("SET CONSTRAINTS ALL IMMEDIATE")
        for unit in batch.units():
            await self._isolate(batch, unit, result, 1, unit.changes.rows)
        await self._postponed(batch, result)

    async def _isolate(self, batch: Batch, unit: MergeUnit, result: MergeResult, first: int, last: int) -> None:
        """Merge positions ``first..last``; where that fails, the halves; a single row that fails goes to quarantine.

        Rows merged below a savepoint carry a sub-transaction's xid, which their row states must name: a later part of
        the same change set may come back to them, and no wait for capture would make them clean.
        """
        connection = self._session.connection
        await connection.execute("SAVEPOINT isolate")
        try:
            await self.merge_unit(batch, unit, result, first=first, last=last)
            if not is_truncation(unit.changes):
                stamped = await self._run(restamp_statement(unit.spec), unit, {"first": first, "last": last})
                batch.xids.update(row["xmin"] for row in stamped)
            await connection.execute("RELEASE SAVEPOINT isolate")
        except (asyncpg.PostgresError, UniqueClashError) as error:
            if not is_row_error(error):
                raise
            await connection.execute("ROLLBACK TO SAVEPOINT isolate; RELEASE SAVEPOINT isolate")
            if first < last:
                middle = (first + last) // 2
                await self._isolate(batch, unit, result, first, middle)
                await self._isolate(batch, unit, result, middle + 1, last)
                return
            if error.sqlstate in REFERENCE_ERRORS and batch.one_part and len(batch.postponed) < POSTPONED_MAX:
                batch.postponed.append((unit, first, error))
                return
            await self._quarantine(batch, unit, result, first, error)

    async def _postponed(self, batch: Batch, result: MergeResult) -> None:
        """Rows that failed for a foreign key, now that all others are there, as long as that helps: forwards and
        backwards by turns, since of a chain of rows each may need the next."""
        waiting: list[PostponedRow] = []
        tries = 0
        while batch.postponed and len(batch.postponed) != len(waiting) and tries < POSTPONED_TRIES_MAX:
            waiting, batch.postponed = batch.postponed[::-1], []
            tries += len(waiting)
            for unit, position, _ in waiting:
                await self._isolate(batch, unit, result, position, position)
        for unit, position, error in batch.postponed:
            await self._quarantine(batch, unit, result, position, error)

    async def _quarantine(
        self, batch: Batch, unit: MergeUnit, result: MergeResult, position: int, error: RowError
    ) -> None:
        header = batch.sets[0].header
        others: dict[str, Argument] = {
            "origin": header.origin,
            "from_hlc": header.from_hlc,
            "to_hlc": header.to_hlc,
            "position": position,
            "sqlstate": error.sqlstate,
            "reason": reason_of(error),
        }
        await self._run(quarantine_statement(unit.spec, unit.changes), unit, others)
        result.quarantined += 1

    async def _advance_clock(self, batch: Batch) -> None:
        for origin, from_hlc, to_hlc in batch.intervals():
            advanced = await self._session.connection.fetchval(
                self._sql["advance_clock"], origin, from_hlc, to_hlc, to_hlc
            )
            if advanced is None:
                interval = f"({from_hlc}, {to_hlc}]"
                # Perhaps a commit whose answer was lost: the restarted loops read the clock anew.
                raise TransientError(f"change set {interval} of node {origin} does not follow its clock here")

    async def merge_unit(
        self, batch: Batch, unit: MergeUnit, result: MergeResult, *, first: int = 1, last: int | None = None
    ) -> None:
        """Merge positions ``first..last`` of one unit. :class:`DirtyRowsError` when rows are dirty or slipped away."""
        self._beat()
        changes = unit.changes
        if is_truncation(changes):
            await self._truncate(batch, unit, result)
            return
        shape = full_shape(unit.spec, reinsert=True) if unit.notes.reinsert else self._shapes.pick(unit.spec, changes)
        final = changes.rows if last is None else last
        others: dict[str, Argument] = {
            **batch.own,
            "members": unit.members.decode() or None,
            "accepted": _accepted(unit),
            "locked": int(batch.locked),
            "first": first,
            "last": final,
        }
        try:
            async with self._folds.over(tuple(c for c in unit.spec.columns if c.attnum in shape.attnums)):
                row = (await self._run(self._statement(unit.spec, shape), unit, others))[0]
            if shape.reinsert and parked_columns(unit.spec):
                await self._run(unpark_statement(unit.spec, shape), unit, others)
        except asyncpg.UniqueViolationError as error:
            raise _unique_violation(error, unit, self._session.privileges) from None
        if row["dirty"]:
            seen = map(sys.intern, row["dirty_seen"])
            unit.notes.amidst.update(zip(row["dirty"], seen, strict=True))
            raise DirtyRowsError(f"{len(row['dirty'])} rows of {unit.spec.qualified} have uncaptured local commits")
        expected = final - first + 1
        if row["staged"] != expected:
            raise ProtocolError(f"{unit.spec.qualified}: {expected} rows announced, {row['staged']} arrays found")
        for step in ("del", "upd", "ins"):
            if row.get(step, 0) != row[f"planned_{step}"]:
                missed = row[f"planned_{step}"] - row.get(step, 0)
                raise DirtyRowsError(
                    f"{missed} rows of {unit.spec.qualified} were written while they were merged",
                    mend="if this lasts: does a trigger or a rule of the table keep the sidecar from writing?",
                )
        if row.get("ins") or self._overtaking.expects(unit.spec):
            batch.entered.add(unit.spec.table_id)
        if row["vacant"] and unit.number is not None:
            batch.vacant.setdefault(unit.number, []).extend(row["vacant"])
        if any(changes.seen):
            await self._run(seen_statement(unit.spec, full_shape(unit.spec)), unit, others)
        result.rows += row["staged"]
        result.conflicts += row["conflicts"] + row.get("within", 0)
        result.quarantined += row["missing"]

    async def _truncate(self, batch: Batch, unit: MergeUnit, result: MergeResult) -> None:
        """Delete the genesis rows; with the table locked only, so that they can be told from what is not captured."""
        if not batch.locked:
            raise DirtyRowsError(f"{unit.spec.qualified} has to be locked for a TRUNCATE")
        place = int(unit.members[1:-1] or 1)
        chunks = genesis_deletes(self._session.connection, unit.spec, unit.changes, batch.sets[place - 1].header.origin)
        async for changes, accepted in chunks:
            members = b"{" + b",".join([b"%d" % place] * changes.rows) + b"}"
            deletes = MergeUnit(unit.spec, changes, members, UnitNotes(accepted))
            await self.merge_unit(batch, deletes, result)
            await self._run(restamp_statement(unit.spec), deletes, {})

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

    def _lock_statements(self, spec: TableSpec) -> tuple[Statement, Statement, Statement]:
        found = self._locks.get(spec)
        if found is None:
            found = self._locks[spec] = (lock_statement(spec), check_statement(spec), taken_statement(spec))
        return found

    async def _run(self, statement: Statement, unit: MergeUnit, others: dict[str, Argument]) -> list[asyncpg.Record]:
        return await self._session.fetch(statement, bind(statement, unit.spec, unit.changes, others))


def _accepted(unit: MergeUnit) -> str | None:
    """What is accepted as an array literal by position, several separated by spaces; NULL when there is nothing."""
    before, amidst = unit.notes.accepted, unit.notes.amidst
    if not before and not amidst:
        return None
    seen = ([notes[i] for notes in (before, amidst) if i in notes] for i in range(1, unit.changes.rows + 1))
    return "{" + ",".join(f'"{" ".join(of_row)}"' if of_row else "NULL" for of_row in seen) + "}"


def _unique_violation(error: asyncpg.UniqueViolationError, unit: MergeUnit, may: Privileges) -> Exception:
    """A clash on the key means that a local insert came first: the row is dirty. On another unique index the rows may
    be swapping values within one transaction: they are taken out and put back. If that does not help, it is real.

    A row is not taken out where the foreign keys of other tables fire, because they would delete with it (ON DELETE
    CASCADE) what nobody deleted.
    """
    constraint = error.constraint_name or ""
    if error.schema_name == "crdt_state" or constraint == unit.spec.key_index:
        return DirtyRowsError(f"a row of {unit.spec.qualified} was inserted while it was merged")
    fires = unit.spec.referenced and not may.replica_role and not parked_columns(unit.spec)
    if not unit.notes.reinsert and not fires:
        unit.notes.reinsert = True
        return UniqueSwapError(f"unique values of {unit.spec.qualified} may be swapping ({constraint})")
    return UniqueClashError(" ".join(str(error).split()), sqlstate=error.sqlstate)
