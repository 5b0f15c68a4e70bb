"""Executes state merges: staged row states in, one own transaction out; clean rows only (see :mod:`.merge`).

What the database refuses (a unique value that another row holds here, a stricter constraint) is found by halves, each
in a transaction of its own, and set aside. It is tried again when everything else is merged, because another row may
have given up its value then, and at last goes to the quarantine, as it does in the merge of change sets.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterable, Mapping
from dataclasses import dataclass, field

import asyncpg

from sidecar.core.catalog import TableSpec
from sidecar.core.merge.quarantine import quarantine_states
from sidecar.core.merge.staging import Statement
from sidecar.core.merge.state_rows import again, apart, aside, copied, prepare_ddl, stage
from sidecar.core.merge.states import accept_statement, lock_staged_statement, merge_states_statement
from sidecar.core.pgoutput import parse_lsn, record_end
from sidecar.core.versions import VersionVector
from sidecar.errors import ApplyError, DirtyRowsError
from sidecar.postgres.fold_limit import FoldLimit, SlowFunctionError
from sidecar.postgres.merge import CaptureGate
from sidecar.postgres.overtaken import Overtaking
from sidecar.postgres.row_errors import is_row_error
from sidecar.postgres.session import Session
from sidecar.postgres.statements import load

UNLOCKED_TRIES = 3
"""Tries before the user rows are locked; each of them waits for capture."""

TRIES_MAX = 1000
"""Tries of one batch; with the rows locked the first one mostly succeeds, unless a lock is not to be had."""

CAPTURE_WAIT_S = 10.0
"""Longest wait for capture in one go."""

LOCKED_WAIT_S = 1.0
"""Longest wait for capture while user rows are locked."""


ASIDE_MAX = 10_000
"""Rows that one session may set aside: each takes a dozen transactions, and more of them are no exceptions, but a
schema that is stricter here."""


@dataclass(slots=True)
class StateMerge:
    """What a state merge did to the user's table."""

    staged: int = 0
    inserted: int = 0
    updated: int = 0
    deleted: int = 0
    conflicts: int = 0

    def add(self, other: StateMerge) -> None:
        """Count another one in."""
        self.staged += other.staged
        self.inserted += other.inserted
        self.updated += other.updated
        self.deleted += other.deleted
        self.conflicts += other.conflicts


@dataclass(slots=True)
class StateMerger:
    """Merges what one session has staged. ``writer`` guards the row states against capture, as for the merge of change
    sets."""

    session: Session
    gate: CaptureGate
    writer: asyncio.Lock
    lock_timeout_ms: int
    folds: FoldLimit
    overtaking: Overtaking
    _statements: dict[TableSpec, Statement] = field(default_factory=dict)
    aside: dict[TableSpec, int] = field(default_factory=dict)
    """How many rows of each table are set aside."""

    async def prepare(self, spec: TableSpec) -> None:
        """Make the stages of a table."""
        await self.session.connection.execute(prepare_ddl(spec))
        self.aside.pop(spec, None)

    async def fill(self, spec: TableSpec, source: AsyncIterable[bytes], *, second: bool = False) -> int:
        """COPY rows into the stage, text format, from what yields bytes; returns their number."""
        table = (again(spec) if second else stage(spec)).partition(".")[2]
        status = await self.session.connection.copy_to_table(
            table, schema_name="pg_temp", source=source, columns=copied(spec)
        )
        return int(status.rpartition(" ")[2])

    async def merge(self, spec: TableSpec, own: VersionVector, other: Mapping[int, int]) -> StateMerge:
        """Merge the staged rows and empty the stages. ``own`` is this node's clock, live; ``other`` the other's as of
        its states. Rows that cannot be merged here are set aside; :class:`ApplyError` for too many of them."""
        try:
            return await self._merge_staged(spec, own, other)
        except ApplyError:
            await self._move(spec, stage(spec))
        return await self._merge_apart(spec, own, other)

    async def merge_aside(self, spec: TableSpec, own: VersionVector, other: Mapping[int, int]) -> int:
        """Try the rows that were set aside once more; how many were merged."""
        before = self.aside.pop(spec, 0)
        if before:
            await self._move(spec, aside(spec))
            await self._merge_apart(spec, own, other)
        return before - self.aside.get(spec, 0)

    async def quarantine_aside(self, spec: TableSpec, source: int, hlc: int) -> None:
        """The rows that are still set aside go to the quarantine: of a node, as of its own hlc."""
        if self.aside.pop(spec, 0):
            async with self.session.own_transaction():
                await self.session.connection.execute(quarantine_states(spec, aside(spec)), source, hlc)
                await self.session.connection.execute(f"TRUNCATE {aside(spec)}")

    async def _move(self, spec: TableSpec, rows: str) -> None:
        columns = ", ".join([*copied(spec), "op", "accepted"])
        await self.session.connection.execute(
            f"TRUNCATE {apart(spec)}; INSERT INTO {apart(spec)} ({columns}) SELECT {columns} FROM {rows};"
            f" TRUNCATE {rows}"
        )

    async def _merge_apart(self, spec: TableSpec, own: VersionVector, other: Mapping[int, int]) -> StateMerge:
        connection = self.session.connection
        order = ", ".join(f"k_{c.attnum}" for c in spec.key)
        places = [row[0] for row in await connection.fetch(f"SELECT ctid::text FROM {apart(spec)} ORDER BY {order}")]
        total, parts = StateMerge(), [places]
        while parts:
            part = parts.pop()
            await connection.execute(f"TRUNCATE {stage(spec)}, {again(spec)}")
            picked = f"SELECT * FROM {apart(spec)} WHERE ctid = ANY ($1::text[]::tid[])"
            await connection.execute(f"INSERT INTO {stage(spec)} {picked}", part)
            try:
                total.add(await self._merge_staged(spec, own, other))
            except ApplyError as error:
                if len(part) > 1:
                    middle = len(part) // 2
                    parts += [part[middle:], part[:middle]]
                else:
                    await self._set_aside(spec, error)
        await connection.execute(f"TRUNCATE {stage(spec)}, {again(spec)}, {apart(spec)}")
        return total

    async def _set_aside(self, spec: TableSpec, error: ApplyError) -> None:
        if sum(self.aside.values()) >= ASIDE_MAX:
            raise error
        self.aside[spec] = self.aside.get(spec, 0) + 1
        await self.session.connection.execute(
            f"INSERT INTO {aside(spec)} SELECT g.*, $1::text, $2::text FROM {stage(spec)} AS g",
            error.sqlstate,
            error.message,
        )

    async def _merge_staged(self, spec: TableSpec, own: VersionVector, other: Mapping[int, int]) -> StateMerge:
        await self.session.connection.execute(f"ANALYZE {stage(spec)}")
        for tries in range(1, TRIES_MAX + 1):
            try:
                if tries <= UNLOCKED_TRIES:
                    merged = await self._merge_unlocked(spec, own, other)
                else:
                    merged = await self._merge_locked(spec, own, other)
            except DirtyRowsError:
                await self._accept(spec)
                continue
            except SlowFunctionError:
                continue
            except asyncpg.PostgresError as error:
                if error.sqlstate == "55P03":  # lock_timeout: the application comes first
                    continue
                if _is_insert_here(error, spec):
                    await self._accept(spec)
                    continue
                if is_row_error(error):
                    raise _refused(spec, error) from None
                raise
            await self.session.connection.execute(f"TRUNCATE {stage(spec)}, {again(spec)}")
            return merged
        raise DirtyRowsError(f"rows of {spec.qualified} are written too often to be merged")

    async def _accept(self, spec: TableSpec) -> None:
        """What is not clean now is clean once capture has passed the log."""
        await self.session.connection.execute(accept_statement(spec))
        await self.gate.captured(await self._log_end(), CAPTURE_WAIT_S)

    async def _merge_unlocked(self, spec: TableSpec, own: VersionVector, other: Mapping[int, int]) -> StateMerge:
        async with self.writer, self.session.own_transaction():
            await self._give_way()
            return await self._run(spec, own, other)

    async def _merge_locked(self, spec: TableSpec, own: VersionVector, other: Mapping[int, int]) -> StateMerge:
        async with contextlib.AsyncExitStack() as until_commit, self.session.own_transaction():
            connection = self.session.connection
            await self._give_way()
            await connection.execute(lock_staged_statement(spec))
            await connection.execute(accept_statement(spec))
            if not await self.gate.captured(await self._log_end(), LOCKED_WAIT_S):
                raise DirtyRowsError(f"local commits on {spec.qualified} are not captured yet")
            try:
                async with asyncio.timeout(LOCKED_WAIT_S):
                    await until_commit.enter_async_context(self.writer)
            except TimeoutError:
                raise DirtyRowsError("capture is writing; the rows are let go meanwhile") from None
            return await self._run(spec, own, other)

    async def _give_way(self) -> None:
        await self.session.connection.execute(f"SET LOCAL lock_timeout = {self.lock_timeout_ms}")

    async def _run(self, spec: TableSpec, own: VersionVector, other: Mapping[int, int]) -> StateMerge:
        statement = self._statements.get(spec)
        if statement is None:
            statement = self._statements[spec] = merge_states_statement(spec)
        clocks = {"own_clock": _by_node(own), "in_clock": _by_node(other)}
        async with self.folds.over(spec.columns):
            row = (await self.session.fetch(statement, [clocks[name] for name in statement.names]))[0]
        if row["dirty"]:
            raise DirtyRowsError(f"{row['dirty']} rows of {spec.qualified} have uncaptured local commits")
        for step in ("del", "upd", "ins"):
            if row.get(step, 0) != row[f"planned_{step}"]:
                raise DirtyRowsError(f"rows of {spec.qualified} were written while they were merged")
        if row["ins"]:
            await self.overtaking.note(self.session.connection, [spec.table_id], [])
        return StateMerge(row["staged"], row["ins"], row.get("upd", 0), row["del"], row["conflicts"])

    async def _log_end(self) -> int:
        return record_end(parse_lsn(str(await self.session.connection.fetchval(load("journal")["insert_lsn"]))))


def _by_node(clock: Mapping[int, int]) -> list[int]:
    return [clock.get(node, 0) for node in range(1, max([1, *clock]) + 1)]


def _is_insert_here(error: asyncpg.PostgresError, spec: TableSpec) -> bool:
    """Whether the key itself clashed: somebody inserted the row here meanwhile."""
    unique = error.sqlstate == asyncpg.UniqueViolationError.sqlstate
    return unique and (error.schema_name == "crdt_state" or (error.constraint_name or "") == spec.key_index)


def _refused(spec: TableSpec, error: asyncpg.PostgresError) -> ApplyError:
    reason = " ".join(str(error).split())
    detail = " ".join(str(getattr(error, "detail", None) or "").split())
    return ApplyError(
        f"a row cannot be merged into {spec.qualified} here: {reason} {detail}".rstrip(),
        mend="make the schemas equal; a unique value may be held by another row here",
        sqlstate=error.sqlstate,
    )
