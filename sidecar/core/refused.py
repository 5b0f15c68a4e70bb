"""A row change that capture will not take, in the form in which it takes others: so that its row is treated like one
whose change turns out to be bad."""

from __future__ import annotations

from sidecar.core.changes import TOUCH, UPDATE, LocalChanges
from sidecar.core.coalesce import Coalescer
from sidecar.core.pgoutput import UNCHANGED, TupleData
from sidecar.core.relation_plan import RelationPlan


def refused(
    plan: RelationPlan, xid: int, hlc: int, old: TupleData | None, new: TupleData | None, reason: str
) -> list[LocalChanges]:
    """One change, an insert without ``old``, a delete without ``new``; of several rows where an update changes the
    key."""
    alone = Coalescer()
    alone.begin(xid, hlc)
    if new is None:
        alone.delete(plan, old)
    elif old is None:
        alone.insert(plan, new)
    else:
        alone.update(plan, old, new)
    changes = alone.take()
    for local in changes:
        local.refused = reason
        local.changes.ops = local.changes.ops.replace(TOUCH, UPDATE)  # it changed something, or were not refused
    return changes


def without_old_row(
    plan: RelationPlan, xid: int, hlc: int, key: TupleData | None, new: TupleData | None, reason: str
) -> list[LocalChanges]:
    """The same of an update or delete (no ``new``) that came without the old row, at most with the old key (the columns
    of the replica identity, the others NULL): what is known of it. Empty where not even the row is known.

    Registers have their new value; how much a counter, a set or a map was changed cannot be told.
    """
    if key is not None and any(key[position] is None for position in plan.key_positions):
        key = None  # the replica identity was another index
    if new is None:
        return [] if key is None else refused(plan, xid, hlc, key, None, reason)
    new = [None if value is UNCHANGED else value for value in new]
    if key is not None:
        for position in plan.key_positions:
            new[position] = key[position] if new[position] is None else new[position]
        if plan.key_of(key) != plan.key_of(new):
            gone = refused(plan, xid, hlc, key, None, reason)
            return gone + refused(plan, xid, hlc, None, new, reason)
    old = list(new)
    for column, position in zip(plan.spec.columns, plan.positions, strict=True):
        if not column.is_counter and not column.is_element:
            old[position] = b"" if new[position] is None else None
    return refused(plan, xid, hlc, old, new, reason)
