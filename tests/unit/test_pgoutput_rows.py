"""The row reader against the decoder: it must answer the same, whatever layouts it met before."""

from __future__ import annotations

import struct

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sidecar.core import pgoutput as p
from sidecar.core.pgoutput import rows as module
from sidecar.core.pgoutput.rows import KINDS_MAX, LAYOUTS_MAX, MESSAGE_BYTES_MAX, MISSES_MAX, RowReader
from sidecar.errors import DecodeError

HEADER = b"w" + bytes(p.XLOG_HEADER_BYTES - 1)


def tuple_data(values: p.TupleData) -> bytes:
    out = struct.pack(">H", len(values))
    for value in values:
        if value is None or value is p.UNCHANGED:
            out += b"n" if value is None else b"u"
        else:
            out += b"t" + struct.pack(">I", len(value)) + value
    return out


def message(kind: bytes, *parts: tuple[bytes, p.TupleData], oid: int = 16_400) -> bytes:
    return HEADER + kind + struct.pack(">I", oid) + b"".join(letter + tuple_data(values) for letter, values in parts)


def update(old: p.TupleData, new: p.TupleData, oid: int = 16_400) -> bytes:
    return message(b"U", (b"O", old), (b"N", new), oid=oid)


def read(reader: RowReader, raw: bytes) -> module.Tuples:
    return reader.read(raw, p.XLOG_HEADER_BYTES)


# Texts that look like the heads around them, and lengths in which the letters occur.
TEXT = st.text("ntNuOK\x01ß", max_size=6).map(str.encode) | st.sampled_from(
    [b"t" * 116, b"n" * 256, b"N" * 0x7400, b""]
)
VALUE = st.none() | TEXT
OLD_AND_NEW = st.integers(1, 5).flatmap(
    lambda width: st.tuples(*[st.lists(VALUE | st.just(p.UNCHANGED), min_size=width, max_size=width)] * 2)
)


@given(st.lists(OLD_AND_NEW, min_size=1, max_size=12))
@example([([b"a", None, b"x"], [None] * 3), ([b"an", b"x", None], [None] * 3)])  # a text ends like a NULL
@example([([None], [None]), ([None], [b"t"]), ([b"N"], [None])])
def test_every_row_is_read_as_it_was_sent(changes: list[tuple[p.TupleData, p.TupleData]]) -> None:
    reader = RowReader()
    for old, new in changes * 2:
        assert read(reader, update(old, new)) == (old, new)
        assert read(reader, message(b"I", (b"N", new))) == (None, new)
        assert read(reader, message(b"D", (b"O", old))) == (old, None)
        assert read(reader, message(b"D", (b"K", old))) == (None, None)
        assert read(reader, message(b"U", (b"K", old), (b"N", new))) == (None, new)
        assert read(reader, message(b"U", (b"N", new))) == (None, new)


@given(OLD_AND_NEW, st.data())
def test_a_damaged_row_is_never_read(change: tuple[p.TupleData, p.TupleData], data: st.DataObject) -> None:
    reader = RowReader()
    for raw in (update(*change), message(b"I", (b"N", change[1])), message(b"D", (b"O", change[0]))):
        read(reader, raw)
        with pytest.raises(DecodeError):
            read(reader, raw[: data.draw(st.integers(p.XLOG_HEADER_BYTES, len(raw) - 1))])
        for tail in (b"n", b"t", b"t\0\0\0\0", b"x"):
            with pytest.raises(DecodeError):
                read(reader, raw + tail)


@given(OLD_AND_NEW, st.data())
def test_a_wrong_byte_is_an_error_or_another_row(change: tuple[p.TupleData, p.TupleData], data: st.DataObject) -> None:
    reader = RowReader()
    raw = bytearray(update(*change))
    read(reader, bytes(raw))
    raw[data.draw(st.integers(p.XLOG_HEADER_BYTES, len(raw) - 1))] = data.draw(st.sampled_from(b"\0\x01\x7fntuNO\xff"))
    try:
        read(reader, bytes(raw))
    except DecodeError:
        return


def test_what_is_no_row_change() -> None:
    with pytest.raises(DecodeError, match="is not a row change"):
        read(RowReader(), HEADER + b"B" + bytes(20))
    with pytest.raises(DecodeError, match="empty"):
        read(RowReader(), HEADER)


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One element per message that was decoded column by column."""
    calls: list[int] = []

    def decode(data: bytes, offset: int) -> p.AnyMessage:
        calls.append(len(data))
        return p.decode(data, offset)

    monkeypatch.setattr(module, "decode", decode)
    return calls


def test_a_known_layout_is_not_decoded_again(decoded: list[int]) -> None:
    reader = RowReader()
    for number in (b"1", b"22", b"333" * 500):
        read(reader, update([number, None], [number, b"x"]))
    assert len(decoded) == 1
    read(reader, update([b"1", None], [b"1", None]))
    assert len(decoded) == 2
    read(reader, update([b"1", None], [b"1", b"y"]))
    assert len(decoded) == 2


def test_long_and_wide_rows_are_left_to_the_decoder(decoded: list[int]) -> None:
    reader = RowReader()
    rows: tuple[p.TupleData, ...] = ([b"x" * MESSAGE_BYTES_MAX], [b"x"] * 256, [b"x", p.UNCHANGED])
    for row in rows:
        for _ in range(2):
            assert read(reader, update(row, row)) == (row, row)
    assert len(decoded) == 6
    # The layout is known from short rows; a length of 0x01740000 looks like a text's head.
    read(reader, update([b"x"], [b"x"]))
    large: p.TupleData = [b"x" * 0x174_0000]
    assert read(reader, update(large, large)) == (large, large)
    assert len(decoded) == 8


def test_layouts_are_bounded_and_learned_anew(decoded: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    reader = RowReader()
    rows: list[p.TupleData] = [[None if i >> bit & 1 else b"x" for bit in range(4)] for i in range(LAYOUTS_MAX + 1)]
    for row in rows:
        read(reader, update(row, row))
    decoded.clear()
    for row in rows:
        read(reader, update(row, row))
    assert len(decoded) == 1, "the first ones are known, the last one found no room"
    for _ in range(MISSES_MAX):
        read(reader, update(rows[-1], rows[-1]))
    decoded.clear()
    read(reader, update(rows[-1], rows[-1]))
    assert not decoded, "what comes all the time is learned in the end"
    for oid in range(KINDS_MAX):
        read(reader, update(rows[0], rows[0], oid=oid))
    assert len(reader._layouts) <= KINDS_MAX
    assert len(reader._misses) <= KINDS_MAX
