"""Local changes that a merge overtook: what they did to a key was over when the merge came to it.

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
    that are queued to be done again (``queued``). Parameters besides the arrays: ``xids``, ``node`` (own id)."""
    parameters = Parameters()
    arrays = {"ops": '"char"', "hlcs": "int8", "xids": "xid"}
    keys = {f"key:{c.attnum}": "text" for c in spec.key}
    sources = ", ".join(f"{parameters.text(name)}::{kind}[]" for name, kind in (arrays | keys).items())
    names = ", ".join(["op", "hlc", "xid", *(f"t{c.attnum}" for c in spec.key), "ord"])
    typed = ", ".join(f"u.t{c.attnum}::{c.cast_name} AS k_{c.attnum}" for c in spec.key)
    on_state, _ = key_match(spec, "g")
    written = liveness.write_wins(spec, ("s.live_hlc", "s.live_node"), ("s.hlc", "NODE"))
    if "NODE" in written:  # a parameter that is not used has no type
        written = written.replace("NODE", f"{parameters.number('node')}::int2")
    key_texts = ", ".join(f"s.k_{c.attnum}::text" for c in spec.key)
    again = f"s.op = 'D' AND NOT {written}"
    return parameters.statement(
        f"WITH g AS (\n    SELECT u.ord, u.op, u.hlc, u.xid, {typed}\n"
        f"    FROM unnest({sources}) WITH ORDINALITY AS u({names})\n"
        "), s AS MATERIALIZED (\n"
        "    SELECT g.*, s.live_hlc, s.live_node\n"
        f"    FROM g, LATERAL (SELECT s.* FROM {row_table(spec)} AS s WHERE {on_state} LIMIT 1) AS s\n"
        f"    WHERE {overtook('s', 'g.xid')}\n"
        "), again AS (\n    INSERT INTO crdt_state.rewrite (table_id, row_key, deleted_hlc)\n"
        f"    SELECT {spec.table_id}, ARRAY[{key_texts}], s.hlc FROM s WHERE {again} RETURNING id\n)\n"
        "SELECT ARRAY(SELECT s.ord FROM s ORDER BY s.ord) AS overtaken, ARRAY(SELECT id FROM again) AS queued"
    )


def delete_again_statement(spec: TableSpec) -> Statement:
    """Deletes a row (by ``key:<attnum>``) that ``node`` (the own id) deleted at ``hlc``, if that still wins: no local
    transaction has written it since, and by the table's rule what was merged loses. Records the conflict, and takes the
    entry ``id`` off the queue."""
    parameters = Parameters()
    keys = [(c, f"{parameters.text(f'key:{c.attnum}')}::{c.cast_name}") for c in spec.key]
    on_user = " AND ".join(f"t.{quote(c.name)} = {value}" for c, value in keys)
    on_state = " AND ".join(f"s.k_{c.attnum} = {value}" for c, value in keys)
    node, hlc = f"{parameters.number('node')}::int2", parameters.number("hlc")
    loses = f"NOT {liveness.write_wins(spec, ('s.live_hlc', 's.live_node'), (hlc, node))}"
    key, dots = row_key_json(spec, "f"), ((node, hlc), ("f.live_node", "f.live_hlc"))
    return parameters.statement(
        f"WITH f AS MATERIALIZED (\n    SELECT s.*, t.ctid AS t_ctid FROM {row_table(spec)} AS s"
        f" JOIN {qualified_user_table(spec)} AS t ON {on_user} AND t.xmin = s.row_xmin\n"
        f"    WHERE {on_state} AND s.live_node <> {node} AND {loses}\n"
        f"), gone AS (\n    DELETE FROM {qualified_user_table(spec)} AS t USING f"
        " WHERE t.ctid = f.t_ctid AND t.xmin = f.row_xmin RETURNING 1\n"
        "), lost AS (\n    INSERT INTO crdt_state.conflict (id, table_id, row_key, rule, kind,"
        " winner_node, winner_hlc, winner_value, loser_node, loser_hlc, loser_value)\n"
        f"    SELECT {conflict_id(spec, key, 'NULL', quote_literal('row'), 'NULL', *dots)}, {spec.table_id}, {key},"
        f" {quote_literal(f'row={spec.row_rule}')}, 'overwrite',\n"
        f"      {node}, {hlc}, 'deleted', f.live_node, f.live_hlc, 'written' FROM f, gone\n"
        "    ON CONFLICT (id) DO NOTHING\n)\n"
        f"DELETE FROM crdt_state.rewrite WHERE id = {parameters.number('id')}"
    )
