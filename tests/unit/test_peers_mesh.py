"""Meshes on loopback in one process: who connects to whom, and what survives."""

from __future__ import annotations

import asyncio
import contextlib
import random

import pytest
from peer_lab import Lab, Node, free_address, make_part, until

from sidecar.core.wire.messages import BarrierAnswer, Closed, Relay, part_bytes
from sidecar.errors import ConfigurationError, ProtocolError, TransientError
from sidecar.peers.listener import open_port
from sidecar.peers.status import PeerPhase

MIB = 1 << 20


@pytest.fixture
async def lab():
    lab = Lab()
    yield lab
    await lab.stop()


def both_dial(lab: Lab, **options: object) -> tuple[Node, Node]:
    place = free_address()
    b = lab.node("b", 2, peers={"a": place}, **options)
    return lab.node("a", 1, peers={"b": b.listen}, listen=place, **options), b


async def test_two_nodes_exchange_parts_acks_and_heartbeats(lab: Lab) -> None:
    a, b = lab.pair()
    a.clock = {1: 5}
    await lab.linked(a, b)
    assert b.clocks["a"] == {1: 5}
    part = make_part(origin=1, from_hlc=5, to_hlc=9, context={1: 5, 2: 3}, body=b"hello")
    await a.link("b").send_part(part)
    await until(lambda: b.parts)
    assert b.parts == [("a", part)]
    b.link("a").send_ack({1: 9})
    await until(lambda: a.clocks["b"].get(1) == 9)
    a.link("b").send_heartbeat(20, 9)
    await until(lambda: [h for _, h in b.heartbeats if h.hlc])
    beat = next(h for _, h in b.heartbeats if h.hlc)
    assert (beat.hlc, beat.from_hlc) == (20, 9)
    state = a.mesh.states["b"]
    assert state.state is PeerPhase.CONNECTED
    assert state.change_sets_out == 1
    assert b.mesh.states["a"].change_sets_in == 1
    assert b.mesh.states["a"].bytes_in == state.bytes_out > 0


async def test_a_barrier_is_asked_and_answered_either_way(lab: Lab) -> None:
    a, b = lab.pair()
    a.clock, b.clock = {1: 5, 3: 9}, {2: 6}
    await lab.linked(a, b)
    assert a.link("b").ask_barrier(7)
    assert b.link("a").ask_barrier(8)
    await until(lambda: a.barriers and b.barriers)
    assert a.barriers == [("b", BarrierAnswer(number=7, clock={2: 6}))]
    assert b.barriers == [("a", BarrierAnswer(number=8, clock={1: 5, 3: 9}))]


async def test_relay_is_asked_and_intervals_are_told_behind_the_parts(lab: Lab) -> None:
    """However long the handler holds the parts before them: they begin where those end."""
    a, b = lab.pair()
    await lab.linked(a, b)
    b.link("a").ask_relay({2: "b", 3: "c"}, ["c"])
    await until(lambda: a.relays)
    assert a.relays == [("b", Relay(names={2: "b", 3: "c"}, origins=["c"]))]
    b.gate.clear()
    link = a.link("b")
    await link.send_part(make_part(3, 0, 5))
    link.send_closed({3: (5, 9)})
    await link.send_part(make_part(3, 9, 12))
    link.send_closed({3: (12, 15)})  # comes while the first one waits, and is left out
    link.send_heartbeat(20, 9)
    await until(lambda: any(h.hlc == 20 for _, h in b.heartbeats))
    assert not b.intervals
    b.gate.set()
    await until(lambda: len(b.parts) == 2 and b.intervals)
    link.send_closed({3: (12, 15)})
    await until(lambda: len(b.intervals) == 2)
    assert b.intervals == [("a", Closed({3: (5, 9)}), 1), ("a", Closed({3: (12, 15)}), 2)]


async def test_a_peer_of_the_previous_version_is_linked_and_not_asked(lab: Lab) -> None:
    b = lab.node("b", 2, protocol=(1, 1))
    a = lab.node("a", 1, peers={"b": b.listen})
    await lab.linked(a, b)
    a.link("b").ask_relay({1: "a"}, None)  # nothing is sent, which would end the link
    assert not a.link("b").ask_barrier(7)
    a.link("b").send_heartbeat(20, 9)
    await until(lambda: [h for _, h in b.heartbeats if h.hlc])
    assert b.count("down", "a") == 0


async def test_three_nodes_form_a_full_mesh(lab: Lab) -> None:
    places = {name: free_address() for name in "abc"}
    nodes = [
        lab.node(name, i, listen=places[name], peers={n: p for n, p in places.items() if n != name})
        for i, name in enumerate("abc", 1)
    ]
    await lab.linked(*nodes)
    for node in nodes:
        for link in node.mesh.links.values():
            await link.send_part(make_part(origin=node.id))
    for node in nodes:
        await until(lambda node=node: len(node.parts) == 2)
        assert {(peer, part.header.origin) for peer, part in node.parts} == {
            (other.name, other.id) for other in nodes if other is not node
        }


async def test_keepalives_measure_the_round_trip(lab: Lab) -> None:
    a, b = lab.pair(timing={"link_silent_ms": 200, "heartbeat_ms": 50})
    await lab.linked(a, b)
    await until(lambda: a.mesh.states["b"].round_trip_ms is not None)
    state = a.mesh.states["b"]
    assert state.clock_offset_ms is not None
    assert abs(state.clock_offset_ms) < 1000
    assert all(beat.hlc == 0 for _, beat in b.heartbeats), "keepalives tell nothing new"
    assert a.count("down", "b") == 0


@pytest.mark.parametrize("attempt", range(20))
async def test_when_both_dial_one_link_stays(lab: Lab, attempt: int) -> None:
    a, b = both_dial(lab)
    await lab.linked(a, b)
    await a.link("b").send_part(make_part(body=b"a"))
    await b.link("a").send_part(make_part(origin=2, body=b"b"))
    await until(lambda: a.parts and b.parts)
    assert a.link("b").dialled is not b.link("a").dialled, "both hold ends of one link"
    assert a.count("up", "b") == b.count("up", "a") == 1, "no flapping"
    assert a.count("down", "b") == b.count("down", "a") == 0


@pytest.mark.parametrize("behind_nat", ["a", "b"])
async def test_a_node_that_only_dials_is_linked(lab: Lab, behind_nat: str) -> None:
    """The other lists it at an address where nobody answers, and goes on trying there without harm."""
    a, b = both_dial(lab)
    lab.nodes.clear()
    dead = free_address()
    a = lab.node("a", 1, listen=a.listen, peers={"b": dead if behind_nat == "b" else b.listen})
    b = lab.node("b", 2, listen=b.listen, peers={"a": dead if behind_nat == "a" else a.listen})
    await lab.linked(a, b)
    a.link("b")._connection.abort()
    await until(lambda: a.count("up", "b") == b.count("up", "a") == 2)
    await a.link("b").send_part(make_part())
    await until(lambda: b.parts)


async def test_links_survive_random_cuts(lab: Lab) -> None:
    """Whatever is cut when: each node sees up and down in turn, never two links to one peer, and all link again."""
    chance = random.Random(7)
    places = {name: free_address() for name in "abc"}
    nodes = [
        lab.node(
            name,
            i,
            listen=places[name],
            peers={n: p for n, p in places.items() if n != name},
            timing={"reconnect_ms_max": 100},
        )
        for i, name in enumerate("abc", 1)
    ]
    await lab.linked(*nodes)
    for _ in range(60):
        links = [link for node in nodes for link in node.mesh.links.values()]
        if links:
            chance.choice(links)._connection.abort()
        for _ in range(chance.randrange(30)):
            await asyncio.sleep(0)
        await asyncio.sleep(chance.choice((0, 0, 0.01)))
    for node in nodes:
        for peer in nodes:
            if peer is not node:
                await say(node, peer, b"last")
    for node in nodes:
        for peer in set(places) - {node.name}:
            kinds = [kind for kind, name, _ in node.events if name == peer]
            assert kinds == ["up", "down"] * (len(kinds) // 2) + ["up"]


async def say(node: Node, peer: Node, body: bytes) -> None:
    """Send until it arrives: the link may be one whose end was not noticed yet."""
    part = make_part(origin=node.id, body=body)

    def arrived() -> bool:
        return (node.name, part) in peer.parts

    while not arrived():
        await until(lambda: peer.name in node.mesh.links)
        link = node.link(peer.name)
        with contextlib.suppress(TransientError):
            await link.send_part(part)
        await until(lambda: arrived() or link.ended.is_set())  # noqa: B023


async def test_a_cut_link_comes_back_and_goes_on(lab: Lab) -> None:
    a, b = both_dial(lab)
    await lab.linked(a, b)
    for times in range(1, 4):
        a.link("b")._connection.abort()
        await until(lambda times=times: a.count("up", "b") == times + 1 and b.count("up", "a") == times + 1)
        assert a.count("down", "b") == b.count("down", "a") == times
        await a.link("b").send_part(make_part(body=b"%d" % times))
        await until(lambda times=times: len(b.parts) == times)


async def test_a_stopped_node_says_goodbye_and_is_found_again(lab: Lab) -> None:
    a, b = lab.pair()
    await lab.linked(a, b)
    await lab.stop_node(b)
    await until(lambda: a.count("down", "b"))
    assert a.events[-1] == ("down", "b", None)
    assert a.mesh.states["b"].last_error is not None
    await until(lambda: a.mesh.states["b"].retries > 1)
    assert a.mesh.states["b"].state is not PeerPhase.CONNECTED
    assert "b" not in a.mesh.links
    await lab.start(b)
    await until(lambda: a.count("up", "b") == 2)
    assert a.mesh.states["b"].last_error is None


@pytest.mark.parametrize("restarted", ["a", "b"])
async def test_a_restarted_peer_replaces_its_stale_link_once_that_is_cut(lab: Lab, restarted: str) -> None:
    """The old process vanished without a word: its socket stays open, and nothing comes through it."""
    ids = {"a": 1, "b": 2}
    old = lab.node(restarted, ids[restarted])
    name = "b" if restarted == "a" else "a"
    timing = {"link_silent_ms": 1000, "heartbeat_ms": 100}
    other = lab.node(name, ids[name], peers={old.name: old.listen}, timing=timing)
    await lab.linked(old, other)
    old.link(name)._connection.write = lambda message: None  # type: ignore[method-assign]
    new = lab.node(old.name, old.id, peers={other.name: other.listen}, boot_id="boot-2")
    await lab.start(new)
    await until(lambda: other.count("up", old.name) == 2 and other.name in new.mesh.links)
    assert other.link(old.name).hello.boot_id == "boot-2"
    assert other.mesh.states[old.name].boot_id == "boot-2"
    assert other.refusals == []


async def test_a_silent_link_is_cut(lab: Lab) -> None:
    a, b = lab.pair(timing={"link_silent_ms": 300})
    await lab.linked(a, b)
    link = b.link("a")
    link._connection.write = lambda message: None  # type: ignore[method-assign]
    await until(lambda: a.count("down", "b"))
    error = next(error for kind, _, error in a.events if kind == "down")
    assert isinstance(error, TransientError)
    assert "silent" in str(error)
    await until(lambda: a.count("up", "b") == 2)


# Backpressure


async def test_both_send_50_mb_into_full_queues_without_deadlock(lab: Lab) -> None:
    a, b = lab.pair(limits={"link_window_bytes": 4 * MIB}, keep=False)
    a.gate.clear()
    b.gate.clear()
    await lab.linked(a, b)
    part = make_part(body=bytes(MIB))

    async def pump(node: Node, peer: str) -> None:
        for _ in range(50):
            await node.link(peer).send_part(part)

    pumps = [asyncio.create_task(pump(a, "b")), asyncio.create_task(pump(b, "a"))]
    await until(lambda: all(node.link(peer)._session.held_bytes > 2 * MIB for node, peer in ((a, "b"), (b, "a"))))
    a.link("b").send_ack({1: 1})
    a.link("b").send_heartbeat(7, 0)
    await until(lambda: b.clocks["a"].get(1) == 1 and any(beat.hlc == 7 for _, beat in b.heartbeats))
    assert a.received_bytes == b.received_bytes == 0
    for node, peer in ((a, "b"), (b, "a")):
        assert node.link(peer)._session.held_bytes <= 4 * MIB
    a.gate.set()
    b.gate.set()
    await asyncio.gather(*pumps)
    await until(lambda: a.received_bytes == b.received_bytes == 50 * MIB)
    assert a.count("down", "b") == b.count("down", "a") == 0


async def test_a_part_larger_than_the_window_passes_alone(lab: Lab) -> None:
    a, b = lab.pair(limits={"link_window_bytes": 64 * 1024}, grants=False)
    await lab.linked(a, b)
    big = make_part(body=bytes(MIB))
    await a.link("b").send_part(big)
    await until(lambda: b.parts)
    waiting = asyncio.create_task(a.link("b").send_part(make_part(body=b"next")))
    b.link("a").send_heartbeat(1, 0)
    await until(lambda: any(beat.hlc == 1 for _, beat in a.heartbeats))
    assert not waiting.done()
    b.link("a").grant(part_bytes(big))
    await waiting
    await until(lambda: len(b.parts) == 2)


async def test_a_waiting_sender_ends_with_the_link(lab: Lab) -> None:
    a, b = lab.pair(limits={"link_window_bytes": 64 * 1024}, grants=False)
    await lab.linked(a, b)
    link = a.link("b")
    await link.send_part(make_part(body=bytes(MIB)))
    waiting = asyncio.create_task(link.send_part(make_part()))
    await lab.stop_node(b)
    with pytest.raises(TransientError, match="link to b is closed"):
        await waiting
    await link.ended.wait()
    link.send_ack({1: 1})
    link.send_heartbeat(1, 0)
    link.grant(5)
    with pytest.raises(TransientError):
        await link.send_part(make_part())


async def test_granting_more_than_is_held_is_a_mistake(lab: Lab) -> None:
    a, b = lab.pair(grants=False)
    await lab.linked(a, b)
    part = make_part()
    await a.link("b").send_part(part)
    await until(lambda: b.parts)
    b.link("a").grant(part_bytes(part))
    with pytest.raises(ValueError, match="only 0 are held"):
        b.link("a").grant(1)


# Handlers that fail


async def test_a_bad_body_cuts_the_link_and_says_why(lab: Lab) -> None:
    a, b = lab.pair()
    await lab.linked(a, b)
    b.failure = ProtocolError("malformed change set body: test")
    await a.link("b").send_part(make_part())
    await until(lambda: a.count("down", "b") and b.count("down", "a"))
    assert b.events[-1][2] is b.failure
    assert "malformed change set body" in (b.mesh.states["a"].last_error or "")
    b.failure = None
    await until(lambda: a.count("up", "b") == 2)


async def test_a_handler_that_breaks_costs_its_link_alone(lab: Lab) -> None:
    a, b = lab.pair()
    c = lab.node("c", 3, peers={"b": b.listen})
    await lab.linked(a, b)
    await lab.linked(b, c)
    b.failure = KeyError("secret")
    await a.link("b").send_part(make_part())
    await until(lambda: b.count("down", "a"))
    assert isinstance(b.events[-1][2], KeyError)
    await until(lambda: a.count("down", "b"))
    assert b.count("down", "c") == 0
    b.failure = None
    await until(lambda: a.count("up", "b") == 2)


async def test_link_close_is_orderly_and_the_peer_hears_the_reason(lab: Lab) -> None:
    a, b = lab.pair()
    await lab.linked(a, b)
    link = b.link("a")
    link.close("clock drift of 900 ms")
    await link.ended.wait()
    assert b.events[-1] == ("down", "a", None)
    await until(lambda: a.count("up", "b") == 2)
    assert a.events[1] == ("down", "b", None)


# Configuration


async def test_taken_port_is_one_line_with_the_mend(lab: Lab) -> None:
    a = lab.node("a", 1)
    await lab.start(a)
    with pytest.raises(ConfigurationError, match=f"cannot listen on {a.listen} for peers: address") as caught:
        lab.node("b", 2, listen=a.listen).mesh.listen()
    assert "listen" in caught.value.mend
    with pytest.raises(ConfigurationError):
        await lab.node("c", 3, listen=a.listen).mesh.run()


@pytest.mark.parametrize("address", ["192.0.2.1:7000", "256.1.1.1:7000"])
def test_an_unusable_address_is_a_configuration_error(address: str) -> None:
    with pytest.raises(ConfigurationError, match=f"cannot listen on {address} for peers"):
        open_port(address)
