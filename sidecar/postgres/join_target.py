"""This side of a join: what it writes down about itself, and the rows that only this node has."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from sidecar.core.catalog import TableSpec, quote
from sidecar.core.merge.state_rows import keys_source
from sidecar.core.merge.state_tables import qualified_user_table, row_table
from sidecar.core.merge.truncate import note_statement
from sidecar.core.versions import VersionVector
from sidecar.postgres.join_source import JoinSource, Snapshot
from sidecar.postgres.session import Session
from sidecar.postgres.statements import load

Pairs = Sequence[tuple[TableSpec, TableSpec]]
"""The same table over there and here."""

KEYS_EACH = 1000
"""Rows that are looked up in the other database with one statement."""

_SQL = load("join")


@dataclass(frozen=True, slots=True)
class Beginning:
    """How a join begins. ``anew``: the others have changes of this node which are not here, because it had another
    database. ``truncations``: table here, node and hlc of each TRUNCATE that came over there since this node took part,
    or since an earlier try of the join."""

    anew: bool
    truncations: list[tuple[TableSpec, int, int]]


async def begin(
    session: Session, source: JoinSource, snapshot: Snapshot, pairs: Pairs, *, own: VersionVector, node_id: int
) -> Beginning:
    """From here on this database is neither this node's past nor the other's, until :func:`finish`. ``own`` is its
    clock. Its own changes follow those that the others have of it."""
    former = snapshot.clock.get(node_id, 0)
    anew = former > own.get(node_id, 0)
    newest = max(snapshot.clock.values())
    known = {there.table_id: here for there, here in pairs}
    connection = session.connection
    here = {tuple(row)[:2]: row["hlc"] for row in await connection.fetch(_SQL["read_truncations"])}
    took_part = await connection.fetchval(_SQL["joining"]) is not None or any(node != node_id for node in own)
    fresh = [
        (known[table_id], node, hlc)
        for table_id, node, hlc in snapshot.truncations
        if table_id in known and here.get((known[table_id].table_id, node), -1) < hlc
    ]
    async with session.own_transaction():
        # Before this node had anything to do with the others, what is in its tables was not there to be truncated.
        for spec, node, hlc in () if took_part else fresh:
            await connection.execute(note_statement(spec), node, hlc)
        anew = bool(await connection.fetchval(_SQL["begin_joining"], source.name, newest, former, anew))
    return Beginning(anew, fresh if took_part else [])


async def finish(session: Session, snapshot: Snapshot) -> None:
    """Everything is here that the snapshot's clock covers: what comes next is streamed."""
    nodes = list(snapshot.clock)
    async with session.own_transaction():
        hlcs, ends = ([clock[n] for n in nodes] for clock in (snapshot.clock, snapshot.ends))
        await session.connection.execute(_SQL["raise_clock"], nodes, hlcs, ends)
        await session.connection.execute(_SQL["finish_joining"])


async def own_rows(session: Session, target: TableSpec) -> AsyncIterator[list[tuple[str, ...]]]:
    """The keys, as text images, of the user rows that were here before the table was attached, some at a time."""
    keys = ", ".join(f"t.{quote(c.name)}::text" for c in target.key)
    match = " AND ".join(f"s.k_{c.attnum} = t.{quote(c.name)}" for c in target.key)
    query = (
        f"SELECT {keys} FROM ONLY {qualified_user_table(target)} AS t"
        f" WHERE NOT EXISTS (SELECT FROM {row_table(target)} AS s WHERE {match} AND s.row_hlc > 0)"
    )
    async with session.connection.transaction():
        cursor = await session.connection.cursor(query)
        while rows := await cursor.fetch(KEYS_EACH):
            yield [tuple(row) for row in rows]


async def unknown_to(
    source: JoinSource, there: TableSpec, here: TableSpec, keys: list[tuple[str, ...]]
) -> list[tuple[str, ...]]:
    """Those of the keys of which the other node has neither row nor state."""
    place = {column.name: i for i, column in enumerate(here.key)}
    columns = [[key[place[column.name]] for key in keys] for column in there.key]
    names = ", ".join(f"k.k{next(c.attnum for c in there.key if c.name == column.name)}" for column in here.key)
    query = f"SELECT {names} {keys_source(there, columns)} WHERE s.ctid IS NULL AND t.ctid IS NULL"
    return [tuple(str(value) for value in row) for row in await source.fetch(query)]


async def write_anew(session: Session, target: TableSpec, keys: list[tuple[str, ...]]) -> None:
    """Delete and insert rows as an application would, so that they are captured whole and reach the other nodes."""
    columns = ", ".join(quote(c.name) for c in (*target.key, *target.columns))
    arrays = ", ".join(f"${i}::text[]" for i in range(1, len(target.key) + 1))
    aliases = ", ".join(f"k{c.attnum}" for c in target.key)
    match = " AND ".join(f"t.{quote(c.name)} = k.k{c.attnum}::{c.cast_name}" for c in target.key)
    table = qualified_user_table(target)
    await session.connection.execute(
        f"WITH gone AS (DELETE FROM ONLY {table} AS t USING unnest({arrays}) AS k({aliases}) WHERE {match}"
        f" RETURNING t.*) INSERT INTO {table} ({columns}) OVERRIDING SYSTEM VALUE SELECT {columns} FROM gone",
        *[list(values) for values in zip(*keys, strict=True)],
    )


async def queue_wrong_rows(session: Session, target: TableSpec) -> None:
    """Rows that were copied as they are over a delete here that nobody had captured: the merge loop takes them out."""
    match = " AND ".join(f"s.k_{c.attnum} = t.{quote(c.name)}" for c in target.key)
    keys = ", ".join(f"s.k_{c.attnum}::text" for c in target.key)
    async with session.own_transaction():
        await session.connection.execute(
            f"INSERT INTO crdt_state.rewrite (table_id, row_key) SELECT {target.table_id}, ARRAY[{keys}]"
            f" FROM {row_table(target)} AS s JOIN {qualified_user_table(target)} AS t ON {match}"
            " WHERE s.row_xmin IS NULL"
        )
