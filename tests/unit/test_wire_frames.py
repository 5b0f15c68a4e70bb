"""Frames fed whole, byte by byte, truncated, corrupted."""

from __future__ import annotations

import struct
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.core.wire.frames import HEADER_BYTES, LEAD, Frame, FrameReader, encode_frame
from sidecar.errors import FrameError

LIMIT = 1000
frames = st.lists(st.tuples(st.integers(0, 255), st.binary(max_size=80)), max_size=8)


def read(*pieces: bytes, limit: int = LIMIT) -> list[Frame]:
    reader = FrameReader(limit)
    return [frame for piece in pieces for frame in reader.feed(piece)]


def test_the_bytes_of_a_frame_are_fixed() -> None:
    facts = struct.pack("!BBHI", 0xC1, 7, 0, 3)
    assert encode_frame(7, b"abc") == facts + struct.pack("!I", zlib.crc32(facts + b"abc")) + b"abc"


@given(frames, st.data())
def test_frames_survive_any_cutting(contents: list[tuple[int, bytes]], data: st.DataObject) -> None:
    stream = b"".join(encode_frame(code, payload) for code, payload in contents)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=10)))
    pieces = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    expected = [Frame(code, payload) for code, payload in contents]
    assert read(*pieces) == expected
    assert read(*(stream[i : i + 1] for i in range(len(stream)))) == expected


def test_a_truncated_frame_waits() -> None:
    whole = encode_frame(1, b"payload")
    for length in range(len(whole)):
        reader = FrameReader(LIMIT)
        assert list(reader.feed(whole[:length])) == []
        assert reader.waiting_bytes == length
        assert list(reader.feed(whole[length:])) == [Frame(1, b"payload")]
        assert reader.waiting_bytes == 0


@pytest.mark.parametrize("bit", [0x01, 0x80, 0xFF])
def test_no_corrupted_byte_passes(bit: int) -> None:
    whole = encode_frame(1, b"payload")
    follower = encode_frame(2, b"x" * LIMIT)
    for position in range(len(whole)):
        damaged = bytearray(whole)
        damaged[position] ^= bit
        with pytest.raises(FrameError):
            read(bytes(damaged), follower)


def test_a_frame_before_a_damaged_one_is_not_lost_and_the_error_is_final() -> None:
    reader = FrameReader(LIMIT)
    arriving = reader.feed(encode_frame(1, b"good") + b"GET /")
    assert next(arriving) == Frame(1, b"good")
    with pytest.raises(FrameError):
        next(arriving)
    with pytest.raises(FrameError):
        list(reader.feed(encode_frame(1, b"good")))


@pytest.mark.parametrize("bit", [0x01, 0x10, 0x80])
def test_a_damaged_header_of_a_numbered_frame_is_found_before_the_payload_comes(bit: int) -> None:
    """A reader that believed a damaged length would wait for bytes that nobody sends."""
    for position in range(HEADER_BYTES - 4):
        reader = FrameReader(1 << 30)
        reader.numbered = True
        damaged = bytearray(encode_frame(1, b"payload", 0)[: HEADER_BYTES - 4])
        damaged[position] ^= bit
        with pytest.raises(FrameError):
            list(reader.feed(bytes(damaged)))


@given(frames, st.integers(0, 50), st.integers(0, 50))
def test_numbered_frames_are_taken_in_their_order_only(contents: list[tuple[int, bytes]], a: int, b: int) -> None:
    sent = [encode_frame(code, payload, number) for number, (code, payload) in enumerate(contents)]
    reader = FrameReader(LIMIT)
    reader.numbered = True
    assert list(reader.feed(b"".join(sent))) == [Frame(code, payload) for code, payload in contents]
    if a < len(sent) and b < len(sent) and a != b:
        sent[a], sent[b] = sent[b], sent[a]
        reader = FrameReader(LIMIT)
        reader.numbered = True
        with pytest.raises(FrameError, match="checksum"):
            list(reader.feed(b"".join(sent)))


@pytest.mark.parametrize("garbage", [b"G", b"GET / HTTP/1.1\r\n", b"\x16\x03\x01", b"\x00", b"\xff\xff", b"SSH-2.0"])
def test_garbage_is_known_by_its_first_byte(garbage: bytes) -> None:
    with pytest.raises(FrameError, match="not a sidecar peer"):
        read(garbage[:1])
    with pytest.raises(FrameError, match="not a sidecar peer"):
        read(garbage)


def test_another_frame_version_is_known_by_the_first_byte() -> None:
    with pytest.raises(FrameError, match="frame format version 2"):
        read(bytes([LEAD + 1]))


def test_the_limit_is_applied_before_the_payload_is_read() -> None:
    assert read(encode_frame(1, b"x" * LIMIT)) == [Frame(1, b"x" * LIMIT)]
    too_long = encode_frame(1, b"x" * (LIMIT + 1))
    with pytest.raises(FrameError, match="1001 bytes, at most 1000"):
        read(too_long[: HEADER_BYTES - 4])


def test_the_limit_may_be_raised_between_frames() -> None:
    reader = FrameReader(10)
    arriving = reader.feed(encode_frame(1, b"small") + encode_frame(2, b"x" * 500))
    assert next(arriving).type == 1
    reader.frame_bytes_max = 500
    assert next(arriving).type == 2


def test_reserved_flags_are_refused() -> None:
    with pytest.raises(FrameError, match="reserved flags"):
        read(struct.pack("!BBHI", LEAD, 1, 1, 0))
