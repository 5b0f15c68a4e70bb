"""Frames: the unit of the peer protocol.

A frame is a 12-byte header and a payload, all integers big-endian:

    lead u8 | type u8 | flags u16 | length u32 | crc u32 | payload (``length`` bytes)

``lead`` is 0xC0 plus the frame format version, so the very first byte of a connection tells whether the other end
speaks this protocol: no ASCII text and no TLS record begins with it. ``crc`` is the CRC-32 (zlib) of the first eight
header bytes followed by the payload; a damaged length or type is found like a damaged payload. ``flags`` are reserved,
zero.

From protocol version 2 on, the checksums of an open link also cover the frame's number in its direction (u32, put
before the header, not sent): a whole frame that is lost, doubled or overtaken on the way is found like a damaged one.
In place of the flags stands a checksum of the header, so a damaged length is found at once; a reader that believed it
would wait for bytes that nobody sends.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from sidecar.errors import FrameError

FRAME_VERSION = 1
LEAD_MARK = 0xC0
LEAD = LEAD_MARK | FRAME_VERSION

_FACTS = struct.Struct("!BBHI")
_CHECKSUM = struct.Struct("!I")
_NUMBER = struct.Struct("!I")
_NUMBER_MASK = (1 << 32) - 1
HEADER_BYTES = _FACTS.size + _CHECKSUM.size


@dataclass(frozen=True, slots=True)
class Frame:
    """One whole frame whose checksum was right. ``type`` is not interpreted here."""

    type: int
    payload: bytes


def encode_frame(type_code: int, payload: bytes, number: int | None = None) -> bytes:
    """The bytes of one frame. ``type_code`` is 0..255; the payload is at most 2**32 - 1 bytes. ``number``: that of the
    frame in its direction, from 0, where the checksum covers it."""
    seed = _seed(number)
    flags = 0 if number is None else _header_check(type_code, len(payload), seed)
    facts = _FACTS.pack(LEAD, type_code, flags, len(payload))
    return b"".join((facts, _CHECKSUM.pack(zlib.crc32(payload, zlib.crc32(facts, seed))), payload))


def _seed(number: int | None) -> int:
    """What a checksum begins with."""
    return 0 if number is None else zlib.crc32(_NUMBER.pack(number & _NUMBER_MASK))


def _header_check(type_code: int, length: int, seed: int) -> int:
    """The lower half of the CRC-32 of the header with flags 0."""
    return zlib.crc32(_FACTS.pack(LEAD, type_code, 0, length), seed) & 0xFFFF


class FrameReader:
    """Cuts a byte stream into frames.

    ``frame_bytes_max`` bounds the payload of the next frame and may be changed between frames; it is applied as soon as
    the length is there, so an oversized frame is refused before any of its payload is kept. The first error is final:
    where the next frame would begin is unknown after it. ``numbered``: whether the checksum of the next frame covers
    its number; may be changed likewise.
    """

    __slots__ = ("_buffer", "_count", "frame_bytes_max", "numbered")

    def __init__(self, frame_bytes_max: int) -> None:
        self.frame_bytes_max = frame_bytes_max
        self.numbered = False
        self._count = 0
        self._buffer = bytearray()

    @property
    def waiting_bytes(self) -> int:
        """Bytes of an unfinished frame."""
        return len(self._buffer)

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Take ``data`` at once; the frames it completes come lazily, so those before a damaged one are not lost.

        Raises :class:`FrameError` on a wrong lead byte, an unknown version, reserved flags, a payload that is too long,
        or a wrong checksum.
        """
        self._buffer += data
        return self._frames()

    def _frames(self) -> Iterator[Frame]:
        while (frame := self._next()) is not None:
            yield frame

    def _next(self) -> Frame | None:
        buffer = self._buffer
        if not buffer:
            return None
        _check_lead(buffer[0])
        if len(buffer) < _FACTS.size:
            return None
        _, type_code, flags, length = _FACTS.unpack_from(buffer)
        seed = _seed(self._count if self.numbered else None)
        if self.numbered and flags != _header_check(type_code, length, seed):
            raise FrameError("frame header checksum differs", mend="look for a network path that damages data")
        if flags and not self.numbered:
            raise FrameError(f"frame with reserved flags {flags:#06x}", mend="run the same version on both nodes")
        if length > self.frame_bytes_max:
            raise FrameError(
                f"frame of {length} bytes, at most {self.frame_bytes_max} are taken",
                mend="raise frame_bytes_max in [limits] if the peer is one of yours",
            )
        end = HEADER_BYTES + length
        if len(buffer) < end:
            return None
        with memoryview(buffer) as view:
            payload = bytes(view[HEADER_BYTES:end])
            checksum = zlib.crc32(payload, zlib.crc32(view[: _FACTS.size], seed))
        if checksum != _CHECKSUM.unpack_from(buffer, _FACTS.size)[0]:
            raise FrameError("frame checksum differs", mend="look for a network path that damages data")
        del buffer[:end]
        self._count += 1
        return Frame(type_code, payload)


def _check_lead(lead: int) -> None:
    if lead == LEAD:
        return
    if lead & 0xF0 == LEAD_MARK:
        raise FrameError(
            f"frame format version {lead & 0x0F}, this node speaks version {FRAME_VERSION}",
            mend="run compatible versions on both nodes",
        )
    raise FrameError(f"not a sidecar peer (first byte {lead:#04x})", mend="only sidecars may connect to the peer port")
