"""What sets and maps must show, as a function of the operations on one row. The rules:

- ``g_set``, ``or_set``, ``aw_set``: an element is there iff one of its adds happened before no other add of it, no
  removal of it, and no insert of the row. An UPDATE adds what is new in it and removes what is gone; of a ``g_set`` it
  removes nothing; of an ``aw_set`` it adds all that is in its value. An insert adds its value.
- ``lww_set``, ``lww_map``: an element is there, with its value, iff the operation on it with the highest
  ``(hlc, node)`` is an add. An insert also removes the elements that were there as far as it had seen.
- An empty set or map is NULL iff the write with the highest ``(hlc, node)`` made the column NULL.
- Elements stand in the order of their oldest add that counts, then numbers before others and by value, then by bytes.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from decimal import Decimal, InvalidOperation
from typing import NamedTuple

from tests.oracle_history import Column, ElementWrite, Operation, happened_before, latest_by_node

DOT_SETS = ("g_set", "or_set", "aw_set")
STAMP_SETS = ("lww_set", "lww_map")
ELEMENT_TYPES = (*DOT_SETS, *STAMP_SETS)

_NUMBERS = re.compile(r"(smallint|integer|bigint|numeric(\(.*\))?)\[\]|jsonb")

Shown = tuple[str, ...] | dict[str, str | None] | None
"""A set's elements in order, a map's keys with values, or NULL."""


def shown(name: str, column: Column, changes: Sequence[Operation]) -> Shown:
    """What the column must show; ``changes`` holds genesis as an insert of node 0."""
    writes = sorted((o for o in changes if _writes(name, o)), key=lambda o: (o.hlc, o.order))
    there = _by_dots(name, column, writes) if column.crdt in DOT_SETS else _by_stamps(name, writes)
    if not there and _written(name, max(writes, key=lambda o: o.stamp)).new is None:
        return None
    if column.crdt == "lww_map":
        return {key: held.value for key, held in there.items()}
    numbers = _NUMBERS.fullmatch(column.type_name) is not None
    return tuple(sorted(there, key=lambda element: (there[element].since, *_order(element, numbers))))


class _Held(NamedTuple):
    since: int
    """The hlc of the oldest add that counts."""
    value: str | None = None


def _writes(name: str, operation: Operation) -> bool:
    return operation.kind == "insert" or name in operation.elements


def _written(name: str, operation: Operation) -> ElementWrite:
    return operation.elements.get(name, ElementWrite(None, None))


def _by_dots(name: str, column: Column, writes: Sequence[Operation]) -> dict[str, _Held]:
    adds: defaultdict[str, list[Operation]] = defaultdict(list)
    removals: defaultdict[str, list[Operation]] = defaultdict(list)
    inserts = [o for o in writes if o.kind == "insert"]
    for operation in writes:
        write = _written(name, operation)
        whole = operation.kind == "insert" or column.crdt == "aw_set"
        for element in (write.new or {}) if whole else write.added():
            adds[element].append(operation)
        if operation.kind == "update" and column.crdt != "g_set":
            for element in write.removed():
                removals[element].append(operation)
    there = {}
    for element, added in adds.items():
        ends = latest_by_node([*added, *removals[element], *inserts])
        counting = [a.hlc for a in added if not any(happened_before(a, end) for end in ends)]
        if counting:
            there[element] = _Held(min(counting))
    return there


def _by_stamps(name: str, writes: Sequence[Operation]) -> dict[str, _Held]:
    # Per element: what was done to it, by whom; the new value of an add is in a tuple, to tell it from a removal.
    done: defaultdict[str, list[tuple[Operation, tuple[str | None] | None]]] = defaultdict(list)
    for operation in writes:
        write = _written(name, operation)
        if operation.kind == "insert":
            added: Mapping[str, str | None] = write.new or {}
            removed = {e for e, said in done.items() if e not in added and _is_there_for(operation, said)}
        else:
            added, removed = write.added(), write.removed()
        for element, value in added.items():
            done[element].append((operation, (value,)))
        for element in removed:
            done[element].append((operation, None))
    last = {element: max(said, key=lambda pair: pair[0].stamp) for element, said in done.items()}
    return {e: _Held(operation.hlc, added[0]) for e, (operation, added) in last.items() if added is not None}


def _is_there_for(observer: Operation, said: Sequence[tuple[Operation, tuple[str | None] | None]]) -> bool:
    seen = [pair for pair in said if happened_before(pair[0], observer)]
    return bool(seen) and max(seen, key=lambda pair: pair[0].stamp)[1] is not None


def _order(element: str, numbers: bool) -> tuple[int, Decimal, bytes]:
    try:
        number = Decimal(element) if numbers else None
    except InvalidOperation:
        number = None
    if number is None:
        return 2, Decimal(0), element.encode()
    return (1, Decimal(0), b"") if number.is_nan() else (0, number, element.encode())
