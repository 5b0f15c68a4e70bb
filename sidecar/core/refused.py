"""A row change that capture will not take, in the form in which it takes others: so that its row is treated like one
whose change turns out to be bad."""

from __future__ import annotations

from sidecar.core.changes import LocalChanges
from sidecar.core.coalesce import Coalescer
from sidecar.core.pgoutput import TupleData
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
    return changes
