"""What a state has seen: per node the highest hlc of the operations that were ever merged into it.

Unlike the version vectors of nodes (:mod:`sidecar.core.versions`), which have all seen genesis, a state that nobody
ever wrote has seen nothing: genesis, ``{0: 0}``, is an entry like any other.
"""

from __future__ import annotations

from collections.abc import Mapping

Context = Mapping[int, int]


def has_seen(context: Context, node: int, hlc: int) -> bool:
    """Whether the operation with this dot was merged."""
    return context.get(node, -1) >= hlc


def join(a: Context, b: Context) -> Context:
    """The per-node maximum."""
    return {node: max(a.get(node, -1), b.get(node, -1)) for node in {**a, **b}}
