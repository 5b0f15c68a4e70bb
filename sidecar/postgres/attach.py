"""Attaching a database: schema, node, publication, slot, position, tables. Everything is idempotent."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg import errors as pg_errors

from sidecar.core.catalog import TableSpec
from sidecar.errors import ConfigurationError, FatalError
from sidecar.postgres.admin import own_transaction
from sidecar.postgres.identity import check_place, present_place, store_place
from sidecar.postgres.migrations import migrate
from sidecar.postgres.problem import Problem, errors
from sidecar.postgres.publication import NOT_CAPTURED, PUBLICATION, Publication, ensure_publication
from sidecar.postgres.server_check import check_server
from sidecar.postgres.statements import load
from sidecar.postgres.table_attach import AttachResult, attach_tables
from sidecar.settings import NodeSettings, Settings

__all__ = ["AttachResult", "InitReport", "attach_tables", "initialise", "slot_name"]

INIT_TRIES = 50
"""Tries on a busy table while a person watches: 50 waits of 0.1 s with pauses of 0.2 s, some 15 s."""

_SQL = load("attach")
_MIGRATION_SQL = load("migrations")

Connection = psycopg.AsyncConnection[Any]
Progress = Callable[[str], None]


def slot_name(node_id: int, database: int | None = None) -> str:
    """The replication slot of a node. Slot names are unique in a whole server: ``database``, an OID, is added where
    another database of the server has the plain name already, as when two clusters of a test share a server."""
    return f"sidecar_{node_id}" if database is None else f"sidecar_{node_id}_{database}"


@dataclass(frozen=True)
class InitReport:
    """What :func:`initialise` found and did. ``problems`` are those of the server and of the schema."""

    migrations: list[str]
    node_created: bool
    publication_created: bool
    slot: str
    slot_created: bool
    tables: tuple[TableSpec, ...]
    attached: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    detached: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    version: str = ""


async def initialise(
    conn: Connection, settings: Settings, *, moved: bool = False, progress: Progress | None = None
) -> InitReport:
    """Do all of it; a second call changes nothing. The connection must be idle and not behind a transaction pooler.

    Raises :class:`ConfigurationError` when the server cannot carry a sidecar or the database belongs to another node,
    :class:`FatalError` when the slot is lost. ``progress`` gets one line per step that did something or may take long.
    ``moved``: the database was attached elsewhere, came here as a whole, and the former one is gone for good.
    """
    say = progress or (lambda line: None)
    findings = await check_server(conn)
    refused = errors(findings)
    if refused:
        more = f" (and {len(refused) - 1} more: sidecar check)" if len(refused) > 1 else ""
        raise ConfigurationError(refused[0].message + more, mend=refused[0].mend)
    await _refuse_former(conn, settings.node)
    applied = await migrate(conn)
    for name in applied:
        say(f"migration {name} applied")
    if not moved:
        await check_place(conn, settings.node.dsn)
    node_created = await _claim(conn, settings.node)
    publication = await ensure_publication(conn)
    if publication is not Publication.WHOLE:
        say(f"publication {PUBLICATION} {publication.value}")
    slot, slot_created = await _ensure_slot(conn, settings.node.id, say)
    await store_place(conn, await present_place(conn, settings.node.dsn))
    result = await attach_tables(conn, settings, tries=INIT_TRIES)
    for table in result.attached:
        say(f"table {table} attached")
    return InitReport(
        migrations=applied,
        node_created=node_created,
        publication_created=publication is Publication.CREATED,
        slot=slot,
        slot_created=slot_created,
        tables=result.tables,
        attached=result.attached,
        changed=result.changed,
        detached=result.detached,
        problems=[*findings, *result.problems],
        version=result.version,
    )


async def _refuse_former(conn: Connection, node: NodeSettings) -> None:
    """Whether this database was the node already, and has left: nothing is done then."""
    parameters = {"id": node.id, "cluster": node.cluster}
    for table, statement in (("crdt.former_node", "was_here"), ("crdt_state.member", "has_departed")):
        async with conn.transaction():
            known = await (await conn.execute(_SQL["knows"], (table,))).fetchone()
            former = None if known is None or not known[0] else await conn.execute(_SQL[statement], parameters)
            row = None if former is None else await former.fetchone()
        if row is not None:
            raise ConfigurationError(
                f"node {node.id} of cluster {node.cluster!r}, {row[0]}, has left, and its id is not used again",
                mend="give this node another id in [node], then sidecar init and sidecar join",
            )


async def _claim(conn: Connection, node: NodeSettings) -> bool:
    """The node row; returns whether it is new."""
    async with own_transaction(conn):
        inserted = await conn.execute(_SQL["insert_node"], {"id": node.id, "name": node.name, "cluster": node.cluster})
        row = await (await conn.execute(_SQL["read_node"])).fetchone()
        assert row is not None
        owner = (row[0], row[1], row[2])
        if owner != (node.id, node.name, node.cluster):
            raise ConfigurationError(
                f"this database belongs to node {owner[1]!r} (id {owner[0]}) of cluster {owner[2]!r}, "
                f"not to {node.name!r} (id {node.id}) of cluster {node.cluster!r}",
                mend="correct name, id and cluster in [node], or name another database in its dsn",
            )
        await conn.execute(_SQL["insert_clock"], {"id": node.id})
    return inserted.rowcount == 1


async def attached_problems(conn: Connection) -> list[Problem]:
    """What an attached database has lost that its sidecar cannot do without; nothing of one that is not attached. In
    autocommit; changes nothing."""
    row = await (await conn.execute(_SQL["may_read_position"])).fetchone()
    position = await (await conn.execute(_SQL["read_position"])).fetchone() if row is not None and row[0] else None
    if position is None:
        return []
    problems = []
    slot, captured = str(position[0]), str(position[1])
    try:
        _require_slot(slot, captured, await (await conn.execute(_SQL["read_slot"], (slot,))).fetchone())
    except FatalError as error:
        problems.append(Problem("error", error.message, error.mend))
    published = await (await conn.execute(_SQL["read_publication"])).fetchone()
    if published is None:
        problems.append(Problem("error", f"publication {PUBLICATION} does not exist", f"sidecar init; {NOT_CAPTURED}"))
    elif not published[0]:
        mend = f"ALTER PUBLICATION {PUBLICATION} OWNER TO this role"
        problems.append(Problem("error", f"publication {PUBLICATION} belongs to another role", mend))
    elif not published[2]:
        line = f"publication {PUBLICATION} does not publish every kind of change"
        problems.append(Problem("error", line, f"sidecar init, or sidecar run; {NOT_CAPTURED}"))
    return problems


async def _ensure_slot(conn: Connection, node_id: int, say: Progress) -> tuple[str, bool]:
    """Slot and position; returns the slot's name, and whether they are new. A slot without a position is left over from
    an init that was cut short: nothing was captured through it, so it is made anew."""
    async with conn.transaction():
        position = await (await conn.execute(_SQL["read_position"])).fetchone()
        name = slot_name(node_id) if position is None else str(position[0])
        found = await (await conn.execute(_SQL["read_slot"], (name,))).fetchone()
        if position is None and found is not None and not found[1]:
            name = slot_name(node_id, int(found[5]))
            found = await (await conn.execute(_SQL["read_slot"], (name,))).fetchone()
    if position is not None:
        _require_slot(name, str(position[1]), found)
        return name, False
    if found is not None:
        database, is_here, _, active, *_ = found
        if not is_here:
            raise ConfigurationError(
                f"replication slot {name} is taken by database {database!r} on the same server",
                mend="drop that slot if nobody needs it, or give this node another id",
            )
        if active:
            raise ConfigurationError(
                f"replication slot {name} is being read by another process", mend="stop the other sidecar"
            )
        async with conn.transaction():
            await conn.execute(_SQL["drop_slot"], (name,))
    say(f"creating replication slot {name}: waits for transactions that are open now")
    try:
        async with conn.transaction():
            row = await (await conn.execute(_SQL["create_slot"], (name,))).fetchone()
    except pg_errors.DuplicateObject:
        raise ConfigurationError(
            f"replication slot {name} was created by another process just now", mend="run one sidecar init at a time"
        ) from None
    assert row is not None
    async with own_transaction(conn):
        await conn.execute(_SQL["insert_position"], (name, row[0]))
    return name, True


def _require_slot(name: str, captured: str, found: tuple[Any, ...] | None) -> None:
    mend = (
        "changes made since then cannot be decoded any more: make a new database from another node's data, "
        "and attach it with sidecar init"
    )
    if found is None:
        raise FatalError(f"slot lost: replication slot {name} is gone (captured up to {captured})", mend=mend)
    _, is_here, plugin, _, lost, _ = found
    if not is_here or plugin != "pgoutput":
        raise FatalError(f"slot lost: {name} is now the slot of something else (captured up to {captured})", mend=mend)
    if lost:
        raise FatalError(
            f"slot lost: the server removed WAL that {name} still needed (captured up to {captured})",
            mend=mend + "; a larger max_slot_wal_keep_size lets a sidecar be away longer",
        )
