"""``merge(fn)``: what the application's function makes of the values written concurrently.

The values are kept as in a multi-value register (Shapiro et al. 2011, section 3.2.2), and only the shown value is
computed, by folding the function over them from the highest ``(hlc, node)`` down. All nodes hold the same values in
the same order, so they show the same, whether or not the function is commutative, associative or idempotent; it only
must be a function. State and laws: :mod:`sidecar.core.crdt.siblings`.

A function that fails or has no answer must not stop replication: the column then shows the latest write, as a
``lww_register`` would, and the reason is recorded.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from sidecar.core.crdt.siblings import Siblings, Write, apply, assign, genesis, latest_first, merge

__all__ = [
    "MergeFunction",
    "Shown",
    "Siblings",
    "Write",
    "apply",
    "assign",
    "genesis",
    "latest_first",
    "merge",
    "value",
]

MergeFunction = Callable[[str | None, str | None], str | None]
"""``fn(winner, other)`` over text images. The first ``winner`` is the latest write, the next ones are its answers."""


class Shown(NamedTuple):
    """What the column shows, and why it is not the function's answer (``None``: it is, or there was one value)."""

    value: str | None
    failure: str | None = None


def value(state: Siblings, function: MergeFunction | None) -> Shown:
    """The folded value; ``function=None`` is one that does not exist."""
    writes = latest_first(state)
    if len(writes) < 2:
        return Shown(writes[0].value if writes else None)
    latest = writes[0].value
    if function is None:
        return Shown(latest, "the function does not exist")
    merged = latest
    for other in writes[1:]:
        try:
            merged = function(merged, other.value)
        except Exception as error:  # noqa: BLE001 - whatever the application's code raises
            return Shown(latest, f"the function failed: {error}")
        if merged is None:
            return Shown(latest, "the function returned NULL")
    return Shown(merged)
