"""Which of several connections to one peer becomes the link, step by step: the peer ``b`` is played by hand."""

from __future__ import annotations

import asyncio
from typing import TypeVar

import msgspec
import pytest
from peer_lab import DEADLINE_S, Lab, Node, until

from sidecar.core.wire.messages import Accept, Goodbye, Heartbeat, Hello, Message, Refuse
from sidecar.core.wire.session import Session
from sidecar.peers.status import PeerPhase
from sidecar.settings import split_address

M = TypeVar("M", bound=Message)
HELLO = Hello(cluster="test", node_id=2, node_name="b", boot_id="one", window_bytes=1 << 20, frame_bytes_max=1 << 20)
SILENCE_S = 0.1


class Played:
    """One connection of the hand-made peer."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.session = Session(1 << 20)
        self.writer = writer
        self.reader = reader
        self.heard: list[Message] = []

    def say(self, message: Message) -> None:
        self.writer.write(self.session.send(message))

    def accept(self) -> None:
        self.say(self.session.accept())

    async def hear(self, kind: type[M]) -> M:
        """The next message but heartbeats; it must be of this kind."""
        message = await asyncio.wait_for(self._next(), DEADLINE_S)
        assert isinstance(message, kind), message
        return message

    async def hears_nothing(self) -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(self._next(), SILENCE_S)

    async def _next(self) -> Message:
        while True:
            while self.heard:
                message = self.heard.pop(0)
                if not isinstance(message, Heartbeat):
                    return message
            data = await self.reader.read(10_000)
            assert data, "the node closed the connection"
            self.heard.extend(self.session.receive(data))


class Peer:
    """Listens as ``b`` for the node, and dials it."""

    def __init__(self) -> None:
        self.connections: list[Played] = []
        self._incoming: asyncio.Queue[Played] = asyncio.Queue()
        self._server: asyncio.Server | None = None

    async def listen(self) -> str:
        def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            played = Played(reader, writer)
            self.connections.append(played)
            self._incoming.put_nowait(played)

        self._server = await asyncio.start_server(connected, "127.0.0.1", 0)
        host, port = self._server.sockets[0].getsockname()
        return f"{host}:{port}"

    async def dialled(self) -> Played:
        """The next connection that the node opened; its Hello was heard."""
        played = await asyncio.wait_for(self._incoming.get(), DEADLINE_S)
        await played.hear(Hello)
        return played

    async def dial(self, node: Node, hello: Hello = HELLO) -> Played:
        """Connect and exchange Hellos."""
        played = Played(*await asyncio.open_connection(*split_address(node.listen)))
        self.connections.append(played)
        played.say(hello)
        await played.hear(Hello)
        return played

    def close(self) -> None:
        if self._server is not None:
            self._server.close()
        for played in self.connections:
            played.writer.close()


@pytest.fixture
async def lab():
    lab = Lab()
    yield lab
    await lab.stop()


@pytest.fixture
async def peer():
    peer = Peer()
    yield peer
    peer.close()


async def test_the_higher_ids_connection_waits_for_the_dial_of_the_lower(lab: Lab, peer: Peer) -> None:
    a = lab.node("a", 1, peers={"b": await peer.listen()})
    await lab.start(a)
    first = await peer.dialled()
    second = await peer.dial(a)
    await second.hears_nothing()
    first.say(HELLO)
    await first.hear(Accept)
    first.accept()
    assert (await second.hear(Refuse)).temporary
    assert a.link("b").dialled
    assert a.count("up", "b") == 1
    assert a.mesh.states["b"].last_error is None, "a duplicate is not an error"


async def test_when_the_lowers_dial_fails_the_waiting_connection_is_taken(lab: Lab, peer: Peer) -> None:
    a = lab.node("a", 1, peers={"b": await peer.listen()})
    await lab.start(a)
    first = await peer.dialled()
    second = await peer.dial(a)
    first.writer.close()
    await second.hear(Accept)
    second.accept()
    await until(lambda: "b" in a.mesh.links)
    assert not a.link("b").dialled
    assert a.mesh.states["b"].state is PeerPhase.CONNECTED


async def test_a_second_dial_of_the_same_start_replaces_the_first(lab: Lab, peer: Peer) -> None:
    """Nobody dials while it has a link, so the peer has lost the first one."""
    a = lab.node("a", 1)
    await lab.start(a)
    for times in (1, 2, 3):
        played = await peer.dial(a)
        await played.hear(Accept)
        played.accept()
        await until(lambda times=times: a.count("up", "b") == times)
    assert a.count("down", "b") == 2
    assert "replaced" in (await peer.connections[0].hear(Goodbye)).reason


async def linked(peer: Peer, node: Node) -> Played:
    """The node's own dial has become the link."""
    first = await peer.dialled()
    first.say(HELLO)
    await first.hear(Accept)
    first.accept()
    await until(lambda: node.count("up", "b") == 1)
    return first


async def test_a_new_start_of_the_peer_replaces_even_the_lowers_dial_once_the_old_one_is_gone(
    lab: Lab, peer: Peer
) -> None:
    a = lab.node("a", 1, peers={"b": await peer.listen()})
    await lab.start(a)
    old = await linked(peer, a)
    new = await peer.dial(a, msgspec.structs.replace(HELLO, boot_id="two"))
    await new.hears_nothing()
    old.writer.close()
    await new.hear(Accept)
    new.accept()
    await until(lambda: a.count("up", "b") == 2)
    assert a.link("b").hello.boot_id == "two"
    assert [kind for kind, _, _ in a.events] == ["up", "down", "up"]


async def test_a_link_that_stands_without_a_sign_of_life_gives_way_when_it_is_cut(lab: Lab, peer: Peer) -> None:
    """The machine of the old start lost its power, and nobody says so."""
    a = lab.node("a", 1, peers={"b": await peer.listen()}, timing={"link_silent_ms": 500, "heartbeat_ms": 100})
    await lab.start(a)
    await linked(peer, a)
    new = await peer.dial(a, msgspec.structs.replace(HELLO, boot_id="two"))
    await new.hear(Accept)
    new.accept()
    await until(lambda: a.count("up", "b") == 2)


async def echo(played: Played) -> None:
    """Answer heartbeats as a peer that lives."""
    while True:
        while played.heard:
            message = played.heard.pop(0)
            if isinstance(message, Heartbeat):
                played.say(Heartbeat(sent_ms=1, echo_ms=message.sent_ms))
        data = await played.reader.read(10_000)
        if not data:
            return
        played.heard.extend(played.session.receive(data))


@pytest.mark.parametrize("decides", [True, False])
async def test_a_second_process_does_not_take_the_link_of_one_that_answers(lab: Lab, peer: Peer, decides: bool) -> None:
    hello = HELLO if decides else msgspec.structs.replace(HELLO, node_id=1)
    a = lab.node("a", 1 if decides else 9, listen=None)
    await lab.start(a)
    first = await peer.dial(a, hello)
    if decides:
        await first.hear(Accept)
    first.accept()
    await until(lambda: a.count("up", "b") == 1)
    echoing = asyncio.create_task(echo(first))
    second = await peer.dial(a, msgspec.structs.replace(hello, boot_id="two"))
    if not decides:
        second.accept()
    refused = await second.hear(Refuse)
    assert "two databases run as 'b'" in refused.reason
    assert (refused.cause, refused.temporary) == ("copy", False)
    assert [kind for kind, _, _ in a.events] == ["up"]
    assert a.mesh.states["b"].state is PeerPhase.CONNECTED
    await until(lambda: [name for name, _ in a.refusals] == ["b"])
    assert a.mesh.refusals == {"copy": 1}
    echoing.cancel()


async def test_the_higher_id_follows_what_the_lower_accepts(lab: Lab, peer: Peer) -> None:
    lower = msgspec.structs.replace(HELLO, node_id=1)
    z = lab.node("z", 9, peers={"b": await peer.listen()})
    await lab.start(z)
    own = await peer.dialled()
    own.say(lower)
    other = await peer.dial(z, lower)
    await own.hears_nothing()
    await other.hears_nothing()
    other.accept()
    await other.hear(Accept)
    own.say(Refuse("there is a link already", temporary=True))
    await until(lambda: z.count("up", "b") == 1)
    assert not z.link("b").dialled
    newer = await peer.dial(z, lower)
    newer.accept()
    await newer.hear(Accept)
    await other.hear(Goodbye)
    await until(lambda: z.count("up", "b") == 2)


async def test_an_accept_that_is_never_answered_frees_the_place(
    lab: Lab, peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sidecar.peers.registry.HANDSHAKE_S", 0.2)
    a = lab.node("a", 1)
    await lab.start(a)
    mute = await peer.dial(a)
    await mute.hear(Accept)
    monkeypatch.setattr("sidecar.peers.registry.HANDSHAKE_S", 10.0)
    played = await peer.dial(a)
    await played.hear(Accept)
    played.accept()
    await until(lambda: "b" in a.mesh.links)


async def test_a_handler_that_never_takes_up_the_link_is_cut(lab: Lab, peer: Peer) -> None:
    a = lab.node("a", 1, timing={"link_silent_ms": 200, "heartbeat_ms": 50})

    async def never(link: object, hello: Hello) -> None:
        await asyncio.get_running_loop().create_future()

    a.connected = never  # type: ignore[method-assign, assignment]
    await lab.start(a)
    played = await peer.dial(a)
    await played.hear(Accept)
    played.accept()
    assert "too busy" in (await played.hear(Goodbye)).reason
    await until(lambda: a.count("down", "b") == 1)
