"""The oracle: what the tables must hold, as a function of the operations and their happened-before relation alone.

Nothing here merges states or knows how the sidecar does it (operations: :mod:`tests.oracle_history`). The rules:

- The *siblings* of a register are the writes that happened before no other write to it. A ``lww_register`` and a
  ``mv_register`` show the one with the highest ``(hlc, node)``; ``max_register`` and ``min_register`` the greatest and
  the least value that is not NULL (of equal ones the one of the highest ``(hlc, node)``); ``merge`` folds the
  application's function over them from the highest down, or shows the highest where it fails or returns NULL.
- A counter shows genesis plus the sum of all deltas, without those seen by a delete that an insert has seen. A
  ``g_counter`` takes no negative delta. The sum saturates at the limits of the column's type.
- Sets and maps: :mod:`tests.oracle_elements`.
- A row is there iff it was inserted or is genesis, and by its table's rule: ``lww``, its latest write is later than
  its latest delete; ``add_wins``, one of its writes happened before no delete; ``remove_wins``, each of its deletes
  happened before an insert.

Work grows with operations times nodes, so histories of many thousand operations on one row are fine.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Context, Decimal, InvalidOperation
from typing import Any

from sidecar.core.catalog import TableSpec
from tests import oracle_elements
from tests.oracle_history import (
    GENESIS,
    Column,
    ElementWrite,
    Key,
    Operation,
    check,
    happened_before,
    latest_by_node,
    set_write,
)

__all__ = [
    "Column",
    "ElementWrite",
    "Operation",
    "Row",
    "Tables",
    "expected",
    "expected_siblings",
    "happened_before",
    "row_rules_of",
    "schema_of",
    "set_write",
]

COUNTERS = ("pn_counter", "g_counter")

Row = dict[str, Any]
"""Text images; of sets a tuple of their elements' images, of maps a dict of their values' images; ``None`` is NULL."""
Tables = dict[str, dict[Key, Row]]
Schema = Mapping[str, Mapping[str, Column]]
Genesis = Mapping[str, Mapping[Key, Mapping[str, Any]]]

_EXACT = Context(prec=150_000, Emax=999_999, Emin=-999_999)
_LIMITS = {
    "smallint": (-32_768, 32_767),
    "integer": (-2_147_483_648, 2_147_483_647),
    "bigint": (-9_223_372_036_854_775_808, 9_223_372_036_854_775_807),
}


def schema_of(*specs: TableSpec) -> dict[str, dict[str, Column]]:
    """The schema of replicated tables, by qualified name."""
    return {s.qualified: {c.name: Column(c.crdt, c.type_name) for c in s.columns} for s in specs}


def row_rules_of(*specs: TableSpec) -> dict[str, str]:
    """The row rules of replicated tables, by qualified name."""
    return {s.qualified: s.row_rule for s in specs}


def expected(
    operations: Iterable[Operation],
    schema: Schema,
    genesis: Genesis | None = None,
    row_rules: Mapping[str, str] | None = None,
) -> Tables:
    """``{table: {key: {column: value}}}`` of the rows that must be there, on every node that has seen all operations.

    ``genesis`` are the rows of before the tables were attached; ``row_rules`` the tables' rules where not ``lww``. A
    ``numeric`` without a modifier is given without trailing zeros (compare ``trim_scale(value)``). A counter shows NULL
    only if genesis held NULL and nothing ever changed it. Raises ``ValueError`` for a history that cannot be.
    """
    result: Tables = {table: {} for table in schema}
    for (table, key), changes in _rows(operations, schema, genesis).items():
        if _IS_THERE[(row_rules or {}).get(table, "lww")](changes):
            columns = schema[table]
            result[table][key] = {name: _shown(name, columns[name], changes) for name in columns}
    return result


def expected_siblings(
    operations: Iterable[Operation], schema: Schema, genesis: Genesis | None = None
) -> dict[str, dict[Key, dict[str, list[str | None]]]]:
    """The siblings' values of every register of every row that was ever there, from the highest dot down."""
    result: dict[str, dict[Key, dict[str, list[str | None]]]] = {table: {} for table in schema}
    for (table, key), changes in _rows(operations, schema, genesis).items():
        registers = [name for name, column in schema[table].items() if column.crdt in _REGISTERS]
        result[table][key] = {name: _siblings(name, changes) for name in registers}
    return result


def _rows(
    operations: Iterable[Operation], schema: Schema, genesis: Genesis | None
) -> dict[tuple[str, Key], list[Operation]]:
    rows: defaultdict[tuple[str, Key], list[Operation]] = defaultdict(list)
    for table, held in (genesis or {}).items():
        for key, values in held.items():
            rows[table, key].append(_genesis_insert(schema[table], table, key, values))
    history = sorted(operations, key=lambda o: (o.hlc, o.order))
    check(history)
    for operation in history:
        rows[operation.table, operation.key].append(operation)
    return rows


def _genesis_insert(columns: Mapping[str, Column], table: str, key: Key, values: Mapping[str, Any]) -> Operation:
    counters = {name for name, column in columns.items() if column.crdt in COUNTERS}
    sets = {name for name, column in columns.items() if column.crdt in oracle_elements.ELEMENT_TYPES}
    return Operation(
        GENESIS,
        0,
        "insert",
        table,
        key,
        assigned={name: text for name, text in values.items() if name not in counters | sets},
        deltas={name: Decimal(text) for name, text in values.items() if name in counters and text is not None},
        elements={name: _genesis_elements(value) for name, value in values.items() if name in sets},
    )


def _genesis_elements(value: Mapping[str, str] | Iterable[str] | None) -> ElementWrite:
    return ElementWrite(None, dict(value)) if isinstance(value, Mapping) else set_write(None, value)


def _lww(changes: Sequence[Operation]) -> bool:
    if not any(o.kind == "insert" for o in changes):
        return False
    latest_write = max(o.stamp for o in changes if o.is_write)
    return all(latest_write > o.stamp for o in changes if o.kind == "delete")


def _add_wins(changes: Sequence[Operation]) -> bool:
    deletes = latest_by_node(o for o in changes if o.kind == "delete")
    writes = latest_by_node(o for o in changes if o.is_write)
    unseen = any(not any(happened_before(w, d) for d in deletes) for w in writes)
    return unseen and any(o.kind == "insert" for o in changes)


def _remove_wins(changes: Sequence[Operation]) -> bool:
    inserts = latest_by_node(o for o in changes if o.kind == "insert")
    deletes = latest_by_node(o for o in changes if o.kind == "delete")
    return bool(inserts) and all(any(happened_before(d, i) for i in inserts) for d in deletes)


_IS_THERE: Mapping[str, Callable[[Sequence[Operation]], bool]] = {
    "lww": _lww,
    "add_wins": _add_wins,
    "remove_wins": _remove_wins,
}


def _shown(name: str, column: Column, changes: Sequence[Operation]) -> Any:
    if column.crdt in _REGISTERS:
        return _REGISTERS[column.crdt](_siblings(name, changes), column)
    if column.crdt in oracle_elements.ELEMENT_TYPES:
        return oracle_elements.shown(name, column, changes)
    if column.crdt not in COUNTERS:
        raise ValueError(f"the oracle has no rule for {column.crdt}")
    return _counter(name, column, changes)


def _siblings(name: str, changes: Sequence[Operation]) -> list[str | None]:
    writes = latest_by_node(o for o in changes if o.kind == "insert" or name in o.assigned)
    last = [a for a in writes if not any(happened_before(a, b) for b in writes)]
    return [o.assigned.get(name) for o in sorted(last, key=lambda o: o.stamp, reverse=True)]


def _latest(siblings: Sequence[str | None], _column: Column) -> str | None:
    return siblings[0]


def _greatest(siblings: Sequence[str | None], column: Column) -> str | None:
    values = [text for text in siblings if text is not None]
    return max(values, key=lambda text: _order(text, column.type_name), default=None)


def _least(siblings: Sequence[str | None], column: Column) -> str | None:
    values = [text for text in siblings if text is not None]
    return min(values, key=lambda text: _order(text, column.type_name), default=None)


def _merged(siblings: Sequence[str | None], column: Column) -> str | None:
    merged = siblings[0]
    for other in siblings[1:]:
        try:
            merged = column.function(merged, other) if column.function else None
        except Exception:  # noqa: BLE001 - a function that fails is a case of the rule
            return siblings[0]
        if merged is None:
            return siblings[0]
    return merged


_REGISTERS: Mapping[str, Callable[[Sequence[str | None], Column], str | None]] = {
    "lww_register": _latest,
    "mv_register": _latest,
    "max_register": _greatest,
    "min_register": _least,
    "merge": _merged,
}


def _order(text: str, type_name: str) -> tuple[int, Decimal, bytes]:
    """Numbers by value, NaN last; everything else by its bytes, which is right for texts in the collation "C" and for
    the text images of booleans, uuids, dates and timestamps (of four-digit years and one time zone)."""
    if type_name.startswith(("smallint", "integer", "bigint", "numeric", "real", "double precision")):
        try:
            number = Decimal(text)
        except InvalidOperation as error:
            raise ValueError(f"{text!r} is no {type_name}") from error
        return (1, Decimal(0), b"") if number.is_nan() else (0, number, b"")
    return 0, Decimal(0), text.encode()


def _counter(name: str, column: Column, changes: Sequence[Operation]) -> str | None:
    inserts = latest_by_node(o for o in changes if o.kind == "insert")
    deletes = (o for o in changes if o.kind == "delete")
    erasing = latest_by_node(d for d in deletes if any(happened_before(d, i) for i in inserts))
    total = Decimal(0)
    for operation in changes:
        delta = operation.deltas.get(name, Decimal(0))
        if column.crdt == "g_counter" and operation.node != GENESIS:
            delta = max(delta, Decimal(0))
        if not any(happened_before(operation, d) for d in erasing):
            total = _EXACT.add(total, delta)
    is_null = all(name not in o.deltas and (o.kind != "insert" or o.node == GENESIS) for o in changes)
    return None if is_null else _number(total, column.type_name)


def _number(total: Decimal, type_name: str) -> str:
    """The text image of a sum in a column of this type."""
    if type_name in _LIMITS:
        low, high = _LIMITS[type_name]
        return str(min(max(int(total), low), high))
    modifier = re.fullmatch(r"numeric\((\d+)(?:,\s*(-?\d+))?\)", type_name)
    if modifier is None:
        text = format(total, "f")
        return text.rstrip("0").rstrip(".") if "." in text else text
    precision, scale = int(modifier[1]), int(modifier[2] or 0)
    limit = _EXACT.scaleb(Decimal(10**precision - 1), -scale)
    clamped = min(max(total, -limit), limit)
    return format(_EXACT.quantize(clamped, Decimal(1).scaleb(-max(scale, 0))), "f")
