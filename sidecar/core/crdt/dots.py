"""Elements that carry the dots of their adds: the state of ``g_set``, ``or_set`` and ``aw_set``, which differ only in
what a local write says.

State: for each element of the set the dots of the adds that no later write took back, at most one per node, because
an add supersedes the dots that it saw; and the context: what was ever merged. There is no tombstone (Bieniusa et al.
2012, "An Optimized Conflict-free Replicated Set"): a dot that one side lacks was taken back there if that side's
context covers it, and is new there otherwise. An element is in the set iff it has a dot.

A change takes back only dots that its origin had seen, so a concurrent add wins over it (Shapiro et al. 2011, section
3.3.5). A *full* change, such as an insert of the row, takes back all that it saw.

Laws: ``merge`` keeps the common dots and those that the other side has never seen, and joins the contexts; it is
commutative, associative and idempotent over the states of one history. ``apply`` takes changes in causal order, each
once; whatever that order is, the state is the same, and the same as by ``merge``. ``then`` makes one change of two:
applying it is applying both.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

from sidecar.core.crdt import contexts
from sidecar.core.crdt.contexts import Context
from sidecar.core.crdt.element_order import in_order
from sidecar.core.versions import GENESIS, Dot, covers

NEVER = (-1, 0)


@dataclass(frozen=True, slots=True)
class DotSet:
    """``dots``: element, node, hlc. ``null``: whether the write ``last``, ``(hlc, node)``, made the column NULL. The
    default was never written."""

    dots: Mapping[str, Mapping[int, int]] = field(default_factory=dict)
    context: Context = field(default_factory=dict)
    last: tuple[int, int] = NEVER
    null: bool = True


@dataclass(frozen=True, slots=True)
class SetChange:
    """What one node's write, or several of them, did to the column: elements with the hlc of the last add or removal.

    ``hlc`` is that of the last write, ``null`` whether it made the column NULL."""

    origin: int
    hlc: int
    add: Mapping[str, int] = field(default_factory=dict)
    remove: Mapping[str, int] = field(default_factory=dict)
    full: bool = False
    null: bool = False


def genesis(elements: Collection[str] | None) -> DotSet:
    """The state of a value that was there before the table was attached."""
    return DotSet({e: {GENESIS: 0} for e in elements or ()}, {GENESIS: 0}, (0, GENESIS), elements is None)


def assignment(elements: Collection[str] | None, *, hlc: int, node: int) -> SetChange:
    """The full change that leaves just these elements, and what its origin had not seen."""
    return SetChange(node, hlc, add=dict.fromkeys(elements or (), hlc), full=True, null=elements is None)


def apply(state: DotSet, change: SetChange, context: Mapping[int, int]) -> DotSet:
    """The state after a change whose origin had seen ``context`` and its own earlier changes. For a local change, the
    context is the state's own."""
    touched = {*change.add, *change.remove, *(state.dots if change.full else ())}
    dots = {element: live for element, live in state.dots.items() if element not in touched}
    for element in touched:
        live = {
            node: hlc
            for node, hlc in state.dots.get(element, {}).items()
            if node != change.origin and not covers(context, Dot(node, hlc))
        }
        if element in change.add:
            live[change.origin] = change.add[element]
        if live:
            dots[element] = live
    seen = {**state.context, change.origin: change.hlc}
    stamp = (change.hlc, change.origin)
    if stamp < state.last:
        return DotSet(dots, seen, state.last, state.null)
    return DotSet(dots, seen, stamp, change.null)


def then(first: SetChange, second: SetChange) -> SetChange:
    """One change with the effect of both, for writes of one node between which nothing was merged."""
    if second.full:
        return second
    add = {element: hlc for element, hlc in first.add.items() if element not in second.remove} | dict(second.add)
    # What a full change does not add is gone with it.
    gone = {} if first.full else {**first.remove, **second.remove}
    remove = {element: hlc for element, hlc in gone.items() if element not in second.add}
    return replace(second, add=add, remove=remove, full=first.full)


def merge(a: DotSet, b: DotSet) -> DotSet:
    """The dots that both have, and those that only one has and the other has never seen."""
    dots: dict[str, Mapping[int, int]] = {}
    for element in {**a.dots, **b.dots}:
        mine, theirs = a.dots.get(element, {}), b.dots.get(element, {})
        live = {node: hlc for node, hlc in mine.items() if theirs.get(node) == hlc}
        live |= {node: hlc for node, hlc in mine.items() if not contexts.has_seen(b.context, node, hlc)}
        live |= {node: hlc for node, hlc in theirs.items() if not contexts.has_seen(a.context, node, hlc)}
        if live:
            dots[element] = live
    last, null = max((a.last, a.null), (b.last, b.null))
    return DotSet(dots, contexts.join(a.context, b.context), last, null)


def value(state: DotSet, *, numbers: bool = False) -> tuple[str, ...] | None:
    """The elements in canonical order, see :mod:`sidecar.core.crdt.element_order`; ``None`` is NULL."""
    if not state.dots and state.null:
        return None
    return in_order(((min(live.values()), element) for element, live in state.dots.items()), numbers=numbers)
