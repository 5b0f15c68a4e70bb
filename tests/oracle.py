"""The oracle: what the tables must hold, as a function of the operations and their happened-before relation alone.

Nothing here merges states or knows how the sidecar does it. An operation is one row change of one local transaction,
with the version vector its node had before it. The rules:

- ``a`` happened before ``b`` iff ``b``'s version vector covers ``a``'s dot, or one node did ``a`` first and then ``b``.
- A register shows, of the writes that happened before no other write to it, the one with the highest ``(hlc, node)``.
- A counter shows genesis plus the sum of all deltas, without those seen by a delete that an insert has seen. A
  ``g_counter`` takes no negative delta. The sum saturates at the limits of the column's type.
- A row is there iff it was inserted or is genesis, and its latest write is later than its latest delete.

Work grows with operations times nodes, so histories of many thousand operations on one row are fine.
"""

from __future__ import annotations

import bisect
import re
from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Context, Decimal
from typing import Literal

from sidecar.core.catalog import TableSpec

GENESIS = 0
COUNTERS = ("pn_counter", "g_counter")

Key = Hashable
Row = dict[str, str | None]
Tables = dict[str, dict[Key, Row]]

_EXACT = Context(prec=150_000, Emax=999_999, Emin=-999_999)
_LIMITS = {
    "smallint": (-32_768, 32_767),
    "integer": (-2_147_483_648, 2_147_483_647),
    "bigint": (-9_223_372_036_854_775_808, 9_223_372_036_854_775_807),
}


@dataclass(frozen=True)
class Column:
    """A column that is not part of the key: ``lww_register``, ``pn_counter`` or ``g_counter``; ``type_name`` as
    ``format_type()`` says it."""

    crdt: str = "lww_register"
    type_name: str = "text"


Schema = Mapping[str, Mapping[str, Column]]


def schema_of(*specs: TableSpec) -> dict[str, dict[str, Column]]:
    """The schema of replicated tables, by qualified name."""
    return {s.qualified: {c.name: Column(c.crdt, c.type_name) for c in s.columns} for s in specs}


@dataclass(frozen=True)
class Operation:
    """One row change. ``assigned`` holds registers' new text images, ``deltas`` what counters changed by; an insert
    assigns every register (those left out: NULL) and its counters' deltas are the inserted values. ``seen`` is the
    version vector of the node before the transaction; ``order`` the place among the changes of one transaction, which
    share their hlc."""

    node: int
    hlc: int
    kind: Literal["insert", "update", "delete"]
    table: str
    key: Key
    assigned: Mapping[str, str | None] = field(default_factory=dict)
    deltas: Mapping[str, Decimal] = field(default_factory=dict)
    seen: Mapping[int, int] = field(default_factory=dict)
    order: int = 0

    @property
    def stamp(self) -> tuple[int, int, int]:
        """Decides between operations that did not see each other."""
        return self.hlc, self.node, self.order

    @property
    def is_write(self) -> bool:
        """Whether the row was inserted or really changed; a write that leaves every value as it is, is none."""
        return self.kind == "insert" or (self.kind == "update" and (bool(self.assigned) or any(self.deltas.values())))


def happened_before(a: Operation, b: Operation) -> bool:
    """Whether ``b`` had seen ``a``. Genesis was seen by everybody."""
    if a.node == b.node:
        return (a.hlc, a.order) < (b.hlc, b.order)
    return a.node == GENESIS or b.seen.get(a.node, 0) >= a.hlc


def expected(
    operations: Iterable[Operation],
    schema: Schema,
    genesis: Mapping[str, Mapping[Key, Mapping[str, str | None]]] | None = None,
) -> Tables:
    """``{table: {key: {column: text}}}`` of the rows that must be there, on every node that has seen all operations.

    ``genesis`` are the rows of before the tables were attached. Values are text images; a ``numeric`` without a
    modifier is given without trailing zeros (compare ``trim_scale(value)``). A counter shows NULL only if genesis held
    NULL and nothing ever changed it. Raises ``ValueError`` for a history that cannot be.
    """
    rows: defaultdict[tuple[str, Key], list[Operation]] = defaultdict(list)
    for table, held in (genesis or {}).items():
        for key, values in held.items():
            rows[table, key].append(_genesis_insert(schema[table], table, key, values))
    history = sorted(operations, key=lambda o: (o.hlc, o.order))
    _check(history)
    for operation in history:
        rows[operation.table, operation.key].append(operation)
    result: Tables = {table: {} for table in schema}
    for (table, key), changes in rows.items():
        if _is_there(changes):
            columns = schema[table]
            result[table][key] = {name: _shown(name, columns[name], changes) for name in columns}
    return result


def _genesis_insert(columns: Mapping[str, Column], table: str, key: Key, values: Mapping[str, str | None]) -> Operation:
    counters = {name for name, column in columns.items() if column.crdt in COUNTERS}
    deltas = {name: Decimal(text) for name, text in values.items() if name in counters and text is not None}
    assigned = {name: text for name, text in values.items() if name not in counters}
    return Operation(GENESIS, 0, "insert", table, key, assigned, deltas)


def _check(history: Sequence[Operation]) -> None:
    """Hybrid logical clocks grow along happened-before, a node forgets nothing, a dot changes a row once per order."""
    hlcs: defaultdict[int, list[int]] = defaultdict(list)
    taken: set[tuple[object, ...]] = set()
    for operation in history:
        if operation.node == GENESIS:
            raise ValueError("node 0 has no operations; give its rows as genesis")
        where = (operation.stamp, operation.table, operation.key)
        if where in taken:
            raise ValueError(f"two operations at {where}; number them with order")
        taken.add(where)
        hlcs[operation.node].append(operation.hlc)
    known: defaultdict[int, dict[int, int]] = defaultdict(dict)
    for operation in history:
        mine = known[operation.node]
        for node, seen in operation.seen.items():
            # A version vector may be ahead of what its node did (closed hlc values); only operations count.
            covered = bisect.bisect_right(hlcs[node], seen)
            if covered and hlcs[node][covered - 1] >= operation.hlc:
                raise ValueError(f"an operation at hlc {operation.hlc} has seen a later one of node {node}")
        if any(operation.seen.get(node, 0) < seen for node, seen in mine.items()):
            raise ValueError(f"node {operation.node} forgot at hlc {operation.hlc} what it had seen before: {mine}")
        mine.update({node: seen for node, seen in operation.seen.items() if node != operation.node})


def _latest_by_node(operations: Iterable[Operation]) -> list[Operation]:
    """Each node's last one. What any of its earlier ones had seen, the last one had seen too."""
    latest: dict[int, Operation] = {}
    for operation in operations:
        other = latest.get(operation.node)
        if other is None or happened_before(other, operation):
            latest[operation.node] = operation
    return list(latest.values())


def _is_there(changes: Sequence[Operation]) -> bool:
    if not any(o.kind == "insert" for o in changes):
        return False
    latest_write = max(o.stamp for o in changes if o.is_write)
    return all(latest_write > o.stamp for o in changes if o.kind == "delete")


def _shown(name: str, column: Column, changes: Sequence[Operation]) -> str | None:
    if column.crdt == "lww_register":
        return _register(name, changes)
    if column.crdt not in COUNTERS:
        raise ValueError(f"the oracle has no rule for {column.crdt}")
    return _counter(name, column, changes)


def _register(name: str, changes: Sequence[Operation]) -> str | None:
    writes = _latest_by_node(o for o in changes if o.kind == "insert" or name in o.assigned)
    last = [a for a in writes if not any(happened_before(a, b) for b in writes)]
    winner = max(last, key=lambda o: o.stamp)
    return winner.assigned.get(name)


def _counter(name: str, column: Column, changes: Sequence[Operation]) -> str | None:
    inserts = _latest_by_node(o for o in changes if o.kind == "insert")
    deletes = (o for o in changes if o.kind == "delete")
    erasing = _latest_by_node(d for d in deletes if any(happened_before(d, i) for i in inserts))
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
