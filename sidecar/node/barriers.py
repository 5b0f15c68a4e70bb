"""What the links have heard of barriers and nobody has taken yet: at most one entry per peer each way."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from sidecar.core.wire.messages import BarrierAnswer
from sidecar.peers.link import Link


@dataclass(slots=True)
class BarrierMail:
    """``requests`` by peer id, the newest of each link; ``answers`` by peer id, likewise,
    and ``latest`` the newest of each peer, also after it was taken. The events say that there are
    any, until they are taken."""

    requests: dict[int, tuple[Link, int]] = field(default_factory=dict)
    answers: dict[int, BarrierAnswer] = field(default_factory=dict)
    latest: dict[int, BarrierAnswer] = field(default_factory=dict)
    requested: asyncio.Event = field(default_factory=asyncio.Event)
    answered: asyncio.Event = field(default_factory=asyncio.Event)

    def request(self, link: Link, number: int) -> None:
        """A peer asks."""
        self.requests[link.peer_id] = (link, number)
        self.requested.set()

    def answer(self, peer_id: int, answer: BarrierAnswer) -> None:
        """A peer answers; an answer to an earlier request says nothing new."""
        known = self.answers.get(peer_id)
        if known is None or known.number <= answer.number:
            self.answers[peer_id] = self.latest[peer_id] = answer
            self.answered.set()

    def take_requests(self) -> list[tuple[Link, int]]:
        """All of them, once."""
        taken = list(self.requests.values())
        self.requests.clear()
        self.requested.clear()
        return taken

    def take_answers(self) -> dict[int, BarrierAnswer]:
        """All of them, once."""
        taken = dict(self.answers)
        self.answers.clear()
        self.answered.clear()
        return taken
