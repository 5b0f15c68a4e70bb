"""Keeping a row change that cannot apply: as text, without a cast that might fail again."""

from __future__ import annotations

from sidecar.core.catalog import TableSpec, quote_literal
from sidecar.core.changes import TableChanges
from sidecar.core.merge.identity import row_key_json
from sidecar.core.merge.staging import Parameters, Statement

# jsonb_build_object takes at most 100 arguments (FUNC_MAX_ARGS), two per column.
COLUMNS_PER_CALL = 45


def json_object(pairs: list[str]) -> str:
    """A JSON object of any number of ``'name', value`` pairs."""
    calls = [
        f"jsonb_build_object({', '.join(pairs[i : i + COLUMNS_PER_CALL])})"
        for i in range(0, len(pairs), COLUMNS_PER_CALL)
    ]
    return " || ".join(calls) or "'{}'::jsonb"


def absent_insert(spec: TableSpec, pairs: list[str], parameters: Parameters, due: str) -> str:
    """Keeps what a merge has decided (``p``) to be the change of a row that is not here and has no tombstone, with its
    values (``pairs``)."""
    reason = quote_literal("the row is not in this database and left no tombstone; copy it, then repeat the change")
    return (
        "INSERT INTO crdt_state.quarantine"
        " (origin, from_hlc, to_hlc, table_name, row_key, change, sqlstate, reason)\n"
        f"    SELECT p.origin, ({parameters.numbers('from_hlcs')})[p.member],"
        f" ({parameters.numbers('to_hlcs')})[p.member],"
        f" {quote_literal(spec.qualified)}, {row_key_json(spec, 'p')},"
        f" {json_object(pairs) if pairs else 'NULL::jsonb'},"
        f" '02000', {reason}\n    FROM p WHERE p.act = 'M' AND p.op <> 'T' AND {due} RETURNING 1"
    )


def quarantine_states(spec: TableSpec, rows: str) -> str:
    """Keeps whole rows of another node ($1), as of its clock ($2), that cannot be merged here; not twice for the same
    reason. ``rows`` is a table of staged rows with ``sqlstate`` and ``reason``. Counters stand there with their true
    values, not as deltas."""
    pairs = [f"{quote_literal(c.name)}, r.iv_{c.attnum}" for c in spec.columns]
    key = row_key_json(spec, "r")
    change = (
        "jsonb_build_object('op', CASE WHEN r.there THEN 'I' ELSE 'D' END, 'hlc', r.in_live_hlc::text,"
        f" 'values', {json_object(pairs)})"
    )
    return (
        "INSERT INTO crdt_state.quarantine"
        " (origin, from_hlc, to_hlc, table_name, row_key, change, sqlstate, reason)\n"
        f"SELECT $1::int2, 0, $2::int8, {quote_literal(spec.qualified)}, {key}, {change}, r.sqlstate, r.reason\n"
        f"FROM {rows} AS r WHERE NOT EXISTS (SELECT FROM crdt_state.quarantine AS q WHERE q.table_name ="
        f" {quote_literal(spec.qualified)} AND q.row_key = {key} AND q.reason = r.reason)"
    )


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
    values = json_object(pairs)
    return parameters.statement(
        "INSERT INTO crdt_state.quarantine"
        " (origin, from_hlc, to_hlc, table_name, row_key, change, sqlstate, reason)\n"
        f"SELECT {parameters.number('origin')}, {parameters.number('from_hlc')}, {parameters.number('to_hlc')},"
        f" {quote_literal(spec.qualified)}, jsonb_build_object({keys}),"
        f" jsonb_build_object('op', {element('ops')}, 'hlc', {element('hlcs')}, 'values', {values}),"
        f" {parameters.text('sqlstate')}, {parameters.text('reason')}"
    )
