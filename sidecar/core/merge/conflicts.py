"""What a merge writes down of concurrent overwrites."""

from __future__ import annotations

from collections.abc import Sequence

from sidecar.core.catalog import ColumnSpec, TableSpec, quote_literal
from sidecar.core.merge import registers
from sidecar.core.merge.state_tables import qualified_user_table, row_table


def row_key_json(spec: TableSpec, row: str = "p") -> str:
    """The key as JSON object of text images, as shown in conflicts."""
    pairs = ", ".join(f"{quote_literal(c.name)}, {row}.k_{c.attnum}::text" for c in spec.key)
    return f"jsonb_build_object({pairs})"


def conflict_insert(spec: TableSpec, columns: Sequence[ColumnSpec], covered: str, due: str) -> str:
    """Record each concurrent overwrite of the decided rows ``p``. The id is a function of the conflict alone: the same
    on all nodes. What was here is read again by tuple id, because few rows are in conflict."""
    rows = [registers.conflict_row(c, covered) for c in columns]
    row_rule = quote_literal(f"row={spec.row_rule}")
    for condition, wins, hlc, node, incoming, other in (
        ("p.op = 'D'", "NOT p.alive", "s.live_hlc", "s.live_node", "deleted", "written"),
        ("p.op <> 'D'", "p.alive", "s.dead_hlc", "s.dead_node", "written", "deleted"),
    ):
        rows.append(
            f"(NULL, {row_rule}, p.conf_row AND {condition}, {wins}, p.hlc, '{incoming}', {hlc}, {node}, '{other}')"
        )
    table = quote_literal(spec.qualified)
    incoming, local = "c.hlc || '.' || p.origin", "c.here_hlc || '.' || c.here_node"
    digest = (
        f"md5(concat_ws(E'\\x01', {table}, {row_key_json(spec)}::text, c.name, "
        f"least({incoming}, {local}), greatest({incoming}, {local})))"
    )
    stamp = "lpad(to_hex(greatest(c.hlc, c.here_hlc) >> 16), 12, '0')"
    uuid = f"({stamp} || '7' || substr(d.md5, 1, 3) || '8' || substr(d.md5, 4, 15))::uuid"
    pick = "CASE WHEN c.wins THEN {} ELSE {} END"
    pairs = [("p.origin", "c.here_node"), ("c.hlc", "c.here_hlc"), ("c.value", "c.here_value")]
    winner = [pick.format(a, b) for a, b in pairs]
    loser = [pick.format(b, a) for a, b in pairs]
    values, picked = ",\n      ".join(rows), ",\n      ".join(winner + loser)
    return (
        "INSERT INTO crdt_state.conflict (id, table_id, row_key, column_name, rule, winner_node, winner_hlc,"
        " winner_value, loser_node, loser_hlc, loser_value)\n"
        f"    SELECT {uuid}, {spec.table_id}, {row_key_json(spec)}, c.name, c.rule, {picked}\n"
        f"    FROM p LEFT JOIN {row_table(spec)} AS s ON s.ctid = p.s_ctid\n"
        f"    LEFT JOIN {qualified_user_table(spec)} AS t ON t.ctid = p.t_ctid,\n"
        f"    LATERAL (VALUES {values})\n"
        "      AS c(name, rule, conflict, wins, hlc, value, here_hlc, here_node, here_value),\n"
        f"    LATERAL (SELECT {digest} AS md5) AS d\n"
        f"    WHERE p.concurrent AND c.conflict AND c.value IS DISTINCT FROM c.here_value AND {due}\n"
        "    ON CONFLICT (id) DO NOTHING RETURNING 1"
    )
