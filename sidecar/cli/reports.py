"""What the commands read from the database: rows of ``sql/cli.sql`` as typed values."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

import psycopg
from psycopg.rows import class_row

from sidecar.core.status import TableStatus
from sidecar.errors import ConfigurationError, SidecarError, TransientError
from sidecar.postgres.admin import connect
from sidecar.postgres.statements import load

T = TypeVar("T")

_SQL = load("cli")


@dataclass(frozen=True, slots=True)
class StoredNode:
    """This node as the database knows it. ``slot_active``: a sidecar is reading; ``None``: the slot is gone."""

    name: str
    id: int
    cluster: str
    slot: str | None
    slot_active: bool | None
    captured_lsn: str | None
    lag_bytes: int | None
    conflicts: int
    quarantined: int


@dataclass(frozen=True, slots=True)
class StoredPeer:
    """Another node; ``connected`` and ``last_error`` as the sidecar last wrote them."""

    name: str
    id: int
    connected: bool
    last_error: str | None
    lag_ms: float | None
    unacknowledged_change_sets: int | None


@dataclass(frozen=True, slots=True)
class StoredStatus:
    """What is known without a running sidecar."""

    node: StoredNode
    peers: list[StoredPeer]
    tables: list[TableStatus]


@dataclass(frozen=True, slots=True)
class Conflict:
    """One row of ``crdt.conflicts``; dots are ``<ms>.<counter>``, values text images; vectors say
    what each side had seen."""

    id: uuid.UUID
    detected: datetime
    table: str
    key: Any
    column: str | None
    rule: str
    winner: str
    winner_dot: str
    winner_value: str | None
    loser: str
    loser_dot: str
    loser_value: str | None
    kind: str
    note: str | None
    winner_vector: dict[str, str] | None
    loser_vector: dict[str, str] | None


class Reports:
    """Reads over one connection. Raises :class:`SidecarError` of one line."""

    def __init__(self, conn: psycopg.AsyncConnection[Any]) -> None:
        self._conn = conn

    async def status(self) -> StoredStatus:
        """Node, peers and tables; raises ConfigurationError when no node is attached."""
        nodes = await self._rows(StoredNode, "read_node")
        if not nodes:
            raise ConfigurationError("no node is attached to this database", mend="run sidecar init")
        return StoredStatus(
            nodes[0], await self._rows(StoredPeer, "read_peers"), await self._rows(TableStatus, "read_tables")
        )

    async def resolve_table(self, name: str) -> str:
        """``table`` or ``schema.table`` to the name ``crdt.conflicts`` shows."""
        cursor = await self._conn.execute(_SQL["resolve_table"], {"table": name})
        found = [str(row[0]) for row in await cursor.fetchall()]
        if not found:
            raise ConfigurationError(f"table {name!r} is not replicated", mend="sidecar status lists those that are")
        if len(found) > 1:
            raise ConfigurationError(f"there are several tables {name!r}", mend=f"say {' or '.join(found)}")
        return found[0]

    async def conflicts(self, table: str | None, since: datetime | None, limit: int) -> list[Conflict]:
        """The newest ``limit`` conflicts, oldest of them first."""
        found = await self._rows(Conflict, "read_conflicts", {"table": table, "since": since, "limit": limit})
        return found[::-1]

    async def _rows(self, kind: type[T], statement: str, parameters: dict[str, Any] | None = None) -> list[T]:
        cursor = self._conn.cursor(row_factory=class_row(kind))
        # Without a mapping no placeholder is looked for.
        await cursor.execute(_SQL[statement], parameters)
        return await cursor.fetchall()


@asynccontextmanager
async def reports(dsn: str) -> AsyncIterator[Reports]:
    """Connect to an attached database; ConfigurationError when it is not attached or cannot be read."""
    try:
        async with await connect(dsn, autocommit=True) as conn:
            row = await (await conn.execute(_SQL["read_attached"])).fetchone()
            if row is None or not row[0]:
                raise ConfigurationError("the database is not attached to a node", mend="run sidecar init first")
            yield Reports(conn)
    except psycopg.errors.InsufficientPrivilege as error:
        raise ConfigurationError(
            f"the role may not read the sidecar's schemas: {error.diag.message_primary}",
            mend="use the role that ran sidecar init",
        ) from None
    except psycopg.OperationalError as error:
        raise TransientError(f"the connection to the database broke: {error}", mend="try again") from None
    except psycopg.Error as error:
        raise SidecarError(f"the database refused a query: {error}") from None
