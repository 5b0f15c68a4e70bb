"""From a fresh connection to two accepted Hellos, and which of several connections to a peer becomes its link."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from sidecar.core.wire.greeting import Choice, Standing, choose, judge_hello
from sidecar.core.wire.identity import PAGE, Meeting, judge_identity
from sidecar.core.wire.messages import Accept, Goodbye, Hello, Message, Refuse, one_line
from sidecar.core.wire.session import Side
from sidecar.errors import LinkRefusedError, ProtocolError, TransientError
from sidecar.peers.connection import Connection
from sidecar.peers.link import Link
from sidecar.peers.status import PeerState
from sidecar.peers.tls import check_certificate


class DuplicateLinkError(TransientError):
    """The peer is linked by another connection already; nothing is wrong."""


@dataclass(slots=True)
class Slot:
    """The place for the one link to a peer. ``holder``: the connection whose handshake may fill it at present.
    ``shunned_until_s``: no link before this (event loop time). ``dismissed``: not to be dialled."""

    state: PeerState
    configured: bool
    link: Link | None = None
    holder: Connection | None = None
    shunned_until_s: float = 0.0
    dismissed: bool = False
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def free(self) -> bool:
        """Neither a link nor a handshake."""
        return self.link is None and self.holder is None

    def notify(self) -> None:
        """Wake everybody in :meth:`until`."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until the condition holds, looked at after every change."""
        while not condition():
            await self._changed.wait()

    def release(self, connection: Connection) -> None:
        """The handshake of this connection is over, if it was the one that counts."""
        if self.holder is connection:
            self.holder = None
            self.notify()


@dataclass(frozen=True, slots=True)
class Knowledge:
    """What a Hello is held against. ``names``: the configured peers; ``meet``: the two Hellos with what is known at
    that moment of the nodes; ``tls``: whether the certificate says who it is."""

    names: Collection[str]
    meet: Callable[[Hello, Hello], Meeting]
    tls: bool


async def greet(connection: Connection, own: Callable[[], Hello], expected_name: str | None, known: Knowledge) -> Hello:
    """Exchange and judge the Hellos; the peer's Hello.

    The dialler speaks first, and only to the node it wants; the listener answers only who is what he says. So neither a
    stranger on the port nor one at a peer's address hears anything. Raises :class:`LinkRefusedError` when either
    side refuses (after telling the peer), :class:`ProtocolError` for garbage, :class:`TransientError` for a lost
    connection.
    """
    try:
        if connection.dialled:
            if known.tls and expected_name is not None:
                check_certificate(connection.certificate_names, expected_name)
            connection.write(own())
        message = await connection.read()
        if isinstance(message, Hello):
            if known.tls:
                check_certificate(connection.certificate_names, message.node_name)
            if not connection.dialled:
                connection.write(own())
            said = connection.session.own
            assert said is not None
            judge_hello(said, message, expected_name, known.names)
            judge_identity(known.meet(said, message))
            return message
    except LinkRefusedError as error:
        _refuse(connection, error)
        raise
    raise refusal(message)


def _refuse(connection: Connection, error: LinkRefusedError) -> None:
    if connection.session.ours is not Side.CLOSED and connection.session.theirs is not Side.CLOSED:
        connection.write(Refuse(one_line(error.line()), cause=error.cause))


async def settle(connection: Connection, slot: Slot) -> None:
    """Both sides accept, or raise like :func:`greet`. At the end an older link of the slot is gone.

    The lower id decides: it takes one connection at a time, its own dial first, and accepts or refuses. The other
    follows, giving up its older link when the lower id accepted a new connection.
    """
    session = connection.session
    assert session.own is not None
    assert session.peer is not None
    decides = session.own.node_id < session.peer.node_id
    if decides:
        await _choose(connection, slot, session.peer)
        connection.write(session.accept())
    answer = await connection.read()
    if not isinstance(answer, Accept):
        raise refusal(answer)
    if not decides:
        await _give_up(connection, slot, session.peer)
        connection.write(session.accept())


async def _choose(connection: Connection, slot: Slot, peer: Hello) -> None:
    if not connection.dialled:
        await slot.until(lambda: slot.holder is None)
        slot.holder = connection
    link = slot.link
    standing = Standing(link.hello.boot_id, link.dialled) if link is not None and link.is_open else None
    if choose(standing, peer.boot_id, dialled=connection.dialled) is Choice.DUPLICATE:
        connection.write(Refuse("there is a link already", temporary=True))
        raise DuplicateLinkError(f"{peer.node_name} is linked already")
    await _give_up(connection, slot, peer)


async def _give_up(connection: Connection, slot: Slot, peer: Hello) -> None:
    """End the older link. One that leads to another start of the peer has ended by itself when that start is over; if
    it answers, two are running, and the one that is linked stays. Does it neither answer nor end, the new connection
    waits until its time is over or the silent link is cut."""
    link = slot.link
    if link is None:
        return
    if link.hello.boot_id != peer.boot_id:
        if await link.answers():
            refused = LinkRefusedError(
                f"two databases run as {peer.node_name!r} (node {peer.node_id}): another start of it is linked with "
                "this node and answers",
                mend=f"one is a copy: stop it; {PAGE}",
                cause="copy",
            )
            _refuse(connection, refused)
            raise refused
    else:
        link.close("replaced by a newer connection")
    await slot.until(lambda: slot.link is None)


def refusal(message: Message) -> LinkRefusedError | TransientError | ProtocolError:
    """The error for a message that came instead of a Hello or an Accept."""
    if isinstance(message, Refuse):
        text = f"refused by the peer: {one_line(message.reason)}"
        if message.temporary:
            return TransientError(text)
        return LinkRefusedError(text, cause="by_peer", peer_cause=one_line(message.cause))
    if isinstance(message, Goodbye):
        return TransientError(f"the peer closed the connection: {one_line(message.reason)}")
    return ProtocolError(f"unexpected {type(message).__name__} in the handshake")
