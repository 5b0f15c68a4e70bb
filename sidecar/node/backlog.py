"""How many change sets of the journal a peer has not acknowledged: counted in memory, asked at every scrape."""

from __future__ import annotations

from bisect import bisect_left, bisect_right

ENTRIES_MAX = 8192
"""Positions kept. Above it every second one goes, so a peer that is away for days costs a few hundred kB, and its count
is then exact to the distance of two positions around the point where it stands."""


class Backlog:
    """Positions of this node's journal: ``hlc`` of a change set's end, and its number. Numbers count up by one."""

    def __init__(self, entries_max: int = ENTRIES_MAX) -> None:
        self._entries_max = entries_max
        self._hlcs: list[int] = []
        self._numbers: list[int] = []
        self._newest = 0
        self._first_hlc: int | None = None

    @property
    def newest(self) -> int:
        """The number of the last change set."""
        return self._newest

    def start(self, number: int, hlc: int) -> None:
        """The journal ends with this change set, as read from the database; may be called again after an outage."""
        self._newest = max(self._newest, number)
        self._append(hlc)
        if self._first_hlc is None:
            self._first_hlc = hlc

    def is_old(self, hlc: int) -> bool:
        """Whether the place of ``hlc`` is not known from counting: it lies before the first start."""
        return self._first_hlc is None or hlc < self._first_hlc

    def published(self, hlc: int) -> None:
        """One more change set, which ends at ``hlc``."""
        self._newest += 1
        self._append(hlc)

    def anchor(self, hlc: int, number: int) -> None:
        """A peer stands at ``hlc``, the end of change set ``number``, as found in the journal. Ignored when younger
        than the first start, because that is counted here."""
        if not self.is_old(hlc):
            return
        place = bisect_left(self._hlcs, hlc)
        if place == len(self._hlcs) or self._hlcs[place] != hlc:
            most = self._numbers[place] if place < len(self._numbers) else self._newest
            self._hlcs.insert(place, hlc)
            self._numbers.insert(place, min(number, most))

    def behind(self, acknowledged: int) -> int | None:
        """Change sets after hlc ``acknowledged``; ``None`` while nobody knows where that is."""
        place = bisect_right(self._hlcs, acknowledged) - 1
        return None if place < 0 else self._newest - self._numbers[place]

    def _append(self, hlc: int) -> None:
        if self._hlcs and hlc <= self._hlcs[-1]:
            self._numbers[-1] = self._newest
            return
        self._hlcs.append(hlc)
        self._numbers.append(self._newest)
        if len(self._hlcs) > self._entries_max:
            # The newest stays, so that a peer which has everything is behind by nothing; the oldest too.
            newest = (self._hlcs[-1], self._numbers[-1])
            self._hlcs[:], self._numbers[:] = self._hlcs[:-1:2], self._numbers[:-1:2]
            self._hlcs.append(newest[0])
            self._numbers.append(newest[1])
