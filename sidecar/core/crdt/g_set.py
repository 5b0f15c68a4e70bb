"""``g_set``: the union of everything that was ever added (Shapiro et al. 2011, section 3.3.1, "Grow-Only Set").

A removal is undone: a write only says what it added. Only a delete and a re-insert of the row start anew: the column
then holds the inserted elements, and those that the insert had not seen. State and laws:
:mod:`sidecar.core.crdt.dots`; as long as no insert follows a delete, the value never loses an element.
"""

from __future__ import annotations

from collections.abc import Collection

from sidecar.core.crdt.dots import DotSet, SetChange, apply, genesis, merge, then, value
from sidecar.core.crdt.dots import assignment as insert

__all__ = ["DotSet", "SetChange", "apply", "genesis", "insert", "merge", "then", "undone", "update", "value"]


def update(old: Collection[str] | None, new: Collection[str] | None, *, hlc: int, node: int) -> SetChange:
    """What an UPDATE of the column from ``old`` to ``new`` says (``None`` is NULL)."""
    added = set(new or ()) - set(old or ())
    return SetChange(node, hlc, add=dict.fromkeys(added, hlc), null=new is None)


def undone(old: Collection[str] | None, new: Collection[str] | None) -> frozenset[str]:
    """The elements that such an UPDATE tried to remove."""
    return frozenset(old or ()) - frozenset(new or ())
