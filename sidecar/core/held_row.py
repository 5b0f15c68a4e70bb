"""The entry of one row between two change sets: what whole local transactions did to it."""

from __future__ import annotations

from typing import Any

import msgspec

from sidecar.core.pgoutput import Match, RowReader, TupleData
from sidecar.core.pgoutput.updates import HEAD_BYTES
from sidecar.core.relation_plan import ChangedColumns, KnownUpdate


class HeldRow(msgspec.Struct, gc=False, eq=False):
    """The entry of one row.

    ``new``: the row as it is now (INSERT, REPLACE, UPDATE, TOUCH). ``old``: the row as the delete saw it (DELETE,
    REPLACE), or before the update (UPDATE). ``changed`` is set for an UPDATE by one transaction, or by several that are
    like one; otherwise ``values`` holds column index -> new text, delta or :class:`ElementChange`. In an INSERT or
    REPLACE ``values`` holds the changes of sets and maps that are not just those of the insert, and counter deltas that
    the delete swallowed. ``hlcs`` holds column index -> hlc of its last write where that is not known from ``inserted``
    (INSERT, REPLACE) or ``hlc`` (UPDATE with ``changed``). ``size``: bytes of the messages held, as counted by the
    coalescer.

    With ``known`` set (UPDATE with ``changed``) the tuples are not cut out of their messages yet: ``old`` stands in
    ``first``, ``new`` in ``last``, which may be the same. :meth:`cut` does it.
    """

    op: bytes
    hlc: int
    xid: int
    new: TupleData
    old: TupleData
    changed: ChangedColumns | None = None
    inserted: int | None = None
    values: dict[int, Any] | None = None
    hlcs: dict[int, int] | None = None
    size: int = 0
    known: KnownUpdate | None = None
    first: Match | None = None
    last: Match | None = None

    def cut(self, reader: RowReader) -> None:
        """Make ``old`` and ``new`` of the messages."""
        first, last = self.first, self.last
        if first is None or last is None:
            raise AssertionError("only a row with a known layout is not cut yet")
        old, new = reader.read(first.string, first.pos - HEAD_BYTES)
        if last is not first:
            _, new = reader.read(last.string, last.pos - HEAD_BYTES)
        self.old, self.new = old or NO_TUPLE, new or NO_TUPLE
        self.known = self.first = self.last = None


NO_TUPLE: TupleData = []
