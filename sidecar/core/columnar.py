"""Held rows of one table to :class:`LocalChanges`: row entries in, array literals out.

Rows are grouped so that all rows of a group assign the same columns. A column of a group is then either NULL
throughout, which costs one copy of constant text, or filled in every row; loops over rows stay list comprehensions.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from sidecar.core.arrays import ArrayRuns, int_array, number_array, text_array
from sidecar.core.changes import DELETE, INSERT, MASK_BITS, REPLACE, TOUCH, UPDATE, LocalChanges, TableChanges
from sidecar.core.counters import counter_delta, counter_text, finite
from sidecar.core.elements import ElementChange
from sidecar.core.held_row import HeldRow
from sidecar.core.pgoutput import Match, TupleData
from sidecar.core.relation_plan import KnownUpdate, RelationPlan
from sidecar.errors import SchemaError


class _Table:
    """The columns of one :class:`LocalChanges` in the making. ``carried`` are indexes into ``spec.columns``."""

    def __init__(self, plan: RelationPlan, carried: tuple[int, ...]) -> None:
        self.plan = plan
        self.carried = carried
        self.bits = {i: divmod(slot, MASK_BITS) for slot, i in enumerate(carried)}
        self.rows = 0
        self.ops, self.hlcs, self.inserted, self.xids, self.images = (ArrayRuns() for _ in range(5))
        self.keys = [ArrayRuns() for _ in plan.key_positions]
        self.masks = [ArrayRuns() for _ in range(-(-len(carried) // MASK_BITS))]
        self.values = [ArrayRuns() for _ in carried]
        self.late = [ArrayRuns() for _ in carried]
        self.old_images = [ArrayRuns() for _ in carried]
        self.undone = {slot: ArrayRuns() for slot, i in enumerate(carried) if i in plan.elements}

    def rows_in(self, rows: Sequence[HeldRow], tuples: Sequence[TupleData], assigned: Sequence[int]) -> None:
        """What every group has: versions, xids, keys (from ``tuples``) and the masks of its columns."""
        keys = [[values[position] for values in tuples] for position in self.plan.key_positions]
        self.keyed_rows_in(rows, keys, assigned)

    def keyed_rows_in(
        self, rows: Sequence[HeldRow], keys: Iterable[Sequence[bytes | None]], assigned: Sequence[int]
    ) -> None:
        """The same with the values of each column of the key."""
        count = len(rows)
        self.rows += count
        self.hlcs.add(number_array([row.hlc for row in rows]))
        self.xids.add(number_array([row.xid for row in rows]))
        for column, values in zip(self.keys, keys, strict=True):
            column.add(text_array(values))
        words = [0] * len(self.masks)
        for i in assigned:
            word, bit = self.bits[i]
            words[word] |= 1 << bit
        for mask, value in zip(self.masks, words, strict=True):
            mask.repeat(b"%d" % value, count)

    def changes(self) -> TableChanges:
        """The shipped part; ``seen`` is empty, it is known to the database only."""
        spec = self.plan.spec
        return TableChanges(
            schema=spec.schema,
            name=spec.name,
            key_columns=[c.name for c in spec.key],
            columns=[spec.columns[i].name for i in self.carried],
            rows=self.rows,
            ops=self.ops.literal(),
            hlcs=self.hlcs.literal(),
            inserted=self.inserted.literal(),
            masks=[c.literal() for c in self.masks],
            keys=[c.literal() for c in self.keys],
            values=[c.literal() for c in self.values],
            late=[c.literal() for c in self.late],
            seen=[b""] * len(self.carried),
        )


def local_changes(plan: RelationPlan, rows: Iterable[HeldRow]) -> LocalChanges:
    """All rows of one table; at least one."""
    groups: dict[Any, list[HeldRow]] = {}
    for row in rows:
        changed = row.changed
        group = changed if changed is not None else row.op
        try:
            groups[group].append(row)
        except KeyError:
            groups[group] = [row]
    full = groups.pop(INSERT, []) + groups.pop(REPLACE, [])
    deleted = groups.pop(DELETE, [])
    merged = groups.pop(UPDATE, [])
    touched: list[HeldRow] = []
    for changed in [changed for changed in groups if changed.touch]:
        touched += groups.pop(changed)
    table = _Table(plan, _carried(plan, full, deleted, merged, groups))
    if full:
        _add_full(table, full)
    for columns, members in _by_columns(deleted).items():
        _add_deleted(table, members, columns)
    for changed, members in groups.items():
        for known, alike in _by_layout(members).items():
            if known is None:
                _add_updated(table, alike, changed.columns)
            else:
                _add_known(table, alike, known)
    for columns, members in _by_columns(merged).items():
        _add_merged(table, members, columns)
    shipped = table.changes() if table.rows else None
    if touched:
        _add_touched(table, touched)
    return LocalChanges(
        table_id=plan.spec.table_id,
        changes=table.changes() if touched or shipped is None else shipped,
        xids=table.xids.literal(),
        images=table.images.literal(),
        old_images=[c.literal() for c in table.old_images],
        undone=[table.undone[slot].literal() if slot in table.undone else b"" for slot in range(len(table.carried))],
        shipped=shipped,
    )


def _by_columns(rows: Iterable[HeldRow]) -> dict[tuple[int, ...], list[HeldRow]]:
    """Rows grouped by the columns they wrote."""
    groups: dict[tuple[int, ...], list[HeldRow]] = {}
    for row in rows:
        groups.setdefault(tuple(sorted(row.values or ())), []).append(row)
    return groups


def _by_layout(rows: Iterable[HeldRow]) -> dict[KnownUpdate | None, list[HeldRow]]:
    """Rows grouped by how their tuples are read."""
    groups: dict[KnownUpdate | None, list[HeldRow]] = {}
    for row in rows:
        known = row.known
        try:
            groups[known].append(row)
        except KeyError:
            groups[known] = [row]
    return groups


def _carried(
    plan: RelationPlan,
    full: Sequence[HeldRow],
    deleted: Sequence[HeldRow],
    merged: Sequence[HeldRow],
    groups: Iterable[Any],
) -> tuple[int, ...]:
    """The columns that any row needs, in the specification's order; deleted rows need their counters."""
    specs = plan.spec.columns
    if full:
        return tuple(range(len(specs)))
    needed: set[int] = set()
    for changed in groups:
        needed.update(changed.columns)
    for row in (*merged, *deleted):
        needed.update(row.values or ())
    if deleted:
        needed.update(i for i, column in enumerate(specs) if column.is_counter)
    return tuple(sorted(needed))


def _add_full(table: _Table, rows: list[HeldRow]) -> None:
    """INSERT and REPLACE rows: every column assigned."""
    plan, count = table.plan, len(rows)
    specs = plan.spec.columns
    tuples = [row.new for row in rows]
    table.rows_in(rows, tuples, table.carried)
    table.ops.add(b"{" + b",".join([row.op for row in rows]) + b"}")
    table.inserted.add(number_array([row.inserted for row in rows]))
    table.images.nulls(count)
    replaced = any(row.op is REPLACE for row in rows)
    revised = any(row.hlcs for row in rows)
    for slot, i in enumerate(table.carried):
        position = plan.positions[i]
        if revised:
            _add_late(table.late[slot], rows, i)
        else:
            table.late[slot].nulls(count)
        if i in plan.elements:
            _add_elements(table, slot, [element_change(plan, row, i) for row in rows])
            continue
        if specs[i].is_counter:
            table.values[slot].add(
                int_array([counter_text(counter_delta(None, values[position])) for values in tuples])
            )
        else:
            table.values[slot].add(text_array([values[position] for values in tuples]))
        old = [_old_counter(row, i, position) for row in rows] if replaced and specs[i].is_counter else None
        _add_sparse(table.old_images[slot], old, count)


def element_change(plan: RelationPlan, row: HeldRow, column: int) -> ElementChange:
    """The change of a set or map (an index into ``spec.columns``) in an INSERT or REPLACE."""
    values = row.values
    if values is not None and column in values:
        held: ElementChange = values[column]
        return held
    assert row.inserted is not None, "an inserted row has the hlc of its insert"
    position = plan.positions[column]
    deleted = row.old[position] if row.op is REPLACE else None
    return plan.elements[column].inserted(row.new[position], row.inserted, deleted)


def _add_elements(table: _Table, slot: int, changes: list[ElementChange]) -> None:
    count = len(changes)
    table.values[slot].add(text_array([change.text() for change in changes]))
    _add_sparse(table.old_images[slot], [change.before for change in changes], count)
    _add_sparse(table.undone[slot], [change.undone_text() for change in changes], count)


def _old_counter(row: HeldRow, column: int, position: int) -> bytes | None:
    """A replaced row's counter before this batch: without the deltas that the batch's own delete has swallowed."""
    if row.op is not REPLACE:
        return None
    value = finite(row.old[position])
    swallowed = (row.values or {}).get(column)
    if not swallowed:
        return value
    return counter_text(counter_delta(counter_text(swallowed), value))


def _add_late(column: ArrayRuns, rows: list[HeldRow], i: int) -> None:
    """The hlcs of the last writes to the column (index ``i``) where they are not the rows'."""
    own = [row.inserted if row.hlcs is None else row.hlcs.get(i, row.inserted) for row in rows]
    late = [None if hlc == row.hlc else hlc for hlc, row in zip(own, rows, strict=True)]
    if late.count(None) == len(late):
        column.nulls(len(late))
    else:
        column.add(number_array(late))


def _add_sparse(column: ArrayRuns, values: Sequence[bytes | None] | None, count: int) -> None:
    if values is None or values.count(None) == count:
        column.nulls(count)
    else:
        column.add(text_array(values))


def _add_deleted(table: _Table, rows: list[HeldRow], columns: tuple[int, ...]) -> None:
    """DELETE rows, all of which wrote the same columns before they were deleted."""
    plan, count = table.plan, len(rows)
    specs = plan.spec.columns
    tuples = [row.old for row in rows]
    table.rows_in(rows, tuples, columns)
    table.ops.repeat(DELETE, count)
    inserted = [row.inserted for row in rows]
    if inserted.count(None) == count:
        table.inserted.nulls(count)
    else:
        table.inserted.add(number_array(inserted))
    table.images.add(text_array([_image(plan, values) for values in tuples]))
    _add_written(table, rows, columns)
    for slot, i in enumerate(table.carried):
        if slot in table.undone:
            continue
        position = plan.positions[i]
        old = [finite(values[position]) for values in tuples] if specs[i].is_counter else None
        _add_sparse(table.old_images[slot], old, count)


def _image(plan: RelationPlan, values: TupleData) -> bytes:
    """The row as a JSON object of text images, all columns outside the key."""
    image: dict[str, str | None] = {}
    for column, position in zip(plan.spec.columns, plan.positions, strict=True):
        value = values[position]
        try:
            image[column.name] = None if value is None else value.decode()
        except UnicodeDecodeError:
            raise SchemaError(
                f"{plan.spec.qualified}: column {column.name!r} holds text that is not UTF-8",
                mend="use a database whose encoding is not SQL_ASCII",
            ) from None
    return msgspec.json.encode(image)


def _add_updated(table: _Table, rows: list[HeldRow], columns: tuple[int, ...]) -> None:
    """Rows updated by one transaction each, or as if by one, all in the same columns."""
    plan, count = table.plan, len(rows)
    specs = plan.spec.columns
    tuples = [row.new for row in rows]
    table.rows_in(rows, tuples, columns)
    _no_delete(table, UPDATE, count)
    for slot, i in enumerate(table.carried):
        table.late[slot].nulls(count)
        position = plan.positions[i]
        if i not in columns:
            _add_unassigned(table, slot, count)
        elif slot in table.undone:
            column = plan.elements[i]
            changes = [column.written(row.old[position], row.new[position], row.hlc) for row in rows]
            _add_elements(table, slot, changes)
        elif specs[i].is_counter:
            deltas = [counter_text(counter_delta(row.old[position], row.new[position])) for row in rows]
            table.values[slot].add(int_array(deltas))
        else:
            table.values[slot].add(text_array([values[position] for values in tuples]))


def _add_known(table: _Table, rows: list[HeldRow], known: KnownUpdate) -> None:
    """The same of messages with a known layout; there are registers and integer counters only."""
    plan, count, columns = table.plan, len(rows), known.changed.columns
    specs, layout = plan.spec.columns, known.layout
    last = [row.last for row in rows if row.last is not None]
    table.keyed_rows_in(rows, [_texts(last, group) for group in layout.keys], columns)
    _no_delete(table, UPDATE, count)
    for slot, i in enumerate(table.carried):
        table.late[slot].nulls(count)
        if i not in columns:
            _add_unassigned(table, slot, count)
            continue
        new = _texts(last, layout.new[plan.positions[i]])
        if specs[i].is_counter:
            first = [row.first for row in rows if row.first is not None]
            old = _texts(first, layout.old[plan.positions[i]])
            deltas = [counter_text(counter_delta(*pair)) for pair in zip(old, new, strict=True)]
            table.values[slot].add(int_array(deltas))
        else:
            table.values[slot].add(text_array(new))


def _texts(matches: Sequence[Match], group: int) -> list[bytes | None]:
    """The texts of a group, of which 0 stands for NULL."""
    return [match[group] for match in matches] if group else [None] * len(matches)


def _add_merged(table: _Table, rows: list[HeldRow], columns: tuple[int, ...]) -> None:
    """Rows updated by several transactions, all in the same columns."""
    table.rows_in(rows, [row.new for row in rows], columns)
    _no_delete(table, UPDATE, len(rows))
    _add_written(table, rows, columns)


def _add_written(table: _Table, rows: list[HeldRow], columns: tuple[int, ...]) -> None:
    """Values (or deltas, or changes) and late hlcs of rows that hold them by column."""
    specs, count = table.plan.spec.columns, len(rows)
    for slot, i in enumerate(table.carried):
        if i not in columns:
            _add_unassigned(table, slot, count)
            table.late[slot].nulls(count)
            continue
        values = [(row.values or {})[i] for row in rows]
        if slot in table.undone:
            _add_elements(table, slot, values)
        elif specs[i].is_counter:
            table.values[slot].add(int_array([counter_text(value) for value in values]))
        else:
            table.values[slot].add(text_array(values))
        _add_late(table.late[slot], rows, i)


def _add_touched(table: _Table, rows: list[HeldRow]) -> None:
    count = len(rows)
    table.rows_in(rows, [row.new for row in rows], ())
    _no_delete(table, TOUCH, count)
    for slot in range(len(table.carried)):
        _add_unassigned(table, slot, count)
        table.late[slot].nulls(count)


def _add_unassigned(table: _Table, slot: int, count: int) -> None:
    """A column that a group of rows does not write."""
    table.values[slot].nulls(count)
    if slot in table.undone:
        table.undone[slot].nulls(count)
        table.old_images[slot].nulls(count)


def _no_delete(table: _Table, op: bytes, count: int) -> None:
    """What UPDATE and TOUCH rows leave NULL, and their op."""
    table.ops.repeat(op, count)
    table.inserted.nulls(count)
    table.images.nulls(count)
    for slot, column in enumerate(table.old_images):
        if slot not in table.undone:
            column.nulls(count)
