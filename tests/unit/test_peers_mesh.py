"""Meshes on loopback in one process: who connects to whom, what survives, what is refused."""

from __future__ import annotations

import pytest
from peer_lab import Lab, make_part, until

from sidecar.errors import ConfigurationError
from sidecar.peers.status import PeerPhase


@pytest.fixture
async def lab():
    lab = Lab()
    yield lab
    await lab.stop()


async def test_two_nodes_exchange_parts_acks_and_heartbeats(lab: Lab) -> None:
    a, b = lab.pair()
    await lab.linked(a, b)
    part = make_part(origin=1, from_hlc=5, to_hlc=9, context={1: 5, 2: 3}, body=b"hello")
    await a.link("b").send_part(part)
    await until(lambda: b.parts)
    assert b.parts == [("a", part)]
    b.link("a").send_ack({1: 9})
    await until(lambda: a.clocks.get("b", {}).get(1) == 9)
    a.link("b").send_heartbeat(20, 9)
    await until(lambda: [h for _, h in b.heartbeats if h.hlc])
    beat = next(h for _, h in b.heartbeats if h.hlc)
    assert (beat.hlc, beat.from_hlc) == (20, 9)
    state = a.mesh.states["b"]
    assert state.state is PeerPhase.CONNECTED
    assert state.change_sets_out == 1
    assert b.mesh.states["a"].change_sets_in == 1
    assert b.mesh.states["a"].bytes_in == state.bytes_out > 0


async def test_taken_port_is_one_line(lab: Lab) -> None:
    a = lab.node("a", 1)
    await lab.start(a)
    with pytest.raises(ConfigurationError, match=r"cannot listen on 127.0.0.1:\d+ for peers: address already in use"):
        lab.node("b", 2, listen=a.listen).mesh.listen()
