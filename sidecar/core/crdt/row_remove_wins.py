"""``row=remove_wins``: a row is there iff every delete was followed by an insert that had seen it.

A remove-wins set of one element (Baquero et al. 2017, "Pure Operation-Based Replicated Data Types"). State: the dots
of the deletes that no later insert or delete has seen, at most one per node; whether the row was ever inserted; and
the context: what was ever merged. Updates change nothing: one that a delete had not seen does not keep the row.

Laws: ``merge`` keeps the common dots and those that the other side has never seen, and joins the rest; it is
commutative, associative and idempotent over the states of one history. ``insert`` and ``delete`` are for local
operations (the context is then the state's own) and for those of other nodes, in causal order, each once; whatever
that order is, the state is the same, and the same as by ``merge``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from sidecar.core.crdt import contexts
from sidecar.core.crdt.contexts import Context
from sidecar.core.versions import GENESIS as GENESIS_NODE
from sidecar.core.versions import Dot, covers


@dataclass(frozen=True, slots=True)
class RowRemoveWins:
    """``deads``: node to hlc. The default is a row nobody ever wrote."""

    deads: Mapping[int, int] = field(default_factory=dict)
    inserted: bool = False
    context: Context = field(default_factory=dict)


GENESIS = RowRemoveWins({}, True, {GENESIS_NODE: 0})
"""A row that was there before its table was attached."""


def insert(state: RowRemoveWins, *, hlc: int, node: int, context: Mapping[int, int]) -> RowRemoveWins:
    """The state after an insert whose node had seen ``context`` and its own earlier operations."""
    return RowRemoveWins(_unseen(state, node, context), True, {**state.context, node: hlc})


def delete(state: RowRemoveWins, *, hlc: int, node: int, context: Mapping[int, int]) -> RowRemoveWins:
    """The state after a delete whose node had seen ``context`` and its own earlier operations."""
    deads = {**_unseen(state, node, context), node: hlc}
    return RowRemoveWins(deads, state.inserted, {**state.context, node: hlc})


def merge(a: RowRemoveWins, b: RowRemoveWins) -> RowRemoveWins:
    """The dots that both have, and those that only one has and the other has never seen."""
    deads = {node: hlc for node, hlc in a.deads.items() if b.deads.get(node) == hlc}
    deads |= {node: hlc for node, hlc in a.deads.items() if not contexts.has_seen(b.context, node, hlc)}
    deads |= {node: hlc for node, hlc in b.deads.items() if not contexts.has_seen(a.context, node, hlc)}
    return RowRemoveWins(deads, a.inserted or b.inserted, contexts.join(a.context, b.context))


def value(state: RowRemoveWins) -> bool:
    """Whether the row is in the table."""
    return state.inserted and not state.deads


def _unseen(state: RowRemoveWins, by: int, context: Mapping[int, int]) -> dict[int, int]:
    return {n: hlc for n, hlc in state.deads.items() if n != by and not covers(context, Dot(n, hlc))}
