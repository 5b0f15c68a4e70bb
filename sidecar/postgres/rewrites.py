"""The queue of local rows that are to be rewritten, or deleted once more, by the merge loop."""

from __future__ import annotations

from dataclasses import dataclass

from sidecar.core.catalog import TableSpec
from sidecar.core.merge.overtaken import delete_again_statement
from sidecar.core.merge.staging import Argument
from sidecar.postgres.row_errors import reason_of
from sidecar.postgres.session import Session
from sidecar.postgres.statements import load


@dataclass(frozen=True, slots=True)
class Rewrite:
    """A queued row, given by the texts of its key. ``deleted_hlc``: it is deleted if a delete of then still wins, see
    :mod:`sidecar.core.merge.overtaken`; without, it is brought to its merged value."""

    id: int
    table_id: int
    key: list[str]
    deleted_hlc: int | None


class RewriteQueue:
    """The queue as the session of the merge sees it."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._sql = load("journal")

    async def read(self, limit: int) -> list[Rewrite]:
        """The oldest entries."""
        rows = await self._session.connection.fetch(self._sql["read_rewrites"], limit)
        return [Rewrite(*row) for row in rows]

    async def forget(self, ids: list[int]) -> None:
        """Take entries out of the queue."""
        async with self._session.own_transaction():
            await self._session.connection.execute(self._sql["forget_rewrites"], ids)

    async def delete_again(self, spec: TableSpec, entry: Rewrite, node_id: int) -> None:
        """Delete a row as the application would, if that is still due, and take it out of the queue: the delete is
        captured, and goes to the other nodes."""
        statement = delete_again_statement(spec)
        keys = {f"key:{c.attnum}": text for c, text in zip(spec.key, entry.key, strict=True)}
        arguments: dict[str, Argument] = {
            **keys,
            "hlc": entry.deleted_hlc,
            "node": node_id,
            "id": entry.id,
        }
        async with self._session.local_transaction():
            await self._session.fetch(statement, [arguments[name] for name in statement.names])

    async def give_up(self, entry: Rewrite, node_id: int, error: Exception) -> None:
        """Move an entry that cannot apply into the quarantine."""
        state = str(getattr(error, "sqlstate", None) or "")
        async with self._session.own_transaction():
            await self._session.connection.execute(
                self._sql["give_up_rewrite"], entry.id, node_id, state, reason_of(error)
            )
