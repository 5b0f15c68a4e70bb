"""The records of conflicts inside columns that keep more than one write: siblings, elements, keys.

Overwrites of plain registers and of rows are in :mod:`.conflicts`. The id here, too, is a function of the conflict
alone, so it is the same on every node (:func:`.identity.conflict_id`).
"""

from __future__ import annotations

from sidecar.core.catalog import TableSpec
from sidecar.core.merge.identity import conflict_id, row_key_json
from sidecar.core.merge.state_tables import row_table


def within_columns(spec: TableSpec, rows: list[str], contexts: str, due: str) -> str:
    """INSERT of what the staged rows ``p`` that are flagged ``within`` conflict with. ``rows``: queries of
    (name, element, rule, kind, note, wins, node, hlc, value, node here, hlc here, value here, vector here);
    ``contexts`` the parameter, by change set and node. The vector is that of the column's only write, else NULL: of
    one write among several, or to one element, nobody here knows what it had seen."""
    row_key = row_key_json(spec, "p")
    sides = ("c.node", "c.hlc"), ("c.here_node", "c.here_hlc")
    uuid = conflict_id(spec, row_key, "c.name", "c.kind", "c.element", *sides)
    pairs = [("c.node", "c.here_node"), ("c.hlc", "c.here_hlc"), ("c.value", "c.here_value")]
    pairs.append((_seen(*sides[0], contexts), _seen(*sides[1], contexts)))
    winner = [f"CASE WHEN c.wins THEN {a} ELSE {b} END" for a, b in pairs]
    loser = [f"CASE WHEN c.wins THEN {b} ELSE {a} END" for a, b in pairs]
    union = "\n      UNION ALL ".join(rows)
    return (
        "INSERT INTO crdt_state.conflict (id, table_id, row_key, column_name, element, rule, kind, note, winner_node,"
        " winner_hlc, winner_value, winner_vector, loser_node, loser_hlc, loser_value, loser_vector)\n"
        f"    SELECT {uuid}, {spec.table_id}, {row_key}, c.name, c.element, c.rule, c.kind, c.note,\n"
        f"      {', '.join(winner)},\n      {', '.join(loser)}\n"
        f"    FROM p LEFT JOIN {row_table(spec)} AS s ON s.ctid = p.s_ctid, LATERAL ({union})\n"
        "      AS c(name, element, rule, kind, note, wins, node, hlc, value, here_node, here_hlc, here_value,"
        " here_vector)\n"
        f"    WHERE p.within AND p.act <> 'M' AND c.value IS DISTINCT FROM c.here_value AND {due}\n"
        "    ON CONFLICT (id) DO NOTHING RETURNING 1"
    )


def _seen(node: str, hlc: str, contexts: str) -> str:
    """What a write had seen, itself included: the incoming one its context, another what its column knows."""
    context = f"ARRAY(SELECT unnest(({contexts})[p.member:p.member]))"
    return (
        f"CASE WHEN {node} = p.origin THEN crdt_state.seen_by(p.origin, {hlc}, {context})"
        f" ELSE array_cat(ARRAY[{node}::int8, {hlc}], c.here_vector) END"
    )
