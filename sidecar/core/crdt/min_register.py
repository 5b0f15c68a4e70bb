"""``min_register``: the least of the values written concurrently.

A write supersedes every value that it saw, also with a value that is not the least: an application can correct a
value. So this is a multi-value register (Shapiro et al. 2011, section 3.2.2) that shows its least value, and not the
semilattice of ``min``, from which nothing could ever be taken back. State and laws:
:mod:`sidecar.core.crdt.siblings`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sidecar.core.crdt.siblings import Siblings, Write, apply, assign, genesis, latest_first, merge

__all__ = ["Siblings", "Write", "apply", "assign", "genesis", "latest_first", "merge", "value"]


def value(state: Siblings, order: Callable[[str], Any]) -> str | None:
    """What the column shows. ``order`` maps text images to what the column's type compares (texts: by their bytes).
    NULL loses against any value; of equal ones the highest ``(hlc, node)`` is shown."""
    values = [write.value for write in latest_first(state) if write.value is not None]
    return min(values, key=order, default=None)  # the first of equal ones
