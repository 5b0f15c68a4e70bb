"""The messages inside CopyData of the streaming replication protocol
(https://www.postgresql.org/docs/current/protocol-replication.html).
"""

from __future__ import annotations

import struct
from typing import Final

import msgspec

from sidecar.core.pgoutput.messages import POSTGRES_EPOCH_UNIX_US
from sidecar.errors import DecodeError

XLOG_DATA: Final = ord("w")
KEEPALIVE: Final = ord("k")
XLOG_HEADER_BYTES: Final = 25
"""Bytes before the payload of XLogData: ``decode(raw, XLOG_HEADER_BYTES)`` saves copying it."""

_XLOG = struct.Struct(">cQQq")
_KEEPALIVE = struct.Struct(">cQqB")
_STATUS = struct.Struct(">cQQQqB")


class XLogData(msgspec.Struct, gc=False, frozen=True):
    """``start_lsn``: WAL position of the data; ``end_lsn``: end of WAL at the server; ``sent_us``: since 2000-01-01."""

    start_lsn: int
    end_lsn: int
    sent_us: int
    payload: bytes


class Keepalive(msgspec.Struct, gc=False, frozen=True):
    """``end_lsn``: what the walsender has read and sent; ``reply_requested``: answer at once or be cut off."""

    end_lsn: int
    sent_us: int
    reply_requested: bool


def decode_stream(raw: bytes) -> XLogData | Keepalive:
    """Decode the content of one CopyData; :class:`DecodeError` when it is neither."""
    letter = raw[0] if raw else -1
    if letter == XLOG_DATA:
        if len(raw) < _XLOG.size:
            raise DecodeError(f"XLogData ends early, at byte {len(raw)}", offset=len(raw))
        _, start, end, sent = _XLOG.unpack_from(raw)
        return XLogData(start, end, sent, raw[XLOG_HEADER_BYTES:])
    if letter == KEEPALIVE:
        if len(raw) != _KEEPALIVE.size:
            raise DecodeError(
                f"keepalive of {len(raw)} bytes instead of {_KEEPALIVE.size}", offset=min(len(raw), _KEEPALIVE.size)
            )
        _, end, sent, reply = _KEEPALIVE.unpack(raw)
        return Keepalive(end, sent, reply != 0)
    raise DecodeError(f"unknown replication stream message {raw[:1]!r}", offset=0)


def status_update(
    *, written_lsn: int, flushed_lsn: int, applied_lsn: int, unix_us: int, reply_requested: bool = False
) -> bytes:
    """Standby status update. The slot keeps WAL from ``flushed_lsn`` on."""
    return _STATUS.pack(
        b"r", written_lsn, flushed_lsn, applied_lsn, unix_us - POSTGRES_EPOCH_UNIX_US, int(reply_requested)
    )
