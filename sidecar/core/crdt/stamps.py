"""Elements with the stamp of their latest operation: the state of ``lww_set`` and ``lww_map``.

State: for each element or key that was ever there the stamp ``(hlc, node)`` of its latest add or removal, whether it
is there, and its value (an element of a set has none). A removed element keeps its stamp, so that an earlier add that
comes later loses. A *full* change, an insert of the row, makes the entries that it saw absent **without a stamp of
its own**: the inserted row holds what was inserted and what the insert had not seen. (With the insert's stamp, a
concurrent add with a lower one would lose where the insert came first and stay where it came second.)

So an element is there iff its latest operation is an add that no insert has seen.

Laws: entries are ordered by ``(hlc, node)``, then present below absent; the order is total, because one dot says one
thing about an element. ``merge`` is the per-element maximum, hence commutative, associative and idempotent; changes
move up. ``apply`` takes changes in causal order; whatever that order is, the state is the same, and the same as by
``merge``. ``then`` makes one change of two: applying it is applying both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from sidecar.core.versions import GENESIS, Dot, covers

NEVER = (-1, 0)


class Entry(NamedTuple):
    """The latest operation on an element; ``value`` is ``None`` when it is absent, and in sets."""

    hlc: int
    node: int
    absent: bool
    value: str | None = None


@dataclass(frozen=True, slots=True)
class Stamps:
    """``null``: whether the write ``last``, ``(hlc, node)``, made the column NULL. The default was never written."""

    entries: Mapping[str, Entry] = field(default_factory=dict)
    last: tuple[int, int] = NEVER
    null: bool = True

    @property
    def present(self) -> dict[str, Entry]:
        return {element: entry for element, entry in self.entries.items() if not entry.absent}


@dataclass(frozen=True, slots=True)
class StampChange:
    """What one node's write, or several of them, did to the column: ``add`` maps elements to ``(hlc, value)``,
    ``remove`` to the hlc. ``hlc`` is that of the last write, ``null`` whether it made the column NULL."""

    origin: int
    hlc: int
    add: Mapping[str, tuple[int, str | None]] = field(default_factory=dict)
    remove: Mapping[str, int] = field(default_factory=dict)
    full: bool = False
    null: bool = False


def genesis(values: Mapping[str, str | None] | None) -> Stamps:
    """The state of a value that was there before the table was attached."""
    return Stamps({e: Entry(0, GENESIS, False, v) for e, v in (values or {}).items()}, (0, GENESIS), values is None)


def assignment(values: Mapping[str, str | None] | None, *, hlc: int, node: int) -> StampChange:
    """The full change that leaves just these elements, and what its origin had not seen."""
    add = {element: (hlc, value) for element, value in (values or {}).items()}
    return StampChange(node, hlc, add, full=True, null=values is None)


def difference(
    old: Mapping[str, str | None] | None, new: Mapping[str, str | None] | None, *, hlc: int, node: int
) -> StampChange:
    """What an UPDATE of the column from ``old`` to ``new`` says (``None`` is NULL)."""
    before, after = old or {}, new or {}
    add = {e: (hlc, v) for e, v in after.items() if e not in before or before[e] != v}
    return StampChange(node, hlc, add, {e: hlc for e in before if e not in after}, null=new is None)


def apply(state: Stamps, change: StampChange, context: Mapping[int, int]) -> Stamps:
    """The state after a change whose origin had seen ``context`` and its own earlier changes. For a local change, the
    context is what the node has seen."""
    entries = dict(state.entries)
    if change.full:
        for element, (hlc, node, _, _) in state.present.items():
            if node == change.origin or covers(context, Dot(node, hlc)):
                entries[element] = Entry(hlc, node, absent=True)
    changed = {e: Entry(hlc, change.origin, False, value) for e, (hlc, value) in change.add.items()}
    changed |= {e: Entry(hlc, change.origin, True) for e, hlc in change.remove.items()}
    return merge(Stamps(entries, state.last, state.null), Stamps(changed, (change.hlc, change.origin), change.null))


def then(first: StampChange, second: StampChange) -> StampChange:
    """One change with the effect of both, for writes of one node between which nothing was merged."""
    add, remove = dict(first.add), dict(first.remove)
    if second.full:
        # Erased, but still the latest operation on its element: it keeps its stamp.
        remove |= {element: hlc for element, (hlc, _) in add.items()}
        add = {}
    remove |= second.remove
    add = {element: added for element, added in add.items() if element not in second.remove} | dict(second.add)
    remove = {element: hlc for element, hlc in remove.items() if element not in add}
    return replace(second, add=add, remove=remove, full=first.full or second.full)


def merge(a: Stamps, b: Stamps) -> Stamps:
    """The later entry of each element; of one operation, what erased it."""
    entries = dict(a.entries)
    for element, entry in b.entries.items():
        mine = entries.get(element, entry)
        entries[element] = max(mine, entry, key=lambda e: e[:3])
    last, null = max((a.last, a.null), (b.last, b.null))
    return Stamps(entries, last, null)
