"""What is known of each peer, also while it is down; read by status, metrics and the log."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class PeerPhase(enum.StrEnum):
    """Where a peer stands."""

    DOWN = "down"
    CONNECTING = "connecting"
    CONNECTED = "connected"
    REFUSED = "refused"


@dataclass(slots=True)
class PeerState:
    """One peer. ``*_ms`` times are Unix milliseconds; the byte and part counts grow over all its links.

    ``address`` is None for a peer that only dials us; ``retries`` counts dial attempts since the last link.
    ``disowned``: the peer says that this node has left or was removed.
    ``last_error`` is one line with the mend, and is kept until the next link.
    """

    name: str
    address: str | None = None
    state: PeerPhase = PeerPhase.DOWN
    peer_id: int | None = None
    boot_id: str = ""
    last_error: str | None = None
    disowned: bool = False
    connected_since_ms: int | None = None
    last_seen_ms: int | None = None
    bytes_in: int = 0
    bytes_out: int = 0
    change_sets_in: int = 0
    change_sets_out: int = 0
    links: int = 0
    retries: int = 0
    round_trip_ms: float | None = None
    clock_offset_ms: float | None = None
