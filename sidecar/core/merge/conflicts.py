"""What a merge writes down of concurrent overwrites, of rows that died or came back against somebody's write, and of
counters that their columns cannot show."""

from __future__ import annotations

from collections.abc import Sequence

from sidecar.core.catalog import ColumnSpec, TableSpec, quote_literal
from sidecar.core.merge import counters, liveness, registers
from sidecar.core.merge.identity import conflict_id, row_key_json
from sidecar.core.merge.state_tables import image, qualified_user_table, row_table


def conflict_insert(
    spec: TableSpec,
    columns: Sequence[ColumnSpec],
    counted: Sequence[ColumnSpec],
    covered: str,
    contexts: str,
    due: str,
) -> str:
    """Record each concurrent overwrite of the decided rows ``p``. The id is a function of the conflict alone: the same
    on all nodes. What was here is read again by tuple id, because few rows are in conflict. ``columns`` are registers,
    ``counted`` counters; ``contexts`` the parameter, by change set and node."""
    rows = [registers.conflict_row(c, covered, image(spec, "s")) for c in columns] + [
        counters.conflict_row(c) for c in counted
    ]
    row_rule = quote_literal(f"row={spec.row_rule}")
    came = ("p.hlc", "p.origin")
    written, deleted = (liveness.met(spec, "s", "p", deleted=which) for which in (True, False))
    stayed, came_back = liveness.write_wins(spec, written, came), liveness.write_wins(spec, came, deleted)
    for condition, kind, wins, (hlc, node), incoming, other in (
        ("p.op = 'D'", liveness.record_kind(stayed, came=False), f"NOT {stayed}", written, "deleted", "written"),
        ("p.op <> 'D'", liveness.record_kind(came_back, came=True), came_back, deleted, "written", "deleted"),
    ):
        rows.append(
            f"(NULL, {row_rule}, {kind}, p.conf_row AND {condition}, {wins}, p.hlc, '{incoming}', {hlc}, {node},"
            f" '{other}', NULL::int8[])"
        )
    key = row_key_json(spec, "p")
    context = f"ARRAY(SELECT unnest(({contexts})[p.member:p.member]))"
    # A sum that cannot be shown is not between two writes: of several, another one comes last on each node. Its record
    # goes by the row's latest write and the sum itself.
    origin = "CASE WHEN c.kind = 'saturated' THEN c.here_node ELSE p.origin END" if counted else "p.origin"
    total = "CASE WHEN c.kind = 'saturated' THEN c.value END" if counted else "NULL"
    sides = (origin, "c.hlc"), ("c.here_node", "c.here_hlc")
    # A row's kind tells what happened on this node; the conflict is the same one everywhere.
    of_what = "CASE WHEN c.name IS NULL THEN 'row' ELSE c.kind END"
    pairs = [
        (origin, "c.here_node"),
        ("c.hlc", "c.here_hlc"),
        ("c.value", "c.here_value"),
        (
            f"CASE WHEN c.kind <> 'saturated' THEN crdt_state.seen_by(p.origin, c.hlc, {context}) END"
            if counted
            else f"crdt_state.seen_by(p.origin, c.hlc, {context})",
            "array_cat(ARRAY[c.here_node::int8, c.here_hlc], c.here_vector)",
        ),
    ]
    winner = [f"CASE WHEN c.wins THEN {a} ELSE {b} END" for a, b in pairs]
    loser = [f"CASE WHEN c.wins THEN {b} ELSE {a} END" for a, b in pairs]
    values, picked = ",\n      ".join(rows), ",\n      ".join(winner + loser)
    return (
        "INSERT INTO crdt_state.conflict (id, table_id, row_key, column_name, rule, kind, winner_node, winner_hlc,"
        " winner_value, winner_vector, loser_node, loser_hlc, loser_value, loser_vector)\n"
        f"    SELECT {conflict_id(spec, key, 'c.name', of_what, total, *sides)}, {spec.table_id}, {key},\n"
        f"      c.name, c.rule, c.kind,\n      {picked}\n"
        f"    FROM p LEFT JOIN {row_table(spec)} AS s ON s.ctid = p.s_ctid\n"
        f"    LEFT JOIN {qualified_user_table(spec)} AS t ON t.ctid = p.t_ctid,\n"
        f"    LATERAL (VALUES {values})\n"
        "      AS c(name, rule, kind, conflict, wins, hlc, value, here_hlc, here_node, here_value, here_vector)\n"
        f"    WHERE p.concurrent AND c.conflict AND c.value IS DISTINCT FROM c.here_value AND {due}\n"
        "    ON CONFLICT (id) DO NOTHING RETURNING 1"
    )
