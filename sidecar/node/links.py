"""The node's side of the peer links: hellos, received parts, heartbeats, acknowledgements."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import msgspec

from sidecar.core.changes import ChangeSetPart
from sidecar.core.membership import told
from sidecar.core.wire.identity import Known
from sidecar.core.wire.messages import (
    BarrierAnswer,
    Closed,
    Departure,
    Heartbeat,
    Hello,
    Members,
    Relay,
    Tables,
    part_bytes,
)
from sidecar.errors import LinkRefusedError, ProtocolError
from sidecar.node.backlog import Backlog
from sidecar.node.barriers import BarrierMail
from sidecar.node.identities import Identities
from sidecar.node.inbox import Inbox
from sidecar.node.members import MemberList
from sidecar.node.relay import RelayPolicy, Route
from sidecar.node.ship import Shipper, Tail, ship
from sidecar.node.state import NodeState
from sidecar.node.table_differences import differences
from sidecar.peers.link import Link
from sidecar.postgres.journal_reader import JournalReader
from sidecar.postgres.relay import RelayStore

BELOW_TOLD_S = 30.0
"""A peer that lacks what this journal no longer holds of another node is told of after so long: it mostly gets it from
somebody else, as fast as its links allow."""


@dataclass(slots=True)
class _OpenLink:
    """A link and what is sent on it. ``shipper`` is ``None`` while the database is away, and of a peer that joins.
    ``heard``: the peer has said something, first of all whether it takes other nodes' change sets."""

    link: Link
    route: Route
    heard: asyncio.Event = field(default_factory=asyncio.Event)
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
        self.policy = RelayPolicy(state.settings)
        self.members = MemberList(state.node_id)
        self.floors: dict[int, int] = {}
        # What peers that take relayed change sets have of other nodes, also while they are away.
        self.peer_clocks: dict[int, Mapping[int, int]] = {}
        # Nodes without a link to this one, as peers name them.
        self.far_names: dict[int, str] = {}
        self.identities = Identities(state.problem)
        self._stored: dict[int, Mapping[int, int]] = {}
        self._stored_names: dict[int, str] = {}
        self._below_since: dict[int, float] = {}

    def hello(self) -> Hello:
        """Who this node is and what it has merged durably."""
        node = self._state.settings.node
        hello = Hello(
            cluster=node.cluster,
            node_id=node.id,
            node_name=node.name,
            clock=dict(self._state.clock),
            fingerprints=self._state.fingerprints(),
            boot_id=self._boot_id,
        )
        return self.identities.introduce(hello)

    def known_nodes(self) -> dict[int, Known]:
        """The nodes known here, from links and from what peers say."""
        gone = {n: Known(d.name, removed=True, departed=told(d)) for n, d in self.members.departed.items()}
        return {**self.identities.known({**self.far_names, **self.names}), **gone}

    def end_hlc(self) -> int | None:
        """The highest hlc that anybody can have of this node."""
        return self.identities.end_hlc(self._state.clock.get(self._state.node_id, 0))

    def refused(self, name: str, error: LinkRefusedError) -> None:
        """No link with a peer because of who one of the two is."""
        self.identities.refused(name, error, asyncio.get_running_loop().time())

    async def connected(self, link: Link, hello: Hello) -> None:
        """Start sending from where the peer stands. A link stands while the database is away: what comes waits in the
        inbox, and sending begins when the journal can be read."""
        if (departure := self.members.departed.get(link.peer_id)) is not None:
            link.close(told(departure))  # heard of during the handshake
            return
        self._hellos[link.peer_id] = hello
        self.identities.linked(hello)
        self.compare_tables()
        mine = hello.clock.get(self._state.node_id, 0)
        self.acknowledged_hlc[link.peer_id] = mine
        for former in [i for i, name in self.names.items() if name == link.peer_name and i != link.peer_id]:
            # A node that was made anew under its old name; the journal waits for nobody by the former id.
            del self.names[former]
            self.acknowledged_hlc.pop(former, None)
        fresh = {} if self.name_of(link.peer_id) == link.peer_name else {link.peer_id: link.peer_name}
        self.names[link.peer_id] = link.peer_name
        self.acknowledged_moved.set()
        self._give_up(link.peer_id)
        if link.peer_id in self.peer_clocks:
            # Perhaps less than before: a node that was made anew under its old id has none of it.
            self.peer_clocks[link.peer_id] = dict.fromkeys(self.peer_clocks[link.peer_id], 0) | hello.clock
        route = Route(self._state.node_id, link.peer_id, hello.clock, floors=self.floors, name_of=self.name_of)
        entry = self._open[link.peer_id] = _OpenLink(link, route)
        if not hello.joining:  # else its clock is that of before the copy, and what comes after that is only kept
            entry.sending = asyncio.create_task(self._send(entry, mine), name=f"ship to {link.peer_name}")
            entry.sending.add_done_callback(lambda done: self._shipped(link, done))
        self._ask_relay(link)  # before anything else: see _send
        self.tell_members(link)
        self._spread(fresh, entry)
        link.send_ack(self._state.clock)
        link.send_heartbeat(0, 0)  # the first half of the first look at the peer's clock

    async def _send(self, entry: _OpenLink, mine: int) -> None:
        if self.policy.relays(entry.link.peer_name):
            # Own change sets that depend on others must not come before these, or they fill the peer's queue in vain.
            await entry.heard.wait()
        await self.ready.wait()
        assert self.reader is not None
        await self._anchor(self.reader, mine)
        entry.shipper = Shipper(self._state, entry.link, self.reader, self._tail, entry.route)
        await ship(entry.shipper)

    async def _anchor(self, reader: JournalReader, acknowledged: int) -> None:
        """Find out how far behind a peer is that stands before what was counted since the start."""
        if self.backlog.is_old(acknowledged):
            behind = await reader.sets_after((await reader.position_of(acknowledged))[0])
            self.backlog.anchor(acknowledged, self.backlog.newest - behind)

    def _shipped(self, link: Link, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._state.log.warning("shipping_failed", peer=link.peer_name, reason=str(error))
            if isinstance(error, ProtocolError):
                self._state.problem(f"ship {link.peer_name}", f"nothing can be sent: {error.line()}")
            link.close("sending failed")

    async def restore(self, reader: JournalReader) -> None:
        """Take up what the database knows of peers that were not linked since this process started."""
        for peer_id, name, acknowledged in await reader.known_peers():
            if peer_id not in self.acknowledged_hlc and peer_id not in self.members.departed:
                self.names[peer_id] = name
                self.acknowledged_hlc[peer_id] = acknowledged
                await self._anchor(reader, acknowledged)

    async def restore_relay(self, store: RelayStore) -> None:
        """The same of what only a node with relay writes down."""
        self.floors.clear()
        self.floors.update(await store.floors())
        self.peer_clocks = {**await store.peer_clocks(), **self.peer_clocks}
        self.far_names = {**await store.members(), **self.far_names}

    async def store_relay(self, store: RelayStore) -> None:
        """Write down what :meth:`restore_relay` takes up, as far as it changed; and see what has left the journal."""
        clocks = {peer: dict(clock) for peer, clock in self.peer_clocks.items() if self._stored.get(peer) != clock}
        await store.store_peer_clocks(clocks)
        self._stored.update(clocks)
        if self.far_names != self._stored_names:
            names = dict(self.far_names)
            await store.store_members(names)
            self._stored_names = names
        self.floors.update(await store.floors())

    def publish_relayed(self, seq: int, part: ChangeSetPart | None) -> None:
        """A durable change set of another node, in the journal and covered by the clock; see :meth:`Tail.publish`."""
        self._tail.publish(seq, part)

    def publish(self, seq: int, part: ChangeSetPart | None) -> None:
        """A durable change set of this node, whose end the clock names already; see :meth:`Tail.publish`."""
        self._tail.publish(seq, part)
        self._state.journal_end = self._state.clock[self._state.node_id]
        self.backlog.published(self._state.journal_end)

    def compare_tables(self) -> None:
        """Compare the tables with those of which each peer spoke last; again after they changed here."""
        for hello in self._hellos.values():
            self._compare(hello)

    def tables_changed(self) -> None:
        """They changed here; the peers are told, and compare them, too."""
        self.compare_tables()
        fingerprints = self._state.fingerprints()
        for entry in self._open.values():
            entry.link.send_tables(fingerprints)

    def tables_told(self, link: Link, tables: Tables) -> None:
        """They changed at a peer."""
        hello = self._hellos.get(link.peer_id)
        if hello is not None:
            hello = self._hellos[link.peer_id] = msgspec.structs.replace(hello, fingerprints=tables.fingerprints)
            self._compare(hello)

    def _compare(self, hello: Hello) -> None:
        self._state.problem(f"tables {hello.node_name}", differences(self._state.fingerprints(), hello))

    async def receive(self, link: Link, part: ChangeSetPart) -> None:
        """Queue a part for the merge loop; without relay a peer may only send its own changes."""
        origin = part.header.origin
        if origin != link.peer_id and not self.policy.relays(link.peer_name):
            raise ProtocolError(f"{link.peer_name} (node {link.peer_id}) sent changes of node {origin}")
        if origin == self._state.node_id:
            link.grant(part_bytes(part))  # this node's own come back from a peer that did not know them for such
            return
        await self._inbox.put(part, link.grant, link.peer_id)

    def heartbeat(self, link: Link, heartbeat: Heartbeat) -> None:
        """An empty interval of the peer, and what its clock says."""
        self._hear(link)
        self._state.watch.observe(link.peer_name, link.state.clock_offset_ms, link.state.round_trip_ms)
        self.identities.told(link.peer_id, heartbeat.hlc)
        if heartbeat.hlc > heartbeat.from_hlc and heartbeat.hlc > self._state.clock.get(link.peer_id, 0):
            self._inbox.close_interval(link.peer_id, heartbeat.from_hlc, heartbeat.hlc)

    def acknowledged(self, link: Link, clock: dict[int, int]) -> None:
        """The peer's durable clock."""
        if link.peer_id in self.members.departed:
            return
        self._hear(link)
        self.identities.told(link.peer_id, clock.get(link.peer_id, 0))
        mine = clock.get(self._state.node_id, 0)
        if mine > self.acknowledged_hlc.get(link.peer_id, 0):
            self._state.problem(f"ship {link.peer_name}", None)
        self.acknowledged_hlc[link.peer_id] = mine
        self.acknowledged_moved.set()
        entry = self._open.get(link.peer_id)
        if entry is not None and entry.link is link:
            entry.route.learn(clock)
            if entry.route.asked:
                self.peer_clocks[link.peer_id] = clock

    def name_of(self, node: int) -> str | None:
        """The name of a node of the cluster, as far as it is known."""
        if node == self._state.node_id:
            return self._state.settings.node.name
        return self.names.get(node) or self.far_names.get(node)

    def _ask_relay(self, link: Link) -> None:
        """Take other nodes' change sets on a link, if the configuration says so, and tell whom this node knows."""
        if self.policy.relays(link.peer_name):
            known = {**self.far_names, **self.names, self._state.node_id: self._state.settings.node.name}
            link.ask_relay(known, self.policy.origins(link.peer_name))

    def relay_asked(self, link: Link, relay: Relay) -> None:
        """The peer takes other nodes' change sets, and names the nodes it knows."""
        fresh = {node: name for node, name in relay.names.items() if self.name_of(node) is None}
        self.far_names.update(fresh)
        entry = self._open.get(link.peer_id)
        if entry is None:
            return  # a node that is no longer a member, whose link is ending
        if self.policy.relays(link.peer_name):
            self.peer_clocks.setdefault(link.peer_id, entry.route.known)
            entry.route.open(self.policy.origins(link.peer_name), relay.origins)
        self._hear(link)
        self._spread(fresh, entry)

    def _spread(self, names: Mapping[int, str], source: _OpenLink) -> None:
        """Tell the other peers of names that were heard of on a link."""
        if names:
            for entry in self._open.values():
                entry.route.learn_names(names.values())
                if entry is not source:
                    self._ask_relay(entry.link)
            self._tail.wake()

    def closed(self, link: Link, closed: Closed) -> None:
        """Empty intervals of other nodes."""
        if not self.policy.relays(link.peer_name):
            raise ProtocolError(f"{link.peer_name} (node {link.peer_id}) spoke for other nodes")
        for origin, (from_hlc, hlc) in closed.intervals.items():
            if origin not in (self._state.node_id, link.peer_id):
                self._inbox.close_relayed(origin, from_hlc, hlc, self._state.clock.get(origin, 0))

    def have_merged(self, peers: Collection[str], ends: Mapping[int, int]) -> bool:
        """Whether every one of the peers to which change sets of other nodes go has merged them up to an hlc each."""
        ids = {name: peer_id for peer_id, name in self.names.items()}
        for peer in peers:
            peer_id = ids.get(peer, 0)
            entry = self._open.get(peer_id)
            if entry is not None and entry.heard.is_set() and peer_id not in self.peer_clocks:
                continue  # it takes none
            clock = self.peer_clocks.get(peer_id, {})
            for origin, hlc in ends.items():
                if origin != peer_id and self.policy.takes(peer, self.name_of(origin)) and clock.get(origin, 0) < hlc:
                    return False
        return True

    def _hear(self, link: Link) -> None:
        entry = self._open.get(link.peer_id)
        if entry is not None and entry.link is link:
            entry.heard.set()

    def members_told(self, link: Link, members: Members) -> None:
        """Departures that the peer knows; taken up by :class:`sidecar.node.membership.Membership`."""
        self.members.hear(link.peer_id, members.departed)

    def tell_members(self, link: Link | None = None) -> None:
        """Tell a peer, or every linked one, of the departures that are written down here."""
        own = [] if self.members.own is None else [self.members.own]
        known = [*self.members.departed.values(), *own]
        for entry in self._open.values() if known else ():
            if link is None or entry.link is link:
                entry.link.send_members(known)

    def dismiss(self, departure: Departure) -> None:
        """A node is no longer a member: nothing is kept for it or told of it, and its link ends."""
        node, name, entry = departure.node, departure.name, self._open.get(departure.node)
        self._give_up(node)
        for known in (self.names, self.acknowledged_hlc, self.peer_clocks, self._hellos, self._below_since):
            known.pop(node, None)
        self.far_names[node] = name
        self.acknowledged_moved.set()
        if name not in self.names.values():
            self._state.watch.forget(name)
            for what in ("journal", "ship", "relay", "tables"):
                self._state.problem(f"{what} {name}", None)
        if entry is not None:
            entry.link.close(told(departure))

    def gone(self, name: str) -> Departure | None:
        """The departure of the node of a name; ``None`` while a member bears it, as a new node may."""
        return None if name in self.names.values() else self.members.by_name(name)

    def clock_of(self, peer_id: int) -> Mapping[int, int]:
        """What a linked peer has merged durably, as known now; empty for one that is not linked."""
        entry = self._open.get(peer_id)
        return {} if entry is None else entry.route.known

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
        """Make everybody who sends an origin's changes send again from what is merged here: a new link starts at the
        clock of its hello."""
        for entry in self._open.values():
            if entry.link.peer_id == origin or self.policy.relays(entry.link.peer_name):
                entry.link.close("a change set is missing; send again from the clock of the next hello")

    def beat(self) -> None:
        """A heartbeat on every link."""
        for entry in self._open.values():
            if entry.shipper is not None:
                entry.shipper.heartbeat()
                if self.policy.any:
                    self._tell_below(entry)

    def _tell_below(self, entry: _OpenLink) -> None:
        """A peer that nobody has brought what is no longer in this journal of other nodes."""
        peer, below = entry.link, entry.route.below
        now = asyncio.get_running_loop().time()
        if not below:
            self._below_since.pop(peer.peer_id, None)
            self._state.problem(f"relay {peer.peer_name}", None)
        elif now - self._below_since.setdefault(peer.peer_id, now) >= BELOW_TOLD_S:
            names = ", ".join(sorted(self.name_of(node) or f"node {node}" for node in below))
            mend = "link it to a node that does, or make it anew, see docs/operations.md"
            line = f"{peer.peer_name} lacks changes of {names} that this journal does not hold; {mend}"
            self._state.problem(f"relay {peer.peer_name}", line)

    def unacknowledged(self, peer_id: int) -> int | None:
        """Change sets of this node that a peer has not merged durably; ``None`` when it is not known."""
        acknowledged = self.acknowledged_hlc.get(peer_id)
        return None if acknowledged is None else self.backlog.behind(acknowledged)
