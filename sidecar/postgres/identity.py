"""Who this database is (:mod:`sidecar.core.wire.identity`), and whether it still is where it was attached.

A database that came to another server by dump and restore has another system identifier, one that was copied with
``CREATE DATABASE ... TEMPLATE`` another oid: told here, before anything is captured or sent. A copy of the whole
server's files has both alike, as the standby has that takes over from it; those are told by the peers.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import psycopg

from sidecar.core.hlc import show
from sidecar.core.wire.identity import PAGE, Known
from sidecar.core.wire.messages import STARTS_MAX, Start
from sidecar.errors import ConfigurationError, FatalError
from sidecar.postgres.admin import connect, own_transaction
from sidecar.postgres.journal_reader import JournalReader
from sidecar.postgres.session import Session
from sidecar.postgres.statements import load
from sidecar.postgres.walsender import open_connection

_SQL = load("identity")

Connection = psycopg.AsyncConnection[Any]
Fetch = Callable[..., Awaitable[list[tuple[Any, ...]]]]
"""A query and its arguments to rows."""


@dataclass(frozen=True, slots=True)
class OwnIdentity:
    """What the database says of itself, with the present start as the last of ``starts``."""

    incarnation: str
    generation: int
    starts: tuple[Start, ...]

    @property
    def rejoined(self) -> bool:
        """Whether it took the place of another database: then the others may have ends of that one which it never had,
        of intervals in which nothing was committed."""
        return self.generation > 1


@dataclass(frozen=True, slots=True)
class Place:
    """A server by its system identifier, and a database on it by its oid."""

    server: str
    database_oid: int


async def present_place(conn: Connection, dsn: str) -> Place:
    """Where the database is. A role that may not look at the control file asks over a replication connection. The
    connection must be idle."""
    async with conn.transaction():
        row = await (await conn.execute(_SQL["present_oid"])).fetchone()
        may_read = await (await conn.execute(_SQL["may_read_server"])).fetchone()
        found = await (await conn.execute(_SQL["read_server"])).fetchone() if may_read == (True,) else None
    if found is None:
        async with await open_connection(dsn) as walsender:
            found = await (await walsender.execute("IDENTIFY_SYSTEM")).fetchone()
    assert row is not None
    assert found is not None
    return Place(str(found[0]), row[0])


async def check_place(conn: Connection, dsn: str) -> None:
    """Raises :class:`ConfigurationError` when the database was attached somewhere else; writes down where it is when
    that was not done yet. The connection must be idle."""
    async with conn.transaction():
        row = await (await conn.execute(_SQL["read_place"])).fetchone()
    if row is None:
        return  # it belongs to nobody yet
    server, recorded_oid, name = row
    present = await present_place(conn, dsn)
    if server is None:
        await store_place(conn, present)
    elif (server, recorded_oid) != (present.server, present.database_oid):
        what = "on another server" if server != present.server else "in another database of this server"
        raise ConfigurationError(
            f"this database is a copy of that of node {name!r}, which was attached {what} "
            f"(system {server}, database {recorded_oid}; here {present.server}, {present.database_oid})",
            mend="if it was moved as a whole, with its slot, and the former one is gone for good: sidecar init "
            f"--moved; else it needs a name and id of its own, {PAGE}",
        )


async def require_place(dsn: str) -> None:
    """:func:`check_place` on a connection of its own."""
    async with await connect(dsn, autocommit=True, waiting=True) as conn:
        await check_place(conn, dsn)


async def store_place(conn: Connection, place: Place) -> None:
    """The database belongs here."""
    async with own_transaction(conn):
        await conn.execute(_SQL["store_place"], (place.server, place.database_oid))


async def begin_start(dsn: str, boot_id: str, *, known: OwnIdentity | None) -> OwnIdentity:
    """Write down the present start of the sidecar; to be called by the one sidecar of the database before it captures
    or says anything, and when nothing else can fail: a Hello tells a bounded number of starts.

    ``known``: what this process found before its sessions broke. Raises :class:`FatalError` when that is not here.
    """
    async with await connect(dsn, autocommit=True, waiting=True) as conn:
        if known is None:
            async with own_transaction(conn):
                await conn.execute(_SQL["add_start"], (boot_id,))
                await conn.execute(_SQL["trim_starts"], (STARTS_MAX,))
        row = await (await conn.execute(_SQL["read_identity"])).fetchone()
        assert row is not None, "the database is attached"
        starts = [Start(*start) for start in await (await conn.execute(_SQL["read_starts"])).fetchall()]
    found = OwnIdentity(row[0], row[1], tuple(starts))
    if known is not None and found != known:
        raise FatalError(
            "the database was put back or exchanged while the sidecar was running: its last start is not there",
            mend=f"start the sidecar again if that is right; {PAGE}",
        )
    return found


def check_end(before_hlc: int, end_hlc: int) -> None:
    """Raises :class:`FatalError` when this node's durable changes end below where they did."""
    if end_hlc < before_hlc:
        raise FatalError(
            f"the database went back in time while the sidecar was running: this node's changes went up to "
            f"{show(before_hlc)}, and now go up to {show(end_hlc)}",
            mend=f"make the node anew; {PAGE}",
        )


async def take_place(session: Session, fetch_there: Fetch, node_id: int, *, anew: bool) -> None:
    """Give a joining database an identity of its own, when the others know this id from another one: by what the
    database that is copied says, or because they have changes that are not here (``anew``). The later join counts."""
    met = await fetch_there(_SQL["read_own_as_met"], node_id)
    own = await session.connection.fetchrow(_SQL["read_identity"])
    assert own is not None
    incarnation, generation = met[0] if met else ("", 0)
    if anew or incarnation not in ("", own["incarnation"]):
        async with session.own_transaction():
            await session.connection.execute(_SQL["renew"], generation)


class MetStore:
    """Who the peers were, on the reader's session."""

    def __init__(self, reader: JournalReader) -> None:
        self._reader = reader

    async def read(self) -> dict[int, Known]:
        """By id."""
        rows = await self._reader.fetch(_SQL["read_met"])
        return {row["id"]: Known(*tuple(row)[1:]) for row in rows}

    async def write(self, met: Mapping[int, Known]) -> set[int]:
        """The ids that were written: of those that are known as peers."""
        columns = [
            list(met),
            [known.incarnation for known in met.values()],
            [known.generation for known in met.values()],
            [known.start for known in met.values()],
            [known.boot_id for known in met.values()],
            [known.told_hlc for known in met.values()],
        ]
        return {row["id"] for row in await self._reader.fetch(_SQL["store_met"], *columns)}
