"""Five nodes with relay in one event loop: real links, shippers, inboxes and gates over journals in memory, and random
commits, cuts, restarts and trimming. Every node merges each change set of each origin once, in order, without a gap."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from typing import Any

import msgspec
import pytest

from sidecar.core.changes import ChangeSetHeader, ChangeSetPart
from sidecar.core.wire.messages import Closed, Heartbeat, Relay
from sidecar.lab.topologies import TOPOLOGIES
from sidecar.node.gate import Gate
from sidecar.node.inbox import Inbox
from sidecar.node.links import NodeLinks
from sidecar.node.ship import Tail
from sidecar.node.state import NodeState
from sidecar.postgres.statements import load
from sidecar.settings import NodeSettings, Settings

SIZE = 5
RELAY = load("relay")
QUEUE_BYTES = 40  # a few change sets of some ten bytes: full queues are part of the game


class Journal:
    """What survives a restart: the parts by (seq, part), the clock, and up to where the journal was dropped."""

    def __init__(self, node_id: int) -> None:
        self.node_id = node_id
        self.parts: list[tuple[int, ChangeSetPart]] = []
        self.seq = 0
        self.clock: dict[int, int] = {}
        self.context: dict[int, int] = {}
        self.floors: dict[int, int] = {}
        self.own_ends: list[int] = []
        self.merged: dict[int, list[int]] = {}

    def append(self, parts: list[ChangeSetPart]) -> int:
        self.seq += 1
        self.parts += [(self.seq, part) for part in parts]
        return self.seq

    def _ends(self, origin: int) -> list[tuple[int, int]]:
        return [(s, p.header.to_hlc) for s, p in self.parts if p.header.last and p.header.origin == origin]

    async def position_of(self, acknowledged: int) -> tuple[int, int]:
        await asyncio.sleep(0)
        done = [seq for seq, end in self._ends(self.node_id) if end <= acknowledged]
        first = min((seq for seq, _ in self.parts), default=1) - 1
        return max(done, default=first), self.floors.get(self.node_id, 0)

    async def sets_after(self, seq: int) -> int:
        return 0

    async def parts_after(self, seq: int, part: int, limit: int) -> list[tuple[int, ChangeSetPart]]:
        await asyncio.sleep(0)
        found = [(s, p) for s, p in self.parts if (s, p.header.part) > (seq, part)][:limit]
        await asyncio.sleep(0)
        return found

    async def fetch(self, statement: str, *arguments: Any) -> list[Any]:
        await asyncio.sleep(0)
        if statement == RELAY["read_floors"]:
            return [{"origin": o, "hlc": h} for o, h in self.floors.items() if o != self.node_id]
        assert statement == RELAY["first_lacking"]
        clock = dict(zip(*arguments, strict=True))
        lacking = [seq for origin in clock for seq, end in self._ends(origin) if end > clock[origin]]
        return [(min(lacking, default=None),)]

    def trim(self, before_seq: int) -> None:
        for seq, part in self.parts:
            if seq < before_seq and part.header.last:
                self.floors[part.header.origin] = part.header.to_hlc
        self.parts = [(s, p) for s, p in self.parts if s >= before_seq]


class End:
    """One node's end of a link: what it says arrives at the other end in order, some turns later."""

    def __init__(self, owner: Node, peer: Node) -> None:
        self.owner, self.peer = owner, peer
        self.peer_id, self.peer_name = peer.id, peer.name
        self.other: End
        self.is_open = True
        self.pipe: deque[Any] = deque()
        self.state: Any = type("State", (), {"clock_offset_ms": None, "round_trip_ms": None})()
        self.pump: asyncio.Task[None] | None = None

    async def send_part(self, part: ChangeSetPart) -> None:
        while self.is_open and sum(isinstance(m, ChangeSetPart) for m in self.pipe) > 5:  # noqa: ASYNC110
            await asyncio.sleep(0)
        self.pipe.append(part)

    def send_ack(self, clock: dict[int, int]) -> None:
        self.pipe.append(dict(clock))

    def send_heartbeat(self, hlc: int, from_hlc: int) -> None:
        self.pipe.append(Heartbeat(hlc=hlc, from_hlc=from_hlc))

    def send_closed(self, intervals: dict[int, tuple[int, int]]) -> None:
        self.pipe.append(Closed(intervals))

    def ask_relay(self, names: dict[int, str], origins: Any) -> None:
        self.pipe.append(Relay(names=dict(names), origins=origins))

    def grant(self, size: int) -> None:
        assert size > 0

    def close(self, reason: str) -> None:
        raise AssertionError(f"{self.owner.name} closes the link to {self.peer_name}: {reason}")

    async def deliver(self, rng: random.Random) -> None:
        here: Any = self.other
        links = self.peer.links
        while True:
            while not self.pipe or rng.random() < 0.3:  # noqa: ASYNC110
                await asyncio.sleep(0)
            message = self.pipe[0]
            if isinstance(message, ChangeSetPart):
                await links.receive(here, message)
            elif isinstance(message, Closed):
                links.closed(here, message)
            elif isinstance(message, Relay):
                links.relay_asked(here, message)
            elif isinstance(message, Heartbeat):
                links.heartbeat(here, message)
            else:
                links.acknowledged(here, message)
            self.pipe.popleft()


class Node:
    """A node whose database is a :class:`Journal`."""

    def __init__(self, node_id: int, journal: Journal) -> None:
        self.id, self.name, self.journal = node_id, f"n{node_id}", journal
        settings = Settings(node=NodeSettings(name=self.name, id=node_id, dsn="postgresql://x/y", relay=True))
        self.state = NodeState(settings)
        self.state.clock.update(journal.clock)
        self.state.context.update(journal.context)
        self.state.journal_end = max(journal.own_ends, default=0)
        self.inbox = Inbox(queue_bytes_max=QUEUE_BYTES, spool_bytes_max=1 << 20)
        self.tail = Tail(60)
        self.tail.start(journal.seq)
        self.links = NodeLinks(self.state, self.inbox, self.tail, "boot")
        self.links.reader = journal  # type: ignore[assignment]
        self.links.backlog.start(0, 0)
        self.links.floors.update({o: h for o, h in journal.floors.items() if o != node_id})
        self.links.ready.set()
        self.gate = Gate(self.state, self.inbox)

    def commit(self, hlc: int, parts: int) -> None:
        header = ChangeSetHeader(
            origin=self.id, from_hlc=self.state.clock.get(self.id, 0), to_hlc=hlc, context=dict(self.state.context)
        )
        made = [
            ChangeSetPart(header=msgspec.structs.replace(header, part=n, last=n == parts - 1), body=b"x" * 10)
            for n in range(parts)
        ]
        seq = self.journal.append(made)
        self._durable(self.id, hlc)
        self.journal.own_ends.append(hlc)
        self.links.publish(seq, made[0] if parts == 1 else None)

    def _durable(self, origin: int, hlc: int) -> None:
        self.state.advance(origin, hlc)
        self.journal.clock[origin] = hlc

    def beat(self, hlc: int) -> None:
        self._durable(self.id, hlc)
        self.links.beat()

    def merge(self) -> None:
        self.gate.drop_duplicates()
        for received in self.gate.ready(100, 3):
            header = received.header
            assert self.state.clock.get(header.origin, 0) >= header.from_hlc, "a gap"
            assert self.state.clock.get(header.origin, 0) < header.to_hlc, "twice"
            seq = self.journal.append(list(received.parts()))
            self._durable(header.origin, header.to_hlc)
            self.state.context[header.origin] = self.journal.context[header.origin] = header.to_hlc
            self.journal.merged.setdefault(header.origin, []).append(header.to_hlc)
            self.links.publish_relayed(seq, None if received.is_large else next(received.parts()))
            self.inbox.done(header.origin)
        for origin, (from_hlc, hlc) in list(self.inbox.closed.items()):
            known = self.state.clock.get(origin, 0)
            if known >= hlc:
                del self.inbox.closed[origin]
            elif known >= from_hlc:
                self._durable(origin, hlc)
        self.links.acknowledge()
        assert not any(self.gate._has_gap(origin) for origin in {*self.inbox.heads(), *self.inbox.closed})


class Network:
    """Nodes, the links that stand, and what happens to them."""

    def __init__(self, edges: list[tuple[int, int]], rng: random.Random) -> None:
        self.rng = rng
        self.edges = edges
        self.nodes = [Node(i + 1, Journal(i + 1)) for i in range(SIZE)]
        self.standing: dict[tuple[int, int], tuple[End, End]] = {}
        self.hlc = 0

    def tick(self) -> int:
        self.hlc += self.rng.randrange(1, 4)
        return self.hlc

    async def link(self, edge: tuple[int, int]) -> None:
        if edge in self.standing:
            return
        a, b = (self.nodes[i] for i in edge)
        ends = End(a, b), End(b, a)
        ends[0].other, ends[1].other = ends[1], ends[0]
        self.standing[edge] = ends
        hellos = a.links.hello(), b.links.hello()
        await a.links.connected(ends[0], hellos[1])  # type: ignore[arg-type]
        await b.links.connected(ends[1], hellos[0])  # type: ignore[arg-type]
        for end in ends:
            end.pump = asyncio.create_task(end.deliver(self.rng))

    async def cut(self, edge: tuple[int, int]) -> None:
        ends = self.standing.pop(edge, None)
        for end in ends or ():
            end.is_open = False
            assert end.pump is not None
            end.pump.cancel()
            await asyncio.wait({end.pump})
            if not end.pump.cancelled():
                end.pump.result()
        for end in ends or ():
            end.owner.links.disconnected(end, None)  # type: ignore[arg-type]

    async def restart(self, index: int) -> None:
        for edge in [edge for edge in self.edges if index in edge]:
            await self.cut(edge)
        self.nodes[index] = Node(index + 1, self.nodes[index].journal)

    def trim(self, index: int) -> None:
        """Drop what every neighbour has acknowledged, or now and then more than that of other origins."""
        node = self.nodes[index]
        journal = node.journal
        peers = {self.nodes[a if b == index else b] for a, b in self.edges if index in (a, b)}
        for seq, part in journal.parts:
            ends = {part.header.origin: part.header.to_hlc}
            own = part.header.origin == node.id
            if any(p.journal.clock.get(node.id, 0) < part.header.to_hlc for p in peers if own):
                break
            if not own and not node.links.have_merged({p.name for p in peers}, ends):
                break
            journal.trim(seq + 1 if part.header.last else seq)

    async def event(self) -> None:
        rng = self.rng
        index = rng.randrange(SIZE)
        edge = rng.choice(self.edges)
        what = rng.choices(("commit", "beat", "link", "cut", "restart", "trim", "turn"), (30, 15, 20, 6, 2, 3, 30))[0]
        if what == "commit":
            self.nodes[index].commit(self.tick(), rng.choice((1, 1, 1, 2, 12)))
        elif what == "beat":
            self.nodes[index].beat(self.tick())
        elif what == "link":
            await self.link(edge)
        elif what == "cut":
            await self.cut(edge)
        elif what == "restart":
            await self.restart(index)
        elif what == "trim":
            self.trim(index)
        for node in self.nodes:
            if rng.random() < 0.5:
                node.merge()
        for _ in range(rng.randrange(5)):
            await asyncio.sleep(0)

    def complete(self) -> bool:
        """Everybody has merged what everybody has committed, and heard how far everybody is."""
        return all(
            node.journal.clock.get(other.id, 0) >= other.journal.clock.get(other.id, 0)
            for node in self.nodes
            for other in self.nodes
        )

    async def drain(self) -> None:
        for edge in self.edges:
            await self.link(edge)
        for round_ in range(20_000):
            for node in self.nodes:
                node.merge()
            if round_ % 50 == 0:
                for node in self.nodes:
                    node.links.beat()
            await asyncio.sleep(0)
            if self.complete():
                return
        behind = {n.name: n.journal.clock for n in self.nodes}
        raise AssertionError(f"the nodes did not converge: {behind}, floors {[n.journal.floors for n in self.nodes]}")


@pytest.mark.parametrize("topology", TOPOLOGIES)
@pytest.mark.parametrize("seed", range(4))
async def test_every_change_set_arrives_once_and_in_order(topology: str, seed: int) -> None:
    network = Network(TOPOLOGIES[topology](SIZE), random.Random(f"{topology} {seed}"))
    try:
        for _ in range(400):
            await network.event()
        await network.drain()
        for node in network.nodes:
            for other in network.nodes:
                if other is not node:
                    assert node.journal.merged.get(other.id, []) == other.journal.own_ends
    finally:
        for edge in network.edges:
            await network.cut(edge)
