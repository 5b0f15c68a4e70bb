"""Connections for administration: checks, migrations, attaching, the command line (psycopg 3)."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import psycopg
from psycopg import conninfo, pq, sql

from sidecar.errors import ConfigurationError, SidecarError, TransientError

CONNECT_TIMEOUT_S = 10
"""A server that is up answers within milliseconds; a person waits this long for "cannot connect" without wondering."""

ECHO_PREFIX = "crdt"
"""Prefix of the logical message that marks the sidecar's own transactions; capture skips them."""

SESSION_SETTINGS: dict[str, str] = {
    "quote_all_identifiers": "off",  # first: it decides how the others are kept
    # Names resolve to the system's or not at all, and format_type() qualifies every user type.
    "search_path": "pg_catalog, pg_temp",
    "client_encoding": "UTF8",
    # Text images of values must be equal on all nodes.
    "DateStyle": "ISO, MDY",
    "IntervalStyle": "postgres",
    "TimeZone": "UTC",
    "extra_float_digits": "1",
    "bytea_output": "hex",
    "lc_monetary": "C",
    # What the sidecar sends is read as it is meant, NULL elements of arrays too.
    "array_nulls": "on",
    "standard_conforming_strings": "on",
    "transform_null_equals": "off",
    # A default for applications; where the server itself takes no writes, it says so all the same.
    "default_transaction_read_only": "off",
    "default_transaction_deferrable": "off",
    # A DBA's per-role timeouts are made for applications.
    "statement_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "idle_session_timeout": "0",
    "row_security": "on",
    # Nothing is sent, confirmed or acknowledged before it is flushed, also where the server's default is off.
    "synchronous_commit": "on",
}
"""Settings every SQL session of the sidecar fixes, whatever the role's or the database's defaults are."""

KEEPALIVES: dict[str, Any] = {
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 60_000,
}
"""libpq parameters, unless the DSN has its own: a minute after the other side is gone without a word, so is the
connection (the system waits two hours)."""

LATER_SETTINGS = (
    "SELECT pg_catalog.set_config(name, '0', false) FROM pg_catalog.pg_settings WHERE name = 'transaction_timeout'"
)
"""The same for a setting that servers before PostgreSQL 17 do not know, and would refuse the connection for."""

# libpq tells failures of a connection apart by their text only (no SQLSTATE reaches the client library); servers that
# speak another language fall through to the general line. First match wins.
_CONNECT_FAILURES: tuple[tuple[str, str, str, bool], ...] = (
    (
        r'database "(.*)" does not exist',
        "database {0!r} does not exist on {where}",
        "create it, or correct the DSN",
        False,
    ),
    (
        r"password authentication failed|no password supplied",
        "role {role!r} was refused by {where}: wrong or missing password",
        "correct the DSN's password, or put it into ~/.pgpass or PGPASSWORD",
        False,
    ),
    (
        r'role "(.*)" does not exist',
        "role {0!r} does not exist on {where}",
        "create it: CREATE ROLE ... LOGIN REPLICATION",
        False,
    ),
    (r'role "(.*)" is not permitted to log in', "role {0!r} may not log in on {where}", "ALTER ROLE ... LOGIN", False),
    (
        r"(no pg_hba\.conf entry .*|pg_hba\.conf rejects .*|(?:[Pp]eer|[Ii]dent) authentication failed.*)",
        "{where} refuses role {role!r}: {0}",
        "add a line for it to pg_hba.conf and reload the server",
        False,
    ),
    (
        r"permission denied for database",
        "role {role!r} has no CONNECT privilege on {where}",
        "GRANT CONNECT ON DATABASE",
        False,
    ),
    (r"could not translate host name", "host name in the DSN cannot be resolved ({where})", "correct the host", True),
    (
        r"starting up|shutting down|in recovery",
        "the server at {where} is starting up or shutting down",
        "try again",
        True,
    ),
    (r"too many clients|remaining connection slots", "{where} has no free connection", "raise max_connections", True),
    (
        r"Connection refused|No such file or directory|timeout expired|timed out|unreachable|No route",
        "cannot connect to PostgreSQL at {where}",
        "start the server, or correct host and port in the DSN",
        True,
    ),
)


async def connect(
    dsn: str, *, autocommit: bool = False, waiting: bool = False, **overrides: Any
) -> psycopg.AsyncConnection[tuple[Any, ...]]:
    """Open a session with :data:`SESSION_SETTINGS` in force.

    ``overrides`` are libpq parameters that win over the DSN. Raises :class:`ConfigurationError`, one line without the
    password. With ``waiting`` (a running sidecar, whose server is expected to come back) a server that does not answer
    is a :class:`TransientError` instead.
    """
    parameters = parse_dsn(dsn)
    parameters.setdefault("application_name", "sidecar")
    parameters.setdefault("connect_timeout", CONNECT_TIMEOUT_S)
    parameters = {**KEEPALIVES, **parameters}
    parameters.update(overrides)
    parameters["client_encoding"] = "UTF8"
    try:
        conn = await psycopg.AsyncConnection.connect(autocommit=True, **parameters)
    except psycopg.Error as error:
        raise connect_error(error, parameters, waiting=waiting) from None
    try:
        await conn.execute(session_settings_statement())
        await conn.set_autocommit(autocommit)
    except BaseException:
        await conn.close()
        raise
    return conn


def session_settings_statement() -> str:
    """One SQL text that fixes :data:`SESSION_SETTINGS` for the session; no parameters."""
    settings = (
        f"SET SESSION {name} = {value}" if name == "search_path" else f"SET SESSION {name} = '{value}'"
        for name, value in SESSION_SETTINGS.items()
    )
    return "; ".join((*settings, LATER_SETTINGS))


def parse_dsn(dsn: str) -> dict[str, Any]:
    """A libpq URI or key=value string as a mapping; :class:`ConfigurationError` when it is neither."""
    try:
        return dict(conninfo.conninfo_to_dict(dsn))
    except (psycopg.Error, UnicodeError):
        # libpq quotes the offending part, which may be the password: say nothing of it.
        raise ConfigurationError(
            "the DSN cannot be understood",
            mend="write it as postgresql://role@host:5432/database (percent-encode special characters)",
        ) from None


def where(parameters: dict[str, Any]) -> str:
    """``host:port/database`` of a parsed DSN, for messages."""
    host = parameters.get("host") or parameters.get("hostaddr") or "the local socket"
    port = parameters.get("port") or 5432
    return f"{host}:{port}/{parameters.get('dbname') or parameters.get('user') or ''}".rstrip("/")


def connect_error(error: Exception, parameters: dict[str, Any], *, waiting: bool = False) -> SidecarError:
    """The one readable line of a failed connection attempt; never shows the password."""
    text = " ".join(str(error).split())
    password = str(parameters.get("password") or "")
    if password:
        text = text.replace(password, "********")
    role = str(parameters.get("user") or "(operating system user)")
    for pattern, message, mend, passes in _CONNECT_FAILURES:
        match = re.search(pattern, text)
        if match:
            line = message.format(*match.groups(), where=where(parameters), role=role)
            return TransientError(line, mend=mend) if passes and waiting else ConfigurationError(line, mend=mend)
    reason = text.rsplit("FATAL: ", 1)[-1].strip()
    line, mend = f"cannot connect to {where(parameters)}: {reason}", "correct the DSN"
    return TransientError(line, mend=mend) if waiting else ConfigurationError(line, mend=mend)


@asynccontextmanager
async def own_transaction(conn: psycopg.AsyncConnection[Any]) -> AsyncIterator[None]:
    """A transaction that capture recognises as the sidecar's own: a transactional logical message comes first.

    The connection must be idle, in autocommit mode or not; it is idle again afterwards. Any role may emit the message
    (https://www.postgresql.org/docs/current/functions-admin.html#FUNCTIONS-REPLICATION).
    """
    if conn.info.transaction_status != pq.TransactionStatus.IDLE:
        raise RuntimeError("own_transaction needs an idle connection: the mark must be the first thing written")
    async with conn.transaction():
        await conn.execute("SELECT pg_logical_emit_message(true, %s::text, ''::text)", (ECHO_PREFIX,))
        yield


async def set_local(conn: psycopg.AsyncConnection[Any], **settings: str) -> None:
    """``SET LOCAL`` for the current transaction; the names are this project's own, the values any text."""
    for name, value in settings.items():
        await conn.execute(sql.SQL("SET LOCAL {} = {}").format(sql.Identifier(name), sql.Literal(value)))
