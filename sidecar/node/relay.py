"""What goes over a link: by configuration (:class:`RelayPolicy`) and by what the peer has (:class:`Route`)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

import msgspec

from sidecar.core.changes import ChangeSetHeader, ChangeSetPart
from sidecar.settings import Settings

NameOf = Callable[[int], str | None]


class RelayPolicy:
    """``[node] relay``, and ``relay`` and ``relay_origins`` of ``[[peers]]``."""

    def __init__(self, settings: Settings) -> None:
        self._default = settings.node.relay
        self._peers = {peer.name: peer for peer in settings.peers}

    @property
    def any(self) -> bool:
        """Whether change sets may be handed on at all, and are kept for it."""
        return self._default or any(peer.relay for peer in self._peers.values())

    def relays(self, peer: str) -> bool:
        """Whether other nodes' change sets are handed to a peer and taken from it."""
        found = self._peers.get(peer)
        return self._default if found is None or found.relay is None else found.relay

    def origins(self, peer: str) -> tuple[str, ...] | None:
        """Those whose change sets are, by name; ``None`` for all."""
        found = self._peers.get(peer)
        return None if found is None else found.relay_origins

    def takes(self, peer: str, origin: str | None) -> bool:
        """Whether change sets of an origin go to and come from a peer; one whose name is not known passes no filter."""
        named = self.origins(peer)
        return self.relays(peer) and (named is None or origin in named)


class Route:
    """Which parts of the journal go over one link, and from where their intervals reach.

    ``clock``: what the peer had merged at its hello. ``floors``: up to where the journal lacks an origin's change sets;
    shared by all links. Origins for which the peer stands below are left out and noted in ``below``; once it is
    above, ``stale`` says that the journal must be gone through again from where the peer stands then, by a new link.
    """

    def __init__(
        self,
        node_id: int,
        peer_id: int,
        clock: Mapping[int, int],
        *,
        floors: dict[int, int] | None = None,
        name_of: NameOf = lambda node: None,
    ) -> None:
        self._node_id = node_id
        self._peer_id = peer_id
        self.floors = {} if floors is None else floors
        self._name_of = name_of
        self._allowed: list[frozenset[str]] = []
        self.asked = False
        self._sent: dict[int, int] = {}
        self._from_hlc = 0
        self._passing = False
        self._begun = False
        self.known: Mapping[int, int] = dict(clock)
        self.relays = False
        self.below: set[int] = set()
        self.stale = False

    def open(self, *filters: Collection[str] | None) -> None:
        """The peer takes change sets of other nodes: of those whose names are in every filter. It holds from
        :meth:`lacking_from` on, because what was passed over until then must not be followed by later ones."""
        allowed = [frozenset(names) for names in filters if names is not None]
        if not self.asked or allowed != self._allowed:
            self._allowed, self.asked, self.stale = allowed, True, self._begun

    def learn_names(self, names: Collection[str]) -> None:
        """More names are known: their nodes may pass a filter that they did not before."""
        if self._allowed and any(all(name in allowed for allowed in self._allowed) for name in names):
            self.stale = self._begun

    def learn(self, clock: Mapping[int, int]) -> None:
        """The peer's durable clock as it is now."""
        self.known = clock
        if any(not self._is_below(origin) for origin in self.below):
            self.stale = True

    def has(self, origin: int) -> int:
        """Up to where the peer has merged an origin's change sets or was sent them on this link."""
        return max(self._sent.get(origin, 0), self.known.get(origin, 0))

    def passes(self, origin: int) -> bool:
        """Whether change sets of an origin go over this link, as far as the journal has them."""
        if origin == self._node_id:
            return True
        if not self.relays or origin == self._peer_id:
            return False
        name = self._name_of(origin)
        return all(name in names for names in self._allowed)

    def lacking_from(self, origins: Collection[int]) -> dict[int, int]:
        """Where to begin in the journal: what the peer has of each other origin that goes over this link. Starts the
        look at the journal anew."""
        self.stale = False
        self.relays = self.asked
        self._begun = True
        self.below.clear()
        return {o: self.has(o) for o in origins if o != self._node_id and self.passes(o)}

    def admit(self, part: ChangeSetPart) -> ChangeSetPart | None:
        """The part as it is to be sent; ``None`` when the peer is not to get it. A change set goes as a whole or not at
        all. It reaches back to what the peer has: nothing was committed in between, but the peer may not have been told
        (a heartbeat missed while the link was down)."""
        header = part.header
        if header.part == 0:
            self._passing = self._wants(header)
            self._from_hlc = min(header.from_hlc, self.has(header.origin))
        if not self._passing:
            return None
        if header.from_hlc == self._from_hlc:
            return part
        return ChangeSetPart(header=msgspec.structs.replace(header, from_hlc=self._from_hlc), body=part.body)

    def sent(self, header: ChangeSetHeader) -> None:
        """A part was sent."""
        if header.last:
            self._sent[header.origin] = max(header.to_hlc, self._sent.get(header.origin, 0))

    def closed(self, clock: Mapping[int, int]) -> dict[int, tuple[int, int]]:
        """Per other origin the interval behind what the peer has, up to this node's clock: empty, when everything in
        the journal went through :meth:`admit`."""
        return {
            origin: (self.has(origin), hlc)
            for origin, hlc in clock.items()
            if origin != self._node_id
            and hlc > self.has(origin)
            and origin not in self.below
            and self.passes(origin)
            and not self._is_below(origin)
        }

    def _wants(self, header: ChangeSetHeader) -> bool:
        origin = header.origin
        if header.to_hlc <= self.has(origin) or not self.passes(origin):
            return False
        # One that was left out before may not be followed by later ones, wherever the peer stands by now.
        if origin not in self.below and self._is_below(origin):
            self.below.add(origin)
        return origin not in self.below

    def _is_below(self, origin: int) -> bool:
        return origin != self._node_id and self.has(origin) < self.floors.get(origin, 0)
