"""Which nodes of a lab cluster are linked: pairs of indices, the lower one first."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations

Edges = list[tuple[int, int]]


def mesh(size: int) -> Edges:
    """Everybody with everybody."""
    return list(combinations(range(size), 2))


def chain(size: int) -> Edges:
    """One after the other."""
    return [(i, i + 1) for i in range(size - 1)]


def ring(size: int) -> Edges:
    """A chain whose ends are linked."""
    return sorted({*chain(size), (0, size - 1)}) if size > 2 else chain(size)


def star(size: int) -> Edges:
    """The first with every other one."""
    return [(0, i) for i in range(1, size)]


def tree(size: int) -> Edges:
    """A binary tree: every node with the one of half its number."""
    return [((i - 1) // 2, i) for i in range(1, size)]


TOPOLOGIES: dict[str, Callable[[int], Edges]] = {
    "mesh": mesh,
    "ring": ring,
    "star": star,
    "chain": chain,
    "tree": tree,
}
