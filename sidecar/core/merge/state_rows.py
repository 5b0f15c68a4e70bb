"""Whole row states on their way from another node: the query that reads them there, and the table that holds them here.

A *stage* is a temporary table with one row per key, filled by COPY from :func:`states_query`. Columns are named by the
attribute numbers of this node's table, because those differ between nodes::

    k_<attnum> ...              the key
    there, imaged, has_state    whether the other node has the user row; its values; a row state
    uncaptured, in_xmin         the row has local commits over there that its state does not know yet; its xmin
    in_row_*, in_live_*, in_dead_*, in_dots    dots of the row, as in the row state; of genesis where there is none
    iv_<attnum>                 text image of the value, from the user row or the tombstone
    in_<attnum>, ih_<attnum>, ivec_<attnum>    winner's dot and further entries of the version vector
    isib_<attnum>, ie_<attnum>, iz_<attnum>    siblings; state of a set or map and whether its latest write made it NULL
    it_<attnum>, is_<attnum>    of a counter: the true value, and the sums by node
    op, accepted                for :mod:`.clean`
"""

from __future__ import annotations

from sidecar.core.catalog import ColumnSpec, TableSpec, quote, quote_literal
from sidecar.core.merge import counters, liveness, registers
from sidecar.core.merge.state_tables import counter_table, image, qualified_user_table, row_table

FIXED: tuple[tuple[str, str], ...] = (
    ("there", "boolean"),
    ("imaged", "boolean"),
    ("has_state", "boolean"),
    ("uncaptured", "boolean"),
    ("in_xmin", "text"),
    ("in_row_hlc", "int8"),
    ("in_row_node", "int8"),
    ("in_live_hlc", "int8"),
    ("in_live_node", "int8"),
    ("in_dead_hlc", "int8"),
    ("in_dead_node", "int8"),
    ("in_dots", "int8[]"),
)


def stage(spec: TableSpec) -> str:
    """The stage of a table; one per session."""
    return f"pg_temp.states_{spec.table_id}"


def again(spec: TableSpec) -> str:
    """A second stage, for rows that are read once more."""
    return f"pg_temp.again_{spec.table_id}"


def apart(spec: TableSpec) -> str:
    """A third one, for the rows of a stage that cannot be merged all together."""
    return f"pg_temp.apart_{spec.table_id}"


def aside(spec: TableSpec) -> str:
    """Rows that could not be merged, with ``sqlstate`` and ``reason``."""
    return f"pg_temp.aside_{spec.table_id}"


def _column(column: ColumnSpec) -> list[tuple[str, str]]:
    n = column.attnum
    if column.is_counter:
        return [(f"iv_{n}", "text"), (f"it_{n}", "numeric"), (f"is_{n}", "jsonb")]
    out = [(f"iv_{n}", "text"), (f"in_{n}", "int8"), (f"ih_{n}", "int8"), (f"ivec_{n}", "int8[]")]
    if column.is_sibling:
        out.append((f"isib_{n}", "jsonb"))
    if column.is_element:
        out += [(f"ie_{n}", "jsonb"), (f"iz_{n}", "boolean")]
    return out


def copied(spec: TableSpec) -> list[str]:
    """The stage's columns that are filled by COPY, in the order of :func:`states_query`."""
    named = [f"k_{c.attnum}" for c in spec.key] + [name for name, _ in FIXED]
    return named + [name for column in spec.columns for name, _ in _column(column)]


def stage_ddl(spec: TableSpec, table: str) -> str:
    """Makes a stage."""
    columns = [f"k_{c.attnum} {c.type_name} NOT NULL" for c in spec.key]
    columns += [f"{name} {kind}" for name, kind in FIXED]
    columns += [f"{name} {kind}" for column in spec.columns for name, kind in _column(column)]
    columns += ["op \"char\" DEFAULT 'T'", "accepted text"]
    return f"CREATE TEMPORARY TABLE {table} ({', '.join(columns)})"


def prepare_ddl(spec: TableSpec) -> str:
    """Makes all four."""
    tables = (stage(spec), again(spec), apart(spec), aside(spec))
    made = [f"DROP TABLE IF EXISTS {table}; {stage_ddl(spec, table)}" for table in tables]
    return "; ".join([*made, f"ALTER TABLE {aside(spec)} ADD sqlstate text, ADD reason text"])


def recent(floor: int | None) -> str:
    """Whether user row ``t`` is there and may be of a transaction that was not captured before the snapshot. ``floor``:
    all below this xid were."""
    return "t.ctid IS NOT NULL" + ("" if floor is None else f" AND age(t.xmin) <= age('{floor}'::xid)")


def uncaptured(spec: TableSpec, floor: int | None) -> str:
    """Whether user row ``t`` and row state ``s``, either perhaps missing, do not belong together (as far as can be told
    by one look: the rows of savepoints carry another xid than their state)."""
    deleted = f"t.ctid IS NULL AND s.ctid IS NOT NULL AND {liveness.alive_here(spec, 's')}"
    return f"coalesce({recent(floor)} AND t.xmin IS DISTINCT FROM s.row_xmin OR {deleted}, false)"


def unsettled(source: TableSpec, floor: int | None) -> str:
    """Whether user row ``t`` may show something else than its state ``s`` says: :func:`uncaptured`, or in the queue of
    those that its own node is going to rewrite."""
    keys = ", ".join(f"t.{quote(c.name)}::text" for c in source.key)
    queued = f"SELECT FROM crdt_state.rewrite AS w WHERE w.table_id = {source.table_id} AND w.row_key = ARRAY[{keys}]"
    return f"({uncaptured(source, floor)} OR EXISTS ({queued}))"


def _match(source: TableSpec) -> str:
    return " AND ".join(f"s.k_{c.attnum} = t.{quote(c.name)}" for c in source.key)


_NO_CHANGE = "CROSS JOIN (VALUES ('T'::\"char\")) AS g(op)"
"""The staged row of which fragments of the merge speak: here nothing happens to the row."""


def rows_source(source: TableSpec) -> str:
    """The user rows with their states: a FROM clause with ``t`` and ``s``."""
    table = qualified_user_table(source)
    return f"FROM ONLY {table} AS t LEFT JOIN {row_table(source)} AS s ON {_match(source)} {_NO_CHANGE}"


def gone_source(source: TableSpec) -> str:
    """The states without a user row."""
    table = qualified_user_table(source)
    return f"FROM {row_table(source)} AS s LEFT JOIN ONLY {table} AS t ON {_match(source)} {_NO_CHANGE}"


def keys_source(source: TableSpec, keys: list[list[str]]) -> str:
    """Rows by key, given as text images: one list per key column."""
    arrays = ", ".join(_text_array(values) for values in keys)
    aliases = ", ".join(f"k{c.attnum}" for c in source.key)
    on_state = " AND ".join(f"s.k_{c.attnum} = k.k{c.attnum}::{c.cast_name}" for c in source.key)
    on_user = " AND ".join(f"t.{quote(c.name)} = k.k{c.attnum}::{c.cast_name}" for c in source.key)
    return (
        f"FROM unnest({arrays}) AS k({aliases}) LEFT JOIN {row_table(source)} AS s ON {on_state}"
        f" LEFT JOIN ONLY {qualified_user_table(source)} AS t ON {on_user} {_NO_CHANGE}"
    )


def _text_array(values: list[str]) -> str:
    return f"ARRAY[{', '.join(quote_literal(value) for value in values)}]::text[]"


def states_query(source: TableSpec, target: TableSpec, floor: int | None, rows: str) -> str:
    """Reads row states for the stage of ``target``, here, from ``source``, the same table over there. ``rows`` is one
    of the FROM clauses above, with its condition; ``floor`` see :func:`recent`."""
    by_name = {c.name: c for c in (*source.key, *source.columns)}
    dots = liveness.joined(source)[0].rpartition(" AS ")[0] if source.row_rule != "lww" else "NULL::int8[]"
    select = [_key(by_name[c.name]) for c in target.key]
    select += [
        "t.ctid IS NOT NULL",
        "t.ctid IS NOT NULL OR s.image IS NOT NULL",
        "s.ctid IS NOT NULL",
        uncaptured(source, floor),
        "coalesce(t.xmin::text, '')",
        "coalesce(s.row_hlc, 0)",
        "coalesce(s.row_node, 0)",
        "coalesce(s.live_hlc, 0)",
        "coalesce(s.live_node, 0)",
        "s.dead_hlc",
        "s.dead_node",
        dots,
    ]
    for column in target.columns:
        select += _values(source, by_name[column.name])
    return f"SELECT {', '.join(select)}\n{rows}"


def _key(column: ColumnSpec) -> str:
    return f"coalesce(t.{quote(column.name)}, s.k_{column.attnum})"


def _values(source: TableSpec, column: ColumnSpec) -> list[str]:
    n, name = column.attnum, quote(column.name)
    before = f"{image(source, 's')} ->> {quote_literal(column.name)}"
    value = f"CASE WHEN t.ctid IS NOT NULL THEN t.{name}::text ELSE {before} END"
    if column.is_counter:
        keys = " AND ".join(f"c.k_{k.attnum} = {_key(k)}" for k in source.key)
        entry = ", ".join(f"c.{name}" for name in counters.SUMS)
        sums = (
            f"(SELECT jsonb_object_agg(c.node, jsonb_build_array({entry})) FROM {counter_table(source)} AS c"
            f" WHERE {keys} AND c.attnum = {n})"
        )
        return [value, f"coalesce(t.{name}, 0)::numeric + coalesce(s.x_{n}, 0)", sums]
    hlc, node = registers.here(column)
    out = [value, node, hlc, f"s.v_{n}"]
    if column.is_sibling:
        out.append(f"s.sib_{n}")
    if column.is_element:
        out += [f"s.e_{n}", f"s.z_{n}"]
    return out


STATE_FIXED = ("row_node", "row_hlc", "live_node", "live_hlc", "dead_node", "dead_hlc", "image", "alive", "row_dots")
"""The columns of a row state that every table has, but the xmin."""


def _state_columns(column: ColumnSpec) -> list[str]:
    if column.is_counter:
        return ["x"]
    return ["n", "h", "v", *(["sib"] if column.is_sibling else []), *(["e", "z"] if column.is_element else [])]


def row_state_columns(spec: TableSpec) -> list[str]:
    """The columns of a row state table, in the order of :func:`row_states_query`."""
    keys = [f"k_{c.attnum}" for c in spec.key]
    return [*keys, *STATE_FIXED, *(f"{x}_{c.attnum}" for c in spec.columns for x in _state_columns(c)), "row_xmin"]


def row_states_query(source: TableSpec, target: TableSpec, xid: str, rows: str) -> str:
    """Reads row states as they are, for the row state table of ``target``. ``xid``: of the transaction that inserts the
    user rows here."""
    attnum = {c.name: c.attnum for c in (*source.key, *source.columns)}
    select = [f"s.k_{attnum[c.name]}" for c in target.key] + [
        f"s.{name}" if name != "image" else image(source, "s") for name in STATE_FIXED
    ]
    select += [f"s.{x}_{attnum[c.name]}" for c in target.columns for x in _state_columns(c)]
    return f"SELECT {', '.join(select)}, CASE WHEN t.ctid IS NOT NULL THEN '{int(xid)}'::xid END {rows}"


def counter_columns(spec: TableSpec) -> list[str]:
    """The columns of a counter table, in the order of :func:`counters_query`."""
    return [*(f"k_{c.attnum}" for c in spec.key), "attnum", "node", *counters.SUMS]


def counters_query(source: TableSpec, target: TableSpec, rows: str) -> str:
    """Reads the sums of all nodes as they are; ``rows`` is a FROM clause with ``c``."""
    attnum = {c.name: c.attnum for c in (*source.key, *source.columns)}
    number = " ".join(f"WHEN {attnum[c.name]} THEN {c.attnum}" for c in target.counters)
    select = [f"c.k_{attnum[c.name]}" for c in target.key] + [f"CASE c.attnum {number} END", "c.node"]
    return f"SELECT {', '.join([*select, *(f'c.{name}' for name in counters.SUMS)])} {rows}"


def add_sums(target: TableSpec, sums: str) -> str:
    """Brings the rows of ``sums``, a copy of the counter table, into that table."""
    names = counter_columns(target)
    greatest = ", ".join(f"{name} = greatest(c.{name}, excluded.{name})" for name in counters.SUMS)
    return (
        f"INSERT INTO {counter_table(target)} AS c ({', '.join(names)}) SELECT {', '.join(names)} FROM {sums}"
        f" ON CONFLICT ({', '.join(names[: -len(counters.SUMS)])}) DO UPDATE SET {greatest}"
    )


def corrections(spec: TableSpec) -> list[str]:
    """Statements that bring staged rows with uncaptured commits to what their state knows, by the same rows as read
    later, when those commits were captured (:func:`again`). They come with a change set; what they did stays out here
    as far as a second merge of it would do harm. That is so for counters alone: their value is taken as it must have
    been with the sums that the state knew. Everything else is taken as found later, because merging a write twice
    changes nothing. A row that was inserted by such a commit comes with it and is left out."""
    match = " AND ".join(f"r.k_{c.attnum} = g.k_{c.attnum}" for c in spec.key)
    genesis = " AND ".join(f"NOT coalesce(r.is_{c.attnum} ? '0', false)" for c in spec.counters)
    left_out = (
        f"DELETE FROM {stage(spec)} AS g USING {again(spec)} AS r WHERE {match} AND g.uncaptured AND NOT g.has_state"
        f" AND r.has_state AND r.in_row_hlc > 0{' AND ' + genesis if genesis else ''}"
    )
    sets = ["has_state = g.has_state OR r.has_state", "imaged = g.imaged OR r.imaged"]
    for column in spec.columns:
        n = column.attnum
        if not column.is_counter:
            sets.append(f"iv_{n} = r.iv_{n}")
        if column.is_element:
            sets.append(f"ie_{n} = coalesce(g.ie_{n}, r.ie_{n})")
            sets.append(f"iz_{n} = CASE WHEN g.ie_{n} IS NULL THEN r.iz_{n} ELSE g.iz_{n} END")
        if column.is_counter:
            first = (
                f"CASE WHEN g.is_{n} ? '0' THEN 0 WHEN r.is_{n} ? '0'"
                f" THEN (r.is_{n} -> '0' -> 0)::numeric - (r.is_{n} -> '0' -> 1)::numeric"
                f" ELSE r.it_{n} - crdt_state.sums_value(r.is_{n}) END"
            )
            value = f"{first} + crdt_state.sums_value(g.is_{n})"
            written = f"EXISTS (SELECT FROM jsonb_object_keys(r.is_{n}) AS o WHERE o <> '0')"
            sets.append(f"it_{n} = {value}")
            sets.append(f"iv_{n} = CASE WHEN {written} THEN ({value})::text ELSE r.iv_{n} END")
    corrected = (
        f"UPDATE {stage(spec)} AS g SET {', '.join(sets)} FROM {again(spec)} AS r WHERE {match} AND g.uncaptured"
    )
    return [left_out, corrected]


def unresolved_query(spec: TableSpec) -> str:
    """How many of the rows read again still have uncaptured commits: those whose user row is another one than at the
    read before, after which capture was waited for."""
    match = " AND ".join(f"r.k_{c.attnum} = g.k_{c.attnum}" for c in spec.key)
    return (
        f"SELECT count(*) FROM {again(spec)} AS r JOIN {stage(spec)} AS g ON {match}"
        " WHERE r.uncaptured AND r.in_xmin IS DISTINCT FROM g.in_xmin"
    )


def seen_again(spec: TableSpec) -> str:
    """Remembers which user rows the read saw."""
    match = " AND ".join(f"r.k_{c.attnum} = g.k_{c.attnum}" for c in spec.key)
    return f"UPDATE {stage(spec)} AS g SET in_xmin = r.in_xmin FROM {again(spec)} AS r WHERE {match} AND g.uncaptured"


def uncaptured_keys(spec: TableSpec) -> str:
    """The keys of the staged rows to be read again, as text images."""
    keys = ", ".join(f"k_{c.attnum}::text" for c in spec.key)
    return f"SELECT {keys} FROM {stage(spec)} WHERE uncaptured"
