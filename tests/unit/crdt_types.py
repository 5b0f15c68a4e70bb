"""Every column type and row rule behind one surface, so that one test of histories serves them all.

Values are what the application sees: a text image, a tuple of elements' images, a dict of a map's values, or ``None``.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from sidecar.core.crdt import (
    aw_set,
    dots,
    g_counter,
    g_set,
    lww_map,
    lww_register,
    lww_set,
    max_register,
    merge_function,
    min_register,
    mv_register,
    or_set,
    pn_counter,
    row_add_wins,
    row_liveness,
    row_remove_wins,
    siblings,
    stamps,
)
from tests.oracle import Column, ElementWrite, set_write


@dataclass(frozen=True)
class ColumnType:
    """A type with its states and changes, which only its own functions look into. ``values`` are what applications
    write; ``insert(state, new, hlc, node)``, ``update(state, old, new, hlc, node)`` and ``delete(state)`` make changes;
    ``then`` makes one change of two; ``operation(old, new)`` is how the oracle is told."""

    column: Column
    values: Sequence[Any]
    empty: Any
    genesis: Callable[[Any], Any]
    insert: Callable[[Any, Any, int, int], Any]
    update: Callable[[Any, Any, Any, int, int], Any]
    apply: Callable[[Any, Any, Mapping[int, int]], Any]
    then: Callable[[Any, Any], Any]
    merge: Callable[[Any, Any], Any]
    shown: Callable[[Any], Any]
    operation: Callable[[Any, Any], dict[str, Any]]
    kept: Callable[[Any], list[str | None]] | None = None
    """The values of all siblings, where the type keeps them."""
    delete: Callable[[Any], Any] = lambda _state: None


def _assigned(_old: Any, new: Any) -> dict[str, Any]:
    return {"assigned": {"v": new}}


def _siblings(column: Column, values: Sequence[str | None], shown: Callable[[Any], Any]) -> ColumnType:
    return ColumnType(
        column,
        values,
        siblings.Siblings(),
        siblings.genesis,
        insert=lambda _state, new, hlc, node: siblings.Write(hlc, node, new),
        update=lambda _state, _old, new, hlc, node: siblings.Write(hlc, node, new),
        apply=siblings.apply,
        then=lambda _first, second: second,
        merge=siblings.merge,
        shown=shown,
        operation=_assigned,
        kept=lambda state: [write.value for write in siblings.latest_first(state)],
    )


def _set_values(elements: Sequence[str]) -> list[tuple[str, ...] | None]:
    """All subsets, each also in the opposite order, some with an element twice; and NULL."""
    subsets = [s for size in range(len(elements) + 1) for s in itertools.combinations(elements, size)]
    return [None, *subsets, *(tuple(reversed(s)) for s in subsets if len(s) > 1), (elements[0], *elements[:2])]


def _elements(old: Any, new: Any) -> dict[str, Any]:
    return {"elements": {"v": set_write(old, new)}}


def _dot_set(module: Any, type_name: str, elements: Sequence[str], *, numbers: bool) -> ColumnType:
    return ColumnType(
        Column(module.__name__.rpartition(".")[2], type_name),
        _set_values(elements),
        dots.DotSet(),
        dots.genesis,
        insert=lambda _state, new, hlc, node: module.insert(new, hlc=hlc, node=node),
        update=lambda _state, old, new, hlc, node: module.update(old, new, hlc=hlc, node=node),
        apply=dots.apply,
        then=dots.then,
        merge=dots.merge,
        shown=lambda state: dots.value(state, numbers=numbers),
        operation=_elements,
    )


def _lww_register() -> ColumnType:
    return ColumnType(
        Column(),
        ("a", "b", "c", None),
        lww_register.EMPTY,
        lww_register.LwwRegister,
        insert=lambda _state, new, hlc, node: lww_register.LwwRegister(new, hlc, node),
        update=lambda _state, _old, new, hlc, node: lww_register.LwwRegister(new, hlc, node),
        apply=lambda state, change, _context: lww_register.merge(state, change),
        then=lambda _first, second: second,
        merge=lww_register.merge,
        shown=lww_register.value,
        operation=_assigned,
    )


def _lww_set() -> ColumnType:
    return ColumnType(
        Column("lww_set", "numeric[]"),
        _set_values(["10", "9", "1.0", "1.00"]),
        stamps.Stamps(),
        lww_set.genesis,
        insert=lambda state, new, hlc, node: lww_set.insert(state, new, hlc=hlc, node=node),
        update=lambda _state, old, new, hlc, node: lww_set.update(old, new, hlc=hlc, node=node),
        apply=lambda state, change, _context: stamps.apply(state, change),
        then=stamps.then,
        merge=stamps.merge,
        shown=lambda state: lww_set.value(state, numbers=True),
        operation=_elements,
    )


def _counter(module: Any, empty: Any, type_name: str, values: Sequence[str]) -> ColumnType:
    """A counter's changes are whole states. NULL is left to the cases of :mod:`tests.merge_vectors`."""
    return ColumnType(
        Column(module.__name__.rpartition(".")[2], type_name),
        values,
        empty,
        lambda number: module.genesis(_decimal(number)),
        insert=lambda state, new, _hlc, node: module.insert(state, _decimal(new), node=node),
        update=lambda state, old, new, _hlc, node: module.increment(state, _decimal(new) - _decimal(old), node=node),
        apply=lambda state, change, _context: module.merge(state, change),
        then=lambda _first, second: second,
        merge=module.merge,
        shown=lambda state: str(pn_counter.clamp(module.value(state), type_name)),
        operation=lambda old, new: {"deltas": {"v": _decimal(new) - _decimal(old)}},
        delete=module.delete,
    )


def _decimal(text: str | None) -> Decimal:
    return Decimal(text or 0)


def _maps() -> list[dict[str, str] | None]:
    images = itertools.product([None, "1", "null", '"x"'], repeat=3)
    return [None, *({key: v for key, v in zip("abc", each, strict=True) if v is not None} for each in images)]


def _lww_map() -> ColumnType:
    return ColumnType(
        Column("lww_map", "jsonb"),
        _maps(),
        stamps.Stamps(),
        lww_map.genesis,
        insert=lambda state, new, hlc, node: lww_map.insert(state, new, hlc=hlc, node=node),
        update=lambda _state, old, new, hlc, node: lww_map.update(old, new, hlc=hlc, node=node),
        apply=lambda state, change, _context: stamps.apply(state, change),
        then=stamps.then,
        merge=stamps.merge,
        shown=lww_map.value,
        operation=lambda old, new: {"elements": {"v": ElementWrite(old, new)}},
    )


def joined(winner: str | None, other: str | None) -> str | None:
    """Neither commutative nor idempotent; fails for some values, and has no answer for others."""
    if other == "fails":
        raise ValueError("not that one")
    return None if other == "nothing" else f"({winner} {other})"


_TEXTS = ("a", "b", "c", None)
_MERGED = Column("merge", "text", joined)

COLUMN_TYPES: Mapping[str, ColumnType] = {
    "lww_register": _lww_register(),
    "pn_counter": _counter(
        pn_counter, pn_counter.PnCounter(), "smallint", ("0", "5", "-3", "20000", "32767", "-32768")
    ),
    "g_counter": _counter(g_counter, g_counter.GCounter(), "bigint", ("0", "5", "-3", "7", "100", "90")),
    "mv_register": _siblings(Column("mv_register"), _TEXTS, mv_register.value),
    "max_register": _siblings(
        Column("max_register", "numeric"),
        ("10", "9", "1.0", "1.00", "-3", None),
        lambda state: max_register.value(state, Decimal),
    ),
    "min_register": _siblings(
        Column("min_register", "text"), ("a", "B", "é", "", None), lambda state: min_register.value(state, str.encode)
    ),
    "merge": _siblings(_MERGED, (*_TEXTS, "fails", "nothing"), lambda state: merge_function.value(state, joined).value),
    "g_set": _dot_set(g_set, "text[]", "abcd", numbers=False),
    "or_set": _dot_set(or_set, "text[]", ["b", "a", "10", "9"], numbers=False),
    "aw_set": _dot_set(aw_set, "jsonb", ['"a"', "10", "9", "null"], numbers=True),
    "lww_set": _lww_set(),
    "lww_map": _lww_map(),
}


@dataclass(frozen=True)
class RowRule:
    """A rule of liveness. ``apply(state, kind, hlc, node, context)`` takes what one transaction did to the row: kind
    ``insert`` (also a delete and insert), ``update`` or ``delete``. ``coalesced`` says whether the last of several
    transactions may stand for all of them."""

    empty: Any
    genesis: Any
    apply: Callable[[Any, str, int, int, Mapping[int, int]], Any]
    merge: Callable[[Any, Any], Any]
    alive: Callable[[Any], bool]
    coalesced: bool = field(default=True)


def _lww(state: Any, kind: str, hlc: int, node: int, _context: Mapping[int, int]) -> Any:
    stamp = {"dead" if kind == "delete" else "live": (hlc, node)}
    return row_liveness.merge(state, row_liveness.RowLiveness(**stamp))


def _add_wins(state: Any, kind: str, hlc: int, node: int, context: Mapping[int, int]) -> Any:
    act = row_add_wins.delete if kind == "delete" else row_add_wins.write
    return act(state, hlc=hlc, node=node, context=context)


def _remove_wins(state: Any, kind: str, hlc: int, node: int, context: Mapping[int, int]) -> Any:
    if kind == "update":
        return state
    act = row_remove_wins.delete if kind == "delete" else row_remove_wins.insert
    return act(state, hlc=hlc, node=node, context=context)


ROW_RULES: Mapping[str, RowRule] = {
    "lww": RowRule(
        row_liveness.RowLiveness(), row_liveness.GENESIS, _lww, row_liveness.merge, row_liveness.value, coalesced=False
    ),
    "add_wins": RowRule(
        row_add_wins.RowAddWins(), row_add_wins.GENESIS, _add_wins, row_add_wins.merge, row_add_wins.value
    ),
    "remove_wins": RowRule(
        row_remove_wins.RowRemoveWins(),
        row_remove_wins.GENESIS,
        _remove_wins,
        row_remove_wins.merge,
        row_remove_wins.value,
    ),
}
