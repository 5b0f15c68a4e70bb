"""``lww_set``: per element the later of add and remove (Shapiro et al. 2011, section 3.3.3, "LWW-element-Set").

A write adds the elements that are new in it and removes those that are gone. Of the operations on an element the one
with the highest ``(hlc, node)`` stands, whoever saw what, so a remove can win over a concurrent add. State and laws:
:mod:`sidecar.core.crdt.stamps`.
"""

from __future__ import annotations

from collections.abc import Collection

from sidecar.core.crdt import stamps
from sidecar.core.crdt.element_order import in_order
from sidecar.core.crdt.stamps import StampChange, Stamps, apply, merge, then

__all__ = ["StampChange", "Stamps", "apply", "genesis", "insert", "merge", "then", "update", "value"]


def genesis(elements: Collection[str] | None) -> Stamps:
    """The state of a value that was there before the table was attached."""
    return stamps.genesis(_plain(elements))


def insert(state: Stamps, elements: Collection[str] | None, *, hlc: int, node: int) -> StampChange:
    """What an INSERT of the row says, over the state that a deleted row has left."""
    return stamps.assignment(state, _plain(elements), hlc=hlc, node=node)


def update(old: Collection[str] | None, new: Collection[str] | None, *, hlc: int, node: int) -> StampChange:
    """What an UPDATE of the column from ``old`` to ``new`` says (``None`` is NULL)."""
    return stamps.difference(_plain(old), _plain(new), hlc=hlc, node=node)


def value(state: Stamps, *, numbers: bool = False) -> tuple[str, ...] | None:
    """The elements in canonical order, see :mod:`sidecar.core.crdt.element_order`; ``None`` is NULL."""
    present = state.present
    if not present and state.null:
        return None
    return in_order(((entry.hlc, element) for element, entry in present.items()), numbers=numbers)


def _plain(elements: Collection[str] | None) -> dict[str, None] | None:
    return None if elements is None else dict.fromkeys(elements)
