"""Meshes with a recording handler, and the waiting that goes with them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from sidecar.core.changes import ChangeSetHeader, ChangeSetPart
from sidecar.core.wire.identity import Known
from sidecar.core.wire.messages import (
    PROTOCOL_MAX,
    PROTOCOL_MIN,
    BarrierAnswer,
    Closed,
    Heartbeat,
    Hello,
    Members,
    Relay,
    Start,
    Tables,
    part_bytes,
)
from sidecar.errors import LinkRefusedError
from sidecar.lab.ports import HOST, free_port
from sidecar.peers.link import Link
from sidecar.peers.mesh import PeerMesh
from sidecar.settings import Settings, TlsSettings

DEADLINE_S = 60.0


def free_address() -> str:
    """A loopback address nobody listens on."""
    return f"{HOST}:{free_port()}"


async def until(condition: Callable[[], Any], deadline_s: float = DEADLINE_S) -> None:
    """Wait for the condition; fails after the deadline."""
    end = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end, "the condition did not come true"
        await asyncio.sleep(0.005)


def make_part(
    origin: int = 1, from_hlc: int = 0, to_hlc: int = 1, context: dict[int, int] | None = None, body: bytes = b"x"
) -> ChangeSetPart:
    header = ChangeSetHeader(origin=origin, from_hlc=from_hlc, to_hlc=to_hlc, context=context or {}, rows=1)
    return ChangeSetPart(header=header, body=body)


@dataclass(eq=False)
class Node:
    """A mesh and what its handler saw. ``gate`` holds parts back while cleared; ``grants``: give credit at once."""

    name: str
    id: int
    listen: str
    cluster: str = "test"
    boot_id: str = "boot-1"
    protocol: tuple[int, int] = (PROTOCOL_MIN, PROTOCOL_MAX)
    grants: bool = True
    keep: bool = True
    clock: dict[int, int] = field(default_factory=dict)
    parts: list[tuple[str, ChangeSetPart]] = field(default_factory=list)
    heartbeats: list[tuple[str, Heartbeat]] = field(default_factory=list)
    barriers: list[tuple[str, BarrierAnswer]] = field(default_factory=list)
    relays: list[tuple[str, Relay]] = field(default_factory=list)
    departures: list[tuple[str, Members]] = field(default_factory=list)
    tables: list[tuple[str, Tables]] = field(default_factory=list)
    intervals: list[tuple[str, Closed, int]] = field(default_factory=list)
    clocks: dict[str, dict[int, int]] = field(default_factory=dict)
    events: list[tuple[str, str, Exception | None]] = field(default_factory=list)
    incarnation: str = ""
    generation: int = 0
    starts: list[Start] = field(default_factory=list)
    nodes: dict[int, Known] = field(default_factory=dict)
    end: int | None = None
    refusals: list[tuple[str, LinkRefusedError]] = field(default_factory=list)
    received_bytes: int = 0
    failure: Exception | None = None

    def __post_init__(self) -> None:
        self.mesh: PeerMesh
        self.task: asyncio.Task[None] | None = None
        self.gate = asyncio.Event()
        self.gate.set()

    def link(self, name: str) -> Link:
        return self.mesh.links[name]

    def hello(self) -> Hello:
        low, high = self.protocol
        return Hello(
            cluster=self.cluster,
            node_id=self.id,
            node_name=self.name,
            protocol_min=low,
            protocol_max=high,
            clock=dict(self.clock),
            boot_id=self.boot_id,
            incarnation=self.incarnation,
            generation=self.generation,
            starts=list(self.starts),
        )

    def known_nodes(self) -> dict[int, Known]:
        return self.nodes

    def end_hlc(self) -> int | None:
        return self.end

    def refused(self, name: str, error: LinkRefusedError) -> None:
        self.refusals.append((name, error))

    async def connected(self, link: Link, hello: Hello) -> None:
        assert self.mesh.links[link.peer_name] is link
        self.events.append(("up", link.peer_name, None))
        self.clocks[link.peer_name] = dict(hello.clock)

    async def receive(self, link: Link, part: ChangeSetPart) -> None:
        await self.gate.wait()
        if self.failure is not None:
            raise self.failure
        self.received_bytes += len(part.body)
        if self.keep:
            self.parts.append((link.peer_name, part))
        if self.grants:
            link.grant(part_bytes(part))

    def heartbeat(self, link: Link, heartbeat: Heartbeat) -> None:
        self.heartbeats.append((link.peer_name, heartbeat))

    def acknowledged(self, link: Link, clock: dict[int, int]) -> None:
        self.clocks[link.peer_name] = clock

    def barrier_requested(self, link: Link, number: int) -> None:
        link.answer_barrier(number, self.clock)

    def barrier_answered(self, link: Link, answer: BarrierAnswer) -> None:
        self.barriers.append((link.peer_name, answer))

    def relay_asked(self, link: Link, relay: Relay) -> None:
        self.relays.append((link.peer_name, relay))

    def closed(self, link: Link, closed: Closed) -> None:
        self.intervals.append((link.peer_name, closed, len(self.parts)))

    def members_told(self, link: Link, members: Members) -> None:
        self.departures.append((link.peer_name, members))

    def tables_told(self, link: Link, tables: Tables) -> None:
        self.tables.append((link.peer_name, tables))

    def disconnected(self, link: Link, error: Exception | None) -> None:
        self.events.append(("down", link.peer_name, error))

    def count(self, kind: str, peer: str) -> int:
        return sum(1 for event in self.events if event[:2] == (kind, peer))


class Lab:
    """Makes nodes, starts and stops them."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []

    def node(
        self,
        name: str,
        node_id: int,
        *,
        peers: dict[str, str] | None = None,
        listen: str | None = None,
        limits: dict[str, int] | None = None,
        timing: dict[str, int] | None = None,
        tls: TlsSettings | None = None,
        **facts: Any,
    ) -> Node:
        node = Node(name, node_id, listen or free_address(), **facts)
        settings = Settings(
            node={
                "name": name,
                "id": node_id,
                "dsn": "postgresql://nowhere",
                "listen": node.listen,
                "cluster": node.cluster,
                "insecure": tls is None,
            },
            peers=[{"name": peer, "address": address} for peer, address in (peers or {}).items()],
            limits=limits or {},
            timing=timing or {},
            tls=tls,
        )
        node.mesh = PeerMesh(settings, node, now_ms=lambda: int(time.time() * 1000))
        self.nodes.append(node)
        return node

    async def start(self, *nodes: Node) -> None:
        for node in nodes:
            node.mesh.listen()
            node.task = asyncio.create_task(node.mesh.run(), name=f"mesh {node.name}")

    async def stop_node(self, node: Node) -> None:
        if node.task is None:
            return
        node.task.cancel()
        await asyncio.wait({node.task}, timeout=DEADLINE_S)
        assert node.task.done(), "the mesh did not end"
        assert node.task.cancelled(), node.task.exception()
        node.task = None

    async def stop(self) -> None:
        for node in self.nodes:
            await self.stop_node(node)
            node.mesh.close()

    def pair(self, **options: Any) -> tuple[Node, Node]:
        """``a`` (id 1) dials ``b`` (id 2), which only listens; not started."""
        b = self.node("b", 2, **options)
        a = self.node("a", 1, peers={"b": b.listen}, **options)
        return a, b

    async def linked(self, *nodes: Node) -> None:
        """Start what is not started, and wait until all of them are linked with each other."""
        await self.start(*(node for node in nodes if node.task is None))
        names = {node.name for node in nodes}
        await until(lambda: all(names - {node.name} <= set(node.mesh.links) for node in nodes))
        await until(lambda: all(node.count("up", peer) for node in nodes for peer in names - {node.name}))
