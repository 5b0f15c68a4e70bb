"""Opening a walsender session: connection, the few commands before streaming, and what their errors mean.

Source: https://www.postgresql.org/docs/current/protocol-replication.html
"""

from __future__ import annotations

import asyncio
import os
import re
import socket
from ipaddress import ip_address
from typing import Any

import psycopg
from psycopg import pq

from sidecar.core.catalog import quote, quote_literal
from sidecar.core.pgoutput import show_lsn
from sidecar.errors import ConfigurationError, FatalError, SidecarError, TransientError
from sidecar.postgres.admin import (
    CONNECT_TIMEOUT_S,
    KEEPALIVES,
    LATER_SETTINGS,
    SESSION_SETTINGS,
    connect_error,
    parse_dsn,
)

COMMAND_TIMEOUT_S = 30.0
"""For SHOW and START_REPLICATION. Starting reads WAL from the slot's restart position under no lock; it answers
before it decodes."""

LOOPBACK_RECEIVE_BUFFER_BYTES = 256 * 1024
"""Receive buffer (Linux doubles it) where the server is on this host: a full one makes segments large, too, and the
next is there at once. It holds several of the largest (64 KiB on loopback), or each would wait for a delayed
acknowledgement. Over a network a limit would limit the speed; there the size stays the system's business."""

# How the errors of a replication command and of the running stream are meant, by SQLSTATE.
_SLOT_MEND = "changes since the loss cannot be decoded: make the node anew, see docs/operations.md"
_FATAL: dict[str, str] = {
    "42704": _SLOT_MEND,  # undefined_object: the slot or the publication does not exist
    "55000": _SLOT_MEND,  # object_not_in_prerequisite_state: slot invalidated, other plugin, wrong wal_level
    "42809": _SLOT_MEND,  # wrong_object_type
}
_UNIT_MS = {"": 1, "ms": 1, "s": 1_000, "min": 60_000, "h": 3_600_000, "d": 86_400_000}
_CONFIGURATION: dict[str, str] = {
    "42501": "ALTER ROLE ... REPLICATION",  # insufficient_privilege
    "28000": "correct the DSN's role and password, or pg_hba.conf",
    "28P01": "correct the DSN's password",
}


async def open_connection(dsn: str) -> psycopg.AsyncConnection[Any]:
    """Connect in replication mode, with the settings of every session of the sidecar."""
    parameters = parse_dsn(dsn)
    settings = " ".join(f"-c {name}={_escaped(value)}" for name, value in SESSION_SETTINGS.items())
    parameters["options"] = f"{parameters.get('options') or ''} {settings}".strip()
    parameters.setdefault("application_name", "sidecar")
    parameters.setdefault("connect_timeout", CONNECT_TIMEOUT_S)
    parameters = {**KEEPALIVES, **parameters}
    parameters["client_encoding"] = "UTF8"
    parameters["replication"] = "database"
    try:
        connection = await psycopg.AsyncConnection.connect(autocommit=True, **parameters)
    except psycopg.Error as error:
        if re.search(r"replication role|permission denied to start WAL sender", str(error)):
            raise ConfigurationError(
                "the role in the DSN may not open a replication connection", mend="ALTER ROLE ... REPLICATION"
            ) from None
        raise connect_error(error, parameters, waiting=True) from None
    try:
        await command(connection.pgconn, LATER_SETTINGS)
        limit_receive_buffer(connection.pgconn.socket)
    except BaseException:
        await connection.close()
        raise
    return connection


def by_tcp(fd: int) -> bool:
    """Whether the server is reached by TCP, and not through a Unix-domain socket."""
    with socket.socket(fileno=os.dup(fd)) as duplicate:
        return duplicate.family != socket.AF_UNIX


def limit_receive_buffer(fd: int) -> None:
    """For a server on this host, see ``LOOPBACK_RECEIVE_BUFFER_BYTES``."""
    with socket.socket(fileno=os.dup(fd)) as duplicate:
        if by_tcp(fd) and ip_address(duplicate.getpeername()[0]).is_loopback:
            duplicate.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, LOOPBACK_RECEIVE_BUFFER_BYTES)


def _escaped(value: str) -> str:
    """A value inside the ``options`` parameter: blanks separate options there, a backslash keeps them."""
    return value.replace("\\", "\\\\").replace(" ", "\\ ")


async def start_replication(pgconn: pq.abc.PGconn, slot: str, publication: str, start_lsn: int) -> None:
    """Switch to COPY BOTH: pgoutput, protocol version 1, text values, with logical messages."""
    options = ["proto_version '1'", f"publication_names {quote_literal(quote(publication))}", "messages 'true'"]
    if pgconn.server_version >= 160_000:
        options.append("origin 'none'")  # changes made under a replication origin are filtered at the source
    text = f"START_REPLICATION SLOT {quote(slot)} LOGICAL {show_lsn(start_lsn)} ({', '.join(options)})"
    # From PostgreSQL 18 on a missing publication is a warning in the server's log, and nothing is ever sent.
    known = await command(pgconn, f"SELECT 1 FROM pg_publication WHERE pubname = {quote_literal(publication)}")
    if known.ntuples == 0:
        raise FatalError(f"publication {quote(publication)} does not exist", mend="run sidecar init")
    result = await command(pgconn, text)
    if result.status != pq.ExecStatus.COPY_BOTH:
        raise TransientError("the server did not start streaming", mend="it is tried again")


async def wal_sender_timeout_ms(pgconn: pq.abc.PGconn) -> int:
    """0 when switched off. SHOW prints the largest unit that fits, e.g. ``1min``."""
    result = await command(pgconn, "SHOW wal_sender_timeout")
    text = (result.get_value(0, 0) or b"0").decode()
    digits = text.rstrip("abcdefghijklmnopqrstuvwxyz")
    return int(digits) * _UNIT_MS[text[len(digits) :]]


async def command(pgconn: pq.abc.PGconn, text: str) -> pq.abc.PGresult:
    """Run one replication command; its result, or the error. A walsender knows the simple query protocol only."""
    first: pq.abc.PGresult | None = None
    try:
        async with asyncio.timeout(COMMAND_TIMEOUT_S):
            pgconn.send_query(text.encode())
            while pgconn.flush() == 1:
                await _ready(pgconn.socket, write=True)
            while True:
                while pgconn.is_busy():
                    await _ready(pgconn.socket, write=False)
                    pgconn.consume_input()
                result = pgconn.get_result()
                if result is None:
                    break
                first = first or result
                if result.status in (pq.ExecStatus.COPY_BOTH, pq.ExecStatus.FATAL_ERROR):
                    break
    except psycopg.Error as error:
        raise stream_error(error) from None
    except TimeoutError:
        raise TransientError(f"the server did not answer {text.split()[0]} within {COMMAND_TIMEOUT_S:g} s") from None
    if first is None:
        raise TransientError(f"the server did not answer {text.split()[0]}")
    if first.status == pq.ExecStatus.FATAL_ERROR:
        raise result_error(first, pgconn)
    return first


async def _ready(fd: int, *, write: bool) -> None:
    """Wait until the socket can be read or written."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[None] = loop.create_future()

    def wake() -> None:
        if not future.done():
            future.set_result(None)

    add, remove = (loop.add_writer, loop.remove_writer) if write else (loop.add_reader, loop.remove_reader)
    add(fd, wake)
    try:
        await future
    finally:
        remove(fd)


def result_error(result: pq.abc.PGresult, pgconn: pq.abc.PGconn) -> SidecarError:
    """What the server's error means for the stream; transient unless known otherwise."""
    sqlstate = (result.error_field(pq.DiagnosticField.SQLSTATE) or b"").decode()
    primary = result.error_field(pq.DiagnosticField.MESSAGE_PRIMARY) or b""
    text = primary.decode(errors="replace") or " ".join(pgconn.get_error_message().split())
    message = f"replication: {text}"
    if sqlstate in _FATAL:
        return FatalError(message, mend=_FATAL[sqlstate])
    if sqlstate in _CONFIGURATION:
        return ConfigurationError(message, mend=_CONFIGURATION[sqlstate])
    return TransientError(message)


def stream_error(error: psycopg.Error) -> SidecarError:
    """libpq failed, not the server: the connection is gone."""
    return TransientError(f"replication connection lost: {' '.join(str(error).split())}")
