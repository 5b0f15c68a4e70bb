"""Facts of ``pg_catalog`` about annotated tables, one dataclass per kind, read set-based (``sql/catalogue.sql``)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import psycopg
from psycopg.rows import class_row

from sidecar.postgres.statements import load

_SQL = load("catalogue")


@dataclass(frozen=True, slots=True)
class Role:
    """The session's role."""

    name: str
    is_superuser: bool
    bypasses_row_security: bool


@dataclass(frozen=True, slots=True)
class Relation:
    """One candidate. ``kind`` and ``persistence`` are the letters of ``pg_class``
    (https://www.postgresql.org/docs/current/catalog-pg-class.html)."""

    oid: int
    schema: str
    name: str
    kind: str
    persistence: str
    is_partition: bool
    inherits: bool
    replica_identity: str
    forces_row_security: bool
    comment: str | None
    owner: str
    is_owner: bool
    may_use_schema: bool
    is_published: bool
    is_referenced: bool

    @property
    def qualified(self) -> str:
        return f"{self.schema}.{self.name}"


@dataclass(frozen=True, slots=True)
class Column:
    """One column. ``identity``: ``a`` always, ``d`` by default, empty. ``increment`` of the sequence that numbers it.
    ``key_position`` counts from 1, 0 outside the primary key. ``is_ordered``: values of the type have an order.
    ``parts``: the types that a value is made of, however deep in arrays, composite types and ranges.
    ``loose_collation``: different texts are equal under the collation of one of them. ``inner_collated``: those in
    composite types and ranges that compare by a collation which nodes may not share. ``delimiter``: of the elements in
    an array's text. ``default_sql``: the expression. ``checked``: a CHECK constraint or a unique index with NULLS NOT
    DISTINCT looks at it."""

    relation: int
    attnum: int
    name: str
    type_name: str
    base_type: str
    type_oid: int
    is_ordered: bool
    not_null: bool
    generated: bool
    virtual: bool
    identity: str
    increment: int | None
    key_position: int
    parts: list[str]
    loose_collation: bool
    inner_collated: list[str]
    delimiter: str
    default_sql: str | None
    checked: bool
    comment: str | None


@dataclass(frozen=True, slots=True)
class Index:
    """A unique index or an exclusion constraint. ``immediate`` is false for a deferrable one."""

    relation: int
    name: str
    is_primary: bool
    immediate: bool
    is_exclusion: bool
    columns: list[str]


@dataclass(frozen=True, slots=True)
class MergeFunction:
    """A function that takes two values of a type and returns one."""

    schema: str
    name: str
    type_oid: int


@dataclass(frozen=True, slots=True)
class ForeignKey:
    relation: int
    name: str
    referenced: str


@dataclass(frozen=True, slots=True)
class Trigger:
    """``enabled``: ``O`` origin, ``A`` always, ``R`` replica, ``D`` disabled."""

    relation: int
    name: str
    enabled: str


@dataclass(frozen=True, slots=True)
class AttachedColumn:
    """A column in force, as recorded. ``key_position`` counts from 1, 0 outside the key. ``former_names``: the latest
    last."""

    table_id: int
    attnum: int
    name: str
    type_name: str
    crdt: str
    argument: str | None
    key_position: int
    former_names: list[str]


@dataclass(frozen=True, slots=True)
class AttachedTable:
    """A table in force, as recorded when it was attached. ``relation`` is its oid."""

    table_id: int
    schema: str
    name: str
    relation: int
    row_rule: str
    fingerprint: str

    @property
    def qualified(self) -> str:
        return f"{self.schema}.{self.name}"


class _OfRelation(Protocol):
    @property
    def relation(self) -> int: ...


F = TypeVar("F")
R = TypeVar("R", bound=_OfRelation)


@dataclass(frozen=True)
class Facts:
    """Everything the checks look at; the maps go from a relation's oid, the attached columns from a table id."""

    role: Role
    relations: list[Relation]
    attached: list[AttachedTable]
    attached_columns: dict[int, list[AttachedColumn]] = field(default_factory=dict)
    columns: dict[int, list[Column]] = field(default_factory=dict)
    indexes: dict[int, list[Index]] = field(default_factory=dict)
    foreign_keys: dict[int, list[ForeignKey]] = field(default_factory=dict)
    triggers: dict[int, list[Trigger]] = field(default_factory=dict)
    merge_functions: frozenset[MergeFunction] = frozenset()


def _grouped(rows: Iterable[R]) -> dict[int, list[R]]:
    groups: dict[int, list[R]] = defaultdict(list)
    for row in rows:
        groups[row.relation].append(row)
    return dict(groups)


async def read_facts(conn: psycopg.AsyncConnection[Any]) -> Facts:
    """One query per kind of fact, in one transaction; works before ``sidecar init`` too."""

    async def rows(kind: type[F], name: str, parameters: dict[str, Any] | None = None) -> list[F]:
        async with conn.cursor(row_factory=class_row(kind)) as cursor:
            await cursor.execute(_SQL[name], parameters)
            return await cursor.fetchall()

    async with conn.transaction():
        role = await (await conn.execute(_SQL["read_role"])).fetchone()
        has_state = await (await conn.execute(_SQL["has_state"])).fetchone()
        assert role is not None
        assert has_state is not None
        attached: list[AttachedTable] = []
        attached_columns: dict[int, list[AttachedColumn]] = defaultdict(list)
        if has_state[0]:
            attached = await rows(AttachedTable, "read_attached")
            for column in await rows(AttachedColumn, "read_attached_columns"):
                attached_columns[column.table_id].append(column)
        relations = await rows(Relation, "read_relations", {"attached": [table.relation for table in attached]})
        oids = {"oids": [relation.oid for relation in relations]}
        return Facts(
            role=Role(*role),
            relations=relations,
            attached=attached,
            attached_columns=dict(attached_columns),
            columns=_grouped(await rows(Column, "read_columns", oids)),
            indexes=_grouped(await rows(Index, "read_indexes", oids)),
            foreign_keys=_grouped(await rows(ForeignKey, "read_foreign_keys", oids)),
            triggers=_grouped(await rows(Trigger, "read_triggers", oids)),
            merge_functions=frozenset(await rows(MergeFunction, "read_merge_functions")),
        )
