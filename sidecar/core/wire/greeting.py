"""Decisions at the start of a link: pure functions of the two Hellos, so both ends come to the same result."""

from __future__ import annotations

import enum
from collections.abc import Collection
from dataclasses import dataclass

from sidecar.core.wire.messages import Hello
from sidecar.errors import LinkRefusedError


def negotiate(own: Hello, other: Hello) -> int:
    """The highest protocol version both speak; raises :class:`LinkRefusedError` when there is none."""
    version = min(own.protocol_max, other.protocol_max)
    if version < max(own.protocol_min, other.protocol_min):
        raise LinkRefusedError(
            f"{other.node_name} speaks protocol versions {other.protocol_min}..{other.protocol_max}, "
            f"{own.node_name} {own.protocol_min}..{own.protocol_max}",
            mend="upgrade the older sidecar",
            cause="version",
        )
    return version


def judge_hello(own: Hello, other: Hello, expected_name: str | None, known_peers: Collection[str]) -> None:
    """Whether the other may be linked; raises :class:`LinkRefusedError` with the reason and the mend.

    ``expected_name`` is the name under which it was dialled, None for who connected to us. ``known_peers`` are the
    names from the configuration; a node that lists no peers takes every name of its cluster.
    """
    if other.cluster != own.cluster:
        raise LinkRefusedError(
            f"{other.node_name} belongs to cluster {other.cluster!r}, {own.node_name} to {own.cluster!r}",
            mend="set the same cluster in [node] of both, or correct the address in [[peers]]",
            cause="cluster",
        )
    if other.node_name == own.node_name:
        raise LinkRefusedError(
            f"another node calls itself {own.node_name!r} too",
            mend="give every node its own name in [node], and check that no address in [[peers]] is the node's own",
            cause="name",
        )
    if other.node_id == own.node_id:
        raise LinkRefusedError(
            f"{other.node_name} and {own.node_name} both have node id {own.node_id}",
            mend="give every node its own id in [node]",
            cause="id",
        )
    if expected_name is not None and other.node_name != expected_name:
        raise LinkRefusedError(
            f"{other.node_name!r} answers at the address of {expected_name!r}",
            mend="correct the name or the address in [[peers]]",
            cause="name",
        )
    if known_peers and other.node_name not in known_peers:
        raise LinkRefusedError(
            f"{other.node_name!r} is not among the peers of {own.node_name}",
            mend=f"add it to [[peers]] of {own.node_name}",
            cause="unlisted",
        )
    negotiate(own, other)


class Choice(enum.Enum):
    """What becomes of a new connection to a peer."""

    TAKE = "take"
    REPLACE = "replace"
    DUPLICATE = "duplicate"


@dataclass(frozen=True, slots=True)
class Standing:
    """The link that stands already: which start of the peer it leads to, and whether this node dialled it."""

    boot_id: str
    dialled: bool


def choose(standing: Standing | None, boot_id: str, *, dialled: bool) -> Choice:
    """Which of two connections to one peer stays. Only the node with the lower id asks; the other follows its Accept.

    A peer that was started anew replaces its stale link. Else a link dialled here (by the lower id) stays, and wins
    over one dialled by the peer. Two connections dialled by the same side cannot both be wanted, because nobody dials
    while it has a link: the dialler lost the older one.
    """
    if standing is None:
        return Choice.TAKE
    if standing.boot_id == boot_id and standing.dialled and not dialled:
        return Choice.DUPLICATE
    return Choice.REPLACE
