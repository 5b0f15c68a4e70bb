"""Whether this server, this database and this role can carry a sidecar; every finding at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg.rows import class_row

from sidecar.core.catalog import quote
from sidecar.postgres.problem import Problem, in_order
from sidecar.postgres.statements import load

VERSION_MIN = 140000
"""PostgreSQL 14: the first with logical messages in pgoutput, by which the sidecar's own transactions are told."""

SENDER_TIMEOUT_MS_MIN = 30_000
"""The sidecar reports at least every 10 s (timing.status_interval_ms): below three reports a delay cuts the stream."""

_SQL = load("server_check")


@dataclass(frozen=True, slots=True)
class Server:
    """One row of ``read_server``; ``may_set_replica_role`` is tried separately."""

    version_number: int
    version: str
    in_recovery: bool
    wal_level: str
    slots_max: int
    slots_used: int
    senders_max: int
    senders_used: int
    slot_wal_keep_mb: int
    sender_timeout_ms: int
    idle_slot_timeout: int
    encoding: str
    database: str
    role: str
    is_superuser: bool
    may_replicate: bool
    may_create: bool
    foreign_schemas: list[str]
    may_use_origins: bool


async def check_server(conn: psycopg.AsyncConnection[Any]) -> list[Problem]:
    """Errors first. Nothing is changed; the connection must be idle and is idle afterwards."""
    async with conn.transaction():
        async with conn.cursor(row_factory=class_row(Server)) as cursor:
            await cursor.execute(_SQL["read_server"])
            server = await cursor.fetchone()
        assert server is not None
        may_set_replica_role = await _may_set_replica_role(conn)
    return list(in_order(judge(server, may_set_replica_role)))


async def _may_set_replica_role(conn: psycopg.AsyncConnection[Any]) -> bool:
    try:
        async with conn.transaction(force_rollback=True):
            await conn.execute(_SQL["try_replica_role"])
    except psycopg.errors.InsufficientPrivilege:
        return False
    return True


def judge(server: Server, may_set_replica_role: bool) -> list[Problem]:
    """The findings; pure."""
    problems = [problem for check in _CHECKS for problem in check(server)]
    if not may_set_replica_role:
        problems.append(
            Problem(
                "advice",
                f"role {server.role!r} may not set session_replication_role: triggers and foreign keys act on merges",
                "GRANT SET ON PARAMETER session_replication_role (PostgreSQL 15+), if that is not wanted",
            )
        )
    if not server.may_use_origins:
        problems.append(
            Problem(
                "advice",
                f"role {server.role!r} may not use replication origins: merged changes are decoded and then dropped",
                "nothing has to be done; a superuser may GRANT EXECUTE on the pg_replication_origin_* functions",
            )
        )
    return problems


def _system(name: str, value: str, *, restart: bool) -> str:
    then = "restart the server" if restart else "SELECT pg_reload_conf()"
    return f"ALTER SYSTEM SET {name} = {value}; then {then}"


def _check_version(server: Server) -> Iterator[Problem]:
    if server.version_number < VERSION_MIN:
        yield Problem("error", f"PostgreSQL {server.version} is too old", "upgrade to 14 or later")
    if server.in_recovery:
        yield Problem("error", "the server is a standby", "attach the sidecar to the primary")
    if server.encoding != "UTF8":
        yield Problem(
            "error",
            f"database {server.database!r} has encoding {server.encoding}",
            "move it to a database with ENCODING 'UTF8'",
        )


def _check_decoding(server: Server) -> Iterator[Problem]:
    if server.wal_level != "logical":
        yield Problem("error", f"wal_level is {server.wal_level!r}", _system("wal_level", "'logical'", restart=True))
    for name, most, used in (
        ("max_replication_slots", server.slots_max, server.slots_used),
        ("max_wal_senders", server.senders_max, server.senders_used),
    ):
        if used >= most:
            yield Problem(
                "error", f"{name} is {most} and {used} are in use", _system(name, str(used + 4), restart=True)
            )


def _check_role(server: Server) -> Iterator[Problem]:
    role = quote(server.role)
    if not server.may_replicate:
        yield Problem(
            "error",
            f"role {server.role!r} lacks REPLICATION",
            f"ALTER ROLE {role} REPLICATION (on Amazon RDS: GRANT rds_replication TO {role})",
        )
    if not server.may_create:
        yield Problem(
            "error",
            f"role {server.role!r} may not create schemas and publications in database {server.database!r}",
            f"GRANT CREATE ON DATABASE {quote(server.database)} TO {role}",
        )
    for schema in server.foreign_schemas:
        yield Problem(
            "error",
            f"schema {schema!r} belongs to another role",
            f"ALTER SCHEMA {schema} OWNER TO {role}, or connect as its owner",
        )


def _check_retention(server: Server) -> Iterator[Problem]:
    if server.slot_wal_keep_mb == -1:
        yield Problem(
            "warning",
            "max_slot_wal_keep_size is -1: while the sidecar is stopped, its slot keeps WAL until the disk is full",
            _system("max_slot_wal_keep_size", "'64GB'", restart=False) + " (beyond it the slot is lost)",
        )
    if 0 < server.sender_timeout_ms < SENDER_TIMEOUT_MS_MIN:
        yield Problem(
            "warning",
            f"wal_sender_timeout is {server.sender_timeout_ms} ms: a short delay cuts the replication stream",
            _system("wal_sender_timeout", "'60s'", restart=False),
        )
    if server.idle_slot_timeout > 0:
        yield Problem(
            "warning",
            "idle_replication_slot_timeout is set: a sidecar stopped for that long loses its slot",
            _system("idle_replication_slot_timeout", "0", restart=False),
        )


_CHECKS: tuple[Callable[[Server], Iterator[Problem]], ...] = (
    _check_version,
    _check_decoding,
    _check_role,
    _check_retention,
)
