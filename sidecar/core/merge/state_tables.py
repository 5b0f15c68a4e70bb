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
    sib_<attnum>               of a column with siblings: all of them, where there are two or more (:mod:`.siblings`)
    e_<attnum>                 of a set or map: its elements' state; NULL while nobody wrote it since genesis
                               (:mod:`.elements`); n_, h_ and v_ are of its latest write
    z_<attnum>                 whether that write made the set or map NULL
    x_<attnum>                 excess of a counter: true sum minus the value shown in the user row (NULL = 0)

``crdt_state.counter_<table_id>``: per key, counter column and node the sums ``increased``/``decreased``, merged by
maximum; ``seen_*`` are the sums that a delete had seen, ``base_*`` those that a re-insert has put behind it. The true
value is ``sum(increased - base_increased) - sum(decreased - base_decreased)`` plus what genesis held.

Elements and siblings stand in the row state and not in tables of their own: PostgreSQL rewrites the user's array whole
with each update anyway, so state of the same order of size costs no more, and needs no joins, indexes or deletes.
"""

from __future__ import annotations

from sidecar.core.catalog import ColumnSpec, TableSpec, quote, quote_literal
from sidecar.core.merge.liveness import STATE_COLUMNS

# Room for HOT updates: a row state is rewritten as often as its user row, and carries no index but the key's.
FILLFACTOR = 70

FIXED_COLUMNS = (
    "row_node int2 NOT NULL",
    "row_hlc int8 NOT NULL",
    "live_node int2 NOT NULL",
    "live_hlc int8 NOT NULL",
    "dead_node int2",
    "dead_hlc int8",
    "row_xmin xid",
    "image jsonb",
)
"""Of every row state, beside :data:`.liveness.STATE_COLUMNS`."""

STORED_ORDER = ("int8", "xid", "int2", "boolean")
"""The widest first, so that nothing is spent on alignment, and what has no fixed width last: a row state is written
with each write of its row, and its bytes twice, to the log too."""

COLUMNS_MAX = 220
"""Replicated columns of a table outside its key. The merge statement carries seven values for each of them, and a
target list holds 1664 entries (MaxTupleAttributeNumber, access/htup_details.h); the rest is for the key and the row."""


def row_table(spec: TableSpec) -> str:
    """Qualified name of the row state table."""
    return f"crdt_state.row_{spec.table_id}"


def image(spec: TableSpec, row: str) -> str:
    """The tombstone image of a row state, by the present names of its columns."""
    renamed = any(column.former for column in spec.columns)
    return f"crdt_state.present_image({spec.table_id}, {row}.image)" if renamed else f"{row}.image"


def counter_table(spec: TableSpec) -> str:
    """Qualified name of the counter table."""
    return f"crdt_state.counter_{spec.table_id}"


def _column_definitions(column: ColumnSpec) -> list[str]:
    if column.is_counter:
        return [f"x_{column.attnum} numeric"]
    n = column.attnum
    definitions = [f"n_{n} int2", f"h_{n} int8", f"v_{n} int8[]"]
    if column.is_sibling:
        definitions.append(f"sib_{n} jsonb")
    if column.is_element:
        definitions += [f"e_{n} jsonb", f"z_{n} boolean"]
    return definitions


def _place(definition: str) -> int:
    """Where a column stands among the others of a new row state table."""
    kind = definition.split()[1]
    return STORED_ORDER.index(kind) if kind in STORED_ORDER else len(STORED_ORDER)


def state_ddl(spec: TableSpec) -> list[str]:
    """The statements that create the state tables of a table; run once, when it is attached."""
    keys = [f"k_{column.attnum} {column.type_name} NOT NULL" for column in spec.key]
    key_names = ", ".join(f"k_{column.attnum}" for column in spec.key)
    columns = [*FIXED_COLUMNS, *STATE_COLUMNS]
    columns += [definition for column in spec.columns for definition in _column_definitions(column)]
    columns.sort(key=_place)
    body = ", ".join([*keys, *columns, f"PRIMARY KEY ({key_names})"])
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
