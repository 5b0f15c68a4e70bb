"""Bounds-checked decoder of pgoutput payloads, protocol version 1.

Why it cannot read past the end: every fixed part is read by ``struct`` (which refuses a short buffer), every text by
a search that must find its terminator, and positions only grow, by unsigned lengths. A slice that overruns comes out
short without an error, but moves the position beyond the end, so the one comparison ``position == length`` after the
last field proves that all slices were whole and that nothing is left over.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from sidecar.core.pgoutput.messages import (
    UNCHANGED,
    AnyMessage,
    Begin,
    Commit,
    Delete,
    Insert,
    Message,
    Origin,
    Relation,
    RelationColumn,
    Truncate,
    TupleData,
    Type,
    Update,
)
from sidecar.errors import DecodeError

_unpack_begin = struct.Struct(">QqI").unpack_from
_unpack_commit = struct.Struct(">BQQq").unpack_from
_unpack_origin = struct.Struct(">Q").unpack_from
_unpack_message = struct.Struct(">BQ").unpack_from
_unpack_column = struct.Struct(">Ii").unpack_from
_unpack_oid = struct.Struct(">I").unpack_from
_unpack_truncate = struct.Struct(">IB").unpack_from
_unpack_count = struct.Struct(">H").unpack_from
# Relation oid, the letter of the first tuple, its number of columns: how every row message starts.
_unpack_row = struct.Struct(">IBH").unpack_from
# The letter of a further tuple, its number of columns.
_unpack_tuple = struct.Struct(">BH").unpack_from
# The letter of a column, its length.
_unpack_value = struct.Struct(">BI").unpack_from

_BINARY, _KEY, _NEW, _NULL, _OLD, _TEXT, _TOAST = b"bKNnOtu"


def decode(payload: bytes | bytearray | memoryview, offset: int = 0) -> AnyMessage:
    """Decode one payload that starts at ``offset`` of the buffer and reaches to its end.

    :class:`DecodeError` for whatever is not a whole message of a known type and nothing else.
    """
    data = payload if type(payload) is bytes else bytes(payload)
    try:
        decoder = _DECODERS[data[offset]]
    except IndexError:
        raise DecodeError("empty replication message", offset=offset) from None
    except KeyError:
        raise DecodeError(f"unknown replication message type {data[offset]:#04x}", offset=offset) from None
    try:
        return decoder(data, offset + 1)
    except DecodeError:
        raise
    except UnicodeDecodeError:
        raise DecodeError("name in a replication message is not UTF-8", offset=offset) from None
    except (struct.error, IndexError, ValueError):
        raise _truncated(data) from None


def _truncated(data: bytes) -> DecodeError:
    return DecodeError(f"replication message ends early, at byte {len(data)}", offset=len(data))


def _end(data: bytes, position: int) -> None:
    """Check that a message was read to its end, not further and not less."""
    if position != len(data):
        if position > len(data):
            raise _truncated(data)
        raise DecodeError(
            f"replication message has {len(data) - position} bytes too many, from byte {position}", offset=position
        )


def _text(data: bytes, position: int) -> tuple[str, int]:
    end = data.index(0, position)
    return data[position:end].decode(), end + 1


def begin_fields(data: bytes, offset: int) -> tuple[int, int, int]:
    """The fields of the Begin from ``offset`` to the end of ``data``, whose type byte the caller has seen: every
    transaction has one, and a :class:`Begin` costs as much as the rest of reading it."""
    if len(data) - offset != 21:
        _end(data, offset + 21)
    final_lsn, commit_us, xid = _unpack_begin(data, offset + 1)
    return final_lsn, commit_us, xid


def _begin(data: bytes, position: int) -> Begin:
    return Begin(*begin_fields(data, position - 1))


def _commit(data: bytes, position: int) -> Commit:
    if len(data) - position != 25:
        _end(data, position + 25)
    return Commit(*_unpack_commit(data, position))


def _origin(data: bytes, position: int) -> Origin:
    (lsn,) = _unpack_origin(data, position)
    name, position = _text(data, position + 8)
    _end(data, position)
    return Origin(lsn, name)


def _relation(data: bytes, position: int) -> Relation:
    (oid,) = _unpack_oid(data, position)
    schema, position = _text(data, position + 4)
    name, position = _text(data, position)
    identity = data[position]
    if identity > 127:
        raise DecodeError(f"replica identity {identity:#04x} of a relation is unknown", offset=position)
    (count,) = _unpack_count(data, position + 1)
    position += 3
    columns = []
    for _ in range(count):
        flags = data[position]
        column, position = _text(data, position + 1)
        type_oid, typmod = _unpack_column(data, position)
        columns.append(RelationColumn(flags, column, type_oid, typmod))
        position += 8
    _end(data, position)
    # The schema pg_catalog is sent as an empty text.
    return Relation(oid, schema or "pg_catalog", name, chr(identity), tuple(columns))


def _type(data: bytes, position: int) -> Type:
    (oid,) = _unpack_oid(data, position)
    schema, position = _text(data, position + 4)
    name, position = _text(data, position)
    _end(data, position)
    return Type(oid, schema or "pg_catalog", name)


def _truncate(data: bytes, position: int) -> Truncate:
    count, options = _unpack_truncate(data, position)
    position += 5
    _end(data, position + 4 * count)  # before the format below is built: count is not trusted
    return Truncate(options, struct.unpack_from(f">{count}I", data, position))


def _message(data: bytes, position: int) -> Message:
    flags, lsn = _unpack_message(data, position)
    prefix, position = _text(data, position + 9)
    (length,) = _unpack_oid(data, position)
    position += 4
    _end(data, position + length)
    return Message(bool(flags & 1), lsn, prefix, data[position:])


def _insert(data: bytes, position: int) -> Insert:
    oid, letter, count = _unpack_row(data, position)
    if letter != _NEW:
        raise _unexpected(letter, position + 4)
    new, position = _tuple(data, position + 7, count)
    if position != len(data):
        _end(data, position)
    return Insert(oid, new)


def _update(data: bytes, position: int) -> Update:
    oid, letter, count = _unpack_row(data, position)
    values, position = _tuple(data, position + 7, count)
    if letter == _OLD:
        letter, count = _unpack_tuple(data, position)
        new, position = _tuple(data, position + 3, count)
        update = Update(oid, values, None, new)
    elif letter == _KEY:
        letter, count = _unpack_tuple(data, position)
        new, position = _tuple(data, position + 3, count)
        update = Update(oid, None, values, new)
    else:
        update = Update(oid, None, None, values)
    if letter != _NEW:
        raise _unexpected(letter, position)
    if position != len(data):
        _end(data, position)
    return update


def _delete(data: bytes, position: int) -> Delete:
    oid, letter, count = _unpack_row(data, position)
    if letter not in (_OLD, _KEY):
        raise _unexpected(letter, position + 4)
    values, position = _tuple(data, position + 7, count)
    if position != len(data):
        _end(data, position)
    return Delete(oid, values, None) if letter == _OLD else Delete(oid, None, values)


def _unexpected(letter: int, position: int) -> DecodeError:
    return DecodeError(f"unexpected tuple type {letter:#04x} in a replication message", offset=position)


def _tuple(data: bytes, position: int, count: int) -> tuple[TupleData, int]:
    """``count`` columns from ``position``; the position after them, which the caller checks against the end."""
    values: TupleData = []
    append = values.append
    unpack = _unpack_value
    try:
        for _ in range(count):
            letter, length = unpack(data, position)
            if letter == _TEXT:
                start = position + 5
                position = start + length
                append(data[start:position])
            elif letter == _NULL:
                append(None)
                position += 1
            elif letter == _TOAST:
                append(UNCHANGED)
                position += 1
            else:
                raise _bad_column(letter, position)
    except struct.error:
        # Fewer than five bytes are left: trailing NULLs are shorter than that, everything else is truncated.
        return _tuple_tail(data, position, values, count)
    return values, position


def _tuple_tail(data: bytes, position: int, values: TupleData, count: int) -> tuple[TupleData, int]:
    while len(values) < count:
        if position >= len(data):
            raise _truncated(data)
        letter = data[position]
        if letter == _NULL:
            values.append(None)
        elif letter == _TOAST:
            values.append(UNCHANGED)
        elif letter == _TEXT:
            raise _truncated(data)
        else:
            raise _bad_column(letter, position)
        position += 1
    return values, position


def _bad_column(letter: int, position: int) -> DecodeError:
    if letter == _BINARY:
        return DecodeError(f"binary column value at byte {position}; only text was asked for", offset=position)
    return DecodeError(f"unknown column type {letter:#04x} at byte {position}", offset=position)


_DECODERS: dict[int, Callable[[bytes, int], AnyMessage]] = {
    ord("B"): _begin,
    ord("C"): _commit,
    ord("O"): _origin,
    ord("R"): _relation,
    ord("Y"): _type,
    ord("I"): _insert,
    ord("U"): _update,
    ord("D"): _delete,
    ord("T"): _truncate,
    ord("M"): _message,
}
