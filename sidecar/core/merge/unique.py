"""Unique values that move between rows of one batch."""

from __future__ import annotations

from sidecar.core.catalog import ColumnSpec, TableSpec, quote
from sidecar.core.merge.staging import Parameters, Shape, Statement, staged
from sidecar.core.merge.state_tables import key_match, qualified_user_table, row_table


def parked_columns(spec: TableSpec) -> tuple[ColumnSpec, ...]:
    """The columns of secondary unique indexes, if all of them can be NULL for a moment; else none."""
    names = {name for index in spec.unique for name in index}
    columns = tuple(c for c in spec.registers if c.name in names)
    # What a column that keeps several writes shows is not simply what was written last.
    fixed = [c for c in spec.columns if c.name in names and (c.not_null or c.checked or c.is_sibling or c.is_element)]
    return () if fixed or any(k.name in names for k in spec.key) else columns


def unpark_statement(spec: TableSpec, shape: Shape) -> Statement:
    """Gives rows whose unique values were parked (set to NULL by the merge statement) the values that won.

    Unique values that move between rows of one batch would clash row by row. Parked rows stay where they are, so an
    application that waits for one of them finds it; only where a unique column is NOT NULL, rows are taken out and put
    back instead (an application that waits for such a row finds it gone, as after a DELETE).
    """
    parameters = Parameters()
    text = staged(spec, shape, parameters, (("members", "int4"),))
    origin = f"({parameters.numbers('origins')})[coalesce(g.members, 1)]"
    on_state, on_user = key_match(spec, "g")
    sets, due = [], []
    for column in parked_columns(spec):
        n = column.attnum
        won = (
            f"(g.a_{n} AND coalesce(s.h_{n}, s.row_hlc) = g.h_{n} AND coalesce(s.n_{n}, s.row_node) = {origin}"
            f" AND t.{quote(column.name)} IS NULL AND g.val_{n} IS NOT NULL)"
        )
        due.append(won)
        sets.append(f"{quote(column.name)} = CASE WHEN {won} THEN g.val_{n} ELSE t.{quote(column.name)} END")
    return parameters.statement(
        f"WITH g AS (\n    {text}\n)\nUPDATE {qualified_user_table(spec)} AS t SET {', '.join(sets)}\n"
        f"FROM g JOIN {row_table(spec)} AS s ON {on_state}\nWHERE {on_user} AND ({' OR '.join(due)})"
    )
