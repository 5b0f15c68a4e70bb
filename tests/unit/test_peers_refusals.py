"""Who is not linked: strangers, wrong nodes, floods. Nothing else is affected, and the reason is told."""

from __future__ import annotations

import asyncio

import pytest
import structlog
from peer_lab import Lab, Node, free_address, make_part, until

from sidecar.core.wire.frames import encode_frame
from sidecar.core.wire.identity import Known
from sidecar.core.wire.messages import Hello, Refuse, Start, encode_message
from sidecar.core.wire.session import Session
from sidecar.peers import dialler, listener, pacing, registry
from sidecar.peers.status import PeerPhase
from sidecar.settings import split_address


@pytest.fixture
async def lab():
    lab = Lab()
    yield lab
    await lab.stop()


@pytest.fixture
def lines():
    with structlog.testing.capture_logs() as captured:
        yield captured


def warnings(lines: list[dict[str, object]]) -> list[dict[str, object]]:
    return [line for line in lines if line["log_level"] in ("warning", "error")]


async def stranger(node: Node, host: str | None = None) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection, from this loopback address."""
    return await asyncio.open_connection(*split_address(node.listen), local_addr=(host, 0) if host else None)


async def reply(node: Node, data: bytes) -> bytes:
    """What the node says to these bytes until it closes the connection."""
    reader, writer = await stranger(node)
    writer.write(data)
    try:
        return await asyncio.wait_for(reader.read(), 10)
    except ConnectionResetError:
        return b""
    finally:
        writer.close()


@pytest.mark.parametrize(
    ("garbage", "reason"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "not a sidecar peer"),
        (b"\x16\x03\x01\x02\x00\x01", "not a sidecar peer"),
        (b"\xc2", "frame format version 2"),
        (encode_frame(1, b"\x90"), "malformed Hello"),
        (encode_frame(99, b""), "unknown message type 99"),
        (encode_frame(7, b"\x90"), "Heartbeat before its Hello"),
        (encode_frame(1, b"x" * (1 << 20) + b"x"), "at most 1048576"),
        (encode_frame(1, b"x")[:-1] + b"y", "checksum"),
    ],
)
async def test_garbage_is_one_line_and_touches_nobody(
    lab: Lab, lines: list[dict[str, object]], garbage: bytes, reason: str
) -> None:
    a, b = lab.pair()
    await lab.linked(a, b)
    assert await reply(b, garbage) == b"", "a stranger hears nothing"
    await until(lambda: warnings(lines))
    (line,) = warnings(lines)
    assert reason in str(line["reason"])
    assert str(line["remote"]).startswith("127.0.0.1:")
    await a.link("b").send_part(make_part())
    await until(lambda: b.parts)
    assert a.count("down", "b") == 0


async def test_a_port_check_is_not_worth_a_line(lab: Lab, lines: list[dict[str, object]]) -> None:
    b = lab.node("b", 2)
    await lab.start(b)
    _, writer = await stranger(b)
    writer.close()
    assert await reply(b, b"GET /") == b""
    await until(lambda: warnings(lines))
    assert len(warnings(lines)) == 1


async def test_many_strangers_write_few_lines(lab: Lab, lines: list[dict[str, object]]) -> None:
    b = lab.node("b", 2)
    await lab.start(b)
    for _ in range(30):
        await reply(b, b"GET /")
    assert 1 <= len(warnings(lines)) <= pacing.WARNING_LINES_MAX


async def test_who_says_nothing_is_cut(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "HANDSHAKE_S", 0.1)
    b = lab.node("b", 2)
    await lab.start(b)
    assert await reply(b, b"") == b""
    assert await reply(b, b"\xc1\x01") == b""


async def test_a_flood_of_silent_connections_is_bounded(lab: Lab, lines: list[dict[str, object]]) -> None:
    b = lab.node("b", 2)
    await lab.start(b)
    most = listener.UNAUTHENTICATED_PER_HOST_MAX
    hosts = [f"127.0.1.{i}" for i in range(1, listener.UNAUTHENTICATED_MAX // most + 1)]
    crowd = [await stranger(b, host) for host in hosts for _ in range(most)]
    reader, writer = await stranger(b)
    assert await asyncio.wait_for(reader.read(), 10) == b""
    assert f"more than {listener.UNAUTHENTICATED_MAX} connections in the handshake" in str(warnings(lines)[0]["reason"])
    assert b.mesh.refusals == {"flood": 1}
    for _, others in [*crowd, (reader, writer)]:
        others.close()
    a = lab.node("a", 1, peers={"b": b.listen})
    await lab.linked(a, b)


async def test_one_host_cannot_keep_the_others_out(lab: Lab, lines: list[dict[str, object]]) -> None:
    b = lab.node("b", 2)
    await lab.start(b)
    crowd = [await stranger(b, "127.0.1.1") for _ in range(listener.UNAUTHENTICATED_PER_HOST_MAX)]
    reader, writer = await stranger(b, "127.0.1.1")
    assert await asyncio.wait_for(reader.read(), 10) == b""
    assert "connections of one host in the handshake" in str(warnings(lines)[0]["reason"])
    a = lab.node("a", 1, peers={"b": b.listen})
    await lab.linked(a, b)
    for _, others in [*crowd, (reader, writer)]:
        others.close()


def test_an_ipv6_network_is_one_host() -> None:
    door = listener.Door()
    for i in range(listener.UNAUTHENTICATED_PER_HOST_MAX):
        assert door.enter(f"2001:db8::{i:x}") is None
    assert door.enter("2001:db8::ffff:1") is not None
    assert door.enter("2001:db8:0:1::1") is None
    assert door.enter("::ffff:10.0.0.1") is None
    door.leave("2001:db8::1")
    assert door.enter("2001:db8::2") is None


async def test_the_time_of_the_tls_handshake_counts(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the open socket to the link, not once for TLS and once more for the Hello."""
    b = lab.node("b", 2)
    await lab.start(b)
    seen: list[float] = []
    establish = registry.LinkRegistry.establish

    async def watched(self, connection, expected, *, begun_s=None):
        seen.append(begun_s)
        return await establish(self, connection, expected, begun_s=begun_s - registry.HANDSHAKE_S)

    monkeypatch.setattr(registry.LinkRegistry, "establish", watched)
    assert await reply(b, b"") == b""
    assert 0 <= asyncio.get_running_loop().time() - seen[0] < registry.HANDSHAKE_S, "cut at once"


# Refusals between sidecars


async def refused(lab: Lab, a: Node, *, by: Node) -> str:
    await lab.start(*(node for node in (a, by) if node.task is None))
    state = a.mesh.states["b"]
    await until(lambda: state.state is PeerPhase.REFUSED)
    assert not a.mesh.links
    assert not by.mesh.links
    assert a.events == by.events == []
    assert state.last_error is not None
    return state.last_error


async def test_another_cluster(lab: Lab) -> None:
    b = lab.node("b", 2, cluster="other")
    line = await refused(lab, lab.node("a", 1, peers={"b": b.listen}), by=b)
    assert line == (
        "b belongs to cluster 'other', a to 'test'; set the same cluster in [node] of both, "
        "or correct the address in [[peers]]"
    )


async def test_the_same_id(lab: Lab) -> None:
    b = lab.node("b", 1)
    assert "both have node id 1" in await refused(lab, lab.node("a", 1, peers={"b": b.listen}), by=b)


async def test_the_same_name(lab: Lab) -> None:
    b = lab.node("a", 2)
    assert "calls itself 'a'" in await refused(lab, lab.node("a", 1, peers={"b": b.listen}), by=b)


async def test_the_own_address(lab: Lab) -> None:
    """Under an alias, which the settings cannot know."""
    listen = free_address()
    a = lab.node("a", 1, listen=listen, peers={"b": listen.replace("127.0.0.1", "localhost")})
    assert "the node's own" in await refused(lab, a, by=a)


async def test_another_name_at_the_address(lab: Lab) -> None:
    c = lab.node("c", 3)
    assert "'c' answers at the address of 'b'" in await refused(lab, lab.node("a", 1, peers={"b": c.listen}), by=c)


async def test_a_name_that_is_not_listed(lab: Lab) -> None:
    b = lab.node("b", 2, peers={"c": "127.0.0.1:1"})
    line = await refused(lab, lab.node("a", 1, peers={"b": b.listen}), by=b)
    assert line == "refused by the peer: 'a' is not among the peers of b; add it to [[peers]] of b"


@pytest.mark.parametrize(("low", "high"), [((1, 1), (2, 3)), ((2, 3), (1, 1))])
async def test_no_common_protocol_version(lab: Lab, low: tuple[int, int], high: tuple[int, int]) -> None:
    b = lab.node("b", 2, protocol=high)
    line = await refused(lab, lab.node("a", 1, peers={"b": b.listen}, protocol=low), by=b)
    assert f"b speaks protocol versions {high[0]}..{high[1]}, a {low[0]}..{low[1]}" in line


async def test_the_highest_common_version_is_spoken(lab: Lab) -> None:
    b = lab.node("b", 2, protocol=(1, 3))
    a = lab.node("a", 1, peers={"b": b.listen}, protocol=(1, 2))
    await lab.linked(a, b)
    assert a.link("b")._session.accept().protocol == 2


async def test_a_mended_refusal_becomes_a_link(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pacing, "REFUSED_RETRY_MS", 50)
    b = lab.node("b", 2, cluster="other")
    a = lab.node("a", 1, peers={"b": b.listen})
    await refused(lab, a, by=b)
    b.cluster = "test"
    await lab.linked(a, b)
    assert a.mesh.states["b"].last_error is None


async def test_a_refused_peer_is_logged_once(
    lab: Lab, lines: list[dict[str, object]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pacing, "REFUSED_RETRY_MS", 10)
    b = lab.node("b", 2, cluster="other")
    a = lab.node("a", 1, peers={"b": b.listen})
    await refused(lab, a, by=b)
    await until(lambda: a.mesh.states["b"].retries > 5)
    assert len([line for line in warnings(lines) if line["event"] == "no_link"]) == 1


async def test_too_many_links(lab: Lab) -> None:
    b = lab.node("b", 2, limits={"peers_max": 1})
    a = lab.node("a", 1, peers={"b": b.listen})
    await lab.linked(a, b)
    c = lab.node("c", 3, peers={"b": b.listen})
    await lab.start(c)
    await until(lambda: "too many links" in (c.mesh.states["b"].last_error or ""))
    assert set(b.mesh.links) == {"a"}
    await lab.stop_node(a)
    await until(lambda: "c" in b.mesh.links, 30)
    assert set(b.mesh.states) == {"c"}, "a peer that is not configured makes room"


async def test_nobody_at_the_address(lab: Lab, lines: list[dict[str, object]]) -> None:
    b = lab.node("b", 2)
    a = lab.node("a", 1, peers={"b": b.listen})
    await lab.start(a)
    await until(lambda: a.mesh.states["b"].retries > 2)
    state = a.mesh.states["b"]
    assert state.state is PeerPhase.DOWN
    assert state.last_error is not None
    assert state.last_error.startswith(f"cannot reach b at {b.listen}: ")
    assert len([line for line in warnings(lines) if line["event"] == "no_link"]) == 1
    await lab.linked(a, b)


async def test_a_listener_that_does_not_answer(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "HANDSHAKE_S", 0.1)
    writers: list[asyncio.StreamWriter] = []
    mute = await asyncio.start_server(lambda _, writer: writers.append(writer), "127.0.0.1", 0)
    host, port = mute.sockets[0].getsockname()
    a = lab.node("a", 1, peers={"b": f"{host}:{port}"})
    await lab.start(a)
    await until(lambda: "did not finish the handshake" in (a.mesh.states["b"].last_error or ""))
    mute.close()
    for writer in writers:
        writer.close()


async def test_a_listener_that_speaks_something_else(lab: Lab) -> None:
    def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mail.example ESMTP\r\n")
        writer.close()

    other = await asyncio.start_server(greet, "127.0.0.1", 0)
    host, port = other.sockets[0].getsockname()
    a = lab.node("a", 1, peers={"b": f"{host}:{port}"})
    await lab.start(a)
    await until(lambda: "not a sidecar peer" in (a.mesh.states["b"].last_error or ""))
    other.close()


# Peers that break the rules after the handshake


async def impostor(node: Node, hello: Hello) -> tuple[Session, asyncio.StreamReader, asyncio.StreamWriter]:
    """A hand-made peer with a higher id, linked to the node."""
    reader, writer = await stranger(node)
    session = Session(1 << 20)
    writer.write(session.send(hello))
    heard = 0
    while heard < 2:
        for _ in session.receive(await reader.read(1000)):
            heard += 1
    writer.write(session.send(session.accept()))
    await until(lambda: hello.node_name in node.mesh.links)
    return session, reader, writer


GUEST = Hello(
    cluster="test",
    node_id=9,
    node_name="guest",
    protocol_max=1,
    boot_id="g",
    window_bytes=1000,
    frame_bytes_max=1 << 20,
)
"""Speaks version 1, so frames that a test makes by hand need no numbers."""


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (encode_frame(*encode_message(GUEST)), "Hello on the open link"),
        (encode_frame(*encode_message(Refuse("no"))), "Refuse on the open link"),
        (b"garbage", "not a sidecar peer"),
        (encode_frame(6, b"\x92\x80\x05"), "credit of 5 bytes for 0"),
    ],
)
async def test_a_peer_out_of_order_is_cut_and_told(lab: Lab, data: bytes, reason: str) -> None:
    b = lab.node("b", 2)
    await lab.start(b)
    session, reader, writer = await impostor(b, GUEST)
    writer.write(data)
    farewell = [m async for m in everything(session, reader)][-1]
    assert reason in farewell.reason
    await until(lambda: b.count("down", "guest"))
    assert reason in str(b.events[-1][2])
    writer.close()


async def everything(session: Session, reader: asyncio.StreamReader):
    while data := await reader.read(1000):
        for message in session.receive(data):
            yield message


async def test_a_peer_beyond_its_credit_is_cut(lab: Lab) -> None:
    b = lab.node("b", 2, limits={"link_window_bytes": 64 * 1024}, grants=False)
    await lab.start(b)
    session, _, writer = await impostor(b, GUEST)
    session.peer = GUEST.__class__(cluster="c", node_id=2, node_name="b", window_bytes=1 << 30, frame_bytes_max=1 << 20)
    for _ in range(3):
        writer.write(session.send(make_part(body=bytes(30_000))))
    await until(lambda: b.count("down", "guest"))
    assert "its credit is 65536" in str(b.events[-1][2])
    writer.close()


def test_backoff_is_bounded_and_jittered() -> None:
    bounds: list[float] = []

    def highest(_: float, high: float) -> float:
        bounds.append(high)
        return high

    backoff = pacing.Backoff(1000, highest)
    assert [backoff.delay_s() for _ in range(6)] == [0.1, 0.2, 0.4, 0.8, 1.0, 1.0]
    for _ in range(2000):
        backoff.delay_s()
    assert max(bounds) == 1000
    backoff.reset()
    assert backoff.delay_s() == 0.1
    delays = {pacing.Backoff(1000).delay_s() for _ in range(50)}
    assert len(delays) > 10
    assert all(0 <= delay <= 0.1 for delay in delays)


def test_line_limit_counts_what_it_leaves_out() -> None:
    limit = pacing.LineLimit()
    assert [limit.passes(0) for _ in range(7)] == [True] * 5 + [False] * 2
    assert not limit.passes(pacing.WARNING_INTERVAL_MS - 1)
    assert limit.passes(pacing.WARNING_INTERVAL_MS)
    assert limit.take_suppressed() == 3
    assert limit.take_suppressed() == 0
    assert limit.passes(-1_000_000), "a clock set back does not silence the log"


def test_connect_timeout_is_named() -> None:
    assert dialler.CONNECT_S == registry.HANDSHAKE_S == 5.0


# -- who somebody is ---------------------------------------------------------------------------------------------------


async def test_a_peer_that_claims_what_this_node_never_had_is_refused_and_nobody_else(lab: Lab) -> None:
    """True of a node that was put back; from a peer that lies it costs that one link."""
    c = lab.node("c", 3)
    b = lab.node("b", 2, clock={1: 101})
    a = lab.node("a", 1, peers={"b": b.listen, "c": c.listen}, end=100)
    await lab.start(a, b, c)
    await until(lambda: "c" in a.mesh.links)
    await until(lambda: a.mesh.states["b"].state is PeerPhase.REFUSED and a.refusals)
    assert "b has changes of 'a' (node 1) from after 0.100" in (a.mesh.states["b"].last_error or "")
    assert [(name, error.cause) for name, error in a.refusals] == [("b", "past")]
    assert a.mesh.refusals == {"past": 1}
    assert b.mesh.refusals == {"by_peer": 1}
    assert not a.count("down", "c")


@pytest.mark.parametrize("dials", ["a", "b"])
async def test_a_copy_is_told_on_both_sides_whoever_dials(lab: Lab, dials: str) -> None:
    facts = {"incarnation": "i", "generation": 1, "starts": [Start(4, "copy", 10)], "boot_id": "copy"}
    a_listen, b_listen = free_address(), free_address()
    a = lab.node("a", 1, listen=a_listen, peers={"b": b_listen} if dials == "a" else {})
    b = lab.node("b", 2, listen=b_listen, peers={"a": a_listen} if dials == "b" else {}, **facts)
    a.nodes = {2: Known("b", incarnation="i", generation=1, start=4, boot_id="genuine", told_hlc=12)}
    await lab.start(a, b)
    dialler = a if dials == "a" else b
    await until(lambda: dialler.mesh.states["b" if dials == "a" else "a"].state is PeerPhase.REFUSED)
    if dials == "b":
        await until(lambda: b.refusals)
        assert [(name, error.cause, error.peer_cause) for name, error in b.refusals] == [("a", "by_peer", "copy")]
        assert "two databases run as 'b' (node 2)" in b.refusals[0][1].message
    else:
        assert [(name, error.cause) for name, error in a.refusals] == [("b", "copy")]
    await until(lambda: a.mesh.refusals == {"copy": 1} and b.mesh.refusals == {"by_peer": 1})
    assert not a.mesh.links
    a.nodes = {}


async def test_an_id_or_a_name_that_only_others_are_linked_with_is_taken(lab: Lab) -> None:
    a = lab.node("a", 1)
    a.nodes = {7: Known("far"), 8: Known("farther")}
    for name, node_id, cause in (("new", 7, "id"), ("farther", 9, "name")):
        b = lab.node(name, node_id, peers={"a": a.listen})
        await lab.start(*([a] if a.task is None else []), b)
        await until(lambda b=b: b.mesh.states["a"].state is PeerPhase.REFUSED)
        assert a.mesh.refusals[cause] == 1
    assert not a.mesh.links
    assert a.refusals == [], "strangers' names are not kept"


async def test_a_peer_of_the_first_protocol_says_nothing_of_itself_and_is_linked(lab: Lab) -> None:
    facts = {"incarnation": "i", "generation": 1, "starts": [Start(4, "boot-1", 10)], "end": 10}
    a = lab.node("a", 1, **facts)
    a.nodes = {2: Known("b", boot_id="boot-0")}
    b = lab.node("b", 2, peers={"a": a.listen}, protocol=(1, 1))
    await lab.linked(a, b)
    assert b.mesh.states["a"].last_error is None
