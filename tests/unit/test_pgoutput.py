"""The decoder: whole messages, every truncation, every single-byte corruption, noise."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.core import pgoutput as p
from sidecar.errors import DecodeError

Value = bytes | None


def tuple_data(values: list[Value]) -> bytes:
    out = struct.pack(">H", len(values))
    for value in values:
        if value is None:
            out += b"n"
        elif value is p.UNCHANGED:
            out += b"u"
        else:
            out += b"t" + struct.pack(">I", len(value)) + value
    return out


def row(letter: bytes, *tuples: tuple[bytes, list[Value]], oid: int = 16_400) -> bytes:
    return letter + struct.pack(">I", oid) + b"".join(kind + tuple_data(values) for kind, values in tuples)


OLD: list[Value] = [b"1", None, "zwölf".encode(), b""]
NEW: list[Value] = [b"1", b"x" * 300, p.UNCHANGED, None]
CASES: dict[str, tuple[bytes, p.AnyMessage]] = {
    "begin": (
        b"B" + struct.pack(">QqI", 0x16B3748, 800_000_000_000_000, 4_000_000_000),
        p.Begin(0x16B3748, 800_000_000_000_000, 4_000_000_000),
    ),
    "commit": (b"C" + struct.pack(">BQQq", 0, 1, 2, -3), p.Commit(0, 1, 2, -3)),
    "origin": (b"O" + struct.pack(">Q", 7) + b"node\0", p.Origin(7, "node")),
    "relation": (
        b"R"
        + struct.pack(">I", 5)
        + b"public\0posts\0f"
        + struct.pack(">H", 2)
        + b"\1id\0"
        + struct.pack(">Ii", 20, -1)
        + b"\0pric\xc3\xa9\0"
        + struct.pack(">Ii", 1700, 655366),
        p.Relation(
            5, "public", "posts", "f", (p.RelationColumn(1, "id", 20, -1), p.RelationColumn(0, "pricé", 1700, 655366))
        ),
    ),
    "system relation": (b"R" + struct.pack(">I", 5) + b"\0t\0d\0\0", p.Relation(5, "pg_catalog", "t", "d", ())),
    "type": (b"Y" + struct.pack(">I", 5) + b"public\0mood\0", p.Type(5, "public", "mood")),
    "insert": (row(b"I", (b"N", OLD)), p.Insert(16_400, OLD)),
    "insert without columns": (row(b"I", (b"N", [])), p.Insert(16_400, [])),
    "insert of nulls": (row(b"I", (b"N", [None] * 9)), p.Insert(16_400, [None] * 9)),
    "update": (row(b"U", (b"O", OLD), (b"N", NEW)), p.Update(16_400, OLD, None, NEW)),
    "update, same row": (row(b"U", (b"O", OLD), (b"N", OLD)), p.Update(16_400, OLD, None, OLD)),
    "update with key": (row(b"U", (b"K", OLD), (b"N", NEW)), p.Update(16_400, None, OLD, NEW)),
    "update without old": (row(b"U", (b"N", NEW)), p.Update(16_400, None, None, NEW)),
    "delete": (row(b"D", (b"O", OLD)), p.Delete(16_400, OLD, None)),
    "delete by key": (row(b"D", (b"K", OLD)), p.Delete(16_400, None, OLD)),
    "truncate": (b"T" + struct.pack(">IBII", 2, 3, 16_400, 16_500), p.Truncate(3, (16_400, 16_500))),
    "message": (
        b"M" + struct.pack(">BQ", 1, 9) + b"crdt\0" + struct.pack(">I", 3) + b"\0ab",
        p.Message(True, 9, "crdt", b"\0ab"),
    ),
    "message outside": (b"M" + struct.pack(">BQ", 0, 9) + b"\0" + struct.pack(">I", 0), p.Message(False, 9, "", b"")),
}
NAMES = list(CASES)


@pytest.mark.parametrize("name", NAMES)
def test_whole(name: str) -> None:
    payload, message = CASES[name]
    assert p.decode(payload) == message
    assert p.decode(memoryview(payload)) == message
    assert p.decode(b"x" * p.XLOG_HEADER_BYTES + payload, p.XLOG_HEADER_BYTES) == message


@pytest.mark.parametrize("name", NAMES)
def test_every_truncation_is_an_error(name: str) -> None:
    payload, _ = CASES[name]
    for length in range(len(payload)):
        with pytest.raises(DecodeError) as caught:
            p.decode(payload[:length])
        assert 0 <= caught.value.offset <= length


@pytest.mark.parametrize("name", NAMES)
def test_trailing_bytes_are_an_error(name: str) -> None:
    payload, _ = CASES[name]
    for tail in (b"\0", b"n", b"t\0\0\0\0", b"N\0\0"):
        with pytest.raises(DecodeError):
            p.decode(payload + tail)


def error_offset(payload: bytes) -> int:
    """0 when the payload is a message after all; any other exception is the test's failure."""
    try:
        p.decode(payload)
    except DecodeError as error:
        return error.offset
    return 0


@pytest.mark.parametrize("name", NAMES)
def test_a_wrong_byte_is_an_error_or_another_message(name: str) -> None:
    payload, _ = CASES[name]
    for position in range(min(len(payload), 120)):
        for byte in (0, 1, 0x62, 0x6E, 0x74, 0x75, 0x7F, 0x80, 0xFF):
            assert 0 <= error_offset(payload[:position] + bytes([byte]) + payload[position + 1 :]) <= len(payload)


@given(st.sampled_from(list(b"BCORYIUDTMKN\0")), st.binary(max_size=200))
def test_noise_is_an_error_or_a_message(letter: int, noise: bytes) -> None:
    assert 0 <= error_offset(bytes([letter]) + noise) <= len(noise) + 1


VALUE = st.none() | st.just(p.UNCHANGED) | st.binary(max_size=300)


@given(st.data())
def test_updates_round_trip(data: st.DataObject) -> None:
    """Old and new rows alike and unlike, of equal and unequal length: the decoder compares while it decodes."""
    old = data.draw(st.lists(VALUE, max_size=12))
    new = [data.draw(st.just(value) | VALUE) for value in old]
    new = data.draw(st.just(new) | st.just(new[:-1]) | st.just([*new, b"t"]))
    payload = row(b"U", (b"O", old), (b"N", new))
    assert p.decode(payload) == p.Update(16_400, old, None, new)
    cut = data.draw(st.integers(0, len(payload) - 1))
    with pytest.raises(DecodeError):
        p.decode(payload[:cut])
    with pytest.raises(DecodeError):
        p.decode(payload + b"t")


@pytest.mark.parametrize(
    ("payload", "match"),
    [
        (b"", "empty"),
        (b"S1234", "unknown replication message type 0x53"),
        (row(b"I", (b"N", [])).replace(b"N\0\0", b"N\0\1b\0\0\0\1x"), "binary column value at byte 8"),
        (row(b"I", (b"N", [])).replace(b"N\0\0", b"N\0\1z\0\0\0\1x"), "unknown column type 0x7a"),
        (row(b"I", (b"N", [])).replace(b"N\0\0", b"N\0\1b"), "binary column value at byte 8"),
        (row(b"I", (b"O", OLD)), "unexpected tuple type 0x4f"),
        (row(b"D", (b"N", OLD)), "unexpected tuple type 0x4e"),
        (row(b"U", (b"O", OLD), (b"O", NEW)), "unexpected tuple type 0x4f"),
        (row(b"I", (b"N", OLD)) + b"n", "1 bytes too many"),
        (b"O" + struct.pack(">Q", 7) + b"\xff\0", "not UTF-8"),
        (b"T" + struct.pack(">IB", 0xFFFFFFFF, 0), "ends early"),
        (b"I" + struct.pack(">IcHcI", 1, b"N", 1, b"t", 0xFFFFFFFF) + b"x", "ends early"),
        (b"R" + struct.pack(">I", 5) + b"a\0t\0\xff\0\0", "replica identity"),
    ],
)
def test_the_message_says_what_is_wrong(payload: bytes, match: str) -> None:
    with pytest.raises(DecodeError, match=match):
        p.decode(payload)


def test_stream_messages() -> None:
    raw = struct.pack(">cQQq", b"w", 1, 2, 3) + b"payload"
    assert p.decode_stream(raw) == p.XLogData(1, 2, 3, b"payload")
    assert raw[p.XLOG_HEADER_BYTES :] == b"payload"
    assert p.decode_stream(struct.pack(">cQqB", b"k", 1, 2, 1)) == p.Keepalive(1, 2, True)
    for bad in (
        b"",
        b"w",
        raw[:24],
        b"k",
        struct.pack(">cQq", b"k", 1, 2),
        struct.pack(">cQqBB", b"k", 1, 2, 1, 1),
        b"z" * 30,
    ):
        with pytest.raises(DecodeError):
            p.decode_stream(bad)


def test_status_update() -> None:
    raw = p.status_update(
        written_lsn=3, flushed_lsn=2, applied_lsn=1, unix_us=p.POSTGRES_EPOCH_UNIX_US + 5, reply_requested=True
    )
    assert raw == struct.pack(">cQQQqB", b"r", 3, 2, 1, 5, 1)


@given(st.integers(0, 2**64 - 1))
def test_lsn_round_trip(lsn: int) -> None:
    assert p.parse_lsn(p.show_lsn(lsn)) == lsn


def test_lsn() -> None:
    assert p.show_lsn(0x16B3748) == "0/16B3748"
    assert p.parse_lsn("1/0") == 1 << 32
    for bad in ("", "0", "/", "0/", "0/123456789", "x/1", "0/1 ", "-1/1"):
        with pytest.raises(DecodeError):
            p.parse_lsn(bad)


def test_record_end() -> None:
    page, segment = 8192, 16 * 1024 * 1024
    assert p.record_end(5 * page + 24) == 5 * page
    assert p.record_end(5 * page + 32) == 5 * page + 32
    assert p.record_end(5 * page + 40) == 5 * page + 40
    assert p.record_end(3 * segment + 40) == 3 * segment
    assert p.record_end(3 * segment + 24) == 3 * segment + 24
    assert p.record_end(0) == 0


def test_unix_ms() -> None:
    assert p.unix_ms(0) == 946_684_800_000
    assert p.unix_ms(1_999) == 946_684_800_001
