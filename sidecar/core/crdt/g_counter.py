"""``g_counter``: the sum of all increases, restarted by a re-insert (Shapiro et al. 2011, section 3.1.2, "G-Counter").

State: per node the sum of its increases, the sums that deletes of the row had *seen*, and the *base*, the seen sums
that an insert has put behind it. A decrease changes nothing: it is undone. The value is what the sums hold above the
base.

Laws: all three maps are merged by per-node maximum (a node that is missing is below any number), so ``merge`` is
commutative, associative and idempotent; ``increment``, ``delete`` and ``insert`` only move up. As long as no delete is
followed by an insert, the value itself never falls.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from decimal import Context, Decimal, Inexact

Sums = Mapping[int, Decimal]

# numeric holds 131072 digits before the point and 16383 after it (PostgreSQL manual, 8.1.2); a sum is never rounded.
_EXACT = Context(prec=131_072 + 16_383 + 32, Emax=999_999, Emin=-999_999, traps=[Inexact])
_ZERO = Decimal(0)


@dataclass(frozen=True, slots=True)
class GCounter:
    """Maps from node id to the sum of increases, never changed in place."""

    sums: Sums = field(default_factory=dict)
    seen: Sums = field(default_factory=dict)
    base: Sums = field(default_factory=dict)


def genesis(number: Decimal | None) -> GCounter:
    """The state of a value that was there before the table was attached, also a negative one. NULL counts as 0."""
    return GCounter(sums={0: number or _ZERO})


def increment(state: GCounter, delta: Decimal, *, node: int) -> GCounter:
    """The state after a local change of the value by ``delta``; a decrease is undone."""
    grown = _EXACT.add(state.sums.get(node, _ZERO), max(delta, _ZERO))
    return replace(state, sums={**state.sums, node: grown})


def delete(state: GCounter) -> GCounter:
    """The state after a local delete of the row: it has seen all sums that are here."""
    return replace(state, seen=_join(state.seen, state.sums))


def insert(state: GCounter, number: Decimal | None, *, node: int) -> GCounter:
    """The state after a local insert of the row with this value: what deletes here had seen no longer counts."""
    return increment(replace(state, base=_join(state.base, state.seen)), number or _ZERO, node=node)


def merge(a: GCounter, b: GCounter) -> GCounter:
    """The per-node maximum of all sums."""
    return GCounter(_join(a.sums, b.sums), _join(a.seen, b.seen), _join(a.base, b.base))


def value(state: GCounter) -> Decimal:
    """The true sum; what the column can show may be less."""
    total = _ZERO
    for node in {**state.sums, **state.base}:
        total = _EXACT.add(total, _EXACT.subtract(state.sums.get(node, _ZERO), state.base.get(node, _ZERO)))
    return total


def _join(a: Sums, b: Sums) -> Sums:
    joined = dict(a)
    for node, increased in b.items():
        joined[node] = max(joined.get(node, increased), increased)
    return joined
