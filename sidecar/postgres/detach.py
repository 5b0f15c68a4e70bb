"""Taking the sidecar out of a database whose node has left. Everything is idempotent; user tables and rows stay."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import psycopg
from psycopg import errors as pg_errors

from sidecar.errors import ConfigurationError, TransientError
from sidecar.postgres.admin import own_transaction, set_local
from sidecar.postgres.statements import load

ENDS_S = 20.0
"""How long the sidecar's process may take to end (its clean stop is bound to 10 s), and the server to notice."""

POLL_S = 0.1

LOCK_TIMEOUT = "100ms"
"""The application goes first: a table that is written all the time is asked again and again."""

BUSY_S = 30.0
"""For how long a table is asked for."""

PARTITIONS_EACH = 32
"""Partitions of the journal dropped in one transaction: each takes several locks."""

_SQL = load("detach")

Connection = psycopg.AsyncConnection[Any]


async def check_dependents(conn: Connection) -> None:
    """Raises :class:`ConfigurationError` when views of users would go with the sidecar's schemas."""
    found = [str(row[0]) for row in await (await conn.execute(_SQL["dependents"])).fetchall()]
    if found:
        raise ConfigurationError(
            f"views stand on the sidecar's schemas and would be dropped: {', '.join(found)}",
            mend="drop them, or keep the schemas with --keep-state",
        )


async def departure(conn: Connection) -> str | None:
    """Whether the node of this database is ``leaving`` or has ``left``; ``None`` for a member."""
    row = await (await conn.execute(_SQL["read_departure"])).fetchone()
    return None if row is None else str(row[0])


async def detach(conn: Connection, *, keep_state: bool) -> list[str]:
    """Slot, publication, replica identities, origins and, unless it is to be kept, the state; what was done, in words.
    The connection is in autocommit mode. :class:`TransientError` when something is in use for too long; doing it again
    goes on."""
    await _alone(conn)
    async with own_transaction(conn):
        await conn.execute(_SQL["mark_left"])
    done = []
    if await _drop_slot(conn):
        done.append("replication slot dropped")
    async with own_transaction(conn):
        await conn.execute(_SQL["drop_publication"])
    tables = [str(row[0]) for row in await (await conn.execute(_SQL["full_tables"])).fetchall()]
    for table in tables:
        await _default_identity(conn, table)
    await _drop_origins(conn)
    done.append("publication dropped, replica identities are the default")
    if keep_state:
        return [*done, "state kept"]
    partitions = [str(row[0]) for row in await (await conn.execute(_SQL["partitions"])).fetchall()]
    for first in range(0, len(partitions), PARTITIONS_EACH):
        async with own_transaction(conn):
            await conn.execute(f"DROP TABLE {', '.join(partitions[first : first + PARTITIONS_EACH])}")
    async with own_transaction(conn):
        await conn.execute(_SQL["remember"])
        await conn.execute(_SQL["drop_state"])
        await conn.execute(_SQL["drop_surface"])
    return [*done, "state dropped"]


async def _alone(conn: Connection) -> None:
    """Wait until no sidecar runs on the database, and let none start."""
    ends = asyncio.get_running_loop().time() + ENDS_S
    while True:
        row = await (await conn.execute(_SQL["try_lock"])).fetchone()
        if row is not None and row[0]:
            return
        if asyncio.get_running_loop().time() >= ends:
            raise TransientError(
                "the sidecar still runs on this database", mend="stop it, then run sidecar leave again"
            )
        await asyncio.sleep(POLL_S)


async def _drop_slot(conn: Connection) -> bool:
    """The slot, once the server has noticed that nobody reads it; whether it was there."""
    row = await (await conn.execute(_SQL["read_slot"])).fetchone()
    if row is None:
        return False
    ends = asyncio.get_running_loop().time() + ENDS_S
    while True:
        try:
            await conn.execute(_SQL["drop_slot"], (row[0],))
        except pg_errors.ObjectInUse:
            if asyncio.get_running_loop().time() >= ends:
                raise TransientError(
                    f"replication slot {row[0]} is still read", mend="run sidecar leave again"
                ) from None
            await asyncio.sleep(POLL_S)
        else:
            return True


async def _default_identity(conn: Connection, table: str) -> None:
    ends = asyncio.get_running_loop().time() + BUSY_S
    while True:
        try:
            async with own_transaction(conn):
                await set_local(conn, lock_timeout=LOCK_TIMEOUT)
                await conn.execute(f"ALTER TABLE ONLY {table} REPLICA IDENTITY DEFAULT")
        except (pg_errors.LockNotAvailable, pg_errors.DeadlockDetected):
            if asyncio.get_running_loop().time() >= ends:
                raise TransientError(f"table {table} is never free", mend="run sidecar leave again") from None
            await asyncio.sleep(POLL_S)
        else:
            return


async def _drop_origins(conn: Connection) -> None:
    """They cost nothing when they stay, and other databases of the server have their own."""
    for (name,) in await (await conn.execute(_SQL["origins"])).fetchall():
        with contextlib.suppress(pg_errors.InsufficientPrivilege, pg_errors.ObjectInUse):
            await conn.execute(_SQL["drop_origin"], (name,))
