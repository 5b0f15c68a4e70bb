"""One merge vector, and how its values become SQL and text images."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal


class _Absent:
    def __repr__(self) -> str:
        return "ABSENT"


ABSENT = _Absent()
"""No row."""


@dataclass(frozen=True)
class Write:
    """One statement on the vector's row. ``value`` is a Python value: text, number, list, dict or ``None``."""

    kind: Literal["insert", "update", "delete"]
    value: Any = None

    def sql(self, table: str, key: str, type_name: str) -> str:
        """The statement, on a table with the columns ``id`` and ``v``; ``table`` and ``key`` are SQL."""
        if self.kind == "delete":
            return f"DELETE FROM {table} WHERE id = {key}"
        value = literal(self.value, type_name)
        if self.kind == "insert":
            return f"INSERT INTO {table} (id, v) VALUES ({key}, {value})"
        return f"UPDATE {table} SET v = {value} WHERE id = {key}"


Transaction = tuple[Write, ...]


def insert(value: Any) -> Transaction:
    return (Write("insert", value),)


def update(value: Any) -> Transaction:
    return (Write("update", value),)


def delete() -> Transaction:
    return (Write("delete"),)


def together(*transactions: Transaction) -> Transaction:
    """All of them in one transaction."""
    return tuple(write for transaction in transactions for write in transaction)


@dataclass(frozen=True)
class MergeVector:
    """What three nodes A, B and C must show. ``initial`` is the row that all have; ``at_a`` is written at A and has
    come to all before ``at_b`` and ``at_c``, which do not see each other: all of ``at_b`` is earlier by the wall clocks
    than all of ``at_c``, unless ``later`` says otherwise. ``after`` is written at A when everything has come everywhere
    (and every row is rewritten that has to be). A's node id is the lowest, C's the highest.

    ``expected`` is the value on all nodes, of sets in the order that must be shown, or :data:`ABSENT`; ``siblings`` the
    values that a ``mv_register`` must keep, from the highest dot down. ``function`` names one of ``MERGE_FUNCTIONS``.
    """

    name: str
    crdt: str
    type_name: str
    initial: Any
    at_a: Sequence[Transaction]
    at_b: Sequence[Transaction]
    at_c: Sequence[Transaction]
    expected: Any
    source: str
    later: Literal["B", "C"] = "C"
    after: Sequence[Transaction] = ()
    siblings: Sequence[Any] | None = None
    row_rule: str = "lww"
    function: str | None = None

    @property
    def annotation(self) -> str:
        """What the column's comment says in ``@crdt(...)``."""
        return f"merge(public.{self.function})" if self.function else self.crdt

    def __str__(self) -> str:
        return f"{self.crdt}: {self.name}"


@dataclass(frozen=True)
class MergeFunction:
    """An application's merge function: its SQL, and the same on text images."""

    sql: str
    python: Callable[[str | None, str | None], str | None]


class Vectors:
    """Makes the vectors of one type; ``defaults`` are fields that they share."""

    def __init__(self, crdt: str, type_name: str, **defaults: Any) -> None:
        self._fixed = {"crdt": crdt, "type_name": type_name, **defaults}

    def __call__(
        self,
        name: str,
        initial: Any,
        expected: Any,
        source: str,
        *,
        a: Sequence[Transaction] = (),
        b: Sequence[Transaction] = (),
        c: Sequence[Transaction] = (),
        **fields: Any,
    ) -> MergeVector:
        return MergeVector(
            name=name,
            initial=initial,
            at_a=a,
            at_b=b,
            at_c=c,
            expected=expected,
            source=source,
            **{**self._fixed, **fields},
        )


def literal(value: Any, type_name: str) -> str:
    """The value as SQL."""
    if value is None:
        return f"NULL::{type_name}"
    text = array_image(value) if type_name.endswith("[]") else image(value, type_name)
    escaped = text.replace("'", "''")
    return f"'{escaped}'::{type_name}"


def array_image(value: Sequence[Any]) -> str:
    """An array literal; every element that is not NULL is quoted."""
    quoted = ("NULL" if e is None else '"' + str(e).replace("\\", "\\\\").replace('"', '\\"') + '"' for e in value)
    return "{" + ",".join(quoted) + "}"


def image(value: Any, type_name: str) -> str:
    """The text image of a value that is not NULL and no array."""
    return json_image(value) if type_name == "jsonb" else str(value)


def json_image(value: Any) -> str:
    """As ``jsonb`` shows it: keys by length, then bytes (PostgreSQL manual, 8.14; "jsonb" keeps no key order)."""
    if isinstance(value, Mapping):
        keys = sorted(value, key=lambda key: (len(key.encode()), key.encode()))
        return "{" + ", ".join(f"{json.dumps(key)}: {json_image(value[key])}" for key in keys) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(json_image(item) for item in value) + "]"
    return json.dumps(value, ensure_ascii=False)


def elements(value: Sequence[Any] | None, type_name: str) -> tuple[str, ...] | None:
    """The elements' text images; NULL is none."""
    if value is None:
        return None
    if type_name == "jsonb":
        return tuple(json_image(item) for item in value)
    return tuple(str(item) for item in value if item is not None)
