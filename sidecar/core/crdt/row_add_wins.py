"""``row=add_wins``: a row stays or comes back by any write that a delete had not seen.

An add-wins set of one element (Shapiro et al. 2011, section 3.3.5, "Observed-Remove Set"; Baquero et al. 2017).
State: the dots of the writes that no later write or delete has seen, at most one per node, and the context: what was
ever merged. The row is alive iff a dot is left.

Laws: ``merge`` keeps the common dots and those that the other side has never seen, and joins the contexts; it is
commutative, associative and idempotent over the states of one history. ``write`` and ``delete`` are for local
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
class RowAddWins:
    """``lives``: node to hlc. The default is a row nobody ever wrote."""

    lives: Mapping[int, int] = field(default_factory=dict)
    context: Context = field(default_factory=dict)


GENESIS = RowAddWins({GENESIS_NODE: 0}, {GENESIS_NODE: 0})
"""A row that was there before its table was attached."""


def write(state: RowAddWins, *, hlc: int, node: int, context: Mapping[int, int]) -> RowAddWins:
    """The state after an insert or update whose node had seen ``context`` and its own earlier operations."""
    return RowAddWins({**_unseen(state, node, context), node: hlc}, {**state.context, node: hlc})


def delete(state: RowAddWins, *, hlc: int, node: int, context: Mapping[int, int]) -> RowAddWins:
    """The state after a delete whose node had seen ``context`` and its own earlier operations."""
    return RowAddWins(_unseen(state, node, context), {**state.context, node: hlc})


def merge(a: RowAddWins, b: RowAddWins) -> RowAddWins:
    """The dots that both have, and those that only one has and the other has never seen."""
    lives = {node: hlc for node, hlc in a.lives.items() if b.lives.get(node) == hlc}
    lives |= {node: hlc for node, hlc in a.lives.items() if not contexts.has_seen(b.context, node, hlc)}
    lives |= {node: hlc for node, hlc in b.lives.items() if not contexts.has_seen(a.context, node, hlc)}
    return RowAddWins(lives, contexts.join(a.context, b.context))


def value(state: RowAddWins) -> bool:
    """Whether the row is in the table."""
    return bool(state.lives)


def _unseen(state: RowAddWins, by: int, context: Mapping[int, int]) -> dict[int, int]:
    return {n: hlc for n, hlc in state.lives.items() if n != by and not covers(context, Dot(n, hlc))}
