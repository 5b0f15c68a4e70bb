"""What the links need of the node above them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

from sidecar.core.changes import ChangeSetPart
from sidecar.core.wire.identity import Known
from sidecar.core.wire.messages import BarrierAnswer, Closed, Heartbeat, Hello, Members, Relay, Tables
from sidecar.errors import LinkRefusedError

if TYPE_CHECKING:
    from sidecar.peers.link import Link


class PeerHandler(Protocol):
    """Implemented by the node. For one link the calls come in this order: ``connected``, then any number of ``receive``
    (one at a time), ``heartbeat``, ``acknowledged``, ``barrier_...``, ``relay_asked``, ``closed``, ``members_told`` and
    ``tables_told``, then ``disconnected`` once. A peer has at most one link: the ``disconnected`` of the older one is
    over before the ``connected`` of the next.
    """

    def hello(self) -> Hello:
        """The node's present Hello with its durable clock; the mesh fills in window_bytes and frame_bytes_max."""
        ...

    def known_nodes(self) -> Mapping[int, Known]:
        """The nodes known at this moment, by id, also those without a link of their own."""
        ...

    def end_hlc(self) -> int | None:
        """The highest hlc that anybody can have of this node at this moment; None where that is not known."""
        ...

    def refused(self, name: str, error: LinkRefusedError) -> None:
        """There is no link with a peer, or none with somebody who calls himself so, because of who one of the two is
        (:data:`~sidecar.core.wire.identity.IDENTITY_CAUSES`). Told again with every try."""
        ...

    async def connected(self, link: Link, hello: Hello) -> None:
        """Both sides accepted; ``hello.clock`` is where the peer stands. Start the sending task here and return:
        nothing is read from the link until then, and it is cut after ``timing.link_silent_ms``."""
        ...

    async def receive(self, link: Link, part: ChangeSetPart) -> None:
        """Queue a part. While this waits, no further part is delivered, but heartbeats and acknowledgements are. Grant
        ``part_bytes(part)`` on the same link once it is merged or dropped. Cancelled when the link ends meanwhile; a
        :class:`~sidecar.errors.ProtocolError` cuts the link."""
        ...

    def heartbeat(self, link: Link, heartbeat: Heartbeat) -> None:
        """The empty change set ``(from_hlc, hlc]`` of the peer; it may overtake parts, so compare ``from_hlc`` with the
        own clock. ``link.state`` has the fresh round trip and clock offset."""
        ...

    def acknowledged(self, link: Link, clock: dict[int, int]) -> None:
        """The peer's whole durable clock as known now."""
        ...

    def barrier_requested(self, link: Link, number: int) -> None:
        """The peer asks what this node has by now; answer with :meth:`Link.answer_barrier`. A newer request takes the
        place of one that is not answered yet, so that what waits is bounded."""
        ...

    def barrier_answered(self, link: Link, answer: BarrierAnswer) -> None:
        """What the peer had when it read a request of this node."""
        ...

    def relay_asked(self, link: Link, relay: Relay) -> None:
        """The peer takes change sets of other nodes on this link. May come again with more names."""
        ...

    def closed(self, link: Link, closed: Closed) -> None:
        """Empty intervals of other nodes, told behind every part that the peer sent before them."""
        ...

    def members_told(self, link: Link, members: Members) -> None:
        """Which nodes are no longer members, as far as the peer has it durably."""
        ...

    def tables_told(self, link: Link, tables: Tables) -> None:
        """What the peer's tables are now."""
        ...

    def disconnected(self, link: Link, error: Exception | None) -> None:
        """The link is gone; None when either side closed it in order."""
        ...
