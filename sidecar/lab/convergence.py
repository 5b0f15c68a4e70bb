"""Whether nodes have converged, seen from outside: reads their databases, writes nothing."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, LiteralString

import psycopg
from psycopg import sql

from sidecar.core.hlc import show
from sidecar.core.versions import dominates
from sidecar.errors import SidecarError
from sidecar.lab.waiting import DeadlineError, wait_until

# How values print, so that equal rows are equal bytes on every node, version and configuration.
FIXED_SETTINGS: dict[str, str] = {
    "DateStyle": "ISO, YMD",
    "IntervalStyle": "postgres",
    "TimeZone": "UTC",
    "extra_float_digits": "1",
    "bytea_output": "hex",
    "lc_monetary": "C",
    "client_encoding": "UTF8",
}
WAL_PAGE_BYTES = 8192
WAL_PAGE_HEADER_BYTES = (24, 40)  # short; long on the first page of a segment (access/xlog_internal.h)

LOST = (psycopg.OperationalError, psycopg.InterfaceError)
"""A server that is away or starting."""


class Probe:
    """One read-only connection to a node, made again when the server went away."""

    def __init__(self, name: str, dsn: str) -> None:
        self.name = name
        self._dsn = dsn
        self._connection: psycopg.AsyncConnection[tuple[Any, ...]] | None = None

    async def rows(self, query: LiteralString, arguments: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """The rows of a query; raises psycopg's errors."""
        if self._connection is None or self._connection.closed:
            self._connection = await psycopg.AsyncConnection.connect(self._dsn, autocommit=True, connect_timeout=5)
        cursor = await self._connection.execute(query, arguments)
        return await cursor.fetchall()

    async def close(self) -> None:
        if self._connection is not None:
            await self._connection.close()
            self._connection = None


def parse_lsn(text: str) -> int:
    """``16/B374D848`` as a number."""
    high, _, low = text.partition("/")
    return int(high, 16) << 32 | int(low, 16)


def end_of_wal(insert_lsn: int) -> int:
    """The insert position without a page header that no record follows yet.

    ``pg_current_wal_insert_lsn()`` says where the next record's data will go; at a page boundary that is after the
    page's header, which on an idle server nothing ever reaches.
    """
    offset = insert_lsn % WAL_PAGE_BYTES
    return insert_lsn - offset if offset in WAL_PAGE_HEADER_BYTES else insert_lsn


async def wal_position(probe: Probe) -> int:
    """Everything committed before this call lies below the result (bytes)."""
    return end_of_wal(parse_lsn(str((await probe.rows("SELECT pg_current_wal_insert_lsn()::text"))[0][0])))


async def captured_position(probe: Probe) -> int:
    """Everything below the result is durably captured: the position, or what the slot was told from it (bytes)."""
    found = await probe.rows(
        "SELECT greatest(p.lsn, s.confirmed_flush_lsn)::text FROM crdt_state.position AS p"
        " LEFT JOIN pg_catalog.pg_replication_slots AS s ON s.slot_name = p.slot"
    )
    return parse_lsn(str(found[0][0])) if found else 0


async def clock_of(probe: Probe) -> dict[int, int]:
    """The node's version vector: node id to highest merged hlc."""
    return {int(node): int(hlc) for node, hlc in await probe.rows("SELECT node, hlc FROM crdt_state.clock")}


async def wait_converged(
    nodes: Mapping[int, tuple[str, str]], deadline_s: float, *, check: Callable[[], None] = lambda: None
) -> None:
    """Wait until every node has merged everything that was committed anywhere when the wait began.

    ``nodes``: node id to (name, DSN). First each node's capture must pass the WAL position taken now, then every other
    node's clock must cover that node's own clock entry. ``check`` is called on each poll and may raise (a process that
    ended). Servers may restart meanwhile. Raises :class:`DeadlineError` with what is lacking.
    """
    loop = asyncio.get_running_loop()
    ends = loop.time() + deadline_s
    probes = {node: Probe(name, dsn) for node, (name, dsn) in nodes.items()}
    lacking: list[str] = []

    async def captured(node: int, target: int) -> bool:
        check()
        return await captured_position(probes[node]) >= target

    async def own_clock(node: int) -> int:
        probe = probes[node]
        target = await wait_until(partial(wal_position, probe), deadline_s, f"{probe.name}: an answer", tolerate=LOST)
        what = f"{probe.name}: capture up to {target >> 32:X}/{target & 0xFFFFFFFF:X}"
        await wait_until(partial(captured, node, target), ends - loop.time(), what, tolerate=LOST)
        return (await clock_of(probe)).get(node, 0)

    async def merged(node: int, targets: Mapping[int, int]) -> bool:
        check()
        clock = await clock_of(probes[node])
        behind = {n: h for n, h in targets.items() if clock.get(n, 0) < h}
        lacking[:] = [
            f"{probes[node].name} has {probes[n].name} up to {show(clock.get(n, 0))} of {show(h)}"
            for n, h in behind.items()
        ]
        return dominates(clock, targets)

    try:
        own = await asyncio.gather(*(own_clock(node) for node in probes))
        targets = dict(zip(probes, own, strict=True))
        for node, probe in probes.items():
            try:
                await wait_until(
                    partial(merged, node, targets),
                    ends - loop.time(),
                    f"{probe.name}: merging",
                    tolerate=LOST,
                )
            except DeadlineError as error:
                raise DeadlineError(
                    f"the nodes did not converge within {deadline_s:g} s: {'; '.join(lacking) or error.message}"
                ) from None
    finally:
        await asyncio.gather(*(probe.close() for probe in probes.values()))


async def table_checksum(dsn: str, table: str) -> str:
    """md5 (hex) over the table's rows in key order, as COPY text under ``FIXED_SETTINGS``.

    ``table`` as SQL would name it, ``posts`` or ``app.posts``. Raises :class:`SidecarError` when it has no primary key.
    """
    digest = hashlib.md5(usedforsecurity=False)
    async with await psycopg.AsyncConnection.connect(dsn) as connection:
        for name, value in FIXED_SETTINGS.items():
            await connection.execute("SELECT set_config(%s, %s, true)", [name, value])
        cursor = await connection.execute(
            "SELECT a.attname, a.attcollation <> 0 FROM pg_index AS i"
            " CROSS JOIN LATERAL unnest(i.indkey::int2[]) WITH ORDINALITY AS k (attnum, position)"
            " JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = k.attnum"
            " WHERE i.indrelid = %s::regclass AND i.indisprimary ORDER BY k.position",
            [table],
        )
        key = [
            sql.Identifier(name) + sql.SQL(' COLLATE "C"' if collated else "")
            for name, collated in await cursor.fetchall()
        ]
        if not key:
            raise SidecarError(f"table {table} has no primary key", mend="a checksum needs an order")
        query = sql.SQL("COPY (SELECT * FROM {} ORDER BY {}) TO STDOUT").format(
            sql.Identifier(*table.split(".")), sql.SQL(", ").join(key)
        )
        async with connection.cursor().copy(query) as copy:
            async for block in copy:
                digest.update(block)
    return digest.hexdigest()
