"""Dots and version vectors (Mattern 1989; Almeida et al. 2014, "dotted version vectors")."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

NODE_ID_MAX = 1023
GENESIS = 0

VersionVector = dict[int, int]


class Dot(NamedTuple):
    """One committed local transaction of one node. Compare with :func:`later`, not with tuple order."""

    node: int
    hlc: int


def later(a: Dot, b: Dot) -> bool:
    """Whether ``a`` wins over a concurrent ``b``: the higher hlc; tie: the higher node id."""
    return (a.hlc, a.node) > (b.hlc, b.node)


def covers(context: Mapping[int, int], dot: Dot) -> bool:
    """Whether the context has seen the dot. Genesis is seen by everybody."""
    return dot.node == GENESIS or context.get(dot.node, 0) >= dot.hlc


def dominates(a: Mapping[int, int], b: Mapping[int, int]) -> bool:
    """Whether ``a`` covers everything that ``b`` covers."""
    return all(a.get(node, 0) >= hlc for node, hlc in b.items())


def join(a: Mapping[int, int], b: Mapping[int, int]) -> VersionVector:
    """The least upper bound."""
    out = dict(a)
    for node, hlc in b.items():
        if hlc > out.get(node, 0):
            out[node] = hlc
    return out


def difference(new: Mapping[int, int], base: Mapping[int, int]) -> VersionVector:
    """The entries of ``new`` that are above ``base``; ``join(base, difference(new, base)) == join(base, new)``."""
    return {node: hlc for node, hlc in new.items() if hlc > base.get(node, 0)}
