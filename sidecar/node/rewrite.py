"""Rewriting local rows whose merged value differs from what the application wrote (invariant 10): an undone decrease,
a saturated sum, a re-insert that had not seen all increments. Same clean-row rule, same statement: a merge of nothing.
"""

from __future__ import annotations

import asyncio

from sidecar.core.arrays import text_array
from sidecar.core.catalog import TableSpec
from sidecar.core.changes import TOUCH, ChangeSetHeader, TableChanges
from sidecar.errors import Action, DirtyRowsError, action_for
from sidecar.node.state import NodeState
from sidecar.postgres.merge import Merger, MergeSet

REWRITES_PER_TRANSACTION = 500
"""Queued rows taken at a time; they are few, and their locks should be held shortly."""

CAPTURE_WAIT_S = 5.0


def touch(spec: TableSpec, keys: list[list[str]]) -> TableChanges:
    """Rows by key, with nothing to change: the merge brings them to their merged value."""
    rows = len(keys)
    return TableChanges(
        schema=spec.schema,
        name=spec.name,
        key_columns=[c.name for c in spec.key],
        columns=[],
        rows=rows,
        ops=text_array([TOUCH] * rows),
        hlcs=b"",
        inserted=b"",
        masks=[b""],
        keys=[text_array([key[i].encode() for key in keys]) for i in range(len(spec.key))],
        values=[],
        late=[],
        seen=[],
    )


async def rewrite_rows(state: NodeState, merger: Merger) -> None:
    """Take one batch from the queue and merge it; what fails is tried with the next turn."""
    queued = await merger.read_rewrites(REWRITES_PER_TRANSACTION)
    if not queued:
        return
    by_table: dict[int, dict[tuple[str, ...], None]] = {}
    for _, table_id, key in queued:
        by_table.setdefault(table_id, {})[tuple(key)] = None
    touched = [
        touch(spec, [list(key) for key in keys])
        for table_id, keys in by_table.items()
        if (spec := state.tables_by_id.get(table_id)) is not None
    ]
    header = ChangeSetHeader(origin=state.node_id, from_hlc=0, to_hlc=0, context={})
    merge_set = MergeSet(header, lambda: iter(touched), state.tables)
    ids = [row[0] for row in queued]
    try:
        await merger.wait_for_capture(CAPTURE_WAIT_S)
        await merger.rewrite(merge_set, ids)
    except DirtyRowsError:
        state.counters.retry("dirty_rows")
    except Exception as error:
        if action_for(error) is not Action.RETRY_NOW:
            raise
        state.counters.retry("lock_timeout")
        await asyncio.sleep(0.01)
    state.rewrites_due.set()
