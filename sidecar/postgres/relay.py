"""What a node with relay keeps in its journal: other nodes' change sets, in one sequence with its own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from sidecar.core.changes import ChangeSetPart
from sidecar.postgres.journal import JournalWriter, journal_row
from sidecar.postgres.journal_reader import JournalReader
from sidecar.postgres.session import Session
from sidecar.postgres.statements import load


@dataclass(frozen=True, slots=True)
class Relayed:
    """A received change set as it goes into the journal: ``parts`` may be read again for another try."""

    size_bytes: int
    parts: Callable[[], Iterator[ChangeSetPart]]


class RelayWriter:
    """Appends merged change sets to the journal, in the merge's transaction and under numbers of the journal's writer.

    The caller holds the writer lock from :meth:`numbers` until its commit, so numbers rise in the order of commits.
    """

    def __init__(self, writer: JournalWriter) -> None:
        self._writer = writer
        self._sql = load("relay")

    async def make_room(self, sets: int) -> None:
        """Make the partitions for some change sets while nothing is locked: it waits for readers of the journal."""
        await self._writer.make_partitions(sets)

    @asynccontextmanager
    async def numbers(self, sets: Iterable[Relayed]) -> AsyncIterator[list[int]]:
        """A number for each; an error inside gives them back. To be entered before anything is written to the journal,
        because a partition may have to be made."""
        before = self._writer.seq
        try:
            yield [await self._writer.take_number(relayed.size_bytes) for relayed in sets]
        except BaseException:
            self._writer.seq = before
            raise

    async def append(self, session: Session, numbers: Sequence[int], sets: Sequence[Relayed]) -> None:
        """Write the parts, one at a time in memory."""

        def rows() -> Iterator[tuple[Any, ...]]:
            for seq, relayed in zip(numbers, sets, strict=True):
                for part in relayed.parts():
                    yield (*journal_row(seq, part), part.header.origin)

        await session.connection.executemany(self._sql["insert_part"], rows())


class RelayStore:
    """The rest, read and written on the reader's session."""

    def __init__(self, reader: JournalReader) -> None:
        self._reader = reader
        self._sql = load("relay")

    async def begin(self) -> None:
        """From now on the journal holds what is merged; only on a change anything is written."""
        await self._reader.execute(self._sql["begin"])

    async def stop(self) -> None:
        """From now on it does not."""
        await self._reader.execute(self._sql["stop"])

    async def floors(self) -> dict[int, int]:
        """Origin -> hlc up to which the journal lacks its change sets."""
        return {row["origin"]: row["hlc"] for row in await self._reader.fetch(self._sql["read_floors"])}

    async def first_lacking(self, clock: Mapping[int, int]) -> int | None:
        """The number of the first change set of the named origins that ``clock`` does not cover."""
        rows = await self._reader.fetch(self._sql["first_lacking"], list(clock), list(clock.values()))
        found: int | None = rows[0][0]
        return found

    async def store_peer_clocks(self, clocks: Mapping[int, Mapping[int, int]]) -> None:
        """Peer -> origin -> hlc that is durably merged there."""
        rows = [(peer, origin, hlc) for peer, clock in clocks.items() for origin, hlc in clock.items()]
        columns = [list(column) for column in zip(*rows, strict=True)]
        if columns:
            await self._reader.execute(self._sql["store_peer_clocks"], *columns)

    async def peer_clocks(self) -> dict[int, dict[int, int]]:
        """The same."""
        out: dict[int, dict[int, int]] = {}
        for row in await self._reader.fetch(self._sql["read_peer_clocks"]):
            out.setdefault(row["peer"], {})[row["origin"]] = row["hlc"]
        return out

    async def store_members(self, names: Mapping[int, str]) -> None:
        """Nodes without a link to this one, by id."""
        await self._reader.execute(self._sql["store_members"], list(names), list(names.values()))

    async def members(self) -> dict[int, str]:
        """The same."""
        return {row["id"]: row["name"] for row in await self._reader.fetch(self._sql["read_members"])}
