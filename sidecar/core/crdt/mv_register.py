"""``mv_register``: all values that no later write has replaced (Shapiro et al. 2011, section 3.2.2, "MV-Register").

A local write supersedes every value its node shows or keeps, so the next write resolves. Not a set: of two concurrent
writes of equal values both are kept, and a value that was superseded does not come back (section 3.2.2 says why a set
union would be wrong). State and laws: :mod:`sidecar.core.crdt.siblings`.
"""

from __future__ import annotations

from sidecar.core.crdt.siblings import Siblings, Write, apply, assign, genesis, latest_first, merge

__all__ = ["Siblings", "Write", "apply", "assign", "genesis", "latest_first", "merge", "value"]


def value(state: Siblings) -> str | None:
    """What the column shows: of the values the one with the highest ``(hlc, node)``."""
    return latest_first(state)[0].value if state.writes else None
