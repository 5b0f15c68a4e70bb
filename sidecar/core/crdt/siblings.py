"""The writes to a register that no other write has seen: the state of ``mv_register``, ``max_register``,
``min_register`` and ``merge(fn)``, which differ only in what the column shows.

State: the causally maximal writes, each with its dot, and the context: what was ever merged (Shapiro et al. 2011,
section 3.2.2, "MV-Register", with the dotted version vectors of Almeida et al. 2014 in the place of a vector per
value). A write that one side lacks was superseded there if that side's context covers its dot, and is new there
otherwise.

Laws: ``merge`` keeps the common writes and those that the other side has never seen, and joins the contexts; it is
commutative, associative and idempotent over the states of one history. ``apply`` takes changes in causal order, each
once; whatever that order is, the state is the same, and the same as by ``merge``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from sidecar.core.crdt import contexts
from sidecar.core.crdt.contexts import Context
from sidecar.core.versions import GENESIS, Dot, covers


class Write(NamedTuple):
    """One assignment: its dot and a text image (``None`` is SQL NULL)."""

    hlc: int
    node: int
    value: str | None


@dataclass(frozen=True, slots=True)
class Siblings:
    """The default was never written."""

    writes: frozenset[Write] = frozenset()
    context: Context = field(default_factory=dict)


def genesis(value: str | None) -> Siblings:
    """The state of a value that was there before the table was attached."""
    return Siblings(frozenset({Write(0, GENESIS, value)}), {GENESIS: 0})


def assign(state: Siblings, value: str | None, *, hlc: int, node: int) -> Siblings:
    """The state after a local write: it supersedes every value that is here."""
    return Siblings(frozenset({Write(hlc, node, value)}), {**state.context, node: hlc})


def apply(state: Siblings, write: Write, context: Mapping[int, int]) -> Siblings:
    """The state after a write of another node, which had seen ``context`` and its own earlier writes."""
    unseen = {w for w in state.writes if w.node != write.node and not covers(context, Dot(w.node, w.hlc))}
    return Siblings(frozenset(unseen | {write}), {**state.context, write.node: write.hlc})


def merge(a: Siblings, b: Siblings) -> Siblings:
    """What both have, and what only one has and the other has never seen."""
    only_a = {w for w in a.writes - b.writes if not contexts.has_seen(b.context, w.node, w.hlc)}
    only_b = {w for w in b.writes - a.writes if not contexts.has_seen(a.context, w.node, w.hlc)}
    return Siblings(a.writes & b.writes | only_a | only_b, contexts.join(a.context, b.context))


def latest_first(state: Siblings) -> list[Write]:
    """The writes by descending ``(hlc, node)``."""
    return sorted(state.writes, key=lambda write: (write.hlc, write.node), reverse=True)
