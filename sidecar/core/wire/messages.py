"""Messages of the peer protocol and their msgpack payloads.

Every message is a msgpack array in field order. A reader ignores further elements, so a later minor version may append
fields. Sizes and ranges are checked while decoding; anything wrong is a :class:`ProtocolError`, never an index error.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from sidecar.core.changes import FORMAT_VERSION, ChangeSetHeader, ChangeSetPart
from sidecar.core.hlc import HLC_MAX
from sidecar.core.versions import NODE_ID_MAX, VersionVector
from sidecar.errors import ProtocolError

PROTOCOL_MIN = 1
PROTOCOL_MAX = 3
"""Version 2 numbers the frames of the open link (their checksums say so), has barriers, relay and departures, and
lets a part be larger than a frame. Version 3 tells when tables change."""

NUMBERED_FRAMES_SINCE = 2

CONTROL_BYTES_MAX = 1024 * 1024
"""Payload of every message that carries no changes. The largest is a Hello: 1023 clock entries (15 kB) and a
fingerprint for each of some thousand tables (about 150 bytes each)."""

FINGERPRINTS_MAX = 10_000
"""Tables named in one Hello; more than a cluster would sensibly replicate, and it bounds what a stranger can make us
build."""

REASON_CHARS_MAX = 1000
"""Length of a refusal or farewell text; it ends up in logs and in the status of the peer."""

PART_OVERHEAD_BYTES = 512
"""Credit that a part costs besides its body: header, context and Python objects. It bounds the number of tiny parts in
flight (a 16 MiB window holds at most 32,768 of them)."""

STARTS_MAX = 32
"""Starts of a sidecar that its Hello names, the latest ones: a peer that missed more cannot tell a copy by them."""

PARTS_MAX = 1 << 20
"""Parts of one change set: a million parts of 10,000 rows."""

NodeId = Annotated[int, Meta(ge=1, le=NODE_ID_MAX)]
Hlc = Annotated[int, Meta(ge=0, le=HLC_MAX)]
Count = Annotated[int, Meta(ge=0, le=HLC_MAX)]
UnixMs = Annotated[int, Meta(ge=0, le=HLC_MAX >> 16)]
Clock = Annotated[dict[NodeId, Hlc], Meta(max_length=NODE_ID_MAX)]
Name = Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}\Z")]
Cluster = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{1,63}\Z")]
TableName = Annotated[str, Meta(max_length=260)]
Fingerprint = Annotated[str, Meta(max_length=260)]
Reason = Annotated[str, Meta(max_length=REASON_CHARS_MAX)]


BootId = Annotated[str, Meta(max_length=64)]


class Start(msgspec.Struct, array_like=True, frozen=True):
    """One start of a sidecar on its database: its number, which rises, its ``boot_id``, and the end of what the node
    had committed by then."""

    number: Count
    boot_id: BootId
    hlc: Hlc


Fingerprints = Annotated[dict[TableName, Fingerprint], Meta(max_length=FINGERPRINTS_MAX)]


class Hello(msgspec.Struct, array_like=True, kw_only=True, frozen=True):
    """The first message of either side: who I am, what I have, what I take.

    ``clock`` is the sender's whole durable clock; ``fingerprints`` maps ``schema.table`` to a digest of its annotations
    and types. ``boot_id`` differs for every start of the process. ``window_bytes`` is the credit the sender grants for
    change sets (see :func:`part_bytes`), ``frame_bytes_max`` the largest payload it takes; the peer mesh fills in both.
    ``joining``: the sender copies another node's states. The receiver keeps what comes after ``clock`` in
    its journal for it, and sends no changes on this link.
    ``incarnation`` names the database as attached, ``generation`` rises when another one takes its place, ``starts``
    are the latest starts on it, the present one last; an older release tells none of them. See :mod:`.identity`.
    """

    cluster: Cluster
    node_id: NodeId
    node_name: Name
    protocol_min: Count = PROTOCOL_MIN
    protocol_max: Count = PROTOCOL_MAX
    clock: Clock = {}
    fingerprints: Fingerprints = {}
    boot_id: BootId = ""
    window_bytes: Count = 0
    frame_bytes_max: Count = 0
    joining: bool = False
    incarnation: BootId = ""
    generation: Count = 0
    starts: Annotated[list[Start], Meta(max_length=STARTS_MAX)] = []


class Accept(msgspec.Struct, array_like=True, frozen=True):
    """The other's Hello is fine; ``protocol`` is the version spoken from now on. The lower node id accepts first."""

    protocol: Count


class Refuse(msgspec.Struct, array_like=True, frozen=True):
    """There will be no link, with the reason and the mend as one line. ``temporary``: try again soon. ``cause``: the
    kind of refusal as one word, empty from an older release."""

    reason: Reason
    temporary: bool = False
    cause: Annotated[str, Meta(max_length=64)] = ""


class Goodbye(msgspec.Struct, array_like=True, frozen=True):
    """The sender closes the link."""

    reason: Reason


class Ack(msgspec.Struct, array_like=True, kw_only=True, frozen=True):
    """``clock`` is the sender's durable clock: on the wire the entries that rose, as an event the whole of it.
    ``credit_bytes`` may be sent in addition."""

    clock: Clock = {}
    credit_bytes: Count = 0


class Heartbeat(msgspec.Struct, array_like=True, kw_only=True, frozen=True):
    """An empty change set ``(from_hlc, hlc]`` of the sender, and the times of a round trip.

    The sender committed nothing in that interval, so a receiver whose clock for it is at least ``from_hlc`` may raise
    it to ``hlc``, and must not otherwise: heartbeats overtake change sets that wait for credit. ``hlc`` 0 tells nothing
    new. ``sent_ms`` is the sender's wall clock; ``echo_ms`` the ``sent_ms`` of the last heartbeat it received (0: none
    yet) and ``echo_delay_ms`` how long ago that was.
    """

    hlc: Hlc = 0
    from_hlc: Hlc = 0
    sent_ms: Count = 0
    echo_ms: Count = 0
    echo_delay_ms: Count = 0


class BarrierRequest(msgspec.Struct, array_like=True, frozen=True):
    """What have you committed or merged by now? The receiver answers with a clock that is taken after it has read this.
    ``number`` rises with every request on a link; an answer to a later one answers the earlier ones too."""

    number: Count


class BarrierAnswer(msgspec.Struct, array_like=True, kw_only=True, frozen=True):
    """``clock`` names, per origin, the end of the last change set that the sender had committed (its own) or merged
    when it read the request ``number``. It is whole, not a difference."""

    number: Count
    clock: Clock = {}


class Fragment(msgspec.Struct, array_like=True, frozen=True):
    """A piece of the body of the ChangeSet that follows, which is too large for one frame; pieces come in order, with
    nothing between them, and the ChangeSet has the rest. Never seen outside the session, which joins them."""

    data: bytes


class Relay(msgspec.Struct, array_like=True, kw_only=True, frozen=True):
    """The sender takes change sets of other nodes on this link: of those with the names ``origins``, or of all.
    ``names`` are the nodes it knows, itself included. Sent again when it knows more."""

    names: Annotated[dict[NodeId, Name], Meta(max_length=NODE_ID_MAX)] = {}
    origins: Annotated[list[Name], Meta(max_length=NODE_ID_MAX)] | None = None


class Closed(msgspec.Struct, array_like=True, frozen=True):
    """Per origin an interval ``(from_hlc, hlc]`` in which it committed nothing, as far as the sender has merged it:
    what a Heartbeat says of its sender, of other nodes. ``from_hlc`` is what the receiver has, or was sent on this
    link."""

    intervals: Annotated[dict[NodeId, tuple[Hlc, Hlc]], Meta(max_length=NODE_ID_MAX)]


class Departure(msgspec.Struct, array_like=True, kw_only=True, frozen=True):
    """A node that is no longer a member, since ``at_ms`` (Unix milliseconds), by the will of the node named ``by``. The
    last of its change sets that anybody has ends at ``change_hlc``; ``holder`` has all of them. It committed nothing in
    ``(change_hlc, hlc]``."""

    node: NodeId
    name: Name
    kind: Literal["left", "removed"]
    at_ms: UnixMs
    by: Name
    holder: NodeId
    change_hlc: Hlc
    hlc: Hlc


class Members(msgspec.Struct, array_like=True, frozen=True):
    """The nodes that have left or were removed, all that the sender has written down. Sent first on a link if there are
    any, and again when it knows more; so it also answers who told it."""

    departed: Annotated[list[Departure], Meta(max_length=NODE_ID_MAX)]


class Tables(msgspec.Struct, array_like=True, frozen=True):
    """The sender's tables have changed: its ``fingerprints`` are these now, instead of those of its Hello."""

    fingerprints: Fingerprints


Control = Hello | Accept | Refuse | Goodbye | Ack | Heartbeat | BarrierRequest | BarrierAnswer
Message = Control | Relay | Closed | Members | Tables | ChangeSetPart | Fragment

TYPE_CODES: dict[type[Message], int] = {
    Hello: 1,
    Accept: 2,
    Refuse: 3,
    Goodbye: 4,
    ChangeSetPart: 5,
    Ack: 6,
    Heartbeat: 7,
    BarrierRequest: 8,
    BarrierAnswer: 9,
    Fragment: 10,
    Relay: 11,
    Closed: 12,
    Members: 13,
    Tables: 14,
}

SINCE: dict[type[Message], int] = {
    BarrierRequest: 2,
    BarrierAnswer: 2,
    Fragment: 2,
    Relay: 2,
    Closed: 2,
    Members: 2,
    Tables: 3,
}
"""The protocol version from which on a message exists; those not named were always there."""

_DECODERS = {code: msgspec.msgpack.Decoder(kind) for kind, code in TYPE_CODES.items()}
_NAMES = {code: kind.__name__ for kind, code in TYPE_CODES.items()}
_LARGE_CODES = frozenset({TYPE_CODES[ChangeSetPart], TYPE_CODES[Fragment]})
_ENCODER = msgspec.msgpack.Encoder()


def part_bytes(part: ChangeSetPart) -> int:
    """The credit one part costs, granted back by the receiver once it is merged: its body plus a fixed overhead."""
    return len(part.body) + PART_OVERHEAD_BYTES


def encode_message(message: Message) -> tuple[int, bytes]:
    """The frame type and the payload."""
    return TYPE_CODES[type(message)], _ENCODER.encode(message)


def decode_message(type_code: int, payload: bytes) -> Message:
    """The message of a frame; clocks and contexts are still differences. Raises :class:`ProtocolError`."""
    decoder = _DECODERS.get(type_code)
    if decoder is None:
        raise ProtocolError(f"unknown message type {type_code}", mend="run compatible versions on both nodes")
    if type_code not in _LARGE_CODES and len(payload) > CONTROL_BYTES_MAX:
        raise ProtocolError(f"{_NAMES[type_code]} of {len(payload)} bytes, at most {CONTROL_BYTES_MAX} are taken")
    try:
        message: Message = decoder.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolError(f"malformed {_NAMES[type_code]}: {error}") from None
    if isinstance(message, ChangeSetPart):
        check_header(message.header)
    elif isinstance(message, Hello):
        check_starts(message)
    return message


def check_starts(hello: Hello) -> None:
    """Raises :class:`ProtocolError` unless the starts rise and end with the present one."""
    starts = hello.starts
    if starts and starts[-1].boot_id != hello.boot_id:
        raise ProtocolError("a Hello's last start is not the present one")
    for before, after in pairwise(starts):
        if not (before.number < after.number and before.hlc <= after.hlc):
            raise ProtocolError(f"a Hello's starts do not rise: {before.number} before {after.number}")


def check_header(header: ChangeSetHeader) -> None:
    """Raises :class:`ProtocolError` when a number of a change set header is out of its range."""
    if header.format_version != FORMAT_VERSION:
        raise ProtocolError(
            f"change set format version {header.format_version}, this node reads version {FORMAT_VERSION}",
            mend="run compatible versions on all nodes",
        )
    if not 1 <= header.origin <= NODE_ID_MAX:
        raise ProtocolError(f"change set of node {header.origin}, ids are 1..{NODE_ID_MAX}")
    if not 0 <= header.from_hlc < header.to_hlc <= HLC_MAX:
        raise ProtocolError(f"change set covers the empty interval ({header.from_hlc}, {header.to_hlc}]")
    if not 0 <= header.part < PARTS_MAX:
        raise ProtocolError(f"change set part {header.part}, at most {PARTS_MAX} are taken")
    for name, count in (("rows", header.rows), ("transactions", header.transactions), ("ms", header.committed_ms)):
        if not 0 <= count <= HLC_MAX:
            raise ProtocolError(f"change set with {count} {name}")
    if len(header.context) > NODE_ID_MAX:
        raise ProtocolError(f"change set context of {len(header.context)} nodes, at most {NODE_ID_MAX} exist")
    for node, hlc in header.context.items():
        if not (1 <= node <= NODE_ID_MAX and 0 <= hlc <= HLC_MAX):
            raise ProtocolError(f"change set context has hlc {hlc} of node {node}")


def clock_patch(new: Mapping[int, int], base: Mapping[int, int]) -> VersionVector:
    """What turns ``base`` into ``new``: entries that differ; 0 for one that ``new`` lacks.

    Unlike a join it is exact also when ``new`` is behind ``base`` (a cursor that was set back).
    """
    patch = {node: hlc for node, hlc in new.items() if hlc != base.get(node, 0)}
    for node in base:
        if node not in new:
            patch[node] = 0
    return patch


def patched(base: Mapping[int, int], patch: Mapping[int, int]) -> VersionVector:
    """``base`` with a :func:`clock_patch` applied; entries of hlc 0 are left out."""
    merged = {**base, **patch}
    return {node: hlc for node, hlc in merged.items() if hlc}


def one_line(text: str) -> str:
    """Printable, on one line and within :data:`REASON_CHARS_MAX`; for texts that go to or come from a peer."""
    words = " ".join(text.split())
    return "".join(c if c.isprintable() else "?" for c in words)[:REASON_CHARS_MAX]
