"""Departures: written down, told on, and held to what they promise, that all survivors end with the same.

A departure names the end of the last change set of the departed node that anybody has, and who has it. Each node raises
it to what it has itself. A node with less says so, because nobody else will: with relay the rest comes from the
journals of the others, else ``sidecar join --from`` the one that has it.
"""

from __future__ import annotations

import asyncio
import contextlib

from sidecar.core.hlc import show
from sidecar.core.membership import told, witnessed
from sidecar.core.wire.messages import Departure
from sidecar.node.inbox import Inbox
from sidecar.node.links import NodeLinks
from sidecar.node.state import NodeState
from sidecar.peers.mesh import PeerMesh
from sidecar.postgres.membership import MembershipStore

LOOK_S = 0.5
"""How often this node compares what it has with what the departed had. What is heard is taken up at once."""

LACKING_TOLD_S = 10.0
"""What is lacking of a departed node is told of after so long: with relay it is mostly on its way."""


class Membership:
    """One per process; :meth:`run` is one of the database loops."""

    def __init__(self, state: NodeState, inbox: Inbox, links: NodeLinks, mesh: PeerMesh) -> None:
        self._state = state
        self._inbox = inbox
        self._links = links
        self._mesh = mesh
        self._lacking_since: dict[int, float] = {}

    async def load(self, store: MembershipStore) -> frozenset[int]:
        """Take up what is written down, before anybody is linked; the nodes of which nobody else may know."""
        known, unsaid = await store.departed()
        members = self._links.members
        members.own = known.pop(self._state.node_id, None)
        for departure in known.values():
            members.departed[departure.node] = departure
            self._dismiss(departure)
        return unsaid

    async def run(self, store: MembershipStore) -> None:
        """Until an error."""
        arrived = self._links.members.arrived
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_S):
                    await arrived.wait()
            arrived.clear()
            self._witness()
            await self._take_up(store)
            self._close_clocks()
            self._judge()

    async def _take_up(self, store: MembershipStore) -> None:
        members = self._links.members
        news = members.take_news()
        if not news:
            return
        try:
            await store.store(news)
        except BaseException:
            for departure in news:
                members.add(departure)  # the next start of the loops writes it down
            raise
        fresh = [departure for departure in news if departure.node not in members.departed]
        members.departed.update((departure.node, departure) for departure in news)
        self._links.tell_members()  # before the links of those end who wait for this answer
        for departure in fresh:
            self._state.log.warning("member_departed", reason=told(departure))
            self._dismiss(departure)

    def _dismiss(self, departure: Departure) -> None:
        self._links.dismiss(departure)
        if self._links.gone(departure.name) is departure:
            self._mesh.dismiss(departure.name, told(departure))

    def _witness(self) -> None:
        """What this node has merged of departed nodes beyond what the others know."""
        state, members = self._state, self._links.members
        for node, departure in members.departed.items():
            ends, clock = state.context.get(node, 0), state.clock.get(node, 0)
            if ends > departure.change_hlc or clock > departure.hlc:
                members.add(witnessed(departure, state.node_id, max(ends, departure.change_hlc), clock))

    def _close_clocks(self) -> None:
        """The clocks of all survivors end equal: nothing was committed behind the last change set."""
        for node, departure in self._links.members.departed.items():
            if departure.change_hlc <= self._state.clock.get(node, 0) < departure.hlc:
                self._inbox.close_interval(node, departure.change_hlc, departure.hlc)

    def _judge(self) -> None:
        """Say what is lacking here of departed nodes."""
        now = asyncio.get_running_loop().time()
        for node, departure in self._links.members.departed.items():
            here = self._state.clock.get(node, 0)
            if here >= departure.change_hlc:
                self._lacking_since.pop(node, None)
                self._state.problem(f"departed {node}", None)
            elif now - self._lacking_since.setdefault(node, now) >= LACKING_TOLD_S:
                self._state.problem(f"departed {node}", self._lacking_line(departure, here))

    def _lacking_line(self, departure: Departure, here: int) -> str:
        holder = self._links.name_of(departure.holder) or f"node {departure.holder}"
        return (
            f"changes of {told(departure)} are here up to {show(here)}, {holder} has them up to"
            f" {show(departure.change_hlc)}; turn relay on, or stop this sidecar and run sidecar join --from {holder}"
        )
