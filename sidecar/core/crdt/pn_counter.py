"""``pn_counter``: the sum of all deltas, restarted by a re-insert (Shapiro et al. 2011, section 3.1.3, "PN-Counter").

State: per node the sums ``(increased, decreased)`` of its deltas, both only growing; the sums that deletes of the row
had *seen*; and the *base*, the seen sums that an insert has put behind it. The value is what the sums hold above the
base, so a re-inserted row shows its inserted value, and increments that the delete had not seen are still counted.

Laws: all three maps are merged by per-node maximum, so ``merge`` is commutative, associative and idempotent;
``increment``, ``delete`` and ``insert`` only move up. A node changes only its own sums, and they arrive in order, so
the sums of a node that a delete has seen are a prefix of its deltas, and the maximum of two prefixes is their union.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from decimal import Context, Decimal, Inexact

Sums = Mapping[int, tuple[Decimal, Decimal]]

# numeric holds 131072 digits before the point and 16383 after it (PostgreSQL manual, 8.1.2); a sum is never rounded.
_EXACT = Context(prec=131_072 + 16_383 + 32, Emax=999_999, Emin=-999_999, traps=[Inexact])
_ZERO = Decimal(0)

_INTEGER_BITS = {"smallint": 16, "integer": 32, "bigint": 64}
_NUMERIC = re.compile(r"numeric\((\d+)(?:,\s*(-?\d+))?\)")


@dataclass(frozen=True, slots=True)
class PnCounter:
    """Maps from node id to ``(increased, decreased)``, never changed in place."""

    sums: Sums = field(default_factory=dict)
    seen: Sums = field(default_factory=dict)
    base: Sums = field(default_factory=dict)


def genesis(number: Decimal | None) -> PnCounter:
    """The state of a value that was there before the table was attached: node 0 added it. NULL counts as 0."""
    return increment(PnCounter(), number or _ZERO, node=0)


def increment(state: PnCounter, delta: Decimal, *, node: int) -> PnCounter:
    """The state after a local change of the value by ``delta``."""
    increased, decreased = state.sums.get(node, (_ZERO, _ZERO))
    if delta > 0:
        increased = _EXACT.add(increased, delta)
    else:
        decreased = _EXACT.subtract(decreased, delta)
    return replace(state, sums={**state.sums, node: (increased, decreased)})


def delete(state: PnCounter) -> PnCounter:
    """The state after a local delete of the row: it has seen all sums that are here."""
    return replace(state, seen=_join(state.seen, state.sums))


def insert(state: PnCounter, number: Decimal | None, *, node: int) -> PnCounter:
    """The state after a local insert of the row with this value: what deletes here had seen no longer counts."""
    return increment(replace(state, base=_join(state.base, state.seen)), number or _ZERO, node=node)


def merge(a: PnCounter, b: PnCounter) -> PnCounter:
    """The per-node maximum of all sums."""
    return PnCounter(_join(a.sums, b.sums), _join(a.seen, b.seen), _join(a.base, b.base))


def value(state: PnCounter) -> Decimal:
    """The true sum; :func:`clamp` gives what the column can show."""
    total = _ZERO
    for node in {**state.sums, **state.base}:
        increased, decreased = state.sums.get(node, (_ZERO, _ZERO))
        base_increased, base_decreased = state.base.get(node, (_ZERO, _ZERO))
        total = _EXACT.add(total, _EXACT.subtract(increased, base_increased))
        total = _EXACT.subtract(total, _EXACT.subtract(decreased, base_decreased))
    return total


def clamp(number: Decimal, type_name: str) -> Decimal:
    """The number, saturated at the limits of the type: smallint, integer, bigint, ``numeric(p,s)``; else unchanged."""
    low, high = _limits(type_name)
    if high is not None and number > high:
        return high
    if low is not None and number < low:
        return low
    return number


def _limits(type_name: str) -> tuple[Decimal, Decimal] | tuple[None, None]:
    bits = _INTEGER_BITS.get(type_name)
    if bits is not None:
        return Decimal(-(2 ** (bits - 1))), Decimal(2 ** (bits - 1) - 1)
    modifier = _NUMERIC.fullmatch(type_name)
    if modifier is None:
        return None, None
    nines = Decimal((0, (9,) * int(modifier[1]), -int(modifier[2] or 0)))
    return nines.copy_negate(), nines


def _join(a: Sums, b: Sums) -> Sums:
    joined = dict(a)
    for node, (increased, decreased) in b.items():
        mine = joined.get(node)
        joined[node] = (increased, decreased) if mine is None else (max(mine[0], increased), max(mine[1], decreased))
    return joined
