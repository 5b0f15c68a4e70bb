"""``or_set``: an add wins over a concurrent remove (Shapiro et al. 2011, section 3.3.5, "Observed-Remove Set";
Bieniusa et al. 2012, the same without tombstones).

A write adds the elements that are new in it and removes those that are gone; one that it leaves alone is not touched,
so a concurrent removal of that one stands. State and laws: :mod:`sidecar.core.crdt.dots`.
"""

from __future__ import annotations

from collections.abc import Collection

from sidecar.core.crdt.dots import DotSet, SetChange, apply, genesis, merge, then, value
from sidecar.core.crdt.dots import assignment as insert

__all__ = ["DotSet", "SetChange", "apply", "genesis", "insert", "merge", "then", "update", "value"]


def update(old: Collection[str] | None, new: Collection[str] | None, *, hlc: int, node: int) -> SetChange:
    """What an UPDATE of the column from ``old`` to ``new`` says (``None`` is NULL)."""
    before, after = set(old or ()), set(new or ())
    return SetChange(
        node, hlc, add=dict.fromkeys(after - before, hlc), remove=dict.fromkeys(before - after, hlc), null=new is None
    )
