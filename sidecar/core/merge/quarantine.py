"""Keeping a row change that cannot apply: as text, without a cast that might fail again."""

from __future__ import annotations

from sidecar.core.catalog import TableSpec, quote_literal
from sidecar.core.changes import TableChanges
from sidecar.core.merge.apply import IMAGE_COLUMNS_PER_CALL
from sidecar.core.merge.staging import Parameters, Statement


def quarantine_statement(spec: TableSpec, changes: TableChanges) -> Statement:
    """Parameters besides the arrays: ``position`` (1-based), ``origin``, ``from_hlc``, ``to_hlc``, ``sqlstate``,
    ``reason``. ``change`` holds the operation, its hlc and the new text images (counters: the deltas)."""
    parameters = Parameters()
    position = parameters.number("position")
    carried = set(changes.columns)

    def element(name: str) -> str:
        return f"({parameters.text(name)}::text[])[{position}::int4]"

    keys = ", ".join(f"{quote_literal(c.name)}, {element(f'key:{c.attnum}')}" for c in spec.key)
    pairs = [f"{quote_literal(c.name)}, {element(f'value:{c.attnum}')}" for c in spec.columns if c.name in carried]
    calls = [
        f"jsonb_build_object({', '.join(pairs[i : i + IMAGE_COLUMNS_PER_CALL])})"
        for i in range(0, len(pairs), IMAGE_COLUMNS_PER_CALL)
    ]
    values = " || ".join(calls) or "'{}'::jsonb"
    return parameters.statement(
        "INSERT INTO crdt_state.quarantine"
        " (origin, from_hlc, to_hlc, table_name, row_key, change, sqlstate, reason)\n"
        f"SELECT {parameters.number('origin')}, {parameters.number('from_hlc')}, {parameters.number('to_hlc')},"
        f" {quote_literal(spec.qualified)}, jsonb_build_object({keys}),"
        f" jsonb_build_object('op', {element('ops')}, 'hlc', {element('hlcs')}, 'values', {values}),"
        f" {parameters.text('sqlstate')}, {parameters.text('reason')}"
    )
