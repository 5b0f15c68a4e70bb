"""Decoder of PostgreSQL's logical replication output (plugin pgoutput, protocol version 1, text format)."""

from sidecar.core.pgoutput.decoder import decode
from sidecar.core.pgoutput.lsn import INVALID_LSN, parse_lsn, record_end, show_lsn
from sidecar.core.pgoutput.messages import (
    POSTGRES_EPOCH_UNIX_US,
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
    unix_ms,
)
from sidecar.core.pgoutput.rows import MESSAGE_BYTES_MAX, RowReader
from sidecar.core.pgoutput.stream import (
    KEEPALIVE,
    XLOG_DATA,
    XLOG_HEADER_BYTES,
    Keepalive,
    XLogData,
    decode_stream,
    status_update,
)
from sidecar.core.pgoutput.updates import Match, UpdateLayout, update_layout

__all__ = [
    "INVALID_LSN",
    "KEEPALIVE",
    "MESSAGE_BYTES_MAX",
    "POSTGRES_EPOCH_UNIX_US",
    "UNCHANGED",
    "XLOG_DATA",
    "XLOG_HEADER_BYTES",
    "AnyMessage",
    "Begin",
    "Commit",
    "Delete",
    "Insert",
    "Keepalive",
    "Match",
    "Message",
    "Origin",
    "Relation",
    "RelationColumn",
    "RowReader",
    "Truncate",
    "TupleData",
    "Type",
    "Update",
    "UpdateLayout",
    "XLogData",
    "decode",
    "decode_stream",
    "parse_lsn",
    "record_end",
    "show_lsn",
    "status_update",
    "unix_ms",
    "update_layout",
]
