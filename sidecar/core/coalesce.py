"""Coalescing: whole local transactions become :class:`LocalChanges`, one entry per row, one value per column.

What a row's entry becomes when a further operation on the same key arrives:

    =======  ===========  ====================  =======
    held     insert       update                delete
    =======  ===========  ====================  =======
    nothing  INSERT       UPDATE (or TOUCH)     DELETE
    TOUCH    REPLACE      UPDATE (or TOUCH)     DELETE
    UPDATE   REPLACE      UPDATE                DELETE
    INSERT   REPLACE      INSERT                DELETE
    REPLACE  REPLACE      REPLACE               (split)
    DELETE   REPLACE      (split)               (split)
    =======  ===========  ====================  =======

A DELETE keeps what the entry had written before. A REPLACE is never deleted in the same batch, see
:meth:`Coalescer.must_split`. Changes of sets and maps fold in every case of the table and need no split. An update that
leaves the text image of every replicated column as it was is a TOUCH: it changes the entry's xid and nothing else. An
update that changes the key is a delete of the old key and an insert of the new one. Inserts into a held live row come
from deferrable primary keys only, see :meth:`Coalescer.delete`; so do updates (REPLACE) and deletes of a held deleted
row by the transaction that deleted it.

Tuples are kept as decoded and compared once, those of frequent updates not even decoded before they are needed;
:mod:`sidecar.core.columnar` makes the columns of them.
"""

from __future__ import annotations

from operator import ne
from typing import Any

import msgspec

from sidecar.core.changes import DELETE, INSERT, REPLACE, TOUCH, UPDATE, LocalChanges, truncation
from sidecar.core.columnar import local_changes
from sidecar.core.counters import counter_delta
from sidecar.core.held_row import NO_TUPLE, HeldRow
from sidecar.core.held_values import elements_replaced, first_values, fold_elements, write_values, written_before
from sidecar.core.pgoutput import UNCHANGED, RowReader, TupleData
from sidecar.core.pgoutput.updates import HEAD_BYTES
from sidecar.core.relation_plan import ChangedColumns, RelationPlan
from sidecar.errors import ProtocolError, SchemaError

__all__ = ["Coalescer", "RelationPlan"]

# Bytes of a held row beside its values: entry, tuples, object headers (measured with tracemalloc).
ROW_OVERHEAD_BYTES = 600


class HeldTable(msgspec.Struct, gc=False, eq=False):
    """The rows of one table under one layout, by key (one value, or a tuple of values); or what no row of it passes: a
    TRUNCATE (``whole``), or a ``refused`` change."""

    plan: RelationPlan
    rows: dict[Any, HeldRow]
    whole: LocalChanges | None = None


class Coalescer:
    """Collects transactions until :meth:`take`.

    ``rows``, ``bytes`` (approximately held in memory) and ``transactions`` (committed since the last take) are for the
    caller's bounds. A transaction may be taken in parts: a key then occurs again in a later part.
    """

    __slots__ = (
        "_current",
        "_ended",
        "_hlc",
        "_open",
        "_reader",
        "_tables",
        "_xid",
        "bytes",
        "rows",
        "transactions",
    )

    def __init__(self) -> None:
        self.rows = 0
        self.bytes = 0
        self.transactions = 0
        self._tables: list[HeldTable] = []
        self._current: dict[RelationPlan, dict[Any, HeldRow]] = {}
        self._xid = 0
        self._hlc = 0
        self._open = False
        self._ended = False
        self._reader = RowReader()

    def begin(self, xid: int, hlc: int) -> None:
        """Start a transaction; ``hlc`` must be above those of all transactions before it."""
        if self._open:
            raise ProtocolError("a transaction begins before the one before it ended")
        self._open = True
        self._xid = xid
        self._hlc = hlc

    def commit(self) -> None:
        """End the transaction."""
        if not self._open:
            raise ProtocolError("a commit without a transaction")
        self._open = False
        self.transactions += 1

    def insert(self, plan: RelationPlan, new: TupleData, size: int = 0) -> None:
        """A new row. ``size`` is the message's length in bytes, for :attr:`bytes`."""
        if len(new) != plan.width:
            plan.learn(bytes(len(new)))
        try:
            rows = self._current[plan]
        except KeyError:
            rows = self._rows(plan)
        key = plan.key_of(new)
        row = rows.get(key)
        hlc = self._hlc
        if row is None:
            rows[key] = HeldRow(INSERT, hlc, self._xid, new, NO_TUPLE, None, hlc, None, None, size)
            self.rows += 1
            self.bytes += ROW_OVERHEAD_BYTES + size
            return
        if row.known is not None:
            row.cut(self._reader)
        deleted = row.op is DELETE or row.op is REPLACE
        old = row.old if deleted else row.new
        before = row.values if deleted else None
        if before and plan.elements:
            before = elements_replaced(plan, before, old, new, hlc)
        rows[key] = HeldRow(REPLACE, hlc, self._xid, new, old, None, hlc, before, None, self._grown(row, size))
        self._ended = True

    def known_update(self, plan: RelationPlan, raw: bytes, offset: int) -> bool:
        """Take the update from ``offset`` to the end of ``raw`` if it is of a known layout and continues what is held;
        else it is to be read for :meth:`update`. Ends in the same state as that, but for tuples that are not cut."""
        start = offset + HEAD_BYTES
        for known in plan.known:
            layout = known.layout
            match = layout.match(raw, start)
            if match is not None:
                break
        else:
            return False
        if layout.compared and not layout.fits(match):
            return False
        try:
            rows = self._current[plan]
        except KeyError:
            rows = self._rows(plan)
        key = layout.key_of(match)
        row = rows.get(key)
        size = len(raw)
        if row is None:
            rows[key] = HeldRow(
                UPDATE,
                self._hlc,
                self._xid,
                NO_TUPLE,
                NO_TUPLE,
                known.changed,
                None,
                None,
                None,
                size,
                known,
                match,
                match,
            )
            self.rows += 1
            self.bytes += ROW_OVERHEAD_BYTES + size
            return True
        last = row.last
        if row.known is not known or last is None:
            return False
        for before, after in known.summed:
            if last[after] != match[before]:
                return False
        row.hlc = self._hlc
        row.xid = self._xid
        row.last = match
        if row.size < 2 * size:
            row.size = self._grown(row, 2 * size)
        return True

    def update(self, plan: RelationPlan, old: TupleData | None, new: TupleData, size: int = 0) -> None:
        """A changed row, with the whole old row (:class:`SchemaError` without)."""
        if old is None:
            raise _no_old_row(plan)
        whole = UNCHANGED not in new
        if not whole:
            new = [o if n is UNCHANGED else n for o, n in zip(old, new, strict=False)]
        pattern = bytes(map(ne, old, new))
        try:
            changed = plan.changes[pattern]
        except KeyError:
            changed = plan.learn(pattern)
        if changed.numeric:
            changed = plan.without_equal_numbers(changed, pattern, old, new)
        elif whole:
            plan.know(changed, old, new)
        if changed.key:
            self.delete(plan, old, size)
            self.insert(plan, new, size)
            return
        try:
            rows = self._current[plan]
        except KeyError:
            rows = self._rows(plan)
        key = plan.key_of(new)
        row = rows.get(key)
        if row is None:
            op = TOUCH if changed.touch else UPDATE
            rows[key] = HeldRow(op, self._hlc, self._xid, new, old, changed, None, None, None, size)
            self.rows += 1
            self.bytes += ROW_OVERHEAD_BYTES + size
            return
        if row.known is not None:
            row.cut(self._reader)
        if size > row.size:
            row.size = self._grown(row, size)
        self._update_held(plan, row, changed, old, new)

    def _update_held(
        self, plan: RelationPlan, row: HeldRow, changed: ChangedColumns, old: TupleData, new: TupleData
    ) -> None:
        hlc = self._hlc
        row.xid = self._xid
        if row.op is DELETE:
            row.op, row.hlc, row.inserted, row.new = REPLACE, hlc, hlc, new
            if row.values and plan.elements:
                row.values = elements_replaced(plan, row.values, row.old, new, hlc)
            return
        if changed.touch:
            if row.changed is None:
                row.new = new
            return
        if row.op is TOUCH:
            row.op, row.hlc, row.old, row.new, row.changed = UPDATE, hlc, old, new, changed
            return
        if row.op is UPDATE:
            if row.changed is changed and changed.summed is not None and _continues(row.new, old, changed.summed):
                row.hlc, row.new = hlc, new
                return
            write_values(plan, row, changed, old, new)
        if changed.elements:
            fold_elements(plan, row, changed, old, new, hlc)
        hlcs = row.hlcs
        if hlcs is None:
            hlcs = row.hlcs = {}
            if row.changed is not None:
                hlcs.update(dict.fromkeys(row.changed.columns, row.hlc))
        for i in changed.columns:
            hlcs[i] = hlc
        row.hlc = hlc
        row.new = new
        row.changed = None

    def delete(self, plan: RelationPlan, old: TupleData | None, size: int = 0) -> None:
        """A deleted row, with the whole old row (:class:`SchemaError` without).

        With a deferrable primary key, ``SET id = id + 1`` inserts key 2 (the former 1) before it deletes key 2 (the
        next row). Then the deleted image differs from the inserted one, and the key's entry is a REPLACE.
        """
        if old is None:
            raise _no_old_row(plan)
        if len(old) != plan.width:
            plan.learn(bytes(len(old)))
        try:
            rows = self._current[plan]
        except KeyError:
            rows = self._rows(plan)
        key = plan.key_of(old)
        row = rows.get(key)
        if row is None:
            self.rows += 1
            self.bytes += ROW_OVERHEAD_BYTES + size
        elif row.known is not None:
            row.cut(self._reader)
            size = self._grown(row, size)
        elif (row.op is INSERT or row.op is REPLACE) and row.new != old:
            row.op = REPLACE
            row.old = old
            self._ended = True
            return
        else:
            size = self._grown(row, size)
        values, hlcs = (None, None) if row is None else written_before(plan, row)
        inserted = row.inserted if row is not None and row.op is not REPLACE else None
        self._ended = True
        rows[key] = HeldRow(DELETE, self._hlc, self._xid, NO_TUPLE, old, None, inserted, values, hlcs, size)

    def truncate(self, plan: RelationPlan) -> None:
        """All rows of a table are gone; which they were is not said. What comes later stands after it."""
        self._stand_behind(HeldTable(plan, {}, truncation(plan.spec, self._hlc, self._xid)), ROW_OVERHEAD_BYTES)

    def refuse(self, plan: RelationPlan, changes: list[LocalChanges], size: int) -> None:
        """A change that is to be put aside, as :func:`.refused.refused` makes it."""
        for local in changes:
            self._stand_behind(HeldTable(plan, {}, local), size)

    def _stand_behind(self, table: HeldTable, size: int) -> None:
        """What comes later of its table stands after it."""
        for other in [p for p in self._current if p.spec.table_id == table.plan.spec.table_id]:
            del self._current[other]
        self._tables.append(table)
        self.rows, self.bytes = self.rows + 1, self.bytes + size

    def must_split(self, plan: RelationPlan, old: TupleData | None, new: TupleData | None = None) -> bool:
        """Whether the caller must :meth:`take` before this delete (or update from ``old`` to ``new``), because one
        entry cannot say what happened to the key in this batch:

        - a delete of a row that was deleted and inserted: what each of the deletes had seen;
        - an update or a delete of a row that an earlier transaction deleted: a merge has put one there in between, and
          may have overtaken what came before it (:mod:`.merge.overtaken`);
        - a delete of a row that was inserted and has counters: the insert put behind what an earlier delete had seen;
        - a grow-only counter that decreases (undone) after it grew, or grows after a decrease or an insert below 0.
        """
        if old is None or not (self._ended or plan.splits):
            return False
        key = plan.key_of(old)
        row = self._current.get(plan, _NO_ROWS).get(key)
        if row is None or row.op is TOUCH:
            return False
        if row.op is DELETE:
            return row.xid != self._xid
        if row.known is not None:
            row.cut(self._reader)
        if new is None or plan.key_of(new) != key:
            inserted = row.op is REPLACE or (row.op is INSERT and plan.splits)
            return inserted and row.new == old
        return any(self._turns(plan, row, i, old, new) for i in plan.growing)

    @staticmethod
    def _turns(plan: RelationPlan, row: HeldRow, i: int, old: TupleData, new: TupleData) -> bool:
        """Whether a held row's grow-only counter (column index ``i``) would be both increased and decreased."""
        position = plan.positions[i]
        before, after = old[position], new[position]
        if before == after or after is UNCHANGED:
            return False
        grows = counter_delta(before, after) > 0
        if row.op is not UPDATE:
            # What a held insert has grown by is in its value, and the first growth of one below 0 has split it.
            return not grows or counter_delta(None, row.new[position]) < 0
        values = row.values if row.values is not None else first_values(plan, row)
        held = values.get(i, 0)
        return bool((held < 0 and grows) or (held > 0 and not grows))

    def take(self) -> list[LocalChanges]:
        """What was collected, tables in the order of their first change; afterwards nothing is held.

        A table stands in the list again if its columns changed or it was truncated in between: merge in the list's
        order.
        """
        tables = self._tables
        self._tables = []
        self._current = {}
        self._ended = False
        self.rows = self.bytes = self.transactions = 0
        return [table.whole or local_changes(table.plan, table.rows.values()) for table in tables]

    def _grown(self, row: HeldRow, size: int) -> int:
        """Count what a further message adds to a held row: a hot row counts once, at its largest."""
        if size <= row.size:
            return row.size
        self.bytes += size - row.size
        return size

    def _rows(self, plan: RelationPlan) -> dict[Any, HeldRow]:
        """The rows of a plan seen for the first time since the last take."""
        table_id = plan.spec.table_id
        for table in reversed(self._tables):
            if table.plan.spec.table_id == table_id:
                if table.whole is None and table.plan.same_layout(plan):
                    self._current[plan] = table.rows
                    return table.rows
                break
        # Another layout of a table that is held already: its rows are left as they are and come first.
        for other in [p for p in self._current if p.spec.table_id == table_id]:
            del self._current[other]
        rows: dict[Any, HeldRow] = {}
        self._tables.append(HeldTable(plan, rows))
        self._current[plan] = rows
        return rows


_NO_ROWS: dict[Any, HeldRow] = {}


def _continues(held: TupleData, old: TupleData, positions: tuple[int, ...]) -> bool:
    """Whether an update starts where the one before it ended; a merge in between may have changed the row."""
    for position in positions:  # noqa: SIM110  mostly there are none, and a generator costs more than the rest
        if held[position] != old[position]:
            return False
    return True


def _no_old_row(plan: RelationPlan) -> SchemaError:
    return SchemaError(
        f"{plan.spec.qualified}: a change came without the old row",
        mend="run sidecar init, which sets REPLICA IDENTITY FULL",
    )
