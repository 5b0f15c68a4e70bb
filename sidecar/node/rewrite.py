"""Rewriting local rows whose merged value differs from what the application wrote (invariant 10): an undone decrease,
a saturated sum, a re-insert that had not seen all increments. Same clean-row rule, same statement: a merge of nothing.
"""

from __future__ import annotations

import asyncio

from sidecar.core.arrays import text_array
from sidecar.core.catalog import TableSpec
from sidecar.core.changes import MASK_BITS, TOUCH, ChangeSetHeader, TableChanges
from sidecar.errors import Action, DirtyRowsError, action_for
from sidecar.node.state import NodeState
from sidecar.postgres.merge import Merger
from sidecar.postgres.merge_batch import MergeSet
from sidecar.postgres.rewrites import Rewrite, RewriteQueue
from sidecar.postgres.row_errors import is_row_error

REWRITES_PER_TRANSACTION = 500
"""Queued rows taken at a time; they are few, and their locks should be held shortly."""

CAPTURE_WAIT_S = 0.25
"""How long merging stands for capture to come by: long beside what capture takes, unless it is behind."""

CAPTURE_BEHIND_S = 1.0
"""When capture is looked at again after that, and changes are merged meanwhile."""

RETRY_PAUSE_S = 0.01
"""Pause after a failed batch: local transactions that hold the rows mostly end within it."""


def touch(spec: TableSpec, keys: list[list[str]]) -> TableChanges:
    """Rows by key, with nothing to change: the merge brings them to their merged value. Columns that are shown from
    their state are named, so that the statement mentions them, and not assigned."""
    rows = len(keys)
    shown = [c.name for c in (*spec.siblings, *spec.elements)]
    return TableChanges(
        schema=spec.schema,
        name=spec.name,
        key_columns=[c.name for c in spec.key],
        columns=shown,
        rows=rows,
        ops=text_array([TOUCH] * rows),
        hlcs=b"",
        inserted=b"",
        masks=[b""] * max(1, -(-len(shown) // MASK_BITS)),
        keys=[text_array([key[i].encode() for key in keys]) for i in range(len(spec.key))],
        values=[b""] * len(shown),
        late=[b""] * len(shown),
        seen=[b""] * len(shown),
    )


class Rewriter:
    """Works off the queue in the merge loop, a batch at a time."""

    def __init__(self, state: NodeState, merger: Merger) -> None:
        self._state = state
        self._merger = merger
        self._log_end: int | None = None
        self._not_before = 0.0

    @property
    def due(self) -> bool:
        """Whether there may be something to do now."""
        return self._state.rewrites_due.is_set() and asyncio.get_running_loop().time() >= self._not_before

    async def batch(self) -> None:
        """Take one batch from the queue and merge it, once capture has passed the end that the log had when that was
        tried first. A row that cannot show its merged value (a CHECK, a trigger) is put into quarantine with its
        reason; what fails otherwise is tried with the next turn."""
        state, merger = self._state, self._merger
        state.rewrites_due.clear()
        queued = await RewriteQueue(merger.session).read(REWRITES_PER_TRANSACTION)
        if not queued:
            return
        state.rewrites_due.set()
        if self._log_end is None:
            self._log_end = await merger.log_end()
        if not await merger.wait_for_capture(CAPTURE_WAIT_S, self._log_end):
            self._not_before = asyncio.get_running_loop().time() + CAPTURE_BEHIND_S
            return
        self._log_end = None
        try:
            await _rewrite(state, merger, queued)
        except Exception as error:
            if is_row_error(error):
                for entry in queued:
                    await _rewrite_alone(state, merger, entry)
            elif not _again(state, error):
                raise
            await asyncio.sleep(RETRY_PAUSE_S)


async def _rewrite(state: NodeState, merger: Merger, queued: list[Rewrite]) -> None:
    by_table: dict[int, dict[tuple[str, ...], None]] = {}
    shown = [entry for entry in queued if entry.deleted_hlc is None]
    for entry in shown:
        by_table.setdefault(entry.table_id, {})[tuple(entry.key)] = None
    touched = [
        touch(spec, [list(key) for key in keys])
        for table_id, keys in by_table.items()
        if (spec := state.tables_by_id.get(table_id)) is not None
    ]
    if shown:
        header = ChangeSetHeader(origin=state.node_id, from_hlc=0, to_hlc=0, context={})
        await merger.rewrite(MergeSet(header, lambda: iter(touched), state.tables), [entry.id for entry in shown])
    queue = RewriteQueue(merger.session)
    for entry in queued:
        spec = state.tables_by_id.get(entry.table_id)
        if entry.deleted_hlc is not None and spec is not None:
            await queue.delete_again(spec, entry, state.node_id)
        elif entry.deleted_hlc is not None:
            await queue.forget([entry.id])


async def _rewrite_alone(state: NodeState, merger: Merger, entry: Rewrite) -> None:
    try:
        await _rewrite(state, merger, [entry])
    except Exception as error:
        if is_row_error(error):
            await RewriteQueue(merger.session).give_up(entry, state.node_id, error)
            state.counters.quarantined_rows += 1
        elif not _again(state, error):
            raise


def _again(state: NodeState, error: Exception) -> bool:
    """Whether the next turn may succeed; counts the cause."""
    if isinstance(error, DirtyRowsError):
        state.counters.retry("dirty_rows")
    elif action_for(error) is Action.RETRY_NOW:
        state.counters.retry("lock_timeout")
    else:
        return False
    return True
