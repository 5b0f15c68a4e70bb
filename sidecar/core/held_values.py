"""What a held row has written, by column: values, deltas and changes of sets and maps of several operations in one."""

from __future__ import annotations

from typing import Any

from sidecar.core.changes import DELETE, TOUCH, UPDATE
from sidecar.core.columnar import element_change
from sidecar.core.counters import counter_delta, counter_sum
from sidecar.core.held_row import HeldRow
from sidecar.core.pgoutput import TupleData
from sidecar.core.relation_plan import ChangedColumns, RelationPlan


def written_before(plan: RelationPlan, row: HeldRow) -> tuple[dict[int, Any] | None, dict[int, int] | None]:
    """What a row's entry wrote before its delete: values or deltas, and hlcs, by column index. They travel with the
    delete, because it may lose to a concurrent later write, and then the row comes back whole."""
    if row.op is UPDATE:
        if row.values is not None:
            return row.values, row.hlcs
        assert row.changed is not None, "an update is held as tuples or as values"
        return first_values(plan, row), dict.fromkeys(row.changed.columns, row.hlc)
    if row.op is DELETE:
        return row.values, row.hlcs
    if row.op is TOUCH:
        return None, None
    assert row.inserted is not None, "an inserted row has the hlc of its insert"
    values: dict[int, Any] = {
        i: counter_delta(None, row.new[position]) if column.is_counter else row.new[position]
        for i, (column, position) in enumerate(zip(plan.spec.columns, plan.positions, strict=True))
    }
    for i in plan.elements:
        values[i] = element_change(plan, row, i)
    return values, dict.fromkeys(values, row.inserted) | (row.hlcs or {})


def first_values(plan: RelationPlan, row: HeldRow) -> dict[int, Any]:
    """Column index -> new text or delta of an UPDATE held as its tuples."""
    changed = row.changed
    if changed is None:
        raise AssertionError("an update is held as tuples or as values")
    positions, old, new = plan.positions, row.old, row.new
    values: dict[int, Any] = {i: new[positions[i]] for i in changed.registers}
    for i in changed.counters:
        values[i] = counter_delta(old[positions[i]], new[positions[i]])
    for i in changed.elements:
        values[i] = plan.elements[i].written(old[positions[i]], new[positions[i]], row.hlc)
    return values


def fold_elements(
    plan: RelationPlan, row: HeldRow, changed: ChangedColumns, old: TupleData, new: TupleData, hlc: int
) -> None:
    """A further update of a held row that changes sets or maps."""
    values = row.values
    if values is None:
        values = row.values = {}
    for i in changed.elements:
        column, position = plan.elements[i], plan.positions[i]
        before, after = old[position], new[position]
        if i in values:
            values[i] = column.fold(values[i], before, after, hlc)
        elif row.op is UPDATE:
            values[i] = column.written(before, after, hlc)
        else:
            values[i] = column.fold(element_change(plan, row, i), before, after, hlc)


def elements_replaced(
    plan: RelationPlan, values: dict[int, Any], old: TupleData, new: TupleData, hlc: int
) -> dict[int, Any]:
    """What a deleted row's entry had written, with the sets and maps as of the insert that follows."""
    after = dict(values)
    for i, column in plan.elements.items():
        if i in values:
            position = plan.positions[i]
            after[i] = column.inserted(new[position], hlc, old[position], values[i])
    return after


def write_values(plan: RelationPlan, row: HeldRow, changed: ChangedColumns, old: TupleData, new: TupleData) -> None:
    """Bring the values of an UPDATE up to a further one, sets and maps apart."""
    values = row.values
    if values is None:
        values = row.values = first_values(plan, row)
    positions = plan.positions
    for i in changed.registers:
        values[i] = new[positions[i]]
    for i in changed.counters:
        position = positions[i]
        delta = counter_delta(old[position], new[position])
        values[i] = counter_sum(values[i], delta) if i in values else delta
