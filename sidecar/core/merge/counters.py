"""SQL fragments of ``pn_counter`` and ``g_counter`` columns (Shapiro et al. 2011, section 3.1).

The true value of a counter is the shown value plus the excess in the row state; deltas are exact ``numeric``. What the
column's type cannot hold stays in the excess. A dead row shows nothing, so its whole value is excess.
"""

from __future__ import annotations

import re

from sidecar.core.catalog import ColumnSpec, TableSpec, quote, quote_literal
from sidecar.core.counters import NOT_FINITE
from sidecar.core.merge import genesis
from sidecar.core.merge.identity import conflict_id, row_key_json
from sidecar.core.merge.staging import Parameters, Shape, Statement, staged
from sidecar.core.merge.state_tables import counter_table

QUOTED_UNDONE = "'undone'"

INTEGER_LIMITS = {
    "smallint": (-(2**15), 2**15 - 1),
    "integer": (-(2**31), 2**31 - 1),
    "bigint": (-(2**63), 2**63 - 1),
}

_NUMERIC = re.compile(r"numeric\((\d+)(?:,(-?\d+))?\)")


def shown(column: ColumnSpec, true_value: str) -> str:
    """The true value as the column's type can show it: saturated at the type's limits; without a fixed scale, without
    zeros behind the point, because they depend on the order in which deltas came."""
    limits = INTEGER_LIMITS.get(column.base_type)
    if limits is not None:
        return f"least(greatest({true_value}, {limits[0]}), {limits[1]})::{column.type_name}"
    modifier = _NUMERIC.fullmatch(column.type_name)
    if modifier is None:
        return f"trim_scale({true_value})::{column.type_name}"
    precision, scale = int(modifier[1]), int(modifier[2] or 0)
    highest = f"(10::numeric ^ {precision - scale} - 10::numeric ^ {-scale})"
    return f"least(greatest({true_value}, -{highest}), {highest})::{column.type_name}"


def delta(column: ColumnSpec, row: str) -> str:
    """The staged delta; a grow-only counter takes no decrease."""
    staged = f"CASE WHEN {row}.a_{column.attnum} THEN {row}.d_{column.attnum} ELSE 0 END"
    return f"greatest({staged}, 0)" if column.crdt == "g_counter" else staged


def joined(column: ColumnSpec) -> list[str]:
    """What the join contributes."""
    return [f"t.{quote(column.name)} AS old_{column.attnum}", f"coalesce(s.x_{column.attnum}, 0) AS sx_{column.attnum}"]


def kept(column: ColumnSpec, *, carried: bool) -> tuple[list[str], list[str]]:
    """What the writing parts read of a decided row: flags, and values."""
    n = column.attnum
    flags = [*([f"a_{n}"] if carried else []), *([f"keep_{n}"] if loose(column) else [])]
    values = [*([f"d_{n}"] if carried else []), f"true_{n}", *([f"old_{n}"] if loose(column) else [])]
    return flags, values


_NOT_FINITE = f"({', '.join(quote_literal(image.decode()) for image in NOT_FINITE)})"


def finite(column: ColumnSpec, value: str) -> str:
    """A shown value as the sums take it, see :func:`sidecar.core.counters.finite`."""
    if column.base_type != "numeric":
        return f"coalesce({value}, 0)"
    return f"CASE WHEN {value} IN {_NOT_FINITE} THEN 0 ELSE coalesce({value}, 0) END"


def _key_match(spec: TableSpec, left: str, right: str) -> str:
    return " AND ".join(f"{left}.k_{column.attnum} = {right}.k_{column.attnum}" for column in spec.key)


def erased(spec: TableSpec, column: ColumnSpec) -> str:
    """What an incoming insert puts behind it: the sums its delete had seen, as far as no earlier insert did."""
    n = column.attnum
    return (
        f"CASE WHEN j.seen_{n} IS NULL OR j.op NOT IN ('I', 'R') THEN 0 ELSE (SELECT coalesce(sum("
        "greatest((e.value ->> 0)::numeric - coalesce(c.base_increased, 0), 0)"
        " - greatest((e.value ->> 1)::numeric - coalesce(c.base_decreased, 0), 0)), 0)"
        f" FROM jsonb_each(j.seen_{n}::jsonb) AS e LEFT JOIN {counter_table(spec)} AS c"
        f" ON {_key_match(spec, 'c', 'j')} AND c.attnum = {n} AND c.node = e.key::int2"
        f" WHERE e.key <> '0' OR NOT {genesis.truncated(spec)}) END"
    )


def loose(column: ColumnSpec) -> bool:
    """Whether equal sums can look different: as NULL or 0, or with more or fewer zeros behind the point."""
    return not column.not_null or (column.base_type == "numeric" and _NUMERIC.fullmatch(column.type_name) is None)


def untouched(spec: TableSpec, column: ColumnSpec, *, carried: bool) -> str:
    """Whether the counter still is as genesis left it: no insert, and nobody has ever written it.

    Every node holds it alike, so a merge of other columns must leave its looks: a NULL, or zeros behind the point.
    """
    held = f"(j.present OR j.image ? {quote_literal(column.name)})"
    touched = f" AND NOT j.a_{column.attnum}" if carried else ""
    written = written_by(spec, column, "j")
    emptied = genesis.truncated(spec)
    return f"({held} AND j.s_row_node = 0 AND j.op NOT IN ('I', 'R'){touched} AND NOT {written} AND NOT {emptied})"


def written_by(spec: TableSpec, column: ColumnSpec, row: str) -> str:
    """Whether any node has ever written the counter of a row."""
    keys = _key_match(spec, "c", row)
    return (
        f"EXISTS (SELECT FROM {counter_table(spec)} AS c WHERE {keys} AND c.attnum = {column.attnum} AND c.node <> 0)"
    )


def wrong_looks(spec: TableSpec, column: ColumnSpec, user: str, state: str) -> str:
    """Whether a captured row shows a written counter not as the other nodes will: as NULL, or with idle zeros."""
    name = f"{user}.{quote(column.name)}"
    odd = f"{name} IS NULL"
    if column.base_type == "numeric":
        odd = f"({odd} OR {name} IN {_NOT_FINITE} OR scale({name}) > min_scale({name}))"
    written = f"{state}.row_node <> 0 OR {written_by(spec, column, state)} OR {genesis.truncated(spec)}"
    return f"({odd} AND ({written}))"


def image_entry(column: ColumnSpec, row: str) -> str:
    """``'name', text image`` for a tombstone, of a counter whose looks may have to be kept (:func:`untouched`)."""
    return f"{quote_literal(column.name)}, {row}.old_{column.attnum}::text"


def new_value(column: ColumnSpec, row: str) -> str:
    """What the user row shows after the merge."""
    n = column.attnum
    value = shown(column, f"{row}.true_{n}")
    if not loose(column):
        return value
    kept = f"({row}.image ->> {quote_literal(column.name)})::{column.type_name}"
    return f"CASE WHEN {row}.keep_{n} THEN CASE WHEN {row}.present THEN {row}.old_{n} ELSE {kept} END ELSE {value} END"


def decided(spec: TableSpec, column: ColumnSpec, *, carried: bool, with_seen: bool) -> list[str]:
    """The true value after the merge, and whether the row goes on showing what genesis held."""
    n = column.attnum
    parts = [f"{finite(column, f'j.old_{n}')}::numeric", f"j.sx_{n}"]
    if carried:
        parts.append(delta(column, "j"))
    true_value = " + ".join(parts)
    if carried and with_seen:
        true_value += f" - {erased(spec, column)}"
    out = [f"{true_value} AS true_{n}"]
    if loose(column):
        out.append(f"{untouched(spec, column, carried=carried)} AS keep_{n}")
    return out


def changed(column: ColumnSpec) -> str:
    """Whether the user row must be rewritten for this counter."""
    n = column.attnum
    as_text = "::text" if loose(column) else ""
    return f"({new_value(column, 'q')}){as_text} IS DISTINCT FROM q.old_{n}{as_text}"


def saturated(column: ColumnSpec, row: str) -> str:
    """Whether an incoming delta leaves a sum that the column's type cannot hold."""
    n = column.attnum
    return f"({row}.a_{n} AND {row}.alive AND {row}.true_{n} <> {shown(column, f'{row}.true_{n}')})"


def conflict_row(column: ColumnSpec) -> str:
    """As :func:`.registers.conflict_row`: the true sum loses against the limit that is shown, both as of the row's
    latest write."""
    n = column.attnum
    return (
        f"({quote_literal(column.name)}, {quote_literal(column.crdt)}, 'saturated', {saturated(column, 'p')}, false,"
        f" p.live_hlc, p.true_{n}::text, p.live_hlc, p.live_node::int2, ({shown(column, f'p.true_{n}')})::text,"
        " NULL::int8[])"
    )


def state_value(column: ColumnSpec) -> str:
    """The excess after the merge."""
    true_value = f"p.true_{column.attnum}"
    return f"nullif({true_value} - CASE WHEN p.alive THEN {shown(column, true_value)} ELSE 0 END, 0)"


SUMS = ("increased", "decreased", "seen_increased", "seen_decreased", "base_increased", "base_decreased")


def upsert_deltas(spec: TableSpec, columns: tuple[ColumnSpec, ...], source: str, node: str, where: str) -> str:
    """Add staged deltas to the sums of ``node``; ``source`` is a FROM item with alias ``p``.

    An update between 0 and NULL has delta 0 and still counts as a write of the counter (see :func:`untouched`).
    """
    keys = ", ".join(f"k_{column.attnum}" for column in spec.key)
    key_values = ", ".join(f"p.k_{column.attnum}" for column in spec.key)
    rows = ", ".join(
        f"({column.attnum}, {delta(column, 'p')}, {f'p.a_{column.attnum}' if loose(column) else 'false'})"
        for column in columns
    )
    return (
        f"INSERT INTO {counter_table(spec)} AS c ({keys}, attnum, node, increased, decreased) "
        f"SELECT {key_values}, v.attnum, {node}, greatest(v.delta, 0), greatest(-v.delta, 0) "
        f"FROM {source}, LATERAL (VALUES {rows}) AS v(attnum, delta, written) "
        f"WHERE (v.delta <> 0 OR v.written AND p.op = 'U') AND {where} "
        f"ON CONFLICT ({keys}, attnum, node) DO UPDATE SET "
        "increased = c.increased + excluded.increased, decreased = c.decreased + excluded.decreased"
    )


def decreases_statement(spec: TableSpec, shape: Shape) -> Statement:
    """Records decreases of grow-only counters, which are undone; run where a batch has any."""
    parameters = Parameters()
    columns = [c for c in spec.counters if c.attnum in shape.attnums and c.crdt == "g_counter"]
    rows = staged(spec, shape, parameters)
    me = parameters.number("node")
    values = ", ".join(f"({quote_literal(c.name)}, g.a_{c.attnum}, g.d_{c.attnum})" for c in columns)
    key, dot = row_key_json(spec, "g"), (me, "g.hlc")
    return parameters.statement(
        f"WITH g AS (\n    {rows}\n)\n"
        "INSERT INTO crdt_state.conflict (id, table_id, row_key, column_name, rule, kind, note, winner_node,"
        " winner_hlc, loser_node, loser_hlc, loser_value)\n"
        f"SELECT {conflict_id(spec, key, 'v.name', QUOTED_UNDONE, 'NULL', dot, dot)}, {spec.table_id}, {key},"
        f" v.name, 'g_counter', 'undone', 'the counter only grows', {me}, g.hlc, {me}, g.hlc, v.delta::text\n"
        f"FROM g, LATERAL (VALUES {values}) AS v(name, written, delta)\n"
        "WHERE v.written AND v.delta < 0 ON CONFLICT (id) DO NOTHING"
    )


def upsert_seen(spec: TableSpec, columns: tuple[ColumnSpec, ...], where: str) -> str:
    """Merge the sums that deletes had seen (``seen_*``) and inserts put behind them (``base_*``), by maximum.

    The sums of ``node`` itself are there already, because delivery is causal; only genesis (node 0) may be new.
    """
    keys = ", ".join(f"k_{column.attnum}" for column in spec.key)
    key_values = ", ".join(f"p.k_{column.attnum}" for column in spec.key)
    rows = ", ".join(f"({column.attnum}, p.seen_{column.attnum})" for column in columns)
    base = "CASE WHEN p.op = 'D' THEN 0 ELSE {} END"
    up, down = "(e.value ->> 0)::numeric", "(e.value ->> 1)::numeric"
    greatest = ", ".join(f"{name} = greatest(c.{name}, excluded.{name})" for name in SUMS[2:])
    return (
        f"INSERT INTO {counter_table(spec)} AS c ({keys}, attnum, node, {', '.join(SUMS)}) "
        f"SELECT {key_values}, v.attnum, e.key::int2, "
        f"CASE WHEN e.key = '0' THEN {up} ELSE 0 END, CASE WHEN e.key = '0' THEN {down} ELSE 0 END, "
        f"{up}, {down}, {base.format(up)}, {base.format(down)} "
        f"FROM p, LATERAL (VALUES {rows}) AS v(attnum, seen), LATERAL jsonb_each(v.seen::jsonb) AS e WHERE {where} "
        f"ON CONFLICT ({keys}, attnum, node) DO UPDATE SET {greatest}"
    )
