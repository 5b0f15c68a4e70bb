"""The node's side of the peer links: hellos, received parts, heartbeats, acknowledgements."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from sidecar.core.changes import ChangeSetPart
from sidecar.core.wire.messages import BarrierAnswer, Heartbeat, Hello
from sidecar.errors import ProtocolError
from sidecar.node.backlog import Backlog
from sidecar.node.barriers import BarrierMail
from sidecar.node.inbox import Inbox
from sidecar.node.ship import Shipper, Tail, ship
from sidecar.node.state import NodeState
from sidecar.peers.link import Link
from sidecar.postgres.journal import JournalReader

TABLES_NAMED_MAX = 20
"""Tables of either kind named in the line about a peer's tables: a Hello may name thousands that are not here."""


@dataclass(slots=True)
class _OpenLink:
    """A link and what is sent on it. ``shipper`` is ``None`` while the database is away."""

    link: Link
    sending: asyncio.Task[None] | None = None
    shipper: Shipper | None = None


class NodeLinks:
    """Implements :class:`sidecar.peers.handler.PeerHandler`."""

    def __init__(self, state: NodeState, inbox: Inbox, tail: Tail, boot_id: str) -> None:
        self._state = state
        self._inbox = inbox
        self._tail = tail
        self._boot_id = boot_id
        self._open: dict[int, _OpenLink] = {}
        self.reader: JournalReader | None = None
        self.ready = asyncio.Event()
        self.acknowledged_hlc: dict[int, int] = {}
        self.acknowledged_moved = asyncio.Event()
        self.barriers = BarrierMail()
        self.names: dict[int, str] = {}
        self.backlog = Backlog()
        self._hellos: dict[int, Hello] = {}

    def hello(self) -> Hello:
        """Who this node is and what it has merged durably."""
        node = self._state.settings.node
        return Hello(
            cluster=node.cluster,
            node_id=node.id,
            node_name=node.name,
            clock=dict(self._state.clock),
            fingerprints=self._state.fingerprints(),
            boot_id=self._boot_id,
        )

    async def connected(self, link: Link, hello: Hello) -> None:
        """Start sending from where the peer stands. A link stands while the database is away: what comes waits in the
        inbox, and sending begins when the journal can be read."""
        self._hellos[link.peer_id] = hello
        self.compare_tables()
        mine = hello.clock.get(self._state.node_id, 0)
        self.acknowledged_hlc[link.peer_id] = mine
        for former in [i for i, name in self.names.items() if name == link.peer_name and i != link.peer_id]:
            # A node that was made anew under its old name; the journal waits for nobody by the former id.
            del self.names[former]
            self.acknowledged_hlc.pop(former, None)
        self.names[link.peer_id] = link.peer_name
        self.acknowledged_moved.set()
        self._give_up(link.peer_id)
        entry = self._open[link.peer_id] = _OpenLink(link)
        entry.sending = asyncio.create_task(self._send(entry, mine), name=f"ship to {link.peer_name}")
        entry.sending.add_done_callback(lambda done: self._shipped(link, done))
        link.send_ack(self._state.clock)
        link.send_heartbeat(0, 0)  # the first half of the first look at the peer's clock

    async def _send(self, entry: _OpenLink, mine: int) -> None:
        await self.ready.wait()
        assert self.reader is not None
        if self.backlog.is_old(mine):
            self.backlog.anchor(mine, (await self.reader.position_of(mine))[0])
        entry.shipper = Shipper(self._state, entry.link, self.reader, self._tail)
        await ship(entry.shipper, mine)

    def _shipped(self, link: Link, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._state.log.warning("shipping_failed", peer=link.peer_name, reason=str(error))
            if isinstance(error, ProtocolError):
                self._state.problem(f"ship {link.peer_name}", f"nothing can be sent: {error.line()}")
            link.close("sending failed")

    async def restore(self, reader: JournalReader) -> None:
        """Take up what the database knows of peers that were not linked since this process started."""
        for peer_id, name, acknowledged in await reader.known_peers():
            if peer_id not in self.acknowledged_hlc:
                self.names[peer_id] = name
                self.acknowledged_hlc[peer_id] = acknowledged
                self.backlog.anchor(acknowledged, (await reader.position_of(acknowledged))[0])

    def publish(self, seq: int, part: ChangeSetPart | None) -> None:
        """A durable change set of this node, whose end the clock names already; see :meth:`Tail.publish`."""
        self._tail.publish(seq, part)
        self._state.journal_end = self._state.clock[self._state.node_id]
        self.backlog.published(self._state.journal_end)

    def compare_tables(self) -> None:
        """Compare the tables with those that each peer had at its last hello; again after they changed here."""
        for hello in self._hellos.values():
            self._compare(hello)

    def _compare(self, hello: Hello) -> None:
        own = self._state.fingerprints()
        differing = [name for name, value in hello.fingerprints.items() if own.get(name, value) != value]
        missing = [name for name in hello.fingerprints if name not in own]
        lines = [f"table {name} differs from that on {hello.node_name}" for name in differing[:TABLES_NAMED_MAX]]
        lines += [f"table {name} of {hello.node_name} is not replicated here" for name in missing[:TABLES_NAMED_MAX]]
        unsaid = len(differing) + len(missing) - len(lines)
        lines += [f"and {unsaid} more"] if unsaid else []
        mend = "; make columns and annotations equal" if lines else ""
        self._state.problem(f"tables {hello.node_name}", "; ".join(lines) + mend if lines else None)

    async def receive(self, link: Link, part: ChangeSetPart) -> None:
        """Queue a part for the merge loop; a peer may only send its own changes."""
        if part.header.origin != link.peer_id:
            raise ProtocolError(f"{link.peer_name} (node {link.peer_id}) sent changes of node {part.header.origin}")
        await self._inbox.put(part, link.grant)

    def heartbeat(self, link: Link, heartbeat: Heartbeat) -> None:
        """An empty interval of the peer, and what its clock says."""
        self._state.watch.observe(link.peer_name, link.state.clock_offset_ms, link.state.round_trip_ms)
        if heartbeat.hlc > heartbeat.from_hlc and heartbeat.hlc > self._state.clock.get(link.peer_id, 0):
            self._inbox.close_interval(link.peer_id, heartbeat.from_hlc, heartbeat.hlc)

    def acknowledged(self, link: Link, clock: dict[int, int]) -> None:
        """The peer's durable clock."""
        mine = clock.get(self._state.node_id, 0)
        if mine > self.acknowledged_hlc.get(link.peer_id, 0):
            self._state.problem(f"ship {link.peer_name}", None)
        self.acknowledged_hlc[link.peer_id] = mine
        self.acknowledged_moved.set()

    def barrier_requested(self, link: Link, number: int) -> None:
        """The peer asks what this node has; answered by :class:`sidecar.node.waits.Waits`."""
        self.barriers.request(link, number)

    def barrier_answered(self, link: Link, answer: BarrierAnswer) -> None:
        """What the peer has."""
        self.barriers.answer(link.peer_id, answer)

    def ask_barrier(self, number: int) -> None:
        """Ask every linked peer what it has by now."""
        for entry in self._open.values():
            entry.link.ask_barrier(number)

    def disconnected(self, link: Link, error: Exception | None) -> None:
        """The link is gone; what it left unfinished comes again with the next one. That one may be there already, and
        what it has brought stays."""
        entry = self._open.get(link.peer_id)
        if entry is not None and entry.link is link:
            self._give_up(link.peer_id)
            self._state.watch.forget(link.peer_name)

    def _give_up(self, peer_id: int) -> None:
        """Stop sending on the link of a peer, if there is one, and forget what it left unfinished."""
        entry = self._open.pop(peer_id, None)
        if entry is not None and entry.sending is not None:
            entry.sending.cancel()
        self._inbox.forget(peer_id)

    def acknowledge(self) -> None:
        """Tell every peer the clock that is durable now."""
        for entry in self._open.values():
            entry.link.send_ack(self._state.clock)

    def linked(self) -> set[str]:
        """The peers with an open link."""
        return {self.names[peer_id] for peer_id in self._open}

    def resync(self, origin: int) -> None:
        """Make a peer send again from what is merged here: a new link starts at the clock of its hello."""
        entry = self._open.get(origin)
        if entry is not None:
            entry.link.close("a change set is missing; send again from the clock of the next hello")

    def beat(self) -> None:
        """A heartbeat on every link."""
        for entry in self._open.values():
            if entry.shipper is not None:
                entry.shipper.heartbeat()

    def unacknowledged(self, peer_id: int) -> int | None:
        """Change sets of this node that a peer has not merged durably; ``None`` when it is not known."""
        acknowledged = self.acknowledged_hlc.get(peer_id)
        return None if acknowledged is None else self.backlog.behind(acknowledged)
