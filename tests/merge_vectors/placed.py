"""Where each merge vector stands in a database: a table for each type and row rule, a row for each vector."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from sidecar.core.catalog import quote_literal
from tests.merge_vectors import ABSENT, MERGE_FUNCTIONS, VECTORS, MergeVector, Write, literal


@dataclass(frozen=True)
class Placed:
    """A vector and its row: the table of its type, and its key."""

    vector: MergeVector
    table: str
    key: int

    def statements(self, transaction: Iterable[Write]) -> list[str]:
        return [write.sql(self.table, str(self.key), self.vector.type_name) for write in transaction]


def _placed() -> list[Placed]:
    tables: dict[tuple[str, str, str], str] = {}
    out = []
    for key, vector in enumerate(VECTORS):
        kind = (vector.annotation, vector.type_name, vector.row_rule)
        out.append(Placed(vector, tables.setdefault(kind, f"v{len(tables)}"), key))
    return out


PLACED = _placed()


def schema_sql(*, as_genesis: bool) -> str:
    """Merge functions and annotated tables, with the initial rows if they are to be genesis."""
    lines = [function.sql + ";" for function in MERGE_FUNCTIONS.values()]
    for table, vector in {p.table: p.vector for p in PLACED}.items():
        lines += [
            f"CREATE TABLE {table} (id int PRIMARY KEY, v {vector.type_name});",
            f"COMMENT ON COLUMN {table}.v IS {quote_literal(f'@crdt({vector.annotation})')};",
            f"COMMENT ON TABLE {table} IS '@crdt(row={vector.row_rule})';",
        ]
    return "\n".join(lines + (initial_rows() if as_genesis else []))


def initial_rows() -> list[str]:
    return [
        f"INSERT INTO {p.table} VALUES ({p.key}, {literal(p.vector.initial, p.vector.type_name)});"
        for p in PLACED
        if p.vector.initial is not ABSENT
    ]
