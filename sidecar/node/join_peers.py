"""The peers of a node that joins: each is to know of it before the copy is taken.

What a peer commits after the copy has to be in its journal until this node links with it, and a journal is trimmed by
what every known peer has acknowledged. So the node presents itself first, with the clock that its database has now. Who
has heard of it trims nothing beyond that clock any more, and what was trimmed before had been merged by the node that
is copied. Nothing is sent or taken on these links.
"""

from __future__ import annotations

import asyncio

from sidecar.core.changes import ChangeSetPart
from sidecar.core.versions import VersionVector
from sidecar.core.wire.identity import Known
from sidecar.core.wire.messages import BarrierAnswer, Closed, Heartbeat, Hello, Members, Relay, Tables
from sidecar.errors import ConfigurationError, LinkRefusedError, TransientError
from sidecar.node.relay import RelayPolicy
from sidecar.node.state import NodeState
from sidecar.peers.link import Link
from sidecar.peers.mesh import PeerMesh

PEERS_WAIT_S = 30.0
"""How long the peers may take to answer: the longest pause between two dials (timing.reconnect_ms_max) and a restart
with this node in their configuration."""


class JoinPeers:
    """Implements :class:`sidecar.peers.handler.PeerHandler`. :meth:`run` keeps the links until it is cancelled."""

    def __init__(self, state: NodeState, boot_id: str) -> None:
        self._state = state
        self._boot_id = boot_id
        self._policy = RelayPolicy(state.settings)
        self._hellos: dict[str, Hello] = {}
        self._moved = asyncio.Event()
        self._mesh = PeerMesh(state.settings, self, now_ms=state.now_ms)

    async def run(self) -> None:
        """Listen and dial."""
        await self._mesh.run()

    async def known(self) -> None:
        """Wait until every configured peer knows of this node; where none is configured, until one has dialled it.
        Raises :class:`TransientError` that names the others."""
        wanted = {peer.name for peer in self._state.settings.peers}
        try:
            async with asyncio.timeout(PEERS_WAIT_S):
                while not self._hellos or not wanted <= self._hellos.keys():
                    self._moved.clear()
                    await self._moved.wait()
        except TimeoutError:
            raise self._missing(sorted(wanted - self._hellos.keys())) from None

    def _missing(self, names: list[str]) -> TransientError:
        if not names:
            return TransientError(
                "no peer has dialled this node, and none is configured", mend="add this node to [[peers]] of the others"
            )
        why = [f"{name} ({self._mesh.states[name].last_error or 'no answer'})" for name in names]
        return TransientError(
            f"not every peer knows of this node yet: {'; '.join(why)}",
            mend="they must keep for it what they commit after the copy. A peer that is gone is to be taken out of"
            " [[peers]] here",
        )

    def check_former(self, source: str, copied: VersionVector) -> None:
        """A node that is made anew is copied from where most of its former changes are: nobody else could bring the
        rest. :class:`ConfigurationError` when that is not ``source``, whose clock is ``copied``."""
        node_id = self._state.node_id
        here = max(copied.get(node_id, 0), self._state.clock.get(node_id, 0))
        most = max(self._hellos.values(), key=lambda hello: hello.clock.get(node_id, 0), default=None)
        if most is not None and most.clock.get(node_id, 0) > here:
            raise ConfigurationError(
                f"{most.node_name} has changes of this node's former database that {source} lacks",
                mend=f"sidecar join --from {most.node_name}",
            )

    # -- the links -------------------------------------------------------------------------------------------------

    def hello(self) -> Hello:
        """This node as a joining one."""
        node = self._state.settings.node
        return Hello(
            cluster=node.cluster,
            node_id=node.id,
            node_name=node.name,
            clock=dict(self._state.clock),
            fingerprints=self._state.fingerprints(),
            boot_id=self._boot_id,
            joining=True,
        )

    def known_nodes(self) -> dict[int, Known]:
        """Who joins takes the others for what they say."""
        return {}

    def end_hlc(self) -> int | None:
        """The others may have more of this node's former database than there is here."""
        return None

    def refused(self, name: str, error: LinkRefusedError) -> None:
        """Told when the others were waited for in vain."""

    async def connected(self, link: Link, hello: Hello) -> None:
        """The peer knows."""
        if self._policy.relays(link.peer_name):
            # It keeps the other nodes' change sets too, then.
            node = self._state.settings.node
            link.ask_relay({node.id: node.name}, self._policy.origins(link.peer_name))
        link.send_heartbeat(0, 0)
        self._hellos[link.peer_name] = hello
        self._moved.set()

    async def receive(self, link: Link, part: ChangeSetPart) -> None:
        """Of a peer that sends all the same: it comes again, on the link after the copy."""

    def heartbeat(self, link: Link, heartbeat: Heartbeat) -> None:
        """Comes again."""

    def acknowledged(self, link: Link, clock: dict[int, int]) -> None:
        """Comes again."""

    def barrier_requested(self, link: Link, number: int) -> None:
        """Not answered: a node that joins has merged nothing."""

    def barrier_answered(self, link: Link, answer: BarrierAnswer) -> None:
        """Was not asked for."""

    def relay_asked(self, link: Link, relay: Relay) -> None:
        """Comes again."""

    def closed(self, link: Link, closed: Closed) -> None:
        """Comes again."""

    def members_told(self, link: Link, members: Members) -> None:
        """Comes again."""

    def tables_told(self, link: Link, tables: Tables) -> None:
        """Comes again."""

    def disconnected(self, link: Link, error: Exception | None) -> None:
        """It knows of this node all the same."""
