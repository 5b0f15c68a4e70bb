"""Who is no longer a member, in memory: what is durable here, and what was heard and is not yet."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from sidecar.core.membership import news
from sidecar.core.wire.messages import Departure


class MemberList:
    """``departed``: durable here, by id; never this node, whose own departure is ``own``. ``confirmed``: peers that
    have said that this node has left. ``arrived`` says that something was heard."""

    def __init__(self, node_id: int) -> None:
        self._node_id = node_id
        self.departed: dict[int, Departure] = {}
        self.own: Departure | None = None
        self.confirmed: set[int] = set()
        self.arrived = asyncio.Event()
        self._heard: dict[int, Departure] = {}

    def hear(self, peer_id: int, departed: Iterable[Departure]) -> None:
        """A peer has these departures durably."""
        for departure in departed:
            if departure.node == self._node_id:
                self.confirmed.add(peer_id)
                self.arrived.set()
            else:
                self.add(departure)

    def add(self, departure: Departure) -> None:
        """To be written down, unless it says nothing new."""
        fresh = news({**self.departed, **self._heard}, departure)
        if fresh is not None:
            self._heard[departure.node] = fresh
            self.arrived.set()

    def take_news(self) -> list[Departure]:
        """What was heard and is not written down, once."""
        taken = list(self._heard.values())
        self._heard.clear()
        return taken

    def by_name(self, name: str) -> Departure | None:
        """The latest departure of a node of this name."""
        found = [departure for departure in self.departed.values() if departure.name == name]
        return max(found, key=lambda departure: departure.at_ms, default=None)
