"""asyncpg sessions for the journal and the merge: fixed settings, own transactions, what the role may do."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

import asyncpg
import psycopg

from sidecar.core.membership import FORMER_MEND, former_line
from sidecar.core.merge.staging import Argument, Statement
from sidecar.errors import ConfigurationError, FatalError, TransientError
from sidecar.postgres.admin import ECHO_PREFIX, LATER_SETTINGS, SESSION_SETTINGS, connect_error, parse_dsn
from sidecar.postgres.statements import load

STATEMENTS_KEPT = 256
"""Prepared statements per session, least recently used go first. A statement's plan takes some 100 kB on the server."""

# The batches are arrays whose size the planner cannot know. Nested loops over the key indexes are right for every batch
# size; hash joins over a whole user table, chosen by a wrong estimate, would be seconds instead of milliseconds.
PLANNER_SETTINGS: dict[str, str] = {
    "plan_cache_mode": "force_generic_plan",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "enable_seqscan": "off",
    "enable_bitmapscan": "off",
    "jit": "off",
    "work_mem": "64MB",
}

STACK_DEPTH = "6MB"
"""A document as deep as an application's session could just store (2 MB) stands some levels deeper in a change and in a
row state. Where the role may not set it, or the server's own limit is lower, such a document is put aside, see
:mod:`sidecar.postgres.put_aside`."""

DROP_LEFT_ORIGINS = """
SELECT pg_replication_origin_drop(o.roname) FROM pg_replication_origin AS o
WHERE o.roname ~ '^crdt_[0-9]+_[a-z]+$'
  AND NOT EXISTS (SELECT FROM pg_database AS d WHERE d.oid::text = split_part(o.roname, '_', 2))
"""
"""Origins of databases that were dropped with their node: a server has room for few (PostgreSQL 18: 10 by default)."""

BEGIN_OWN = f"BEGIN ISOLATION LEVEL READ COMMITTED; SELECT pg_logical_emit_message(true, '{ECHO_PREFIX}', '')"


@dataclass(frozen=True, slots=True)
class Privileges:
    """What the role was allowed to do in this session."""

    replica_role: bool
    origin: bool


class Session:
    """One asyncpg connection with the sidecar's settings and a bounded cache of prepared statements."""

    def __init__(self, connection: asyncpg.Connection, privileges: Privileges, origin: str = "") -> None:
        self.connection = connection
        self.privileges = privileges
        self._origin = origin
        self._prepared: dict[str, asyncpg.prepared_stmt.PreparedStatement] = {}

    @classmethod
    async def open(cls, dsn: str, *, purpose: str, origin: bool, settings: Mapping[str, str] = {}) -> Session:
        """Connect as ``sidecar/<purpose>``; raises the same one-line errors as :func:`sidecar.postgres.admin.connect`.

        Where the role may, the session applies as a replica (user triggers and foreign keys do not fire) and under a
        replication origin ``crdt_<database oid>_<purpose>`` (with ``origin``), which PostgreSQL 16+ filters at the
        source. Origins belong to the whole server, and another of its databases may have a sidecar too.
        """
        fixed = {k: v for k, v in SESSION_SETTINGS.items() if k != "client_encoding"}
        options = {**fixed, **PLANNER_SETTINGS, **settings, "application_name": f"sidecar/{purpose}"}
        connection = await _connect(dsn, options)
        try:
            await connection.execute(LATER_SETTINGS)
            replica = await _allowed(connection, "SET session_replication_role = replica")
            under = await _origin(connection, purpose) if origin else ""
            await _allowed(connection, f"SET max_stack_depth = '{STACK_DEPTH}'")
        except BaseException:
            await connection.close()
            raise
        return cls(connection, Privileges(replica, bool(under)), under)

    async def prepared(self, statement: Statement) -> asyncpg.prepared_stmt.PreparedStatement:
        """The prepared form of a statement of this session."""
        found = self._prepared.pop(statement.sql, None)
        if found is None:
            found = await self.connection.prepare(statement.sql)
            if len(self._prepared) >= STATEMENTS_KEPT:
                self._prepared.pop(next(iter(self._prepared)))
        self._prepared[statement.sql] = found
        return found

    async def fetch(self, statement: Statement, arguments: list[Argument]) -> list[asyncpg.Record]:
        """Run a generated statement."""
        prepared = await self.prepared(statement)
        return await prepared.fetch(*arguments)

    def forget_statements(self) -> None:
        """Drop prepared statements, after tables changed."""
        self._prepared.clear()

    async def begin(self) -> None:
        """Start a transaction that capture recognises as the sidecar's own."""
        await self.connection.execute(BEGIN_OWN)

    async def commit(self) -> None:
        """Commit."""
        await self.connection.execute("COMMIT")

    async def rollback(self) -> None:
        """Roll back. Where that fails the connection is cut, which makes the server do it: the error that led here is
        the one to be told, not that of the attempt."""
        if self.connection.is_closed():
            return
        try:
            await self.connection.execute("ROLLBACK")
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError):
            # The last of these comes when the caller was cancelled in the middle of a query.
            self.connection.terminate()

    @asynccontextmanager
    async def own_transaction(self) -> AsyncIterator[None]:
        """:meth:`begin`, then :meth:`commit`, or :meth:`rollback` on error."""
        await self.begin()
        try:
            yield
            await self.commit()
        except BaseException:
            await self.rollback()
            raise

    @asynccontextmanager
    async def local_transaction(self) -> AsyncIterator[None]:
        """A transaction that capture takes for one of the application."""
        if self._origin:
            await self.connection.execute("SELECT pg_replication_origin_session_reset()")
        try:
            async with self.connection.transaction():
                yield
        finally:
            await self._under_origin()

    async def _under_origin(self) -> None:
        """Speak under the origin again. Where that fails the connection is cut: what led here is to be told first."""
        if not self._origin or self.connection.is_closed():
            return
        try:
            await self.connection.execute("SELECT pg_replication_origin_session_setup($1)", self._origin)
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError):
            self.connection.terminate()

    async def own_node(self, *, again: bool = False) -> None:
        """Take the right to be the one sidecar of this database, for as long as this session lives. Raises
        :class:`ConfigurationError` when there was no init, :class:`FatalError` when another sidecar runs.

        ``again``: this process had it before its connection broke. The server may not have noticed, and keeps the right
        for the old session until it does: a :class:`TransientError` then.
        """
        try:
            missing = await self.connection.fetchval("SELECT to_regclass('crdt_state.node') IS NULL")
        except asyncpg.InsufficientPrivilegeError as error:
            raise ConfigurationError(
                f"the role in the DSN may not use the sidecar's state: {error}",
                mend="use the role that ran sidecar init",
            ) from None
        if missing and (former := await former_node(self.connection)) is not None:
            raise ConfigurationError(former, mend=FORMER_MEND)
        if missing:
            raise ConfigurationError("this database is not attached to a node", mend="run sidecar init first")
        if not await self.connection.fetchval(load("journal")["try_own_node"]):
            if again:
                raise TransientError(
                    "the server still keeps the right for this sidecar's former session, or another has taken it",
                    mend="it is waited for; tcp_keepalives_idle on the server says how long",
                )
            raise FatalError("another sidecar runs on this database", mend="stop it first; one database, one sidecar")

    async def close(self) -> None:
        """Close within a bounded time."""
        if not self.connection.is_closed():
            try:
                await self.connection.close(timeout=2)
            except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError):
                self.connection.terminate()


@asynccontextmanager
async def told_as_lost() -> AsyncIterator[None]:
    """The server has ended a session, and the driver has read why but not yet the end of the connection: what it then
    says of its own state means nothing to a reader."""
    try:
        yield
    except asyncpg.InternalClientError as error:
        raise TransientError("the connection to the database is lost", mend="it is opened anew") from error


async def former_node(connection: asyncpg.Connection) -> str | None:
    """Which node a database was that has left and has no sidecar now, in words."""
    sql = load("membership")
    if not await connection.fetchval(sql["has_former"]):
        return None
    row = await connection.fetchrow(sql["read_former"])
    return None if row is None else former_line(*row)


async def _connect(dsn: str, options: dict[str, str]) -> asyncpg.Connection:
    parameters = parse_dsn(dsn)
    try:
        return await asyncpg.connect(dsn, server_settings=options, timeout=10, statement_cache_size=16)
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError) as error:
        raise connect_error(_as_psycopg(error), parameters, waiting=True) from None


def _as_psycopg(error: Exception) -> psycopg.Error:
    return psycopg.OperationalError(str(error) or type(error).__name__)


async def _allowed(connection: asyncpg.Connection, sql: str) -> bool:
    try:
        await connection.execute(sql)
    except (asyncpg.InsufficientPrivilegeError, asyncpg.InvalidParameterValueError):
        return False
    return True


async def _origin(connection: asyncpg.Connection, purpose: str) -> str:
    """Make the session speak under its replication origin, whose name is returned; empty where it may not, or where the
    server has no room for another. An origin can serve one session at a time."""
    database = await connection.fetchval("SELECT oid::int8 FROM pg_database WHERE datname = current_database()")
    name = f"crdt_{database}_{purpose}"
    try:
        known = await connection.fetchval("SELECT pg_replication_origin_oid($1)", name)
        if known is None:
            # Somebody else may be at it, a session of a dropped database may not be gone yet, or the role may not.
            with contextlib.suppress(
                asyncpg.ObjectInUseError, asyncpg.UndefinedObjectError, asyncpg.InsufficientPrivilegeError
            ):
                await connection.execute(DROP_LEFT_ORIGINS)
            await connection.execute("SELECT pg_replication_origin_create($1)", name)
        await connection.execute("SELECT pg_replication_origin_session_setup($1)", name)
    except (asyncpg.InsufficientPrivilegeError, asyncpg.ConfigurationLimitExceededError):
        return ""
    except asyncpg.ObjectInUseError as error:
        raise TransientError(f"replication origin {name} is in use: {error}", mend="stop the other sidecar") from None
    return name
