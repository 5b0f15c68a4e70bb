"""The publication that the slot's reader names: there, this role's, and of every kind of change."""

from __future__ import annotations

import enum
from typing import Any

import psycopg

from sidecar.errors import ConfigurationError
from sidecar.postgres.admin import own_transaction
from sidecar.postgres.migrations import LOCK_KEY
from sidecar.postgres.problem import Problem
from sidecar.postgres.statements import load

PUBLICATION = "crdt"

GENERATED_COLUMNS_VERSION = 180_000
"""Servers from here on publish generated columns, and refuse UPDATE where an identity has an unpublished one."""

NOT_CAPTURED = "changes written meanwhile were not captured: compare the nodes"

_SQL = load("attach")
_MIGRATION_SQL = load("migrations")

Connection = psycopg.AsyncConnection[Any]


class Publication(enum.Enum):
    """How the publication was found, in words of what was done."""

    WHOLE = "is as it should be"
    MISSING = "does not exist"
    CREATED = "created"
    WIDENED = f"published not every kind of change, and does again; {NOT_CAPTURED}"


async def ensure_publication(conn: Connection, *, create: bool = True) -> Publication:
    """Make it, or put it right. Raises :class:`ConfigurationError` where it is not this role's to alter."""
    async with own_transaction(conn):
        await conn.execute(_MIGRATION_SQL["lock"], (LOCK_KEY,))
        row = await (await conn.execute(_SQL["read_publication"])).fetchone()
        if row is None and not create:
            return Publication.MISSING
        if row is None:
            await conn.execute(_SQL["create_publication"])
            await _publish_generated(conn)
            return Publication.CREATED
        is_owner, all_tables, publishes_all = row
        if not is_owner:
            raise ConfigurationError(
                f"publication {PUBLICATION} belongs to another role", mend="ALTER PUBLICATION crdt OWNER TO this role"
            )
        if all_tables:
            raise ConfigurationError(
                f"publication {PUBLICATION} exists FOR ALL TABLES",
                mend="DROP PUBLICATION crdt; sidecar init makes it anew",
            )
        if not publishes_all:
            await conn.execute(_SQL["widen_publication"])
        await _publish_generated(conn)
    return Publication.WHOLE if publishes_all else Publication.WIDENED


async def publication_problems(conn: Connection, *, create: bool) -> list[Problem]:
    """Put it right for a node that runs; what was lost by it."""
    try:
        found = await ensure_publication(conn, create=create)
    except ConfigurationError as error:
        return [Problem("error", error.message, error.mend)]
    if found in (Publication.WHOLE, Publication.MISSING):
        return []
    done = "was dropped, and was made anew" if found is Publication.CREATED else "did not publish every kind of change"
    return [Problem("warning", f"publication {PUBLICATION} {done}", NOT_CAPTURED, lasts=True)]


async def _publish_generated(conn: Connection) -> None:
    if conn.info.server_version < GENERATED_COLUMNS_VERSION:
        return
    row = await (await conn.execute(_SQL["publishes_generated"])).fetchone()
    if row is not None and not row[0]:
        await conn.execute(_SQL["publish_generated"])
