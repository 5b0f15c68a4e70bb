"""The state tables of one replicated table.

``crdt_state.row_<table_id>``: one row state beside each user row that was written since it was attached::

    k_<attnum> ...             the key, with the user's types
    row_node, row_hlc          dot of the insert; (0, 0) for genesis rows
    live_node, live_hlc        dot of the latest write of any kind
    dead_node, dead_hlc        dot of the latest delete; NULL when there was none
    row_xmin                   xmin of the user row version that this state describes; NULL when there is no user row
    image                      tombstone image: {column: text image} of the registers of a deleted row
    n_<attnum>, h_<attnum>     winner's dot of a register column; NULL means the row's own dot
    v_<attnum>                 further entries of the column's version vector, {node,hlc,node,hlc,...}
    x_<attnum>                 excess of a counter: true sum minus the value shown in the user row (NULL = 0)

``crdt_state.counter_<table_id>``: per key, counter column and node the sums ``increased``/``decreased``, merged by
maximum; ``seen_*`` are the sums that a delete had seen, ``base_*`` those that a re-insert has put behind it. The true
value is ``sum(increased - base_increased) - sum(decreased - base_decreased)`` plus what genesis held.
"""

from __future__ import annotations

from sidecar.core.catalog import ColumnSpec, TableSpec, quote, quote_literal

# Room for HOT updates: a row state is rewritten as often as its user row, and carries no index but the key's.
FILLFACTOR = 70

COLUMNS_MAX = 220
"""Replicated columns of a table outside its key. The merge statement carries seven values for each of them, and a
target list holds 1664 entries (MaxTupleAttributeNumber, access/htup_details.h); the rest is for the key and the row."""


def row_table(spec: TableSpec) -> str:
    """Qualified name of the row state table."""
    return f"crdt_state.row_{spec.table_id}"


def counter_table(spec: TableSpec) -> str:
    """Qualified name of the counter table."""
    return f"crdt_state.counter_{spec.table_id}"


def _column_definitions(column: ColumnSpec) -> list[str]:
    if column.is_counter:
        return [f"x_{column.attnum} numeric"]
    return [f"n_{column.attnum} int2", f"h_{column.attnum} int8", f"v_{column.attnum} int8[]"]


def state_ddl(spec: TableSpec) -> list[str]:
    """The statements that create the state tables of a table; run once, when it is attached."""
    keys = [f"k_{column.attnum} {column.type_name} NOT NULL" for column in spec.key]
    key_names = ", ".join(f"k_{column.attnum}" for column in spec.key)
    fixed = [
        "row_node int2 NOT NULL",
        "row_hlc int8 NOT NULL",
        "live_node int2 NOT NULL",
        "live_hlc int8 NOT NULL",
        "dead_node int2",
        "dead_hlc int8",
        "row_xmin xid",
        "image jsonb",
    ]
    columns = [definition for column in spec.columns for definition in _column_definitions(column)]
    body = ", ".join([*keys, *fixed, *columns, f"PRIMARY KEY ({key_names})"])
    statements = [
        f"CREATE TABLE {row_table(spec)} ({body}) WITH (fillfactor = {FILLFACTOR})",
        f"COMMENT ON TABLE {row_table(spec)} IS {quote_literal('row states of ' + spec.qualified)}",
    ]
    if spec.counters:
        statements += counter_ddl(spec)
    return statements


def counter_ddl(spec: TableSpec) -> list[str]:
    """The counter table; made with the row state table, or when a table gets its first counter column."""
    keys = ", ".join(f"k_{column.attnum} {column.type_name} NOT NULL" for column in spec.key)
    key_names = ", ".join(f"k_{column.attnum}" for column in spec.key)
    sums = ", ".join(
        f"{name} numeric NOT NULL DEFAULT 0"
        for name in (
            "increased",
            "decreased",
            "seen_increased",
            "seen_decreased",
            "base_increased",
            "base_decreased",
        )
    )
    return [
        f"CREATE TABLE IF NOT EXISTS {counter_table(spec)} ({keys}, attnum int2 NOT NULL, node int2 NOT NULL, {sums}, "
        f"PRIMARY KEY ({key_names}, attnum, node)) WITH (fillfactor = {FILLFACTOR})"
    ]


def add_column_ddl(spec: TableSpec, column: ColumnSpec) -> list[str]:
    """The statements that make room for a column that was added to (or re-annotated in) an attached table."""
    additions = ", ".join(f"ADD COLUMN IF NOT EXISTS {definition}" for definition in _column_definitions(column))
    statements = [f"ALTER TABLE {row_table(spec)} {additions}"]
    if column.is_counter:
        statements += counter_ddl(spec)
    return statements


def qualified_user_table(spec: TableSpec) -> str:
    """The user's table, quoted."""
    return f"{quote(spec.schema)}.{quote(spec.name)}"


def key_match(spec: TableSpec, row: str, state: str = "s", user: str = "t") -> tuple[str, str]:
    """The join conditions staged row - row state and staged row - user row."""
    on_state = " AND ".join(f"{state}.k_{c.attnum} = {row}.k_{c.attnum}" for c in spec.key)
    on_user = " AND ".join(f"{user}.{quote(c.name)} = {row}.k_{c.attnum}" for c in spec.key)
    return on_state, on_user
