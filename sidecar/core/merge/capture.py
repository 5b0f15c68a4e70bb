"""The capture statements: one per table and batch brings the row states up to what was committed locally."""

from __future__ import annotations

from sidecar.core.catalog import ColumnSpec, TableSpec, quote
from sidecar.core.changes import DELETE, TableChanges
from sidecar.core.merge import capture_elements, counters, genesis, liveness
from sidecar.core.merge.staging import Parameters, Shape, Statement, staged
from sidecar.core.merge.state_tables import counter_table, qualified_user_table, row_table

LIVENESS = ("live_hlc", "live_node", "dead_hlc", "dead_node", "alive")
"""What :func:`.liveness.alive_here` reads of a row state."""


def looks_at_user_rows(spec: TableSpec, changes: TableChanges, shape: Shape) -> bool:
    """Whether capturing the batch takes a look at the user's table (:func:`capture_statement`)."""
    return DELETE in changes.ops or bool(_loose_counters(spec, shape) or capture_elements.carried(spec, shape))


def capture_statement(spec: TableSpec, shape: Shape, *, look: bool = True) -> Statement:
    """Upserts row states. Local dots are always above everything in the row state, so nothing is compared.

    Parameters besides the arrays: ``node`` (own id), ``xids``, ``images`` (array literals of the batch), and
    ``old:<attnum>`` (a deleted row's counter values, sets and maps before the batch). Rows whose shown counter differs
    from the true value (an undone decrease, a saturated sum, increments that a re-insert had not seen), and whose sets
    and maps show something else than their state, are queued in ``crdt_state.rewrite``.

    ``look``: whether the user's table may be looked at. Without, every row of which only a look could tell is queued:
    a rewrite that finds nothing to do does nothing.
    """
    parameters = Parameters()
    me = f"{parameters.number('node')}::int2"
    elements = capture_elements.carried(spec, shape)
    old = [(f"old:{c.attnum}", "numeric") for c in spec.counters if c.attnum in shape.attnums and shape.full]
    old += capture_elements.old_images(elements)
    rows = staged(spec, shape, parameters, (("xids", "xid"), ("images", "jsonb"), *old))
    values, updates = _row_values(spec, me)
    for column in spec.columns:
        if column.attnum not in shape.attnums:
            continue
        if column.is_counter:
            name = f"x_{column.attnum}"
            values[name], updates[name] = _excess(spec, column.attnum, shape)
        else:
            of_values, of_updates = _assigned(column, me)
            values |= of_values
            updates |= of_updates
    for column in elements:
        states = capture_elements.state_values(column, parameters.number("node"))
        values |= states
        updates |= {name: f"excluded.{name}" for name in states}
    keys = [f"k_{c.attnum}" for c in spec.key]
    # In the order of the keys, so that neighbours in the index and the table are met while they are in the cache.
    order = ", ".join(f"g.{key}" for key in keys)
    sets = ",\n      ".join(f"{name} = {value}" for name, value in updates.items())
    upsert = (
        f"INSERT INTO {row_table(spec)} AS s ({', '.join([*keys, *values])})\n"
        f"    SELECT {', '.join(f'g.{key}' for key in keys)}, {', '.join(values.values())}\n"
        f"    FROM g{' ' + capture_elements.state_before(spec, elements) if elements else ''} ORDER BY {order}\n"
        f"    ON CONFLICT ({', '.join(keys)}) DO UPDATE SET\n      {sets}"
    )
    return parameters.statement(f"WITH g AS (\n    {rows}\n){_queueing(spec, shape, upsert, look=look)}")


def _row_values(spec: TableSpec, me: str) -> tuple[dict[str, str], dict[str, str]]:
    """What a fresh state row says of the row as a whole, and what becomes of an existing one (``s``)."""
    insert = "g.op IN ('I', 'R')"
    values = {
        "row_node": f"CASE WHEN {insert} THEN {me} ELSE 0 END::int2",
        "row_hlc": f"CASE WHEN {insert} THEN g.ins ELSE 0 END",
        "live_node": f"CASE WHEN g.op IN ('I', 'R', 'U') THEN {me} ELSE 0 END::int2",
        "live_hlc": "CASE WHEN g.op IN ('I', 'R', 'U') THEN g.hlc ELSE 0 END",
        "dead_node": f"CASE WHEN g.op = 'D' THEN {me} END",
        "dead_hlc": "CASE WHEN g.op = 'D' THEN g.hlc END",
        "row_xmin": "CASE WHEN g.op <> 'D' THEN g.xids END",
        "image": "g.images",
        **liveness.captured_values(spec),
    }
    inserted = _inserted(me)
    written = "excluded.live_hlc > 0"
    # The delete and the insert of one transaction have one dot, and stand in different parts of a large one.
    again = f"({inserted} AND excluded.dead_hlc IS NULL AND s.dead_hlc = excluded.live_hlc)"
    # Not so a delete of a key that is dead already: a merge may have come between its hlc and its capture.
    stays = "(s.dead_hlc, s.dead_node) > (excluded.dead_hlc, excluded.dead_node)"
    dead = f"CASE WHEN {again} THEN NULL WHEN {stays} THEN s.{{0}} ELSE coalesce(excluded.{{0}}, s.{{0}}) END"
    updates = {
        "row_node": f"CASE WHEN {inserted} THEN excluded.row_node ELSE s.row_node END",
        "row_hlc": f"CASE WHEN {inserted} THEN excluded.row_hlc ELSE s.row_hlc END",
        "live_node": f"CASE WHEN {written} THEN excluded.live_node ELSE s.live_node END",
        "live_hlc": f"CASE WHEN {written} THEN excluded.live_hlc ELSE s.live_hlc END",
        "dead_node": dead.format("dead_node"),
        "dead_hlc": dead.format("dead_hlc"),
        "row_xmin": "excluded.row_xmin",
        "image": "excluded.image",
        **liveness.captured_updates(spec),
    }
    return values, updates


def _inserted(me: str) -> str:
    return f"(excluded.row_node = {me} AND excluded.row_hlc > 0)"


def _assigned(column: ColumnSpec, me: str) -> tuple[dict[str, str], dict[str, str]]:
    """The dot and the vector of a column's latest write, fresh and in an existing state row; a local write has seen
    every sibling."""
    n = column.attnum
    own = f"g.a_{n} AND (g.op NOT IN ('I', 'R') OR g.h_{n} <> g.ins)"
    values = {f"n_{n}": f"CASE WHEN {own} THEN {me} END", f"h_{n}": f"CASE WHEN {own} THEN g.h_{n} END"}
    assigned = f"({_inserted(me)} OR excluded.h_{n} IS NOT NULL)"
    winner = f"coalesce(s.n_{n}, s.row_node)"
    updates = {
        f"n_{n}": f"CASE WHEN {assigned} THEN excluded.n_{n} ELSE s.n_{n} END",
        f"h_{n}": f"CASE WHEN {assigned} THEN excluded.h_{n} ELSE s.h_{n} END",
        f"v_{n}": f"CASE WHEN {assigned} AND {winner} <> {me} AND coalesce(s.h_{n}, s.row_hlc) > 0"
        f" THEN crdt_state.vector_add(s.v_{n}, {winner}, coalesce(s.h_{n}, s.row_hlc), {me}) ELSE s.v_{n} END",
    }
    if column.is_sibling:
        updates[f"sib_{n}"] = f"CASE WHEN NOT {assigned} THEN s.sib_{n} END"
    return values, updates


def _queueing(spec: TableSpec, shape: Shape, upsert: str, *, look: bool) -> str:
    """The rest of the statement: the upsert alone, or with the rows that must be rewritten queued."""
    elements = capture_elements.carried(spec, shape)
    excess = [f"x_{c.attnum}" for c in spec.counters if c.attnum in shape.attnums]
    due = []
    if excess or elements:
        differs = " OR ".join([*(f"up.{name} <> 0" for name in excess), *_wrong_looks(spec, shape, look=look)])
        due.append(f"up.row_xmin IS NOT NULL AND ({differs})")
    if shape.full:
        gone = f"NOT {liveness.alive_here(spec, 'up')}"
        due.append(f"{gone} AND {_still_there(spec)}" if look else gone)
    if not due:
        return f"\n{upsert}"
    keys = [f"k_{c.attnum}" for c in spec.key]
    key_text = ", ".join(f"up.{key}::text" for key in keys)
    shown = [f"{name}_{c.attnum}" for c in elements for name in ("e", "z")]
    fixed = ["row_xmin", "row_node", *(LIVENESS if shape.full else ())]
    returning = ", ".join(f"s.{name}" for name in [*keys, *fixed, *excess, *shown])
    return (
        f", up AS (\n    {upsert}\n    RETURNING {returning}\n)\n"
        f"INSERT INTO crdt_state.rewrite (table_id, row_key)\n"
        f"SELECT {spec.table_id}, ARRAY[{key_text}] FROM up WHERE {' OR '.join(due)} "
        "RETURNING id, row_key"
    )


def _still_there(spec: TableSpec) -> str:
    """Whether a row that is dead by its state is in the user's table all the same.

    A remote delete finds an absent key clean, and holds nothing that keeps a local insert from coming before its
    commit. Where the insert has the lower hlc, it loses on every node, and its row must go here, too. (A local insert
    after a delete may not be captured yet; then the rewrite finds the row alive.)
    """
    keys = " AND ".join(f"t.{quote(k.name)} = up.k_{k.attnum}" for k in spec.key)
    return f"EXISTS (SELECT FROM {qualified_user_table(spec)} AS t WHERE {keys})"


def _loose_counters(spec: TableSpec, shape: Shape) -> list[ColumnSpec]:
    return [c for c in spec.counters if c.attnum in shape.attnums and counters.loose(c)]


def _wrong_looks(spec: TableSpec, shape: Shape, *, look: bool) -> list[str]:
    """Whether the user row shows a counter, set or map otherwise than the other nodes will. The row is looked at as it
    is now; what comes later queues it again or not."""
    loose, elements = _loose_counters(spec, shape), capture_elements.carried(spec, shape)
    if not loose and not elements:
        return []
    if not look:
        return ["true"]
    keys = " AND ".join(f"t.{quote(k.name)} = up.k_{k.attnum}" for k in spec.key)
    wrong = " OR ".join(
        [counters.wrong_looks(spec, c, "t", "up") for c in loose]
        + [capture_elements.looks_wrong(c, "t", "up") for c in elements]
    )
    return [f"EXISTS (SELECT FROM {qualified_user_table(spec)} AS t WHERE {keys} AND ({wrong}))"]


def _undone(column: ColumnSpec) -> str:
    """What a batch takes from a grow-only counter, to be given back."""
    n = column.attnum
    return f"- least(CASE WHEN g.a_{n} THEN g.d_{n} ELSE 0 END, 0)" if column.crdt == "g_counter" else "0"


def _excess(spec: TableSpec, attnum: int, shape: Shape) -> tuple[str, str]:
    """The excess of a fresh state row, and of an existing one (``s``) after the capture.

    ``excluded.x`` carries what this batch adds to the excess: an undone decrease of a grow-only counter, the old value
    of a deleted row (a dead row's whole value is excess), less what a re-insert has put behind it (``erased``).
    """
    column = next(c for c in spec.columns if c.attnum == attnum)
    undone = _undone(column)
    if not shape.full:
        fresh = f"nullif({undone}, 0)"
        return fresh, f"nullif(coalesce(s.x_{attnum}, 0) + coalesce(excluded.x_{attnum}, 0), 0)"
    keys = " AND ".join(f"c.k_{k.attnum} = g.k_{k.attnum}" for k in spec.key)
    erased = (
        "(SELECT coalesce(sum(greatest(c.seen_increased - c.base_increased, 0)"
        " - greatest(c.seen_decreased - c.base_decreased, 0)), 0)"
        f" FROM {counter_table(spec)} AS c WHERE {keys} AND c.attnum = {attnum}"
        f" AND (c.node <> 0 OR NOT {genesis.truncated(spec)}))"
    )
    # A coalesced delete and re-insert (R) has seen everything, so only what it undoes itself stays: the rest goes here.
    on_state = " AND ".join(f"r.k_{k.attnum} = g.k_{k.attnum}" for k in spec.key)
    former = f"(SELECT coalesce(sum(r.x_{attnum}), 0) FROM {row_table(spec)} AS r WHERE {on_state})"
    fresh = (
        f"nullif(CASE g.op WHEN 'D' THEN coalesce(g.old_{attnum}, 0) WHEN 'I' THEN - {erased}"
        f" WHEN 'R' THEN - {former} ELSE 0 END + {undone}, 0)"
    )
    return fresh, f"nullif(coalesce(s.x_{attnum}, 0) + coalesce(excluded.x_{attnum}, 0), 0)"


def deltas_statement(spec: TableSpec, shape: Shape) -> Statement:
    """Adds the local deltas of a batch to the sums of this node."""
    parameters = Parameters()
    me = f"{parameters.number('node')}::int2"
    columns = tuple(c for c in spec.counters if c.attnum in shape.attnums)
    rows = staged(spec, shape, parameters)
    upsert = counters.upsert_deltas(spec, columns, "p", me, "p.op <> 'T'")
    return parameters.statement(f"WITH p AS (\n    {rows}\n)\n{upsert}")


def genesis_statement(spec: TableSpec, shape: Shape) -> Statement:
    """Writes down what genesis held in counters of rows that are deleted now, so that a re-insert can put it behind.

    Run after :func:`deltas_statement`, before :func:`capture_statement`. Genesis = old value + excess - all sums.
    """
    parameters = Parameters()
    columns = tuple(c for c in spec.counters if c.attnum in shape.attnums)
    me = f"{parameters.number('node')}::int2"
    rows = staged(spec, shape, parameters, tuple((f"old:{c.attnum}", "numeric") for c in columns))
    keys = ", ".join(f"k_{c.attnum}" for c in spec.key)
    on_state = " AND ".join(f"s.k_{c.attnum} = g.k_{c.attnum}" for c in spec.key)
    on_counter = " AND ".join(f"c.k_{c.attnum} = g.k_{c.attnum}" for c in spec.key)
    # In a replaced row the new value is counted already (deltas run first); the old value does not contain it. What a
    # deleted row's grow-only counter lost in this batch is missing in the old value, and counted nowhere.
    values = ", ".join(
        f"({c.attnum}::int2, g.old_{c.attnum} + coalesce(s.x_{c.attnum}, 0)"
        f" + CASE WHEN g.op = 'R' THEN {counters.delta(c, 'g')} ELSE {_undone(c)} END)"
        for c in columns
    )
    return parameters.statement(
        f"WITH g AS (\n    {rows}\n), held AS (\n"
        f"    SELECT {', '.join(f'g.k_{c.attnum}' for c in spec.key)}, v.attnum, {me} AS me,\n"
        "      v.total - (SELECT coalesce(sum(c.increased - c.base_increased - c.decreased + c.base_decreased), 0)"
        f" FROM {counter_table(spec)} AS c WHERE {on_counter} AND c.attnum = v.attnum) AS genesis\n"
        f"    FROM g LEFT JOIN {row_table(spec)} AS s ON {on_state}, LATERAL (VALUES {values}) AS v(attnum, total)\n"
        "    WHERE g.op IN ('D', 'R') AND coalesce(s.row_node, 0) = 0 AND v.total IS NOT NULL\n)\n"
        f"INSERT INTO {counter_table(spec)} ({keys}, attnum, node, increased, decreased)\n"
        f"SELECT {keys}, attnum, 0, greatest(genesis, 0), greatest(-genesis, 0) FROM held WHERE genesis <> 0\n"
        "ON CONFLICT DO NOTHING"
    )


def seen_query(spec: TableSpec, shape: Shape) -> Statement:
    """Marks and returns the sums seen by deletes and re-inserts: ``ord``, ``attnum``, ``seen`` (JSON object).

    A delete has seen every sum here; a coalesced delete and re-insert all but its own inserted value; an insert over a
    tombstone what the delete before it had seen. Run after :func:`genesis_statement`.
    """
    parameters = Parameters()
    columns = tuple(c for c in spec.counters if c.attnum in shape.attnums)
    me = f"{parameters.number('node')}::int2"
    rows = staged(spec, shape, parameters)
    match = " AND ".join(f"c.k_{c.attnum} = g.k_{c.attnum}" for c in spec.key)
    own = ", ".join(f"({c.attnum}, {counters.delta(c, 'g')})" for c in columns)
    up = f"c.increased - CASE WHEN g.op = 'R' AND c.node = {me} THEN greatest(v.delta, 0) ELSE 0 END"
    down = f"c.decreased - CASE WHEN g.op = 'R' AND c.node = {me} THEN greatest(-v.delta, 0) ELSE 0 END"
    insert = "g.op = 'I'"
    return parameters.statement(
        f"WITH g AS (\n    {rows}\n), marked AS (\n    UPDATE {counter_table(spec)} AS c SET\n"
        f"      seen_increased = CASE WHEN {insert} THEN c.seen_increased ELSE greatest(c.seen_increased, {up}) END,\n"
        f"      seen_decreased = CASE WHEN {insert} THEN c.seen_decreased ELSE greatest(c.seen_decreased, {down}) END\n"
        f"    FROM g, LATERAL (VALUES {own}) AS v(attnum, delta)\n"
        f"    WHERE {match} AND c.attnum = v.attnum\n"
        "      AND (g.op IN ('D', 'R') OR g.op = 'I' AND (c.seen_increased > 0 OR c.seen_decreased > 0))\n"
        "    RETURNING g.ord, c.attnum, c.node, c.seen_increased, c.seen_decreased\n)\n"
        "SELECT ord, attnum, jsonb_object_agg(node::text,"
        " jsonb_build_array(seen_increased::text, seen_decreased::text))::text AS seen\n"
        "FROM marked WHERE seen_increased > 0 OR seen_decreased > 0 GROUP BY ord, attnum"
    )


def base_statement(spec: TableSpec, shape: Shape) -> Statement:
    """Puts behind a re-insert what its delete had seen. Run last: :func:`capture_statement` needs the difference."""
    parameters = Parameters()
    columns = ", ".join(str(c.attnum) for c in spec.counters if c.attnum in shape.attnums)
    rows = staged(spec, shape, parameters)
    match = " AND ".join(f"c.k_{c.attnum} = g.k_{c.attnum}" for c in spec.key)
    return parameters.statement(
        f"WITH g AS (\n    {rows}\n)\nUPDATE {counter_table(spec)} AS c SET\n"
        "  base_increased = greatest(c.base_increased, c.seen_increased),"
        " base_decreased = greatest(c.base_decreased, c.seen_decreased)\n"
        f"FROM g WHERE {match} AND c.attnum IN ({columns}) AND g.op IN ('I', 'R')\n"
        "  AND (c.seen_increased > c.base_increased OR c.seen_decreased > c.base_decreased)"
    )
