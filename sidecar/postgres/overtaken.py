"""Notes merges that may have overtaken local changes, and finds these when they are captured
(:mod:`sidecar.core.merge.overtaken`)."""

from __future__ import annotations

import itertools
from collections.abc import Collection

import asyncpg

from sidecar.core.catalog import TableSpec
from sidecar.core.changes import LocalChanges
from sidecar.core.local_slices import rows_between
from sidecar.core.merge.overtaken import overtaken_statement
from sidecar.core.merge.staging import Argument, Statement, bind
from sidecar.core.pgoutput import parse_lsn
from sidecar.postgres.session import Session
from sidecar.postgres.statements import load


class Overtaking:
    """What the merge and capture of one node share: up to which position of the log a table's local changes may be ones
    that a merge overtook. Mostly that is none, or a position that capture has passed."""

    def __init__(self) -> None:
        self._sql = load("overtaken")
        self._until: dict[int, int] = {}
        self._statements: dict[TableSpec, Statement] = {}

    async def restore(self, connection: asyncpg.Connection) -> None:
        """What was noted before this process ran."""
        for table_ids, lsn in await connection.fetch(self._sql["read_overtaking"]):
            self._raise(table_ids, parse_lsn(lsn))

    def _raise(self, table_ids: Collection[int], lsn: int) -> None:
        for table_id in table_ids:
            self._until[table_id] = max(lsn, self._until.get(table_id, 0))

    def expects(self, spec: TableSpec) -> bool:
        """Whether changes of a table that come to capture now may have been overtaken."""
        return spec.table_id in self._until

    def passed(self, lsn: int) -> None:
        """Everything committed before ``lsn`` is captured."""
        if self._until:
            self._until = {table_id: until for table_id, until in self._until.items() if until > lsn}

    async def note(self, connection: asyncpg.Connection, table_ids: Collection[int], xids: Collection[str]) -> None:
        """At the end of a merge's transaction, which put rows into these tables; ``xids``: those of its
        subtransactions. Call it with the writer lock held, so that capture does not come between it and the commit."""
        if table_ids:
            lsn = await connection.fetchval(self._sql["note_overtaking"], list(xids), list(table_ids))
            self._raise(table_ids, parse_lsn(lsn))

    async def without(
        self, session: Session, spec: TableSpec, local: LocalChanges, node_id: int
    ) -> tuple[list[LocalChanges], list[int]]:
        """The changes without those that were overtaken, and the ids of deletes that were queued to be done again."""
        if not self.expects(spec):
            return [local], []
        statement = self._statements.get(spec)
        if statement is None:
            self._statements = {k: v for k, v in self._statements.items() if k.table_id != spec.table_id}
            statement = self._statements[spec] = overtaken_statement(spec)
        others: dict[str, Argument] = {"node": node_id, "xids": local.xids.decode() or None}
        (row,) = await session.fetch(statement, bind(statement, spec, local.changes, others))
        return _left(local, row["overtaken"]), row["queued"]


def _left(local: LocalChanges, taken: list[int]) -> list[LocalChanges]:
    """The runs of rows between some (positions from 1, in order)."""
    if not taken:
        return [local]
    ends = [0, *taken, local.changes.rows + 1]
    runs = [(first + 1, last - 1) for first, last in itertools.pairwise(ends)]
    left = [rows_between(local, first, last) for first, last in runs if first <= last]
    for changes in left:
        changes.refused = local.refused
    return left
