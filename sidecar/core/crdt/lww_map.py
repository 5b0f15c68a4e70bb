"""``lww_map``: per key the latest of its assignments and removals; the LWW-element-set (Shapiro et al. 2011, section
3.3.3) of keys, each with the value of its last-writer-wins register (section 3.2.1).

A write sets the keys whose value is new or different in it, and removes those that are gone; other keys are not
touched. JSON ``null`` is a value. State and laws: :mod:`sidecar.core.crdt.stamps`.
"""

from __future__ import annotations

from sidecar.core.crdt.stamps import StampChange, Stamps, apply, genesis, merge, then
from sidecar.core.crdt.stamps import assignment as insert
from sidecar.core.crdt.stamps import difference as update

__all__ = ["StampChange", "Stamps", "apply", "genesis", "insert", "merge", "then", "update", "value"]


def value(state: Stamps) -> dict[str, str] | None:
    """Keys with the text images of their values; ``None`` is NULL."""
    present = state.present
    if not present and state.null:
        return None
    return {key: entry.value for key, entry in present.items() if entry.value is not None}
