"""The journal's reading side: read by the links, trimmed by whole partitions once every peer has acknowledged them."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine, Mapping
from datetime import UTC, datetime
from typing import Any, ParamSpec, TypeVar

import asyncpg
import msgspec

from sidecar.core.catalog import quote
from sidecar.core.changes import ChangeSetHeader, ChangeSetPart
from sidecar.core.pgoutput import parse_lsn, record_end
from sidecar.postgres.session import Session, told_as_lost
from sidecar.postgres.statements import load

DROP_LOCK_TIMEOUT_MS = 100
"""A partition that is being read is dropped with a later round."""

DROPPED_AT_A_TIME = 50
"""Partitions that one round drops at most (after an outage of a peer there are many): the session has other work."""


Covered = Callable[[Mapping[int, int]], bool]
"""Whether every peer that would be sent them has merged the change sets of other nodes up to an hlc by origin."""

P = ParamSpec("P")
T = TypeVar("T")


def _uninterrupted(method: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, Coroutine[Any, Any, T]]:
    """Let a call on the shared session come to its end when its caller is cancelled (a link that ends, a wait that is
    over): a query cut off halfway would spoil the session for everybody."""

    @functools.wraps(method)
    async def call(*args: P.args, **kwargs: P.kwargs) -> T:
        task = asyncio.ensure_future(method(*args, **kwargs))
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        return await asyncio.shield(task)

    return call


class JournalReader:
    """Reads parts for links that are behind, and trims; on a session of its own."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._lock = asyncio.Lock()
        self._sql = load("journal")

    @_uninterrupted
    async def log_end(self) -> int:
        """The end of the log: everything committed so far lies before it."""
        async with self._lock:
            return record_end(parse_lsn(str(await self._session.connection.fetchval(self._sql["insert_lsn"]))))

    @_uninterrupted
    async def nudge(self) -> None:
        """Write and flush a little log: what was committed asynchronously before it can be decoded then."""
        async with self._lock:
            await self._session.connection.execute(self._sql["nudge"])

    @_uninterrupted
    async def store_peer(
        self,
        peer_id: int,
        name: str,
        acknowledged: int,
        *,
        connected: bool,
        last_seen_ms: int | None,
        clock_offset_ms: float | None,
        round_trip_ms: float | None,
        last_error: str | None,
    ) -> None:
        """Write a peer as last seen, for crdt.nodes and crdt.lag."""
        seen = None if last_seen_ms is None else datetime.fromtimestamp(last_seen_ms / 1000, UTC)
        async with self._lock, self._session.own_transaction():
            await self._session.connection.execute(self._sql["forget_namesake"], peer_id, name)
            await self._session.connection.execute(
                self._sql["store_peer"],
                peer_id,
                name,
                acknowledged,
                connected,
                seen,
                clock_offset_ms,
                round_trip_ms,
                last_error,
            )

    @_uninterrupted
    async def execute(self, statement: str, *arguments: object) -> None:
        """A small statement of somebody who needs no session of its own."""
        async with self._lock, told_as_lost():
            await self._session.connection.execute(statement, *arguments)

    @_uninterrupted
    async def fetch(self, statement: str, *arguments: object) -> list[asyncpg.Record]:
        """The same with an answer."""
        async with self._lock, told_as_lost():
            return list(await self._session.connection.fetch(statement, *arguments))

    @_uninterrupted
    async def sets_after(self, seq: int) -> int:
        """How many change sets of this node stand after a position."""
        async with self._lock:
            return int(await self._session.connection.fetchval(self._sql["sets_after"], seq))

    @_uninterrupted
    async def known_peers(self) -> list[tuple[int, str, int]]:
        """Id, name and acknowledged hlc of every peer that was ever linked."""
        async with self._lock:
            rows = await self._session.connection.fetch(self._sql["read_peers"])
        return [(row["id"], row["name"], row["acknowledged"]) for row in rows]

    @_uninterrupted
    async def trim_conflicts(self, age_days: int, rows_max: int) -> None:
        """Drop conflict records beyond the age or the number."""
        async with self._lock, self._session.own_transaction():
            await self._session.connection.execute(self._sql["trim_conflicts"], age_days, rows_max)

    @_uninterrupted
    async def trim_overtaking(self) -> None:
        """Drop what was noted for local changes that are captured by now (:mod:`.overtaken`)."""
        async with self._lock, self._session.own_transaction():
            await self._session.connection.execute(load("overtaken")["trim_overtaking"])

    @_uninterrupted
    async def position_of(self, acknowledged: int) -> tuple[int, int]:
        """For a peer that has everything up to hlc ``acknowledged``: the seq it has last, and the hlc up to which the
        journal was dropped. A peer below that hlc has lost changes."""
        async with self._lock:
            row = await self._session.connection.fetchrow(self._sql["find_seq"], acknowledged)
        assert row is not None, "a SELECT without FROM returns one row"
        return row["seq"], row["dropped_hlc"]

    @_uninterrupted
    async def parts_after(self, seq: int, part: int, limit: int) -> list[tuple[int, ChangeSetPart]]:
        """The next parts in order, with their seq."""
        async with self._lock:
            rows = await self._session.connection.fetch(self._sql["read_parts"], seq, part, limit)
        return [
            (
                row["seq"],
                ChangeSetPart(header=msgspec.msgpack.decode(row["header"], type=ChangeSetHeader), body=row["body"]),
            )
            for row in rows
        ]

    @_uninterrupted
    async def trim(self, acknowledged: int, bytes_max: int, covered: Covered | None = None) -> tuple[int, list[str]]:
        """Drop partitions that every peer has merged up to hlc ``acknowledged``, and the oldest beyond ``bytes_max``.
        On a node with relay ``covered`` says of the ends of the change sets of other nodes whether nobody needs them.

        Returns the journal's bytes and the names of peers that lost changes by the bound.
        """
        async with self._lock:
            return await self._trim(acknowledged, bytes_max, covered)

    async def _trim(self, acknowledged: int, bytes_max: int, covered: Covered | None) -> tuple[int, list[str]]:
        connection = self._session.connection
        done = await connection.fetchval(self._sql["acknowledged_seq"], acknowledged)
        partitions = list(await connection.fetch(self._sql["partitions"]))
        total = sum(row["bytes"] for row in partitions)
        lost: list[str] = []
        # The newest partition stays: it is the one being written.
        for row in partitions[:-1][:DROPPED_AT_A_TIME]:
            name = f"crdt_state.{quote(row['name'])}"
            ends: dict[int, int] = {}
            merged = done is not None and row["end_seq"] - 1 <= done
            if covered is not None:
                query = f"SELECT origin, max(to_hlc) AS hlc FROM {name} WHERE last GROUP BY origin"
                found = {end["origin"]: end["hlc"] for end in await connection.fetch(query)}
                merged = found.pop(None, 0) <= acknowledged and covered(found)
                ends = found
            if not merged and total <= bytes_max:
                break
            last = await connection.fetchval(f"SELECT coalesce(max(to_hlc), 0) FROM {name} WHERE origin IS NULL")
            try:
                lost += await self._drop(name, last, ends, lossless=merged)
            except asyncpg.LockNotAvailableError:
                break
            total -= row["bytes"]
        return total, lost

    async def _drop(self, name: str, last: int, ends: Mapping[int, int], *, lossless: bool) -> list[str]:
        connection = self._session.connection
        async with self._session.own_transaction():
            # Dropping waits for every reader of the journal (pg_dump), and capture would wait behind it.
            await connection.execute(f"SET LOCAL lock_timeout = '{DROP_LOCK_TIMEOUT_MS}ms'")
            await connection.execute(self._sql["store_dropped"], last)
            if ends:
                await connection.execute(self._sql["raise_floors"], list(ends), list(ends.values()))
            marked = [] if lossless else await connection.fetch(self._sql["mark_journal_lost"], last)
            await connection.execute(f"DROP TABLE {name}")
        return [peer["name"] for peer in marked]
