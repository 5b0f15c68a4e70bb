"""What the oracle judges: operations, what they had seen, and which histories cannot be.

An operation is one row change of one local transaction, with the version vector its node had before it. ``a`` happened
before ``b`` iff ``b``'s version vector covers ``a``'s dot, or one node did ``a`` first and then ``b``.
"""

from __future__ import annotations

import bisect
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Literal

GENESIS = 0

Key = Hashable
Kind = Literal["insert", "update", "delete"]
MergeFunction = Callable[[str | None, str | None], str | None]


@dataclass(frozen=True)
class Column:
    """A column that is not part of the key; ``type_name`` as ``format_type()`` says it. ``function`` is what the
    application's merge function computes on text images (``merge``; ``None``: it does not exist)."""

    crdt: str = "lww_register"
    type_name: str = "text"
    function: MergeFunction | None = field(default=None, compare=False)


@dataclass(frozen=True)
class ElementWrite:
    """What an INSERT or UPDATE made of a set or map: elements, with values in maps, as text images; ``None`` is NULL.
    ``old`` is what the table held before, of no meaning for an insert."""

    old: Mapping[str, str | None] | None
    new: Mapping[str, str | None] | None

    def added(self) -> Mapping[str, str | None]:
        """Elements that are new, and keys with a new value."""
        before, after = self.old or {}, self.new or {}
        return {e: value for e, value in after.items() if e not in before or before[e] != value}

    def removed(self) -> set[str]:
        return set(self.old or {}) - set(self.new or {})


def set_write(old: Iterable[str] | None, new: Iterable[str] | None) -> ElementWrite:
    """The same for a set's elements, given in any order."""
    return ElementWrite(*(None if elements is None else dict.fromkeys(elements) for elements in (old, new)))


@dataclass(frozen=True)
class Operation:
    """One row change. ``assigned`` holds registers' new text images, ``deltas`` what counters changed by, ``elements``
    the old and new value of sets and maps whose text image changed, if only in its order. An insert assigns every
    register, set and map (those left out: NULL), and its counters' deltas are the inserted values. ``seen`` is the
    version vector of the node before the transaction; ``order`` the place among the changes of one transaction, which
    share their hlc."""

    node: int
    hlc: int
    kind: Kind
    table: str
    key: Key
    assigned: Mapping[str, str | None] = field(default_factory=dict)
    deltas: Mapping[str, Decimal] = field(default_factory=dict)
    seen: Mapping[int, int] = field(default_factory=dict)
    order: int = 0
    elements: Mapping[str, ElementWrite] = field(default_factory=dict)

    @property
    def stamp(self) -> tuple[int, int, int]:
        """Decides between operations that did not see each other."""
        return self.hlc, self.node, self.order

    @property
    def is_write(self) -> bool:
        """Whether the row was inserted or really changed; a write that leaves every value as it is, is none."""
        changed = bool(self.assigned) or bool(self.elements) or any(self.deltas.values())
        return self.kind == "insert" or (self.kind == "update" and changed)


def happened_before(a: Operation, b: Operation) -> bool:
    """Whether ``b`` had seen ``a``. Genesis was seen by everybody."""
    if a.node == b.node:
        return (a.hlc, a.order) < (b.hlc, b.order)
    return a.node == GENESIS or b.seen.get(a.node, 0) >= a.hlc


def latest_by_node(operations: Iterable[Operation]) -> list[Operation]:
    """Each node's last one. What any of its earlier ones had seen, the last one had seen too."""
    latest: dict[int, Operation] = {}
    for operation in operations:
        other = latest.get(operation.node)
        if other is None or happened_before(other, operation):
            latest[operation.node] = operation
    return list(latest.values())


def check(history: Sequence[Operation]) -> None:
    """Raises ``ValueError`` for a history, sorted by ``(hlc, order)``, that cannot be: hybrid logical clocks grow along
    happened-before, a node forgets nothing, a dot changes a row once per order."""
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
