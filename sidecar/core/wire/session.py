"""The state machine of one link, without I/O: bytes in, messages out; messages in, bytes out.

Each direction has a state of its own (:class:`Side`), moved by the messages of that direction through one table; a
message that the table does not list in that state is an error. Three rules tie the directions together: both sides say
Hello; the lower node id accepts first, the higher one after it; traffic flows once both have accepted. So the lower id
alone decides which of two simultaneous connections becomes the link.

Credit: a node may have ``window_bytes`` (of the receiver's Hello) of change sets on the way that the receiver has not
granted back. One part may exceed what is left only when nothing else is on the way, so a part larger than the window
still passes.
"""

from __future__ import annotations

import contextlib
import enum
from collections.abc import Iterator

import msgspec
import zstandard

from sidecar.core.changes import ChangeSetHeader, ChangeSetPart
from sidecar.core.versions import VersionVector, difference
from sidecar.core.wire.bodies import BODY_EXPANSION_MAX, check_size
from sidecar.core.wire.frames import Frame, FrameReader, encode_frame
from sidecar.core.wire.greeting import negotiate
from sidecar.core.wire.messages import (
    CONTROL_BYTES_MAX,
    NUMBERED_FRAMES_SINCE,
    SINCE,
    Accept,
    Ack,
    BarrierAnswer,
    BarrierRequest,
    Closed,
    Fragment,
    Goodbye,
    Heartbeat,
    Hello,
    Members,
    Message,
    Refuse,
    Relay,
    Tables,
    clock_patch,
    decode_message,
    encode_message,
    part_bytes,
    patched,
)
from sidecar.errors import ProtocolError

FRAGMENT_OVERHEAD_BYTES = 8
"""What a Fragment's payload has beside its data: an array of one binary string of at most 4 GiB takes 6 bytes."""


class Side(enum.Enum):
    """What one end has said so far."""

    START = "before its Hello"
    GREETED = "before its Accept"
    OPEN = "on the open link"
    CLOSED = "after its farewell"


TRANSITIONS: dict[Side, dict[type[Message], Side]] = {
    Side.START: {Hello: Side.GREETED, Refuse: Side.CLOSED},
    Side.GREETED: {Accept: Side.OPEN, Refuse: Side.CLOSED, Goodbye: Side.CLOSED},
    Side.OPEN: {
        ChangeSetPart: Side.OPEN,
        Ack: Side.OPEN,
        Heartbeat: Side.OPEN,
        BarrierRequest: Side.OPEN,
        BarrierAnswer: Side.OPEN,
        Fragment: Side.OPEN,
        Relay: Side.OPEN,
        Closed: Side.OPEN,
        Members: Side.OPEN,
        Tables: Side.OPEN,
        Goodbye: Side.CLOSED,
    },
    Side.CLOSED: {},
}

TRAFFIC = tuple(kind for kind in TRANSITIONS[Side.OPEN] if kind is not Goodbye)
"""Messages that need both sides to be open."""


def advance(side: Side, kind: type[Message], other: Side, *, first: bool) -> Side:
    """The next state of the side that says ``kind``; ``other`` is the state of the side that hears it.

    ``first``: the speaker has the lower node id. Raises :class:`ProtocolError` for a message out of order.
    """
    after = TRANSITIONS[side].get(kind)
    if after is None:
        raise ProtocolError(f"{kind.__name__} {side.value}")
    if kind is Accept:
        needed = Side.GREETED if first else Side.OPEN
        if other is not needed:
            raise ProtocolError(f"Accept while the other end is {other.value}")
    elif kind in TRAFFIC and other is not Side.OPEN:
        raise ProtocolError(f"{kind.__name__} while the other end is {other.value}")
    return after


class Session:
    """One link's protocol state. ``frame_bytes_max`` bounds what the peer may send once it has accepted; it is
    CONTROL_BYTES_MAX before, when it is not known yet whether it is wanted."""

    def __init__(self, frame_bytes_max: int) -> None:
        self.ours = Side.START
        self.theirs = Side.START
        self.own: Hello | None = None
        self.peer: Hello | None = None
        self.peer_clock: VersionVector = {}
        """The peer's durable clock as known now."""
        self.in_flight_bytes = 0
        """Credit used by change sets sent and not granted back yet."""
        self.held_bytes = 0
        """Credit used by change sets received and not granted back yet."""
        self._frame_bytes_max = frame_bytes_max
        self._reader = FrameReader(CONTROL_BYTES_MAX)
        self._frames_sent = 0
        self._fragments = bytearray()
        self._protocol = 0
        self._context_sent: VersionVector = {}
        self._context_received: VersionVector = {}
        self._clock_sent: VersionVector = {}

    @property
    def established(self) -> bool:
        """Both sides accepted and nobody said goodbye."""
        return self.ours is Side.OPEN and self.theirs is Side.OPEN

    @property
    def protocol(self) -> int:
        """The version spoken on this link; 0 until one side has accepted."""
        return self._protocol

    @property
    def sendable_bytes(self) -> int:
        """Credit left for change sets."""
        return max(0, self.peer.window_bytes - self.in_flight_bytes) if self.peer is not None else 0

    def can_send(self, part: ChangeSetPart) -> bool:
        """Whether the credit allows the part now; one that exceeds the whole window goes alone."""
        return self.in_flight_bytes == 0 or part_bytes(part) <= self.sendable_bytes

    def send(self, message: Message) -> bytes:
        """The bytes of a message, in order. Raises :class:`ProtocolError` when it may not be said now."""
        after = advance(self.ours, type(message), self.theirs, first=self._is_first(own=True))
        self._check_known(message)
        numbered = self._numbers(self.ours)
        frames = []
        for code, payload in self._encode(message):
            frames.append(encode_frame(code, payload, self._frames_sent if numbered else None))
            self._frames_sent += 1
        self.ours = after
        if isinstance(message, Accept):
            self._protocol = message.protocol
        return b"".join(frames)

    def _numbers(self, side: Side) -> bool:
        """Whether the frames of a side that is in this state are numbered: those after its Accept."""
        return side is Side.OPEN and self._protocol >= NUMBERED_FRAMES_SINCE

    def _check_known(self, message: Message) -> None:
        since = SINCE.get(type(message))
        if since is not None and since > self._protocol:
            raise ProtocolError(f"{type(message).__name__} is not part of protocol version {self._protocol}")

    def receive(self, data: bytes) -> Iterator[Message]:
        """Take ``data`` at once; the messages it completes come lazily, with whole clocks and contexts.

        Raises :class:`ProtocolError` (:class:`~sidecar.errors.FrameError` for a broken frame); the peer's side is
        closed then, so that nothing more is taken from it.
        """
        return self._messages(self._reader.feed(data))

    def _messages(self, frames: Iterator[Frame]) -> Iterator[Message]:
        try:
            for frame in frames:
                message = self._understand(frame)
                if message is not None:
                    yield message
        except ProtocolError:
            self.theirs = Side.CLOSED
            raise

    def receive_end(self) -> None:
        """The stream ended. Raises :class:`ProtocolError` inside a frame."""
        if self._reader.waiting_bytes:
            raise ProtocolError(f"the stream ended inside a frame, after {self._reader.waiting_bytes} bytes of it")

    def accept(self) -> Accept:
        """The Accept for the two Hellos; raises :class:`~sidecar.errors.LinkRefusedError` without a common version."""
        assert self.own is not None
        assert self.peer is not None
        return Accept(negotiate(self.own, self.peer))

    def _is_first(self, *, own: bool) -> bool:
        if self.own is None or self.peer is None:
            return own
        return (self.own.node_id < self.peer.node_id) is own

    def _encode(self, message: Message) -> list[tuple[int, bytes]]:
        """Frame types and payloads, with clocks and contexts as differences."""
        if isinstance(message, ChangeSetPart):
            return self._encode_part(message)
        if isinstance(message, Ack):
            assert message.credit_bytes <= self.held_bytes, "more credit granted than change sets were received"
            message = msgspec.structs.replace(message, clock=difference(message.clock, self._clock_sent))
            self._clock_sent = patched(self._clock_sent, message.clock)
            self.held_bytes -= message.credit_bytes
        code, payload = encode_message(message)
        if isinstance(message, Hello):
            decode_message(code, payload)  # what the peer would refuse is found here, with a traceback of the caller
            self.own = message
            self._clock_sent = patched({}, message.clock)
        return [(code, payload)]

    def _encode_part(self, part: ChangeSetPart) -> list[tuple[int, bytes]]:
        assert self.peer is not None
        if not self.can_send(part):
            raise ProtocolError(f"a part of {part_bytes(part)} bytes with credit for {self.sendable_bytes}")
        patch = clock_patch(part.header.context, self._context_sent)
        header = msgspec.structs.replace(part.header, context=patch)
        whole = encode_message(ChangeSetPart(header=header, body=part.body))
        fits = len(whole[1]) <= self.peer.frame_bytes_max
        frames = [whole] if fits else self._in_fragments(self.peer, header, part.body)
        self._context_sent = patched(self._context_sent, patch)
        self.in_flight_bytes += part_bytes(part)
        return frames

    def _in_fragments(self, peer: Hello, header: ChangeSetHeader, body: bytes) -> list[tuple[int, bytes]]:
        """A part that is too large for one frame of the peer."""
        pieces = self._protocol >= SINCE[Fragment]
        most = peer.frame_bytes_max * (BODY_EXPANSION_MAX if pieces else 1)
        piece = peer.frame_bytes_max - FRAGMENT_OVERHEAD_BYTES
        last = encode_message(ChangeSetPart(header=header, body=b""))
        if not pieces or len(body) > most or len(last[1]) > peer.frame_bytes_max:
            raise ProtocolError(
                f"a change set part has {len(body)} bytes, {peer.node_name} takes at most {most}",
                mend=f"raise frame_bytes_max in [limits] of {peer.node_name}",
            )
        return [*(encode_message(Fragment(body[i : i + piece])) for i in range(0, len(body), piece)), last]

    def _understand(self, frame: Frame) -> Message | None:
        message = decode_message(frame.type, frame.payload)
        after = advance(self.theirs, type(message), self.ours, first=self._is_first(own=False))
        self._check_known(message)
        if self._fragments and not isinstance(message, Fragment | ChangeSetPart):
            raise ProtocolError(f"{type(message).__name__} amidst the pieces of a change set part")
        if isinstance(message, Hello):
            self.peer = message
            self.peer_clock = patched({}, message.clock)
        elif isinstance(message, Accept):
            self._check_accept(message)
        elif isinstance(message, Fragment):
            self._take_fragment(message)
            return None
        elif isinstance(message, ChangeSetPart):
            message = self._take_part(message)
        elif isinstance(message, Ack):
            message = self._take_ack(message)
        self.theirs = after
        self._reader.numbered = self._numbers(after)
        if after is Side.OPEN:
            self._reader.frame_bytes_max = max(self._frame_bytes_max, CONTROL_BYTES_MAX)
        return message

    def _check_accept(self, message: Accept) -> None:
        if message != self.accept():
            raise ProtocolError(f"the peer accepted protocol version {message.protocol}, not {self.accept().protocol}")
        self._protocol = message.protocol

    def _take_fragment(self, fragment: Fragment) -> None:
        """Bounded like the part it belongs to: by what a body may have, and by the credit."""
        self._fragments += fragment.data
        size, limit = len(self._fragments), BODY_EXPANSION_MAX * self._frame_bytes_max
        if size > limit:
            raise ProtocolError(
                f"the pieces of a change set part have {size} bytes, at most {limit} are taken",
                mend="raise frame_bytes_max in [limits] if the peer is one of yours",
            )
        self._check_credit(size)

    def _check_credit(self, size: int) -> None:
        assert self.own is not None
        if self.held_bytes and self.held_bytes + size > self.own.window_bytes:
            raise ProtocolError(
                f"the peer sent {self.held_bytes + size} bytes of change sets, its credit is {self.own.window_bytes}"
            )

    def _take_part(self, part: ChangeSetPart) -> ChangeSetPart:
        if self._fragments:
            part = ChangeSetPart(header=part.header, body=bytes(self._fragments) + part.body)
            self._fragments = bytearray()
        size = part_bytes(part)
        self._check_credit(size)
        self._check_growth(part.body)
        self.held_bytes += size
        self._context_received = patched(self._context_received, part.header.context)
        header = msgspec.structs.replace(part.header, context=self._context_received)
        return ChangeSetPart(header=header, body=part.body)

    def _check_growth(self, body: bytes) -> None:
        """A decompression bomb is refused here; a body that is damaged otherwise says nothing yet, and is found when it
        is merged, together with whose it is."""
        with contextlib.suppress(zstandard.ZstdError):
            check_size(body, BODY_EXPANSION_MAX * self._frame_bytes_max)

    def _take_ack(self, ack: Ack) -> Ack:
        if ack.credit_bytes > self.in_flight_bytes:
            raise ProtocolError(f"credit of {ack.credit_bytes} bytes for {self.in_flight_bytes} on the way")
        for node, hlc in ack.clock.items():
            if hlc < self.peer_clock.get(node, 0):
                raise ProtocolError(f"the peer's durable clock went back for node {node}")
        self.in_flight_bytes -= ack.credit_bytes
        self.peer_clock = patched(self.peer_clock, ack.clock)
        return msgspec.structs.replace(ack, clock=dict(self.peer_clock))
