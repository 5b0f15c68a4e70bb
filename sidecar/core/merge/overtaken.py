"""Local changes that a merge overtook: what they did to a key was over when the merge put a row there.

A key that was inserted and deleted here (or truncated) before capture came by looks to a merge like one that nobody
wrote: absent and clean. So a remote row may be put in. The local changes are captured after it and were before it, and
nobody else has seen anything of them:

- the merge writes down its xid with a snapshot taken once its rows are in place (``crdt_state.overtaking``). From then
  on nobody else can insert these keys, so a local transaction that wrote one of them is in the snapshot when it was
  before the merge, and is not when it was after;
- capture leaves out the changes of keys whose row state is that of such a merge, where its snapshot shows their
  transaction. A TRUNCATE leaves out rows in the same way;
- where the delete wins by the table's rule, the merged row is deleted once more, as a local transaction would.
"""

from __future__ import annotations

from sidecar.core.catalog import TableSpec, quote, quote_literal
from sidecar.core.merge import liveness
from sidecar.core.merge.identity import conflict_id, row_key_json
from sidecar.core.merge.staging import Parameters, Statement
from sidecar.core.merge.state_tables import key_match, qualified_user_table, row_table


def overtook(state: str, committed: str) -> str:
    """Whether the merge that put in the row with state ``state`` overtook the transaction with xid ``committed``."""
    return (
        f"EXISTS (SELECT FROM crdt_state.overtaking AS o WHERE o.xid = {state}.row_xmin"
        f" AND crdt_state.shows(o.snapshot, {committed}))"
    )


def overtaken_statement(spec: TableSpec) -> Statement:
    """The positions (``overtaken``) of captured changes that are to be left out, in order, and the ids of the deletes
    that are queued to be done again (``queued``); their conflicts are recorded. Parameters besides the arrays:
    ``xids``, ``node`` (own id)."""
    parameters = Parameters()
    node = f"{parameters.number('node')}::int2"
    arrays = {"ops": '"char"', "hlcs": "int8", "xids": "xid"}
    keys = {f"key:{c.attnum}": "text" for c in spec.key}
    sources = ", ".join(f"{parameters.text(name)}::{kind}[]" for name, kind in (arrays | keys).items())
    names = ", ".join(["op", "hlc", "xid", *(f"t{c.attnum}" for c in spec.key), "ord"])
    typed = ", ".join(f"u.t{c.attnum}::{c.cast_name} AS k_{c.attnum}" for c in spec.key)
    on_state, _ = key_match(spec, "g")
    wins = f"NOT {liveness.write_wins(spec, ('f.live_hlc', 'f.live_node'), ('f.hlc', node))}"
    again = f"f.op = 'D' AND {wins}"
    key_texts = ", ".join(f"f.k_{c.attnum}::text" for c in spec.key)
    key, dots = row_key_json(spec, "f"), ((node, "f.hlc"), ("f.live_node", "f.live_hlc"))
    return parameters.statement(
        f"WITH g AS (\n    SELECT u.ord, u.op, u.hlc, u.xid, {typed}\n"
        f"    FROM unnest({sources}) WITH ORDINALITY AS u({names})\n"
        f"), f AS MATERIALIZED (\n    SELECT g.*, s.row_xmin, s.live_hlc, s.live_node\n"
        f"    FROM g, LATERAL (SELECT s.* FROM {row_table(spec)} AS s WHERE {on_state} LIMIT 1) AS s\n"
        f"    WHERE {overtook('s', 'g.xid')}\n"
        "), again AS (\n    INSERT INTO crdt_state.rewrite (table_id, row_key, deleted_xmin)\n"
        f"    SELECT {spec.table_id}, ARRAY[{key_texts}], f.row_xmin FROM f WHERE {again} RETURNING id\n"
        "), lost AS (\n    INSERT INTO crdt_state.conflict (id, table_id, row_key, rule, kind,"
        " winner_node, winner_hlc, winner_value, loser_node, loser_hlc, loser_value)\n"
        f"    SELECT {conflict_id(spec, key, 'NULL', quote_literal('row'), 'NULL', *dots)}, {spec.table_id}, {key},"
        f" {quote_literal(f'row={spec.row_rule}')}, 'overwrite',\n"
        f"      {node}, f.hlc, 'deleted', f.live_node, f.live_hlc, 'written' FROM f WHERE {again}\n"
        "    ON CONFLICT (id) DO NOTHING\n)\n"
        "SELECT ARRAY(SELECT f.ord FROM f ORDER BY f.ord) AS overtaken, ARRAY(SELECT id FROM again) AS queued"
    )


def delete_again_statement(spec: TableSpec) -> Statement:
    """Deletes a row (by ``key:<attnum>``) that still has the xmin ``xmin``; takes the entry ``id`` off the queue."""
    parameters = Parameters()
    keys = " AND ".join(f"t.{quote(c.name)} = {parameters.text(f'key:{c.attnum}')}::{c.cast_name}" for c in spec.key)
    return parameters.statement(
        f"WITH gone AS (DELETE FROM {qualified_user_table(spec)} AS t WHERE {keys}"
        f" AND t.xmin = {parameters.text('xmin')}::xid)\n"
        f"DELETE FROM crdt_state.rewrite WHERE id = {parameters.number('id')}"
    )
