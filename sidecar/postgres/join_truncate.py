"""A TRUNCATE that came between two tries of a join.

The first try has copied genesis rows, which have no row state. The TRUNCATE has left no state of them either, so the
second try would take them for rows that this node alone has, and bring them back everywhere.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping

import asyncpg

from sidecar.core.catalog import TableSpec
from sidecar.core.changes import ChangeSetHeader
from sidecar.core.merge.truncate import genesis_delete
from sidecar.errors import DirtyRowsError, TransientError
from sidecar.postgres.merge import Merger
from sidecar.postgres.merge_batch import MergeSet

TRIES_MAX = 1000
"""Tries to have the table locked and captured; each one waits for capture first."""

CAPTURE_WAIT_S = 10.0
"""Longest wait for capture in one go."""


async def truncate_again(merger: Merger, tables: Mapping[str, TableSpec], spec: TableSpec, node: int, hlc: int) -> None:
    """Do here what the TRUNCATE of a node at ``hlc`` does where it is streamed, but for the clock."""
    header = ChangeSetHeader(origin=node, from_hlc=hlc - 1, to_hlc=hlc, context={})
    merge_set = MergeSet(header, lambda: iter([genesis_delete(spec, hlc)]), tables)
    for _ in range(TRIES_MAX):
        await merger.wait_for_capture(CAPTURE_WAIT_S)
        with contextlib.suppress(DirtyRowsError, asyncpg.LockNotAvailableError):
            await merger.rewrite(merge_set, [])
            return
    raise TransientError(f"{spec.qualified} is written too often to be truncated", mend="start the join again")
