"""``aw_set``: an element stays when any concurrent write kept it.

As ``or_set`` (Shapiro et al. 2011, section 3.3.5), but every write adds all elements of its value anew, as ``add``
does in the add-wins set of Baquero et al. 2017 ("Pure Operation-Based Replicated Data Types"), also for an element
that is already there. So a removal wins only over writes that it saw. State and laws: :mod:`sidecar.core.crdt.dots`.
"""

from __future__ import annotations

from collections.abc import Collection

from sidecar.core.crdt.dots import DotSet, SetChange, apply, assignment, genesis, merge, then, value
from sidecar.core.crdt.dots import assignment as insert

__all__ = ["DotSet", "SetChange", "apply", "genesis", "insert", "merge", "then", "update", "value"]


def update(_old: Collection[str] | None, new: Collection[str] | None, *, hlc: int, node: int) -> SetChange:
    """What an UPDATE of the column to ``new`` says, whatever was there (``None`` is NULL)."""
    return assignment(new, hlc=hlc, node=node)
