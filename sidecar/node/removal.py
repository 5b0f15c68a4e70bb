"""``sidecar remove``: a node that is gone for good is taken off the list of members, by any of the others."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from sidecar.core.hlc import show, to_ms
from sidecar.core.membership import told
from sidecar.core.wire.messages import Departure
from sidecar.node.links import NodeLinks
from sidecar.node.state import NodeState
from sidecar.peers.mesh import PeerMesh
from sidecar.postgres.journal_reader import JournalReader
from sidecar.postgres.membership import MembershipStore, Request

SILENT_MS = 5_000
"""A node that was heard of within this time, by this node or one of its peers, may be alive: its heartbeats come four
times a second, and links that are lost come back within this time."""

ALIVE_S = 20.0
"""For how long it is looked whether a node that was just killed is silent: a link whose other end vanished without a
word stands for link_silent_ms."""

LOOK_S = 0.25
"""Between two looks at the same."""

ALIVE_MEND = "run sidecar leave on it, or stop its sidecar for good; --force removes it all the same"

ANSWER_S = 3.0
"""How long a linked peer may take to say what it has; one whose database is away does not."""

STORE_S = 10.0
"""How long the fact may take to be durable."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a request ended; ``text`` is one line."""

    done: bool
    text: str
    mend: str = ""


class Removal:
    """Removes one node after another, as requested."""

    def __init__(self, state: NodeState, links: NodeLinks, mesh: PeerMesh, reader: JournalReader) -> None:
        self._state = state
        self._links = links
        self._mesh = mesh
        self._reader = reader

    async def remove(self, request: Request, store: MembershipStore) -> Outcome:
        """Do it, or say why not."""
        loop = asyncio.get_running_loop()
        ends_s = loop.time() + request.left_s
        node = request.node
        if (known := self._links.members.departed.get(node)) is not None:
            return Outcome(True, told(known))
        name = self._links.name_of(node) or f"node-{node}"
        if not request.forced:
            await store.progress(request, f"looking whether {name} is alive")
            if (alive := await self._until_silent(node, name, min(ends_s, loop.time() + ALIVE_S))) is not None:
                return Outcome(False, f"{alive}: it is not removed", ALIVE_MEND)
        await store.progress(request, f"comparing what the others have of {name}")
        most, holder, lacking, silent = await self._compare(request, store, name, ends_s)
        if lacking and not request.forced:
            return Outcome(False, *lacking)
        departure = Departure(
            node=node,
            name=name,
            kind="removed",
            at_ms=max(0, self._state.now_ms()),
            by=self._state.settings.node.name,
            holder=holder,
            change_hlc=most,
            hlc=max([most, self._state.clock.get(node, 0)]),
        )
        members = self._links.members
        members.add(departure)
        if not await until(lambda: node in members.departed, loop.time() + STORE_S):
            return Outcome(False, f"the removal of {name} could not be written down", "try again")
        return Outcome(True, self._told(told(members.departed[node]), silent))

    def _told(self, line: str, silent: list[str]) -> str:
        linked = sorted(self._links.linked())
        away = sorted({peer.name for peer in self._state.settings.peers} - set(linked))
        away = [name for name in away if self._links.gone(name) is None]
        line += f"; told {', '.join(linked)}" if linked else ""
        line += f"; {', '.join(away)} will be told when linked" if away else ""
        return line + (f"; {', '.join(silent)} did not say what they have of it" if silent else "")

    async def _until_silent(self, node: int, name: str, ends_s: float) -> str | None:
        """``None`` when nobody hears of the node any more, else why it seems alive."""
        await until(lambda: self._alive(node, name) is None, ends_s)
        return self._alive(node, name)

    def _alive(self, node: int, name: str) -> str | None:
        if name in self._links.linked():
            return f"{name} is linked with this node"
        seen = [peer.last_seen_ms or 0 for peer in self._mesh.states.values() if peer.peer_id == node]
        ways = {self._state.settings.node.name: max([to_ms(self._state.clock.get(node, 0)), *seen])}
        for peer_id, peer in self._links.names.items():
            ways[peer] = to_ms(self._links.clock_of(peer_id).get(node, 0))
        by, newest_ms = max(ways.items(), key=lambda way: way[1])
        ago_ms = self._state.now_ms() - newest_ms
        return f"{by} heard of {name} {max(0, ago_ms) / 1000:.1f} s ago" if ago_ms < SILENT_MS else None

    async def _compare(
        self, request: Request, store: MembershipStore, name: str, ends_s: float
    ) -> tuple[int, int, tuple[str, str] | None, list[str]]:
        """The end of the node's last change set that anybody has, who has it, who has less (a line and its mend) after
        all the time there is, and who did not answer."""
        loop = asyncio.get_running_loop()
        while True:
            ends, silent = await self._ask(request.node)
            most = max(ends.values())
            holder = min(node for node, hlc in ends.items() if hlc == most)
            behind = sorted((node for node, hlc in ends.items() if hlc < most), key=ends.__getitem__)
            if not behind or request.forced or loop.time() >= ends_s:
                break
            names = ", ".join(self._links.name_of(node) or f"node {node}" for node in behind)
            await store.progress(request, f"waiting until {names} has all that {name} has written")
            await asyncio.sleep(LOOK_S)
        lacking = self._lacking(name, {node: ends[node] for node in behind}, holder, most) if behind else None
        return most, holder, lacking, silent

    def _lacking(self, name: str, behind: dict[int, int], holder: int, most: int) -> tuple[str, str]:
        called = {node: self._links.name_of(node) or f"node {node}" for node in (*behind, holder)}
        has = ", ".join(f"{called[node]} up to {show(hlc)}" for node, hlc in behind.items())
        line = f"the others have not the same of {name}: {called[holder]} has its changes up to {show(most)}, {has}"
        stop = ", ".join(called[node] for node in behind)
        return line, (
            f"set relay = true in [node] of all and restart them, or stop the sidecar of {stop} and run"
            f" sidecar join --from {called[holder]} there; then remove {name} again"
        )

    async def _ask(self, node: int) -> tuple[dict[int, int], list[str]]:
        """Per member the end of the node's last change set that it has, this node included; and who did not answer."""
        number = await self._reader.log_end()
        self._links.ask_barrier(number)
        latest = self._links.barriers.latest
        asked = [peer for peer, name in self._links.names.items() if name in self._links.linked() and peer != node]

        def answered(peer: int) -> bool:
            return peer in latest and latest[peer].number >= number

        await until(lambda: all(answered(peer) for peer in asked), asyncio.get_running_loop().time() + ANSWER_S)
        ends = {peer: latest[peer].clock.get(node, 0) for peer in asked if answered(peer)}
        ends[self._state.node_id] = self._state.ends().get(node, 0)
        return ends, [self._links.names.get(peer, f"node {peer}") for peer in asked if not answered(peer)]


async def until(condition: Callable[[], bool], ends_s: float, look_s: float = LOOK_S) -> bool:
    """Look every ``look_s`` until it holds, or the time is over (event loop seconds); whether it holds."""
    loop = asyncio.get_running_loop()
    while not condition():
        if loop.time() >= ends_s:
            return False
        await asyncio.sleep(look_s)
    return True
