"""``row=lww``: a row is alive iff its latest write is later than its latest delete.

An LWW-element-set of one element (Shapiro et al. 2011, section 3.3.3, "LWW-element-Set") whose add stamp grows with
every insert and update. State: the stamps ``(hlc, node)`` of the latest write and of the latest delete. Laws: ``merge``
is the pairwise maximum, hence commutative, associative and idempotent; ``write`` and ``delete`` move up.

A delete and a re-insert of the key in one transaction share a dot; they are one ``write``, and no ``delete``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

Stamp = tuple[int, int]
NEVER: Stamp = (-1, 0)


@dataclass(frozen=True, slots=True)
class RowLiveness:
    """Stamps ``(hlc, node)``; :data:`NEVER` where there was none. The default is a row nobody ever wrote."""

    live: Stamp = NEVER
    dead: Stamp = NEVER


GENESIS = RowLiveness(live=(0, 0))
"""A row that was there before its table was attached."""


def write(state: RowLiveness, *, hlc: int, node: int) -> RowLiveness:
    """The state after a local insert or update."""
    assert (hlc, node) > max(state.live, state.dead), "a local write is later than what its node has seen"
    return replace(state, live=(hlc, node))


def delete(state: RowLiveness, *, hlc: int, node: int) -> RowLiveness:
    """The state after a local delete."""
    assert (hlc, node) > max(state.live, state.dead), "a local delete is later than what its node has seen"
    return replace(state, dead=(hlc, node))


def merge(a: RowLiveness, b: RowLiveness) -> RowLiveness:
    """The latest write and the latest delete of both."""
    return RowLiveness(max(a.live, b.live), max(a.dead, b.dead))


def value(state: RowLiveness) -> bool:
    """Whether the row is in the table."""
    return state.live > state.dead
