"""Copying one piece of a table from another node's snapshot into this database.

Where this node's table is empty, rows, row states and counters go straight from COPY to COPY. Rows with commits that
the other node had not captured or that it is going to rewrite, and all rows where something is here already, also of an
earlier try, are staged and merged by their states.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterable, Iterator
from dataclasses import dataclass
from typing import Literal

import asyncpg

from sidecar.core.catalog import TableSpec, quote
from sidecar.core.merge.state_rows import (
    add_sums,
    again,
    corrections,
    counter_columns,
    counters_query,
    gone_source,
    keys_source,
    row_state_columns,
    row_states_query,
    rows_source,
    seen_again,
    states_query,
    uncaptured_keys,
    unresolved_query,
    unsettled,
)
from sidecar.core.merge.state_tables import counter_table, qualified_user_table, row_table
from sidecar.core.versions import VersionVector
from sidecar.errors import TransientError
from sidecar.postgres.join_source import JoinSource, Snapshot, pipe
from sidecar.postgres.row_errors import is_row_error
from sidecar.postgres.session import Session
from sidecar.postgres.state_merge import StateMerger

PAGES_STRAIGHT = 1024
"""Pages of a piece that is copied as it is: 8 MB, some fifty thousand rows, so that progress is seen."""

PAGES_STATES = 128
"""Pages of a piece that is merged by its states, in one transaction of a second at most."""

UNLOCKED_READS = 5
"""Reads of rows with uncaptured commits before they are locked over there."""

READS_MAX = 100
"""Reads altogether: the locks are not waited for long, so that the application never is the one to give way."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Pages ``first..last`` (the last one excluded) of the user's table, of the states (``gone``: those without a user
    row), or of the counters. ``straight``: copied as they are, all but those that are not settled; ``rest``: only
    those. Counters are copied straight alone, because the merge brings those of its rows."""

    source: TableSpec
    target: TableSpec
    first: int
    last: int
    of: Literal["rows", "gone", "counters"] = "rows"
    straight: bool = False
    rest: bool = False


def pieces(source: TableSpec, target: TableSpec, pages: tuple[int, int, int], *, empty: bool) -> Iterator[Piece]:
    """A table in pieces. ``pages``: of user rows, states and counters. ``empty``: this node's table and its states
    are."""
    ends: list[tuple[Literal["rows", "gone", "counters"], int]] = [("rows", pages[0]), ("gone", pages[1])]
    for of, end in [*ends, ("counters", pages[2])] if empty else []:
        for first in range(0, end, PAGES_STRAIGHT):
            yield Piece(source, target, first, first + PAGES_STRAIGHT, of, straight=True)
    # Pieces with few rows to be merged in them may be large.
    step = PAGES_STRAIGHT if empty else PAGES_STATES
    for of, end in ends:
        for first in range(0, end, step):
            yield Piece(source, target, first, first + step, of, rest=empty)


class PieceCopier:
    """One worker: a session on the snapshot and one here."""

    def __init__(
        self, source: JoinSource, snapshot: Snapshot, reader: Session, merger: StateMerger, own: VersionVector
    ) -> None:
        self._source = source
        self._snapshot = snapshot
        self._reader = reader
        self._merger = merger
        self._own = own
        self._prepared: set[TableSpec] = set()

    async def copy(self, piece: Piece) -> int:
        """Copy or merge a piece; returns the number of rows."""
        if piece.of == "counters":
            await self._copy_counters(piece)
            return 0
        if piece.straight:
            try:
                return await self._copy_straight(piece)
            except asyncpg.PostgresError as error:
                # Where somebody writes the same keys here meanwhile, and where a row does not fit, the piece is merged.
                if not is_row_error(error) and not isinstance(error, asyncpg.LockNotAvailableError):
                    raise
        return await self._merge(piece)

    async def merge_aside(self) -> int:
        """Try rows that could not be merged once more; how many were merged."""
        clock = self._snapshot.clock
        return sum([await self._merger.merge_aside(spec, self._own, clock) for spec in list(self._merger.aside)])

    async def quarantine_aside(self) -> int:
        """Put those that still cannot into the quarantine; how many."""
        left = dict(self._merger.aside)
        for spec in left:
            node = self._snapshot.node_id
            await self._merger.quarantine_aside(spec, node, self._snapshot.clock.get(node, 0))
        return sum(left.values())

    async def _copy_straight(self, piece: Piece) -> int:
        """As it is over there: rows and states in one transaction, because the state names it."""
        source, target = piece.source, piece.target
        clean = f"NOT {unsettled(source, self._snapshot.floor)}"
        rows = f"{rows_source(source)} WHERE {_range('t', piece)} AND {clean}"
        if piece.of == "gone":
            rows = f"{gone_source(source)} WHERE t.ctid IS NULL AND {_range('s', piece)} AND {clean}"
        async with contextlib.AsyncExitStack() as until_commit, self._merger.session.own_transaction():
            count = 0
            if piece.of == "rows":
                names = [c.name for c in (*target.key, *target.columns)]
                columns = ", ".join(f"t.{quote(name)}" for name in names)
                count = await self._fill(f"SELECT {columns} {rows}", target.schema, target.name, names)
            xid = await self._merger.session.connection.fetchval("SELECT pg_current_xact_id()::xid::text")
            query = row_states_query(source, target, xid, f"{rows} AND s.ctid IS NOT NULL")
            await until_commit.enter_async_context(self._merger.writer)
            states = await self._fill(query, "crdt_state", row_table(target), row_state_columns(target))
            if count:
                await self._merger.overtaking.note(self._merger.session.connection, [target.table_id], [])
        return count or states

    async def _copy_counters(self, piece: Piece) -> None:
        """The sums of all nodes, by maximum with what capture has counted here meanwhile."""
        source, target = piece.source, piece.target
        query = counters_query(source, target, f"FROM {counter_table(source)} AS c WHERE {_range('c', piece)}")
        connection, table = self._merger.session.connection, counter_table(target)
        await connection.execute(f"DROP TABLE IF EXISTS pg_temp.sums; CREATE TEMPORARY TABLE sums (LIKE {table})")
        await self._fill(query, "pg_temp", "sums", counter_columns(target))
        async with self._merger.writer, self._merger.session.own_transaction():
            await connection.execute(add_sums(target, "pg_temp.sums"))

    async def _fill(self, query: str, schema: str, table: str, columns: list[str]) -> int:
        async def write(data: AsyncIterable[bytes]) -> int:
            name = table.removeprefix("crdt_state.") if schema == "crdt_state" else table
            status = await self._merger.session.connection.copy_to_table(
                name, schema_name=schema, source=data, columns=columns
            )
            return int(status.rpartition(" ")[2])

        return await pipe(self._reader, query, write)

    async def _merge(self, piece: Piece) -> int:
        source, target, merger = piece.source, piece.target, self._merger
        if target not in self._prepared:
            await merger.prepare(target)
            self._prepared.add(target)
        rows = f"{rows_source(source)} WHERE {_range('t', piece)}"
        if piece.of == "gone":
            rows = f"{gone_source(source)} WHERE t.ctid IS NULL AND {_range('s', piece)}"
        if piece.rest:
            rows += f" AND {unsettled(source, self._snapshot.floor)}"
        query = states_query(source, target, self._snapshot.floor, rows)
        count = await pipe(self._reader, query, lambda data: merger.fill(target, data))
        if not count:
            return 0
        async with self._source.now:
            await self._resolve(source, target)
        await merger.merge(target, self._own, self._snapshot.clock)
        return count

    async def _resolve(self, source: TableSpec, target: TableSpec) -> None:
        """Read rows again that had uncaptured commits in the snapshot, when those are captured."""
        connection = self._merger.session.connection
        rows = await connection.fetch(uncaptured_keys(target))
        if not rows:
            return
        # The key's order is the target's here, the source's over there.
        place = {column.name: i for i, column in enumerate(target.key)}
        keys = [[str(row[place[column.name]]) for row in rows] for column in source.key]
        query = states_query(source, target, None, keys_source(source, keys))
        for tries in range(1, READS_MAX + 1):
            locked = tries > UNLOCKED_READS
            with contextlib.suppress(asyncpg.LockNotAvailableError):
                async with self._source.locked(source, keys) if locked else contextlib.nullcontext():
                    if locked:
                        await self._read_again(target, query)
                        await connection.execute(seen_again(target))
                    await self._source.captured()
                    await self._read_again(target, query)
            if not await connection.fetchval(unresolved_query(target)):
                break
            await connection.execute(seen_again(target))
        else:
            raise TransientError(f"rows of {source.qualified} are written too often to be read", mend="start it again")
        for statement in corrections(target):
            await connection.execute(statement)

    async def _read_again(self, target: TableSpec, query: str) -> None:
        await self._merger.session.connection.execute(f"TRUNCATE {again(target)}")
        await self._source.rows_now(query, lambda data: self._merger.fill(target, data, second=True))


def _range(alias: str, piece: Piece) -> str:
    return f"{alias}.ctid >= '({piece.first},0)'::tid AND {alias}.ctid < '({piece.last},0)'::tid"


async def is_empty(session: Session, target: TableSpec) -> bool:
    """Whether a table holds no row here, and knows of none."""
    found = await session.connection.fetchval(
        f"SELECT EXISTS (SELECT FROM {qualified_user_table(target)}) OR EXISTS (SELECT FROM {row_table(target)})"
    )
    return not found
