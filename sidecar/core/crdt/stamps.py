"""Elements with the stamp of their latest operation: the state of ``lww_set`` and ``lww_map``.

State: for each element or key that was ever there the stamp ``(hlc, node)`` of its latest add or removal, whether it is
there, and its value (an element of a set has none). A removed element keeps its stamp, so that an earlier add that
comes later loses. An insert of the row is an operation on each element as well: it adds those of the inserted value,
and removes the others that a deleted row of the same key had left here.

Laws: entries are ordered by their stamp, totally, because one dot says one thing about an element. ``merge`` is the
per-element maximum, hence commutative, associative and idempotent; ``apply`` moves up in it, and takes changes in any
order, and twice. ``then`` makes one change of two: applying it is applying both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from sidecar.core.versions import GENESIS

NEVER = (-1, 0)
Values = Mapping[str, str | None]


class Entry(NamedTuple):
    """The latest operation on an element; ``value`` is ``None`` when it is absent, and in sets."""

    hlc: int
    node: int
    present: bool
    value: str | None = None


@dataclass(frozen=True, slots=True)
class Stamps:
    """``null``: whether the write ``last``, ``(hlc, node)``, made the column NULL. The default was never written."""

    entries: Mapping[str, Entry] = field(default_factory=dict)
    last: tuple[int, int] = NEVER
    null: bool = True

    @property
    def present(self) -> dict[str, Entry]:
        return {element: entry for element, entry in self.entries.items() if entry.present}


@dataclass(frozen=True, slots=True)
class StampChange:
    """What one node's write, or several of them, did to the column: ``add`` maps elements to ``(hlc, value)``,
    ``remove`` to the hlc. ``hlc`` is that of the last write, ``null`` whether it made the column NULL."""

    origin: int
    hlc: int
    add: Mapping[str, tuple[int, str | None]] = field(default_factory=dict)
    remove: Mapping[str, int] = field(default_factory=dict)
    null: bool = False


def genesis(values: Values | None) -> Stamps:
    """The state of a value that was there before the table was attached."""
    entries = {element: Entry(0, GENESIS, True, value) for element, value in (values or {}).items()}
    return Stamps(entries, (0, GENESIS), values is None)


def assignment(state: Stamps, values: Values | None, *, hlc: int, node: int) -> StampChange:
    """What an INSERT of the row says, over the state that a deleted row has left."""
    add = {element: (hlc, value) for element, value in (values or {}).items()}
    return StampChange(node, hlc, add, {e: hlc for e in state.present if e not in add}, null=values is None)


def difference(old: Values | None, new: Values | None, *, hlc: int, node: int) -> StampChange:
    """What an UPDATE of the column from ``old`` to ``new`` says (``None`` is NULL)."""
    before, after = old or {}, new or {}
    add = {e: (hlc, value) for e, value in after.items() if e not in before or before[e] != value}
    return StampChange(node, hlc, add, {e: hlc for e in before if e not in after}, null=new is None)


def apply(state: Stamps, change: StampChange) -> Stamps:
    """The state after a local change or one of another node."""
    entries = {e: Entry(hlc, change.origin, True, value) for e, (hlc, value) in change.add.items()}
    entries |= {e: Entry(hlc, change.origin, False) for e, hlc in change.remove.items()}
    return merge(state, Stamps(entries, (change.hlc, change.origin), change.null))


def then(first: StampChange, second: StampChange) -> StampChange:
    """One change with the effect of both: per element the last operation."""
    add = {e: added for e, added in first.add.items() if e not in second.remove} | dict(second.add)
    remove = {e: hlc for e, hlc in first.remove.items() if e not in second.add} | dict(second.remove)
    return replace(second, add=add, remove=remove)


def merge(a: Stamps, b: Stamps) -> Stamps:
    """The later entry of each element."""
    entries = dict(a.entries)
    for element, entry in b.entries.items():
        mine = entries.get(element, entry)
        assert mine[:2] != entry[:2] or mine == entry, "one dot said two things about an element"
        entries[element] = max(mine, entry, key=_stamp)
    last, null = max((a.last, a.null), (b.last, b.null))
    return Stamps(entries, last, null)


def _stamp(entry: Entry) -> tuple[int, int]:
    return entry.hlc, entry.node
