"""Taking tables up: new annotations, new columns, taken-away annotations, while the application goes on writing.

A table is attached in one transaction that holds its ACCESS EXCLUSIVE lock at the end. So no writer of the table is
open at that moment: what was committed before belongs to genesis, what comes after is decoded, and nothing is both.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import psycopg
from psycopg import errors as pg_errors

from sidecar.core.catalog import ColumnSpec, TableSpec, quote_table
from sidecar.core.merge.state_tables import add_column_ddl, counter_table, row_table, state_ddl
from sidecar.postgres.admin import own_transaction, set_local
from sidecar.postgres.catalogue import catalogue_version, read_catalogue
from sidecar.postgres.facts import AttachedColumn, AttachedTable, Facts, Relation
from sidecar.postgres.in_force import (
    former_names,
    keeping,
    needs_empty_state,
    recorded_as,
    spec_in_force,
    tables_in_force,
)
from sidecar.postgres.migrations import LOCK_KEY
from sidecar.postgres.problem import Problem, in_order
from sidecar.postgres.publication import NOT_CAPTURED
from sidecar.postgres.statements import load
from sidecar.settings import Settings

LOCK_TIMEOUT_MS = 100
"""How long attaching waits for a table's lock. Writers queue behind the wait, so this is the longest pause an
application can notice; a tenth of deadlock_timeout."""

RETRY_PAUSE_S = 0.2
"""Between two tries on a busy table: twice the wait, so the application has the table most of the time."""

_SQL = load("attach")
_MIGRATION_SQL = load("migrations")

Connection = psycopg.AsyncConnection[Any]


@dataclass(frozen=True)
class AttachResult:
    """``tables`` are in force now; ``attached``, ``changed`` and ``detached`` name what this call did.

    ``busy`` names those whose lock could not be had. ``version`` is the catalogue's version before it: while
    :func:`catalogue_version` returns the same, there is nothing to do. It is empty when a table was busy or failed and
    must be tried again.
    """

    tables: tuple[TableSpec, ...]
    attached: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    detached: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    busy: list[str] = field(default_factory=list)
    version: str = ""


@dataclass
class _Round:
    """What one call collects. ``stale``: a step ran, so what was read before it may hold no more."""

    conn: Connection
    tries: int
    attached: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    detached: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    busy: list[str] = field(default_factory=list)
    again: bool = False
    stale: bool = False


async def attach_tables(conn: Connection, settings: Settings, *, tries: int = 1) -> AttachResult:
    """Bring what is in force in line with the annotations. Idempotent; the connection must be idle.

    One table's trouble is a :class:`Problem` and leaves the others alone. A busy table is tried ``tries`` times.
    """
    del settings  # names, limits and timing do not bear on it yet; callers pass what every operation gets
    version = await catalogue_version(conn)
    catalogue = await read_catalogue(conn)
    work = _Round(conn, tries)
    work.problems += catalogue.problems
    relations = {relation.oid: relation for relation in catalogue.facts.relations}
    wanted = {spec.relation_oid: spec for spec in catalogue.tables}
    for table in catalogue.facts.attached:
        relation = relations.get(table.relation)
        if relation is None or relation.oid not in catalogue.annotated:
            await _detach(work, table, relation)
        else:
            columns = catalogue.facts.attached_columns.get(table.table_id, [])
            await _reconcile(work, catalogue.facts, relation, table, columns, wanted.get(relation.oid))
    for spec in catalogue.tables:
        if not spec.table_id:
            await _attach(work, spec, relations[spec.relation_oid])
    if work.stale:
        catalogue = await read_catalogue(conn)
    return AttachResult(
        tables=tables_in_force(catalogue, work.problems),
        attached=work.attached,
        changed=work.changed,
        detached=work.detached,
        problems=list(in_order(work.problems)),
        busy=work.busy,
        version="" if work.again else version,
    )


async def _try(work: _Round, table: str, step: Callable[[], Awaitable[bool]]) -> bool:
    """Run one table's step in an own transaction with a short lock wait. False when it did not happen."""
    before = len(work.problems)
    for attempt in range(1, work.tries + 1):
        del work.problems[before:]
        try:
            async with own_transaction(work.conn):
                await set_local(work.conn, lock_timeout=f"{LOCK_TIMEOUT_MS}ms")
                await work.conn.execute(_MIGRATION_SQL["lock"], (LOCK_KEY,))
                done = await step()
        except (pg_errors.LockNotAvailable, pg_errors.DeadlockDetected):
            if attempt < work.tries:
                await asyncio.sleep(RETRY_PAUSE_S)
        except psycopg.DatabaseError as error:
            if work.conn.closed:
                raise
            reason = error.diag.message_primary or str(error)
            work.problems.append(Problem("error", f"could not be attached: {reason}", table=table))
            work.again = True
            return False
        else:
            work.stale = True
            return done
    del work.problems[before:]
    work.again = True
    work.busy.append(table)
    work.problems.append(
        Problem("warning", "is busy: its lock could not be had", "it is tried again by itself", table=table)
    )
    return False


async def _attach(work: _Round, spec: TableSpec, relation: Relation) -> None:
    async def step() -> bool:
        conn = work.conn
        row = await (await conn.execute(_SQL["is_attached"], (relation.oid,))).fetchone()
        assert row is not None
        if row[0]:
            return False  # another process was faster
        await _drop_left_over(conn, spec)
        parameters = {
            "schema": spec.schema,
            "name": spec.name,
            "relation": relation.oid,
            "row_rule": spec.row_rule,
        }
        row = await (await conn.execute(_SQL["insert_table"], parameters)).fetchone()
        assert row is not None
        attached = replace(spec, table_id=row[0])
        await _record(conn, attached)
        for statement in state_ddl(attached):
            await conn.execute(statement)
        # Last, because from here on the table is locked: a few catalogue rows until commit.
        await _publish(conn, relation)
        return True

    if await _try(work, spec.qualified, step):
        work.attached.append(spec.qualified)


async def _publish(conn: Connection, relation: Relation) -> None:
    """Full replica identity, whose lock waits for every writer; then the publication."""
    name = quote_table(relation.schema, relation.name)
    await conn.execute(f"ALTER TABLE ONLY {name} REPLICA IDENTITY FULL")
    listed, whole = await _is_published(conn, relation)
    if listed and not whole:
        await conn.execute(f"ALTER PUBLICATION crdt DROP TABLE ONLY {name}")
    if not whole:
        await conn.execute(f"ALTER PUBLICATION crdt ADD TABLE ONLY {name}")


async def _is_published(conn: Connection, relation: Relation) -> tuple[bool, bool]:
    """Whether it is in the publication, and with all rows and columns. Asked again under the lock: another process may
    have been faster."""
    row = await (await conn.execute(_SQL["is_published"], (relation.oid,))).fetchone()
    assert row is not None
    return bool(row[0]), bool(row[1])


async def _drop_left_over(conn: Connection, spec: TableSpec) -> None:
    """State of an earlier attachment under the same name says nothing about rows written since."""
    for (table_id,) in await (await conn.execute(_SQL["read_detached"], (spec.schema, spec.name))).fetchall():
        await _drop_state(conn, replace(spec, table_id=table_id))


async def _drop_state(conn: Connection, spec: TableSpec) -> None:
    await conn.execute(f"DROP TABLE IF EXISTS {row_table(spec)}, {counter_table(spec)}")


async def _record(conn: Connection, spec: TableSpec, recorded: Sequence[AttachedColumn] = ()) -> None:
    """Write what is in force. ``recorded``: what was until now, whose names are kept as former ones."""
    before = {column.attnum: column for column in recorded}
    await conn.execute(_SQL["free_name"], {"table_id": spec.table_id, "schema": spec.schema, "name": spec.name})
    await conn.execute(
        _SQL["update_table"],
        {
            "table_id": spec.table_id,
            "schema": spec.schema,
            "name": spec.name,
            "row_rule": spec.row_rule,
            "fingerprint": spec.fingerprint(),
        },
    )
    await conn.execute(_SQL["delete_columns"], (spec.table_id,))
    places: list[tuple[ColumnSpec, int | None]] = [(c, i) for i, c in enumerate(spec.key, start=1)]
    places += [(c, None) for c in spec.columns]
    for column, position in places:
        await conn.execute(
            _SQL["insert_column"],
            {
                "table_id": spec.table_id,
                "attnum": column.attnum,
                "name": column.name,
                "type_name": column.type_name,
                "crdt": column.crdt,
                "argument": column.argument,
                "key_position": position,
                "former_names": list(former_names(column, before[column.attnum])) if column.attnum in before else [],
            },
        )


async def _detach(work: _Round, table: AttachedTable, relation: Relation | None) -> None:
    async def step() -> bool:
        conn = work.conn
        if relation is not None and (await _is_published(conn, relation))[0]:
            name = quote_table(relation.schema, relation.name)
            await conn.execute(f"ALTER PUBLICATION crdt DROP TABLE ONLY {name}")
        if relation is None:
            await conn.execute(
                f"DROP TABLE IF EXISTS crdt_state.row_{table.table_id}, crdt_state.counter_{table.table_id}"
            )
        await conn.execute(_SQL["detach_table"], (table.table_id,))
        return True

    if await _try(work, table.qualified, step):
        work.detached.append(table.qualified)
        why = "was dropped" if relation is None else "carries no @crdt any more"
        work.problems.append(Problem("warning", f"{why} and is not replicated from now on", table=table.qualified))


async def _reconcile(
    work: _Round,
    facts: Facts,
    relation: Relation,
    table: AttachedTable,
    recorded: list[AttachedColumn],
    wanted: TableSpec | None,
) -> None:
    """An attached table that is still annotated. ``wanted`` is ``None`` while its annotations are in error: then what
    is in force stays, and only publication and replica identity are looked after."""
    in_force = spec_in_force(facts, relation, table, recorded)
    unpublished = not relation.is_published or relation.replica_identity != "f"
    target = in_force if wanted is None else wanted
    settled = target is not None and recorded_as(target, table, recorded)
    if settled and not unpublished:
        return

    async def step() -> bool:
        if target is not None and not settled:
            await _change(work, target, in_force, table, recorded)
        if unpublished:
            await _publish(work.conn, relation)
        return True

    before = len(work.problems)
    if not await _try(work, relation.qualified, step):
        return
    if unpublished:
        work.problems.append(
            Problem(
                "warning",
                "was taken out of the publication, narrowed in it, or lost its full replica identity; it was put back",
                NOT_CAPTURED,
                table=relation.qualified,
                lasts=True,
            )
        )
    if unpublished or len(work.problems) == before:
        work.changed.append(relation.qualified)


async def _change(
    work: _Round,
    wanted: TableSpec,
    in_force: TableSpec | None,
    table: AttachedTable,
    recorded: list[AttachedColumn],
) -> None:
    """Make ``wanted`` the spec in force as far as existing state allows; the rest becomes problems."""
    conn = work.conn
    refused = needs_empty_state(wanted, table, recorded)
    if refused or in_force is None:
        await conn.execute(f"LOCK TABLE {row_table(wanted)} IN ACCESS EXCLUSIVE MODE")
        row = await (await conn.execute(f"SELECT EXISTS (SELECT FROM {row_table(wanted)})")).fetchone()
        assert row is not None
        if not row[0]:
            await _drop_state(conn, wanted)
            for statement in state_ddl(wanted):
                await conn.execute(statement)
            await _record(conn, wanted, recorded)
            return
        work.problems += refused
        if in_force is None:
            return
        wanted = keeping(wanted, in_force, recorded)
    known = {column.attnum for column in recorded}
    for column in wanted.columns:
        if column.attnum not in known:
            for statement in add_column_ddl(wanted, column):
                await conn.execute(statement)
    await _follow_key_types(conn, wanted, recorded)
    await _record(conn, wanted, recorded)


async def _follow_key_types(conn: Connection, spec: TableSpec, recorded: list[AttachedColumn]) -> None:
    """A key column whose type was altered: the state tables carry it too."""
    types = {column.attnum: column.type_name for column in recorded}
    for column in spec.key:
        if types.get(column.attnum, column.type_name) == column.type_name:
            continue
        name = f"k_{column.attnum}"
        change = f"ALTER COLUMN {name} TYPE {column.type_name} USING {name}::text::{column.type_name}"
        await conn.execute(f"ALTER TABLE {row_table(spec)} {change}")
        await conn.execute(f"ALTER TABLE IF EXISTS {counter_table(spec)} {change}")
