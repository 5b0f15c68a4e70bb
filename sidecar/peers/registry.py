"""Who is linked: one slot per peer, filled by whichever connection finishes its handshake, whoever dialled it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable

import msgspec
import structlog

from sidecar.core.wire.identity import IDENTITY_CAUSES, Known, Meeting
from sidecar.core.wire.messages import Hello, Refuse
from sidecar.errors import LinkRefusedError, ProtocolError, SidecarError, TransientError
from sidecar.peers.connection import Connection
from sidecar.peers.handler import PeerHandler
from sidecar.peers.handshake import Knowledge, Slot, greet, settle
from sidecar.peers.link import Link
from sidecar.peers.status import PeerPhase, PeerState
from sidecar.settings import Settings

log = structlog.get_logger(__name__)

HANDSHAKE_S = 5.0
"""From the open socket to the established link; a stranger who says nothing is cut after it."""

SHUN_S = 1.0
"""A peer whose link ended with a protocol error is turned away for so long. One that does it again and again costs a
handshake and two lines of the log each second, and a network that damaged a frame once costs a second."""


class LinkRegistry:
    """Slots, states and links by peer name. Establishes connections and serves the links that come of them.
    ``refusals`` counts connections that did not become links, by cause."""

    def __init__(self, settings: Settings, handler: PeerHandler, *, now_ms: Callable[[], int]) -> None:
        self.settings = settings
        self.now_ms = now_ms
        self.refusals: Counter[str] = Counter()
        self.links: dict[str, Link] = {}
        self.states: dict[str, PeerState] = {}
        self._handler = handler
        self._slots: dict[str, Slot] = {}
        for peer in settings.peers:
            self._add(PeerState(name=peer.name, address=peer.address), configured=True)
        self._known = frozenset(self._slots)

    def slot(self, name: str) -> Slot | None:
        """The slot of a peer that is configured or was linked before."""
        return self._slots.get(name)

    async def establish(
        self, connection: Connection, expected_name: str | None, *, begun_s: float | None = None
    ) -> Link | Exception:
        """Do the handshake: the link, entered in its slot, or why there is none (the connection is closed then).
        ``begun_s``: when the connection was opened, if some of its time is used already (event loop time)."""
        slot = self._slots[expected_name] if expected_name is not None else None
        link: Link | None = None
        begun_s = asyncio.get_running_loop().time() if begun_s is None else begun_s
        try:
            async with asyncio.timeout_at(begun_s + HANDSHAKE_S):
                known = Knowledge(self._known, self._meeting, tls=self.settings.tls is not None)
                hello = await greet(connection, self._hello, expected_name, known)
                slot = self._slot_for(connection, hello)
                await settle(connection, slot)
            link = self._enter(connection, slot)
        except TimeoutError:
            self.refusals["timeout"] += 1
            return TransientError(f"{connection.address} did not finish the handshake within {HANDSHAKE_S:.0f} s")
        except (SidecarError, OSError) as error:
            self._count(error)
            self._tell(connection, expected_name, error)
            return error
        finally:
            if slot is not None:
                slot.release(connection)
            if link is None:
                await connection.close()
        return link

    async def serve(self, link: Link) -> Exception | None:
        """Run an established link to its end; the error that ended it, None when it was closed in order."""
        error: Exception | None = None
        try:
            error = await link.run()
        finally:
            self._leave(link, error)
        return error

    def dismiss(self, name: str, line: str) -> None:
        """The node of this name is no longer a member: it is not dialled, until a new node of the name dials."""
        slot = self._slots.get(name)
        if slot is not None and not slot.dismissed:
            slot.dismissed = True
            slot.state.last_error = line
            log.info("not_dialled", peer=name, reason=line)

    def _hello(self) -> Hello:
        limits = self.settings.limits
        return msgspec.structs.replace(
            self._handler.hello(), window_bytes=limits.link_window_bytes, frame_bytes_max=limits.frame_bytes_max
        )

    def _meeting(self, own: Hello, other: Hello) -> Meeting:
        nodes = {state.peer_id: Known(name) for name, state in self.states.items() if state.peer_id is not None}
        return Meeting(own, other, {**nodes, **self._handler.known_nodes()}, self._handler.end_hlc())

    def _tell(self, connection: Connection, expected_name: str | None, error: Exception) -> None:
        """Tell the node of a refusal that is about who somebody is. Strangers' names are not kept."""
        if not isinstance(error, LinkRefusedError) or not {error.cause, error.peer_cause} & IDENTITY_CAUSES:
            return
        hello = connection.session.peer
        name = expected_name or (hello.node_name if hello is not None else None)
        if name is not None and (name in self._slots or name == self.settings.node.name):
            self._handler.refused(name, error)

    def _count(self, error: Exception) -> None:
        if isinstance(error, LinkRefusedError):
            self.refusals[error.cause] += 1
        elif isinstance(error, ProtocolError):
            self.refusals["protocol"] += 1

    def _add(self, state: PeerState, *, configured: bool) -> Slot:
        slot = Slot(state, configured)
        self._slots[state.name] = slot
        self.states[state.name] = state
        return slot

    def _slot_for(self, connection: Connection, hello: Hello) -> Slot:
        """The slot of an accepted Hello; peers that are not configured share what ``limits.peers_max`` leaves."""
        slot = self._slots.get(hello.node_name)
        if slot is not None:
            if asyncio.get_running_loop().time() < slot.shunned_until_s:
                connection.write(Refuse("the last link ended with a protocol error; try again soon", temporary=True))
                raise TransientError(f"{hello.node_name} is turned away for {SHUN_S:.0f} s after a protocol error")
            return slot
        if len(self._slots) >= self.settings.limits.peers_max:
            idle = next((s for s in self._slots.values() if s.free and not s.configured), None)
            if idle is None:
                connection.write(Refuse("too many links; raise peers_max in [limits]", temporary=True))
                raise TransientError(
                    f"all {self.settings.limits.peers_max} links are taken", mend="raise peers_max in [limits]"
                )
            del self._slots[idle.state.name], self.states[idle.state.name]
        return self._add(PeerState(name=hello.node_name), configured=False)

    def _enter(self, connection: Connection, slot: Slot) -> Link:
        assert slot.link is None, "an older link was given up in the handshake"
        state = slot.state
        link = Link(
            connection,
            self._handler,
            state,
            silent_ms=self.settings.timing.link_silent_ms,
            now_ms=self.now_ms,
        )
        slot.link = self.links[link.peer_name] = link
        slot.dismissed = state.disowned = False
        state.state = PeerPhase.CONNECTED
        state.peer_id = link.peer_id
        state.boot_id = link.hello.boot_id
        state.connected_since_ms = state.last_seen_ms = self.now_ms()
        state.last_error = None
        state.retries = 0
        state.links += 1
        log.info("link_up", peer=link.peer_name, address=connection.address, dialled=link.dialled)
        return link

    def _leave(self, link: Link, error: Exception | None) -> None:
        slot = self._slots[link.peer_name]
        slot.link = None
        del self.links[link.peer_name]
        state = slot.state
        state.state = PeerPhase.DOWN
        state.connected_since_ms = state.round_trip_ms = state.clock_offset_ms = None
        if isinstance(error, SidecarError):
            state.last_error = error.line()
            if isinstance(error, ProtocolError):
                self._count(error)
                slot.shunned_until_s = asyncio.get_running_loop().time() + SHUN_S
            log.warning("link_down", peer=link.peer_name, reason=state.last_error)
        elif error is not None:
            state.last_error = f"internal error: {error!r}"
            log.error("link_failed", peer=link.peer_name, exc_info=error)
        else:
            log.info("link_closed", peer=link.peer_name, reason=state.last_error or link.farewell)
        try:
            self._handler.disconnected(link, error)
        finally:
            link.ended.set()
            slot.notify()
