"""Departures in the database, and what ``sidecar leave`` and ``sidecar remove`` ask of the running sidecar."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sidecar.core.membership import told
from sidecar.core.wire.messages import Departure
from sidecar.errors import ConfigurationError
from sidecar.postgres.join_source import JoinSource
from sidecar.postgres.journal_reader import JournalReader
from sidecar.postgres.statements import load

LEAVING = "leaving"
"""What this node's own departure is called until another node has it durably."""


@dataclass(frozen=True, slots=True)
class Request:
    """A command waits for it, for so many seconds more. ``kind``: ``leave`` or ``remove``; ``node``: whom."""

    id: int
    kind: str
    node: int
    forced: bool
    left_s: float


def _departure(row: tuple[Any, ...]) -> Departure:
    """A row of ``read_departed``."""
    node, name, kind, at_ms, by, holder, change_hlc, hlc = row
    return Departure(
        node=node,
        name=name,
        kind="removed" if kind == "removed" else "left",
        at_ms=at_ms,
        by=by,
        holder=holder,
        change_hlc=change_hlc,
        hlc=hlc,
    )


class MembershipStore:
    """On the reader's session."""

    def __init__(self, reader: JournalReader) -> None:
        self._reader = reader
        self._sql = load("membership")

    async def departed(self) -> tuple[dict[int, Departure], frozenset[int]]:
        """All departures by id, and of which nodes no other node may know yet: this one, while it leaves."""
        rows = await self._reader.fetch(self._sql["read_departed"])
        unsaid = frozenset(row["id"] for row in rows if row["departed"] == LEAVING)
        return {row["id"]: _departure(tuple(row)) for row in rows}, unsaid

    async def copy(self, source: JoinSource, own_id: int) -> None:
        """Write down what another node knows; :class:`ConfigurationError` when this node's id is that of a departed
        one. What that node does not know yet comes with the links."""
        found = [_departure(row) for row in await source.fetch(self._sql["read_departed"]) if row[2] != LEAVING]
        former = next((departure for departure in found if departure.node == own_id), None)
        if former is not None:
            raise ConfigurationError(told(former), mend="its id is not used again: give this node another in [node]")
        await self.store(found)

    async def store(self, departures: Sequence[Departure], *, leaving: bool = False) -> None:
        """Write departures down, durably. ``leaving``: they may not be told of yet."""
        rows = [
            (d.node, d.name, LEAVING if leaving else d.kind, d.at_ms, d.by, d.holder, d.change_hlc, d.hlc)
            for d in departures
        ]
        if rows:
            columns = [list(column) for column in zip(*rows, strict=True)]
            await self._reader.execute(self._sql["store_departed"], *columns)

    async def request(self) -> Request | None:
        """What a command waits for."""
        rows = await self._reader.fetch(self._sql["read_request"])
        return Request(*rows[0]) if rows else None

    async def progress(self, request: Request, text: str, lacking: int | None = None) -> None:
        """What is being done for it; ``lacking``: change sets that somebody has still to acknowledge."""
        await self._reader.execute(self._sql["tell_progress"], request.id, text, lacking)

    async def outcome(self, request: Request, *, done: bool, text: str, mend: str = "") -> None:
        """How it ended."""
        word = "done" if done else "refused"
        await self._reader.execute(self._sql["tell_outcome"], request.id, word, text, mend)
