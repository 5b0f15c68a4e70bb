"""Who is no longer a member: facts that only grow, so that every node comes to the same, in whatever order it hears."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

import msgspec

from sidecar.core.wire.messages import Departure

MEND = (
    "its id is not used again: take the sidecar out of its database with sidecar leave --force, then sidecar init with"
    " another id, and sidecar join"
)
"""For who comes back."""


FORMER_MEND = (
    "to take part again: sidecar init with another id, then sidecar join; where sidecar leave was not brought to its"
    " end, or kept the state, run it first"
)
"""For who starts it."""


def joined(a: Departure, b: Departure) -> Departure:
    """The same departure as two nodes know it: the earlier will, and everything that anybody has. Associative,
    commutative and idempotent."""
    first = min(a, b, key=lambda d: (d.at_ms, d.by, d.kind, d.name))
    most = max(a, b, key=lambda d: (d.change_hlc, -d.holder))
    return msgspec.structs.replace(
        first, holder=most.holder, change_hlc=most.change_hlc, hlc=max(a.hlc, b.hlc, most.change_hlc)
    )


def witnessed(departure: Departure, node_id: int, change_hlc: int, hlc: int) -> Departure:
    """The departure as a node knows it that has merged the departed node's changes up to ``change_hlc``, the last of
    them, and knows of nothing more up to ``hlc``."""
    seen = msgspec.structs.replace(departure, holder=node_id, change_hlc=change_hlc, hlc=max(hlc, change_hlc))
    return joined(departure, seen)


def told(departure: Departure) -> str:
    """Who, what and when, for people."""
    at = datetime.fromtimestamp(departure.at_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    who = f"{departure.name} (node {departure.node})"
    return f"{who} left at {at}" if departure.kind == "left" else f"{who} was removed by {departure.by} at {at}"


def former_line(name: str, node: int, cluster: str, at: str) -> str:
    """What a database says that was a node once."""
    return f"this database has left cluster {cluster!r}: until {at} it was {name} (node {node})"


def news(known: Mapping[int, Departure], heard: Departure) -> Departure | None:
    """What is to be written down after somebody told of a departure; ``None`` when it says nothing new."""
    before = known.get(heard.node)
    after = heard if before is None else joined(before, heard)
    return None if after == before else after
