"""What the node says of itself while nothing happens, while something hangs, and while the database is away."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from sidecar.core.hlc import to_ms
from sidecar.core.wire.messages import Departure
from sidecar.http.metrics import StatusCollector
from sidecar.node.inbox import Inbox
from sidecar.node.links import NodeLinks
from sidecar.node.pulse import Pulse
from sidecar.node.ship import Tail
from sidecar.node.state import CaptureProgress, NodeState
from sidecar.node.status import NodeStatusSource
from sidecar.peers.mesh import PeerMesh
from sidecar.peers.status import PeerPhase
from sidecar.settings import Settings

HOUR_S = 3600.0


class Node:
    """The parts that the status is made of, without a database or a network."""

    def __init__(self) -> None:
        node = {"name": "us-east", "id": 1, "dsn": "postgresql://u@127.0.0.1/app", "insecure": True}
        peers = [{"name": "eu-west", "address": "127.0.0.1:7102"}]
        settings = Settings(node=node, peers=peers)  # type: ignore[arg-type]
        self.now = asyncio.get_running_loop().time()
        self.state = NodeState(settings)
        self.pulse = Pulse(capture_state="streaming")
        self.pulse.restart(self.now)
        self.progress = CaptureProgress(self._nudge)
        inbox = Inbox(queue_bytes_max=1000, spool_bytes_max=1000)
        self.links = NodeLinks(self.state, inbox, Tail(), "boot")
        self.mesh = PeerMesh(settings, self.links, now_ms=self.state.now_ms)
        self.source = NodeStatusSource(self.state, self.pulse, self.progress, inbox, self.links, self.mesh)

    async def _nudge(self) -> None:
        raise AssertionError("nobody waits")

    def unhealthy(self) -> str:
        return " ".join(self.source.snapshot().unhealthy())


@pytest.fixture
async def node() -> Node:
    return Node()


async def test_a_node_that_is_gone_is_shown_as_such_and_measured_no_longer(node: Node) -> None:
    gone = Departure(node=2, name="eu-west", kind="removed", at_ms=1, by="us-east", holder=1, change_hlc=5, hlc=5)
    node.links.names[2] = "eu-west"
    node.links.acknowledged_hlc[2] = 3
    node.state.clock[2] = 5
    collected = {family.name for family in StatusCollector(node.source).collect() if family.samples}
    node.links.members.departed[2] = gone
    node.links.dismiss(gone)
    node.mesh.dismiss("eu-west", "eu-west was removed")
    [peer] = node.source.snapshot().peers
    assert (peer.name, peer.id, peer.state, peer.lag_ms) == ("eu-west", 2, "removed", None)
    assert peer.last_error == "eu-west was removed"
    measured = {family.name for family in StatusCollector(node.source).collect() if family.samples}
    assert "sidecar_peer_connected" in collected - measured
    assert node.links.gone("eu-west") == gone
    node.links.names[9] = "eu-west"  # a new node of that name
    assert node.links.gone("eu-west") is None
    assert node.links.known_nodes()[2].removed


async def test_an_idle_node_is_healthy_however_long_nothing_happens(node: Node) -> None:
    node.progress.saw_log_end(100, node.now - HOUR_S)
    node.progress.reached(100)
    node.pulse.capture_alive = node.now - HOUR_S
    snapshot = node.source.snapshot()
    assert snapshot.unhealthy() == []
    assert (snapshot.capture.lag_bytes, snapshot.capture.lag_ms) == (0, 0.0)


async def test_a_walsender_that_sends_nothing_is_lag_and_at_last_a_stuck_loop(node: Node) -> None:
    node.progress.saw_log_end(100, node.now - 10)
    node.progress.saw_log_end(300, node.now - 1)
    node.pulse.capture_alive = node.now - 10
    capture = node.source.snapshot().capture
    assert capture.lag_bytes == 300
    assert 10_000 <= (capture.lag_ms or 0) < 12_000, "as old as the oldest position that is not reached"
    assert node.unhealthy() == ""
    node.pulse.capture_alive = node.now - 61
    assert "loop capture is silent for 61" in node.unhealthy()
    node.progress.reached(300)
    assert node.unhealthy() == ""


async def test_a_write_that_hangs_is_a_stuck_loop(node: Node) -> None:
    node.state.pending_since_ms = node.state.now_ms() - 61_000
    node.pulse.capture_alive = node.now - 61
    assert "loop capture" in node.unhealthy()


async def test_a_merge_that_hangs_is_a_stuck_loop(node: Node) -> None:
    node.pulse.merge_alive = node.now - 61
    assert node.unhealthy().startswith("loop merge is silent for 61")


async def test_while_the_database_is_away_nothing_is_stuck_and_the_lag_is_not_known(node: Node) -> None:
    node.progress.saw_log_end(100, node.now)
    node.pulse.merge_alive = node.pulse.capture_alive = node.now - HOUR_S
    node.pulse.capture_state, node.pulse.database_error = "retrying", "connection refused"
    snapshot = node.source.snapshot()
    assert snapshot.unhealthy() == []
    assert snapshot.unready()[0] == "database: connection refused"
    assert (snapshot.capture.lag_bytes, snapshot.capture.lag_ms) == (None, None)


@pytest.mark.parametrize("key", ["merge 2", "drift 2"])
async def test_a_peer_whose_changes_wait_for_somebody_is_held(node: Node, key: str) -> None:
    peer = node.mesh.states["eu-west"]
    peer.state, peer.peer_id = PeerPhase.CONNECTED, 2
    assert node.source.snapshot().peers[0].state == "connected"
    node.state.problem(key, "something is missing")
    node.state.problem(key.replace("2", "22"), "something else")
    snapshot = node.source.snapshot()
    assert (snapshot.peers[0].state, snapshot.peers[0].last_error) == ("held", "something is missing")
    assert snapshot.merge.held == "something is missing; something else"
    peer.state = PeerPhase.DOWN
    assert node.source.snapshot().peers[0].state == "down", "nothing comes from it anyway"


async def test_a_peer_that_was_never_seen_is_not_behind_by_nothing(node: Node) -> None:
    peer = node.source.snapshot().peers[0]
    assert (peer.id, peer.lag_ms, peer.unacknowledged_change_sets) == (None, None, None)


async def test_a_peer_known_from_before_is_counted_before_it_is_linked(node: Node) -> None:
    class Reader:
        async def known_peers(self) -> list[tuple[int, str, int]]:
            return [(2, "eu-west", 500)]

        async def position_of(self, acknowledged: int) -> tuple[int, int]:
            return 7, 0

        async def sets_after(self, seq: int) -> int:
            return 3

    reader: Any = Reader()
    node.links.backlog.start(10, 1000)
    await node.links.restore(reader)
    node.state.clock[2] = 5 << 16
    peer = node.source.snapshot().peers[0]
    assert (peer.id, peer.unacknowledged_change_sets) == (2, 3)
    assert peer.lag_ms == pytest.approx(node.state.now_ms() - to_ms(5 << 16), abs=1000)


async def test_one_outage_is_logged_once_whatever_its_texts(node: Node) -> None:
    lines: list[tuple[str, str]] = []

    class Log:
        def warning(self, event: str, **values: str) -> None:
            lines.append((event, values.get("reason", "")))

        def info(self, event: str, **values: str) -> None:
            lines.append((event, values["problem"]))

    node.state.log = Log()
    for text in ("connection lost", "connection refused", "is starting up"):
        node.state.problem("database", text, restate=True)
    assert node.state.problems == {"database": "is starting up"}
    node.state.problem("database", None)
    node.state.problem("database", "connection lost", restate=True)
    assert lines == [("problem", "connection lost"), ("problem_solved", "database"), ("problem", "connection lost")]


@pytest.mark.parametrize("writer", ["merge", "capture"])
async def test_a_loop_that_waits_for_the_other_ones_writing_is_not_stuck(node: Node, writer: str) -> None:
    """A transaction of a million rows is written, or merged, in minutes; the other loop waits for the writer lock."""
    node.state.pending_since_ms = node.state.now_ms()
    waiter = "capture" if writer == "merge" else "merge"
    node.pulse.merge_task = asyncio.current_task() if writer == "merge" else None
    async with node.state.writer_lock:
        setattr(node.pulse, f"{waiter}_alive", node.now - HOUR_S)
        assert node.unhealthy() == ""
        # The one that writes hangs, whatever the other does.
        setattr(node.pulse, f"{writer}_alive", node.now - HOUR_S)
        assert f"loop {waiter}" in node.unhealthy()
        setattr(node.pulse, f"{waiter}_alive", node.now)
        assert f"loop {writer}" in node.unhealthy()
        assert f"loop {waiter}" not in node.unhealthy()
        setattr(node.pulse, f"{writer}_alive", node.now)
    setattr(node.pulse, f"{waiter}_alive", node.now - HOUR_S)
    assert f"loop {waiter}" in node.unhealthy(), "it waits for nobody"
