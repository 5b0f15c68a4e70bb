"""The clean-row rule: which staged rows may be merged, and the statements that check, lock and restamp user rows."""

from __future__ import annotations

from sidecar.core.catalog import TableSpec, quote
from sidecar.core.merge.liveness import alive_here, joined
from sidecar.core.merge.staging import Parameters, Statement, staged_keys
from sidecar.core.merge.state_tables import image, key_match, qualified_user_table, row_table

SEEN = "coalesce({xmin}::text, concat('-', {live}, '.', {dead}))"
"""What identifies a user row, or the absence of one: a row by its xmin; where there is none, by the last write and the
last delete that its row state knows. By nothing but the absence, a key that was deleted, inserted and deleted again
since would pass for the same, and the last delete, not captured yet, for none."""

OWN = "crdt_state.is_own(t.xmin)"
"""Whether the user row was written by the transaction that looks at it, below a savepoint, too."""

SEEN_HERE = SEEN.format(xmin="t.xmin", live="coalesce(s.live_hlc, 0)", dead="s.dead_hlc")


def dirty(spec: TableSpec, *, states: bool = False, locked: str = "") -> str:
    """Whether a staged row ``g``, with row state ``s`` and user row ``t``, has a local commit that is not captured;
    ``states``: the staged rows are no operations. ``locked``: 1 when all rows of the transaction were locked and found
    clean before it wrote any: then what a foreign key's action or a trigger has made of one since is clean, too."""
    # Rows of before the table was attached have no row state: what was done to one that is there no more has come
    # before the capture of a local delete. An insert, and a delete of a row that lived for one change set only, mostly
    # find neither state nor row.
    was_there = "" if states else " OR g.op IN ('U', 'R') OR g.op = 'D' AND g.ins IS NULL"
    mine = f" AND NOT ({locked} = 1 AND t.ctid IS NOT NULL AND {OWN})" if locked else ""
    return (
        f"CASE WHEN g.accepted IS NOT NULL AND ({SEEN_HERE} = ANY (string_to_array(g.accepted, ' '))"
        " OR g.accepted = '' AND t.ctid IS NULL) THEN false"
        f" WHEN s.ctid IS NULL THEN t.ctid IS NOT NULL{was_there}"
        f" ELSE (t.ctid IS NOT NULL) <> {alive_here(spec, 's')}"
        f" OR (t.ctid IS NOT NULL AND t.xmin IS DISTINCT FROM s.row_xmin) END{mine}"
    )


def looked_up(spec: TableSpec) -> str:
    """The joins that give each staged row ``g`` its row state ``s`` and its user row ``t``, both perhaps NULL.

    Subqueries with a limit, so that each is a lookup by key whatever the planner believes: of a table that was analysed
    while it was empty it would read the whole index for every staged row.
    """
    on_state, on_user = key_match(spec, "g")
    return (
        f"LEFT JOIN LATERAL (SELECT s.ctid, s.* FROM {row_table(spec)} AS s WHERE {on_state} LIMIT 1) AS s ON true\n"
        f"    LEFT JOIN LATERAL (SELECT t.ctid, t.xmin, t.* FROM {qualified_user_table(spec)} AS t"
        f" WHERE {on_user} LIMIT 1) AS t ON true"
    )


def looked_up_columns(spec: TableSpec, *, states: bool = False, locked: str = "") -> list[str]:
    """What every merge needs of the rows that :func:`looked_up` found, whatever columns its table has; ``states`` and
    ``locked`` as for :func:`dirty`."""
    return [
        "s.ctid AS s_ctid",
        "t.ctid AS t_ctid",
        "t.xmin AS t_xmin",
        "t.ctid IS NOT NULL AS present",
        "coalesce(s.row_hlc, 0) AS s_row_hlc",
        "coalesce(s.row_node, 0::int2) AS s_row_node",
        "coalesce(s.live_hlc, 0) AS s_live_hlc",
        "coalesce(s.live_node, 0::int2) AS s_live_node",
        "s.dead_hlc AS s_dead_hlc",
        "s.dead_node AS s_dead_node",
        f"{image(spec, 's')} AS image",
        f"{dirty(spec, states=states, locked=locked)} AS dirty",
        *joined(spec),
    ]


def seen(row: str) -> str:
    """:data:`SEEN` of what :func:`looked_up_columns` gave ``row``; NULL for a clean one."""
    names = {"xmin": f"{row}.t_xmin", "live": f"{row}.s_live_hlc", "dead": f"{row}.s_dead_hlc"}
    return f"CASE WHEN {row}.dirty THEN {SEEN.format(**names)} END"


def check_statement(spec: TableSpec) -> Statement:
    """The dirty rows of a batch: ``ord``, ``seen`` (:data:`SEEN`); writes nothing."""
    parameters = Parameters()
    keys = staged_keys(spec, parameters)
    accepted = parameters.text("accepted")
    return parameters.statement(
        f"WITH k AS (\n    {keys}\n), g AS (SELECT k.*, a.accepted FROM k LEFT JOIN"
        f" unnest({accepted}::text[]) WITH ORDINALITY AS a(accepted, ord) USING (ord))\n"
        f"SELECT g.ord, {SEEN_HERE} AS seen\n"
        f"FROM g {looked_up(spec)}\nWHERE {dirty(spec)} ORDER BY g.ord"
    )


def taken_statement(spec: TableSpec) -> Statement:
    """How many of the keys at the positions ``vacant``, which a merge left without a row, have one: a local insert has
    come meanwhile. Nothing holds an absent key, so this looks again before the commit."""
    parameters = Parameters()
    keys = staged_keys(spec, parameters)
    return parameters.statement(
        f"WITH g AS (\n    {keys} AND u.ord = ANY ({parameters.numbers('vacant')})\n)\n"
        f"SELECT count(*) AS taken FROM g {looked_up(spec)}\n"
        f"WHERE t.ctid IS NOT NULL AND s.ctid IS NOT NULL AND NOT {alive_here(spec, 's')} AND NOT {OWN}"
    )


def restamp_statement(spec: TableSpec) -> Statement:
    """After a merge below a savepoint: row states learn the sub-transaction's xid of the user rows that it wrote. Only
    states stamped by this transaction are touched; their user rows are its own, so nobody else's xid can be taken.
    Returns the xids."""
    parameters = Parameters()
    return parameters.statement(
        f"WITH g AS (\n    {staged_keys(spec, parameters)}\n)\n"
        f"UPDATE {row_table(spec)} AS s SET row_xmin = n.xmin\n"
        f"FROM (SELECT s.ctid, t.xmin FROM g {looked_up(spec)}) AS n\n"
        "WHERE s.ctid = n.ctid AND s.row_xmin = pg_current_xact_id()::xid AND n.xmin <> s.row_xmin\n"
        "RETURNING n.xmin::text"
    )


def lock_statement(spec: TableSpec) -> Statement:
    """Locks the user rows of a batch in key order, as a local UPDATE of non-key columns would; returns their number.

    The key's first column is looked up with ``= ANY``, so the join cannot be over a scan of the whole index (see
    :func:`looked_up`); a subquery would lock before the rows are in order.
    """
    parameters = Parameters()
    first, *others = spec.key
    on_user = f"t.{quote(first.name)} = ANY (ARRAY[g.k_{first.attnum}])"
    on_user += "".join(f" AND t.{quote(c.name)} = g.k_{c.attnum}" for c in others)
    order = ", ".join(f"g.k_{c.attnum}" for c in spec.key)
    keys = staged_keys(spec, parameters)
    return parameters.statement(
        f"WITH g AS MATERIALIZED (\n    {keys}\n)\n"
        f"SELECT 1 FROM g JOIN {qualified_user_table(spec)} AS t ON {on_user} ORDER BY {order} FOR NO KEY UPDATE OF t"
    )
