"""The capture of sets and maps: SQL fragments and statements beside those of :mod:`.capture`.

A change is applied to the own row state as a merge would, with this node as its origin and everything covered.
"""

from __future__ import annotations

from sidecar.core.catalog import ColumnSpec, TableSpec, quote, quote_literal
from sidecar.core.elements import RULES
from sidecar.core.merge import elements
from sidecar.core.merge.identity import conflict_id, row_key_json
from sidecar.core.merge.staging import Parameters, Shape, Statement, staged
from sidecar.core.merge.state_tables import image, key_match, row_table

EVERYTHING = "NULL::int8[]"
"""The context that covers every dot."""


def carried(spec: TableSpec, shape: Shape) -> tuple[ColumnSpec, ...]:
    """The sets and maps that a shape mentions."""
    return tuple(c for c in spec.elements if c.attnum in shape.attnums)


def stamped(spec: TableSpec, shape: Shape) -> tuple[ColumnSpec, ...]:
    """Those of them whose elements have stamps."""
    return tuple(c for c in carried(spec, shape) if RULES[c.crdt].stamps)


def old_images(columns: tuple[ColumnSpec, ...]) -> tuple[tuple[str, str], ...]:
    """The further arrays of :func:`.staging.staged`: text images before the batch."""
    return tuple((f"old:{c.attnum}", "text") for c in columns)


def state_before(spec: TableSpec, columns: tuple[ColumnSpec, ...]) -> str:
    """The join that gives a staged row ``g`` its row state before the batch, ``r``; a lookup by key, see
    :func:`.clean.looked_up`."""
    names = ", ".join(
        [f"{image(spec, 'r')} AS image", *(f"r.{name}_{c.attnum}" for c in columns for name in ("e", "z"))]
    )
    on_state, _ = key_match(spec, "g", state="r")
    return f"LEFT JOIN LATERAL (SELECT {names} FROM {row_table(spec)} AS r WHERE {on_state} LIMIT 1) AS r ON true"


def before(column: ColumnSpec) -> str:
    """The state of a column before the batch; of genesis, what the tombstone or the user row held."""
    image = f"coalesce(r.image ->> {quote_literal(column.name)}, g.old_{column.attnum})"
    return f"coalesce(r.e_{column.attnum}, {elements.genesis(column, image)})"


def state_values(column: ColumnSpec, me: str) -> dict[str, str]:
    """State columns after the batch, of a staged row ``g`` with :func:`state_before`; ``me`` is an int8."""
    n = column.attnum
    merged = elements.merged(column, before(column), f"g.c_{n}", me, EVERYTHING)
    return {
        f"e_{n}": f"CASE WHEN g.a_{n} THEN {merged} ELSE r.e_{n} END",
        f"z_{n}": f"CASE WHEN g.a_{n} THEN coalesce((g.c_{n} -> 'null')::boolean, false) ELSE r.z_{n} END",
    }


def looks_wrong(column: ColumnSpec, user: str, state: str) -> str:
    """Whether a user row shows something else than its row state: another order, duplicates, an undone removal."""
    n = column.attnum
    shown = elements.shown(column, f"{state}.e_{n}", f"{state}.z_{n}")
    return f"{state}.e_{n} IS NOT NULL AND {user}.{quote(column.name)}::text IS DISTINCT FROM ({shown})::text"


def gone_query(spec: TableSpec, shape: Shape) -> Statement:
    """What inserts remove of the rows that were deleted before them: ``ord``, ``attnum``, ``change`` (the whole change,
    with them in ``del``). An insert has seen what the tombstone holds, and stamps alone would not tell the others. Run
    before :func:`.capture.capture_statement`."""
    parameters = Parameters()
    columns = stamped(spec, shape)
    rows = staged(spec, shape, parameters, old_images(columns))
    values = ", ".join(
        f"({c.attnum}, g.c_{c.attnum}, {before(c)}, {'true' if RULES[c.crdt].is_map else 'false'})" for c in columns
    )
    join = state_before(spec, columns).removeprefix("LEFT ")
    present = "CASE WHEN v.is_map THEN jsonb_array_length(e.value) = 3 ELSE (e.value -> 2)::boolean END"
    return parameters.statement(
        f"WITH g AS (\n    {rows}\n)\n"
        "SELECT g.ord, v.attnum, jsonb_set(v.change, '{del}', coalesce(v.change -> 'del', '{}') || w.gone)::text"
        " AS change\n"
        f"FROM g {join},\n"
        f"  LATERAL (VALUES {values}) AS v(attnum, change, state, is_map),\n"
        "  LATERAL (SELECT jsonb_object_agg(e.key, v.change -> 'full') AS gone FROM jsonb_each(v.state) AS e\n"
        f"    WHERE {present} AND NOT coalesce(v.change -> 'add' ? e.key, false)\n"
        "      AND NOT coalesce(v.change -> 'del' ? e.key, false)) AS w\n"
        "WHERE v.change ? 'full' AND w.gone IS NOT NULL"
    )


def undone_statement(spec: TableSpec, shape: Shape) -> Statement:
    """Records local writes that do not count: removals from a set that only grows, values that are no array (object).
    Run after :func:`.capture.capture_statement`, where a batch has any.

    A removal loses against the highest dot that its element has, with no value on its own side; a value that is none
    against the same write, which counts as empty.
    """
    parameters = Parameters()
    columns = carried(spec, shape)
    rows = staged(spec, shape, parameters, tuple((f"undone:{c.attnum}", "jsonb") for c in columns))
    me = parameters.number("node")
    on_state, _ = key_match(spec, "g")
    values = ", ".join(
        f"({quote_literal(c.name)}, {quote_literal(c.crdt)}, g.undone_{c.attnum}, g.h_{c.attnum}, s.e_{c.attnum},"
        f" ({elements.shown(c, f's.e_{c.attnum}', f's.z_{c.attnum}')})::text)"
        for c in columns
    )
    key = row_key_json(spec, "g")
    identity = conflict_id(spec, key, "v.name", "'undone'", "w.element", (me, "v.hlc"), ("w.node", "w.hlc"))
    return parameters.statement(
        f"WITH g AS (\n    {rows}\n)\n"
        "INSERT INTO crdt_state.conflict (id, table_id, row_key, column_name, element, rule, kind, note, winner_node,"
        " winner_hlc, winner_value, loser_node, loser_hlc, loser_value)\n"
        f"SELECT {identity}, {spec.table_id}, {key}, v.name, w.element, v.rule, 'undone', w.note,"
        f" w.node, w.hlc, w.value, {me}, v.hlc, w.lost\n"
        f"FROM g JOIN {row_table(spec)} AS s ON {on_state},\n"
        f"  LATERAL (VALUES {values}) AS v(name, rule, undone, hlc, state, shown),\n"
        "  LATERAL (\n"
        "    SELECT e.element, 'the set only grows', e.element, NULL, d.dot[1], d.dot[2]\n"
        "    FROM jsonb_array_elements_text(CASE jsonb_typeof(v.undone) WHEN 'array' THEN v.undone ELSE '[]' END)"
        " AS e(element),\n"
        "      LATERAL (SELECT coalesce(max(ARRAY[d.value::int8, d.key::int8]), '{0,0}')"
        " FROM jsonb_each(v.state -> e.element) AS d) AS d(dot)\n"
        f"    UNION ALL SELECT NULL, 'not an array or object', v.shown, v.undone #>> '{{}}', v.hlc, {me}\n"
        "    WHERE jsonb_typeof(v.undone) = 'string'\n"
        "  ) AS w(element, note, value, lost, hlc, node)\n"
        "WHERE v.undone IS NOT NULL ON CONFLICT (id) DO NOTHING"
    )
