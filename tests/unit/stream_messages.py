"""Raw messages of a replication stream, as a walsender would write them."""

from __future__ import annotations

import struct

from sidecar.core.pgoutput import POSTGRES_EPOCH_UNIX_US, UNCHANGED, TupleData

RELATION_OID = 77


def xlog(payload: bytes, lsn: int) -> bytes:
    return struct.pack(">cQQq", b"w", lsn, lsn, 0) + payload


def relation(*columns: str, schema: str = "public", name: str = "doc") -> bytes:
    head = struct.pack(">I", RELATION_OID) + f"{schema}\0{name}\0f".encode() + struct.pack(">H", len(columns))
    return xlog(b"R" + head + b"".join(b"\1" + c.encode() + struct.pack(">xIi", 25, -1) for c in columns), 1)


def tuple_data(values: TupleData) -> bytes:
    out = struct.pack(">H", len(values))
    for value in values:
        if value is None or value is UNCHANGED:
            out += b"n" if value is None else b"u"
        else:
            out += b"t" + struct.pack(">I", len(value)) + value
    return out


def begin(number: int, committed_ms: int) -> bytes:
    lsn = number << 8
    committed_us = committed_ms * 1000 - POSTGRES_EPOCH_UNIX_US
    return xlog(b"B" + struct.pack(">QqI", lsn, committed_us, 1000 + number), lsn)


def commit(number: int) -> bytes:
    lsn = number << 8
    return xlog(b"C" + struct.pack(">BQQq", 0, lsn, lsn + 100, 0), lsn + 100)


def update(old: TupleData, new: TupleData) -> bytes:
    head = struct.pack(">Ic", RELATION_OID, b"O")
    return xlog(b"U" + head + tuple_data(old) + b"N" + tuple_data(new), 1)


def insert(new: TupleData) -> bytes:
    return xlog(b"I" + struct.pack(">Ic", RELATION_OID, b"N") + tuple_data(new), 1)


def delete(old: TupleData) -> bytes:
    return xlog(b"D" + struct.pack(">Ic", RELATION_OID, b"O") + tuple_data(old), 1)
