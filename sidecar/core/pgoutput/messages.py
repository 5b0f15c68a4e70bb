"""The messages of pgoutput, protocol version 1
(https://www.postgresql.org/docs/current/protocol-logicalrep-message-formats.html).

Structs rather than dataclasses: they are built in a third of the time, and ``gc=False`` keeps tens of thousands of
them out of the cyclic garbage collector (none can be part of a cycle: they hold bytes, numbers, text, lists of these).

A tuple is ``list[bytes | None]``, one element per column of the relation in its order: the UTF-8 text image, ``None``
for NULL, or :data:`UNCHANGED`.
"""

from __future__ import annotations

from typing import Final

import msgspec

UNCHANGED: Final = b"\xff\xfe unchanged toast \xfe\xff"
"""Stands for a TOASTed value that an update left alone and that is therefore not sent. Not valid UTF-8, so no value of
the stream equals it (the connection's ``client_encoding`` is UTF8); being ``bytes`` it is compared at C speed."""

TupleData = list[bytes | None]

POSTGRES_EPOCH_UNIX_US: Final = 946_684_800_000_000
"""2000-01-01 00:00:00 UTC in Unix microseconds: the zero of PostgreSQL's timestamps."""


class Begin(msgspec.Struct, gc=False, frozen=True):
    """``final_lsn``: LSN of the commit record. ``commit_us``: commit time, microseconds since 2000-01-01 UTC."""

    final_lsn: int
    commit_us: int
    xid: int


class Commit(msgspec.Struct, gc=False, frozen=True):
    """``end_lsn``: the end of the transaction, the position to confirm."""

    flags: int
    commit_lsn: int
    end_lsn: int
    commit_us: int


class Origin(msgspec.Struct, gc=False, frozen=True):
    """The transaction came from a replication origin."""

    commit_lsn: int
    name: str


class RelationColumn(msgspec.Struct, gc=False, frozen=True):
    """``flags`` bit 0: part of the replica identity. ``typmod`` is -1 when the type has no modifier."""

    flags: int
    name: str
    type_oid: int
    typmod: int


class Relation(msgspec.Struct, gc=False, frozen=True):
    """A relation's layout, sent before its first use and after each change. ``replica_identity`` is
    ``pg_class.relreplident``: ``d`` default, ``n`` nothing, ``f`` full, ``i`` index."""

    relation_oid: int
    schema: str
    name: str
    replica_identity: str
    columns: tuple[RelationColumn, ...]


class Type(msgspec.Struct, gc=False, frozen=True):
    """The name of a type that is not built in."""

    type_oid: int
    schema: str
    name: str


class Insert(msgspec.Struct, gc=False, frozen=True):
    """A new row."""

    relation_oid: int
    new: TupleData


class Update(msgspec.Struct, gc=False, frozen=True):
    """A changed row. ``old`` is the whole old row (``O``, replica identity full), ``key`` the old key alone (``K``,
    sent under another identity when the key changed or is TOASTed); at most one of both is there."""

    relation_oid: int
    old: TupleData | None
    key: TupleData | None
    new: TupleData


class Delete(msgspec.Struct, gc=False, frozen=True):
    """A deleted row: either ``old`` (the whole row) or ``key`` (replica identity columns, the others NULL) is there."""

    relation_oid: int
    old: TupleData | None
    key: TupleData | None


class Truncate(msgspec.Struct, gc=False, frozen=True):
    """``options``: 1 CASCADE, 2 RESTART IDENTITY."""

    options: int
    relation_oids: tuple[int, ...]


class Message(msgspec.Struct, gc=False, frozen=True):
    """``pg_logical_emit_message()``. A transactional one stands between Begin and Commit, another anywhere."""

    transactional: bool
    lsn: int
    prefix: str
    content: bytes


AnyMessage = Begin | Commit | Origin | Relation | Type | Insert | Update | Delete | Truncate | Message


def unix_ms(commit_us: int) -> int:
    """Unix milliseconds (rounded down) of a PostgreSQL timestamp."""
    return (commit_us + POSTGRES_EPOCH_UNIX_US) // 1000
