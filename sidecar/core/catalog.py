"""What is replicated, as plain values: tables, columns, their CRDT types."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal

# A column is named by its attribute number in generated state tables: names may be 63 bytes, prefixes would not fit.

Family = Literal["register", "counter", "sibling", "element"]

FAMILIES: dict[str, Family] = {
    "lww_register": "register",
    "mv_register": "sibling",
    "max_register": "sibling",
    "min_register": "sibling",
    "merge": "sibling",
    "g_counter": "counter",
    "pn_counter": "counter",
    "g_set": "element",
    "or_set": "element",
    "aw_set": "element",
    "lww_set": "element",
    "lww_map": "element",
}
"""Annotation word to family. A register keeps one write; a sibling column every causally maximal one, and differs from
a register in what it shows only; a counter sums deltas; an element column merges element by element (key by key)."""


_UNBOUNDED = {"character": "bpchar", "bit": '"bit"'}
"""Types whose bare name means a length of 1 (https://www.postgresql.org/docs/current/datatype-character.html)."""


@dataclass(frozen=True, slots=True)
class ColumnSpec:
    """One column. ``type_name`` is ``format_type()``'s text, e.g. ``numeric(10,2)``; ``base_type`` the same without
    a modifier and with domains resolved, e.g. ``numeric``, ``bigint``, ``text[]``.
    ``default_sql``: the default's expression in this database, empty without one.
    ``checked``: something looks at the column that may refuse NULL for a moment (CHECK, NULLS NOT DISTINCT).
    ``former``: names that it had before in this database, the latest last.
    """

    name: str
    attnum: int
    type_name: str
    base_type: str
    crdt: str = "lww_register"
    argument: str | None = None
    not_null: bool = False
    checked: bool = False
    default_sql: str = ""
    former: tuple[str, ...] = ()

    @property
    def cast_name(self) -> str:
        """The type to which a text image is cast: without modifier and domain, which are checked on assignment. An
        explicit cast to ``varchar(5)`` would cut off what does not fit, without a word."""
        element, array = self.base_type.removesuffix("[]"), self.base_type.endswith("[]")
        return _UNBOUNDED.get(element, element) + ("[]" if array else "")

    @property
    def family(self) -> Family:
        return FAMILIES[self.crdt]

    @property
    def is_counter(self) -> bool:
        return self.family == "counter"

    @property
    def is_sibling(self) -> bool:
        return self.family == "sibling"

    @property
    def is_element(self) -> bool:
        return self.family == "element"


@dataclass(frozen=True, slots=True)
class TableSpec:
    """One replicated table. ``table_id`` is small, local to this database, and names the generated state tables.

    ``key`` are the primary key's columns in index order; ``columns`` the other replicated ones in attnum order
    (generated columns are left out). ``unique`` are the column sets of the secondary unique indexes, ``key_index`` the
    name of the primary key's index. ``referenced``: a foreign key points at it. ``generated``: names of the columns
    that each node computes by itself.
    """

    table_id: int
    schema: str
    name: str
    key: tuple[ColumnSpec, ...]
    columns: tuple[ColumnSpec, ...]
    row_rule: str = "lww"
    unique: tuple[tuple[str, ...], ...] = ()
    relation_oid: int = 0
    key_index: str = ""
    referenced: bool = False
    generated: tuple[str, ...] = ()

    @property
    def qualified(self) -> str:
        """``schema.name``, the table's name in messages and on the wire (not quoted)."""
        return f"{self.schema}.{self.name}"

    @property
    def counters(self) -> tuple[ColumnSpec, ...]:
        return tuple(c for c in self.columns if c.is_counter)

    @property
    def registers(self) -> tuple[ColumnSpec, ...]:
        """Columns whose writes assign a value: ``lww_register`` columns and the :attr:`siblings`."""
        return tuple(c for c in self.columns if c.family in ("register", "sibling"))

    @property
    def siblings(self) -> tuple[ColumnSpec, ...]:
        return tuple(c for c in self.columns if c.is_sibling)

    @property
    def elements(self) -> tuple[ColumnSpec, ...]:
        """Sets and maps."""
        return tuple(c for c in self.columns if c.is_element)

    def fingerprint(self) -> str:
        """Equal on two nodes when their tables can exchange changes: names, types, CRDT types, key, row rule."""
        parts = [self.qualified, self.row_rule]
        parts += [f"k:{c.name}:{c.type_name}" for c in self.key]
        parts += sorted(f"c:{c.name}:{c.type_name}:{c.crdt}:{c.argument or ''}" for c in self.columns)
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def quote(identifier: str) -> str:
    """Quote an SQL identifier; the one function through which every identifier passes."""
    if "\0" in identifier or not identifier:
        raise ValueError("an identifier is empty or holds a NUL")
    return '"' + identifier.replace('"', '""') + '"'


def quote_table(schema: str, name: str) -> str:
    """``"schema"."name"``."""
    return f"{quote(schema)}.{quote(name)}"


def quote_literal(text: str) -> str:
    """Quote an SQL string literal (standard_conforming_strings = on)."""
    return "'" + text.replace("'", "''") + "'"
