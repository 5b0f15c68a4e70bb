"""The records of conflicts inside columns that keep more than one write: siblings, elements, keys.

Overwrites of plain registers and of rows are in :mod:`.conflicts`. The id here, too, is a function of the conflict
alone, so it is the same on every node: a version 7 UUID of the later dot's time and a digest of table, key, column,
kind, element and both dots.
"""

from __future__ import annotations

from sidecar.core.catalog import TableSpec, quote_literal
from sidecar.core.merge.conflicts import row_key_json


def within_columns(spec: TableSpec, rows: list[str], due: str) -> str:
    """INSERT of what the staged rows ``p`` that are flagged ``within`` conflict with. ``rows``: queries of
    (name, element, rule, kind, note, wins, node, hlc, value, node here, hlc here, value here)."""
    row_key = row_key_json(spec)
    one, other = "c.hlc || '.' || c.node", "c.here_hlc || '.' || c.here_node"
    digest = (
        f"md5(concat_ws(E'\\x01', {quote_literal(spec.qualified)}, {row_key}::text, c.name, c.kind,"
        f" coalesce(c.element, ''), least({one}, {other}), greatest({one}, {other})))"
    )
    stamp = "lpad(to_hex(greatest(c.hlc, c.here_hlc) >> 16), 12, '0')"
    uuid = f"({stamp} || '7' || substr(d.md5, 1, 3) || '8' || substr(d.md5, 4, 15))::uuid"
    pairs = [("c.node", "c.here_node"), ("c.hlc", "c.here_hlc"), ("c.value", "c.here_value")]
    winner = [f"CASE WHEN c.wins THEN {a} ELSE {b} END" for a, b in pairs]
    loser = [f"CASE WHEN c.wins THEN {b} ELSE {a} END" for a, b in pairs]
    union = "\n      UNION ALL ".join(rows)
    return (
        "INSERT INTO crdt_state.conflict (id, table_id, row_key, column_name, element, rule, kind, note, winner_node,"
        " winner_hlc, winner_value, loser_node, loser_hlc, loser_value)\n"
        f"    SELECT {uuid}, {spec.table_id}, {row_key}, c.name, c.element, c.rule, c.kind, c.note,\n"
        f"      {', '.join(winner)},\n      {', '.join(loser)}\n"
        f"    FROM p, LATERAL ({union})\n"
        "      AS c(name, element, rule, kind, note, wins, node, hlc, value, here_node, here_hlc, here_value),\n"
        f"    LATERAL (SELECT {digest} AS md5) AS d\n"
        f"    WHERE p.within AND p.act <> 'M' AND {due}\n"
        "      AND (c.kind = 'merge_failed' OR c.value IS DISTINCT FROM c.here_value)\n"
        "    ON CONFLICT (id) DO NOTHING RETURNING 1"
    )
