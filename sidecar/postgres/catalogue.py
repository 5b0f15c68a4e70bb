"""The catalogue: which tables are annotated, as what, and everything that is wrong with them, all at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import psycopg

from sidecar.core.catalog import TableSpec
from sidecar.postgres.facts import Facts, read_facts
from sidecar.postgres.problem import Problem, in_order
from sidecar.postgres.schema_check import review
from sidecar.postgres.statements import load

__all__ = ["Catalogue", "Problem", "catalogue_version", "read_catalogue"]

_SQL = load("catalogue")


@dataclass(frozen=True)
class Catalogue:
    """The annotated schema as it stands (not what is in force: see :func:`sidecar.postgres.attach.attach_tables`).

    ``tables`` can be replicated as annotated; ``table_id`` is 0 until a table is attached. ``annotated`` are the oids
    of every relation that carries ``@crdt``, good or not. ``facts`` is what it was made from.
    """

    tables: tuple[TableSpec, ...]
    problems: tuple[Problem, ...]
    annotated: frozenset[int]
    facts: Facts


async def read_catalogue(conn: psycopg.AsyncConnection[Any]) -> Catalogue:
    """Read and check every annotated table; the connection's settings are those of :func:`admin.connect`."""
    return catalogue_of(await read_facts(conn))


def catalogue_of(facts: Facts) -> Catalogue:
    """The same from facts already read; pure."""
    table_ids = {table.relation: table.table_id for table in facts.attached}
    tables: list[TableSpec] = []
    problems: list[Problem] = []
    annotated: set[int] = set()
    for relation in facts.relations:
        spec, found, is_annotated = review(facts, relation, table_ids.get(relation.oid, 0))
        problems += found
        if is_annotated:
            annotated.add(relation.oid)
        if spec is not None:
            tables.append(spec)
    return Catalogue(tuple(tables), in_order(problems), frozenset(annotated), facts)


async def catalogue_version(conn: psycopg.AsyncConnection[Any]) -> str:
    """A short text that changes whenever something changes that attaching looks at; one cheap query."""
    async with conn.transaction():
        row = await (await conn.execute(_SQL["read_version"])).fetchone()
    assert row is not None
    return str(row[0])
