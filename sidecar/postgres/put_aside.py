"""Local changes that capture cannot take: isolated row by row, kept in the quarantine, and passed over.

Everything happens in the transaction that captures what is beside them, so a change is put aside once, and the stream
goes on behind it. Halving finds a bad row among n in some 2 log2(n) statements; at worst, with every row bad, in 2n.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Protocol

import msgspec

from sidecar.core.catalog import ColumnSpec, TableSpec
from sidecar.core.changes import DELETE, TOUCH, ChangeSetHeader, LocalChanges
from sidecar.core.local_slices import key_of, rows_between, without_values
from sidecar.core.merge.disown import disown_statement
from sidecar.core.merge.quarantine import quarantine_statement
from sidecar.core.merge.staging import Argument, Shape, bind
from sidecar.errors import ApplyError
from sidecar.postgres.row_errors import is_row_error, reason_of
from sidecar.postgres.session import Session
from sidecar.postgres.statements import load

Beat = Callable[[], None]
"""Called for every try: many bad rows take long, and each is a sign of life."""


KEY_CHARS_MAX = 200
"""Of a key in the reason, which is one line of the status."""


@dataclass(frozen=True, slots=True)
class PutAside:
    """A local change of a row that is not replicated, and why."""

    table: str
    reason: str


class CaptureRows(Protocol):
    """Captures rows of one table; ``last``: only those up to a position. Returns the ids of queued rewrites."""

    def __call__(self, spec: TableSpec, local: LocalChanges, *, last: int | None = None) -> Awaitable[list[int]]: ...


class Isolation:
    """Captures the changes of one change set with its bad rows put aside. ``forget()`` is called when a savepoint was
    rolled back, and with it the locks that were taken since."""

    def __init__(
        self,
        session: Session,
        header: ChangeSetHeader,
        capture: CaptureRows,
        arguments: Callable[[TableSpec, LocalChanges], dict[str, Argument]],
        *,
        forget: Callable[[], None],
        beat: Beat,
    ) -> None:
        self._session = session
        self._header = header
        self._capture = capture
        self._arguments = arguments
        self._forget = forget
        self._beat = beat
        self.put_aside: list[PutAside] = []
        self.rewrites: list[int] = []

    async def captured(self, spec: TableSpec, local: LocalChanges) -> list[LocalChanges]:
        """What of the changes could be captured, in the given order."""
        if local.refused:
            error = ApplyError(local.refused, sqlstate="0A000")  # feature_not_supported
            return [piece for one in _rows(local) for piece in await self._alone(spec, one, error, whole=False)]
        failed = await self._tried(spec, local)
        if failed is None:
            return [local]
        # What fails without any row is no row's fault; then nothing may be put aside.
        async with self._savepoint():
            await self._capture(spec, local, last=0)
        return await self._halves(spec, local, failed)

    async def _halves(self, spec: TableSpec, local: LocalChanges, error: Exception) -> list[LocalChanges]:
        rows = local.changes.rows
        if rows == 1:
            return await self._alone(spec, local, error)
        out: list[LocalChanges] = []
        for first, last in ((1, rows // 2), (rows // 2 + 1, rows)):
            half = rows_between(local, first, last)
            failed = await self._tried(spec, half)
            out += [half] if failed is None else await self._halves(spec, half, failed)
        return out

    async def _tried(self, spec: TableSpec, local: LocalChanges) -> Exception | None:
        """Capture, or the error that is about some row; others are raised."""
        self._beat()
        try:
            async with self._savepoint():
                queued = await self._capture(spec, local)
        except Exception as error:
            if not is_row_error(error):
                raise
            return error
        self.rewrites += queued
        return None

    @asynccontextmanager
    async def _savepoint(self) -> AsyncIterator[None]:
        connection = self._session.connection
        await connection.execute("SAVEPOINT isolate")
        try:
            yield
        except Exception as error:
            if is_row_error(error):
                await connection.execute("ROLLBACK TO SAVEPOINT isolate; RELEASE SAVEPOINT isolate")
                self._forget()
            raise
        await connection.execute("RELEASE SAVEPOINT isolate")

    async def _alone(
        self, spec: TableSpec, local: LocalChanges, error: Exception, *, whole: bool = True
    ) -> list[LocalChanges]:
        """A row that cannot be captured. A delete needs no values: it is sent without them. ``whole``: the change is
        kept, and not only the row's key."""
        what, out = "its change was not replicated", []
        if DELETE in local.changes.ops:
            bare = without_values(local, {c.name for c in spec.counters})
            if await self._tried(spec, bare) is None:
                what, out = "it was deleted on all nodes, its last values were not replicated", [bare]
        if not out:
            await self._disown(spec, local)
        if TOUCH not in local.changes.ops:
            reason = f"row {_key_text(local)[:KEY_CHARS_MAX]}: {what}: {reason_of(error)}"
            sqlstate = str(getattr(error, "sqlstate", None) or "")
            if not (whole and await self._kept(spec, local, sqlstate, reason)):
                where = (self._header.origin, self._header.to_hlc, spec.qualified)
                await self._session.connection.execute(
                    load("journal")["quarantine_local"], *where, reason, _key_text(local), sqlstate
                )
            self.put_aside.append(PutAside(spec.qualified, reason))
        return out

    async def _disown(self, spec: TableSpec, local: LocalChanges) -> None:
        """As much of the row's state as can be had, see :mod:`sidecar.core.merge.disown`."""
        carried = set(local.changes.columns)
        sums = tuple(c for c in spec.counters if c.name in carried)
        elements = tuple(c for c in spec.elements if c.name in carried)
        for columns in ((*sums, *elements), sums, elements, ()):
            if await self._disowned(spec, local, columns):
                return

    async def _disowned(self, spec: TableSpec, local: LocalChanges, columns: tuple[ColumnSpec, ...]) -> bool:
        shape = Shape(columns, max(1, len(local.changes.masks)), full=False)
        statement = disown_statement(spec, shape)
        try:
            async with self._savepoint():
                arguments = bind(statement, spec, local.changes, self._arguments(spec, local))
                await self._session.fetch(statement, arguments)
        except Exception as error:
            if not is_row_error(error):
                raise
            return False
        return True

    async def _kept(self, spec: TableSpec, local: LocalChanges, sqlstate: str, reason: str) -> bool:
        """Into the quarantine with the whole change; False where that is too large for it."""
        changes, header = local.changes, self._header
        statement = quarantine_statement(spec, changes)
        others: dict[str, Argument] = {
            "position": 1,
            "origin": header.origin,
            "from_hlc": header.from_hlc,
            "to_hlc": header.to_hlc,
            "sqlstate": sqlstate,
            "reason": reason,
        }
        try:
            async with self._savepoint():
                await self._session.fetch(statement, bind(statement, spec, changes, others))
        except Exception as error:
            if not is_row_error(error):
                raise
            return False
        return True


def _rows(local: LocalChanges) -> list[LocalChanges]:
    return [rows_between(local, i, i) for i in range(1, local.changes.rows + 1)]


def _key_text(local: LocalChanges) -> str:
    return msgspec.json.encode(key_of(local.changes)).decode()
