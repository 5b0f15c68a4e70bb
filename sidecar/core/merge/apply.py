"""The merge statement: one per table and batch merges staged remote changes into row states and user rows.

Reads as: ``g`` staged rows -> ``j`` joined with row state ``s`` and user row ``t`` -> ``p`` decided -> ``del``,
``upd``, ``ins`` on the user's table -> state, counters, conflicts -> one summary row. Nothing is written when any row
is not clean (invariant 4); then the summary names the dirty rows by position and xmin. A row that the caller has seen
with the same xmin before capture passed the log is accepted as clean (parameter ``accepted``).

The writing parts run in the order in which the summary asks for them: deletes, updates, inserts. So a unique value that
one row gives up can be taken by another within the same batch.

User rows are touched by ctid *and* xmin. PostgreSQL re-evaluates both after a lock wait (READ COMMITTED), so a local
commit that slips in makes the row drop out and the counts differ.
"""

from __future__ import annotations

from sidecar.core.catalog import ColumnSpec, TableSpec, quote, quote_literal
from sidecar.core.merge import counters, registers
from sidecar.core.merge.staging import Parameters, Shape, Statement, staged, staged_keys
from sidecar.core.merge.state_tables import counter_table, key_match, qualified_user_table, row_table
from sidecar.core.merge.unique import parked_columns

# jsonb_build_object takes at most 100 arguments (FUNC_MAX_ARGS), two per column.
IMAGE_COLUMNS_PER_CALL = 45

# Rows of before the table was attached have no row state: an update that finds neither that nor the user row has come
# before the capture of a local delete. An insert, and a delete (of a row that lived for one change set only), mostly
# find neither.
DIRTY = (
    "CASE WHEN g.accepted = coalesce(t.xmin::text, '') THEN false"
    " WHEN s.ctid IS NULL THEN t.ctid IS NOT NULL OR g.op = 'U'"
    " ELSE (t.ctid IS NOT NULL) <> (s.dead_hlc IS NULL OR (s.live_hlc, s.live_node) > (s.dead_hlc, s.dead_node))"
    " OR (t.ctid IS NOT NULL AND t.xmin IS DISTINCT FROM s.row_xmin) END"
)


def row_key_json(spec: TableSpec, row: str = "p") -> str:
    """The key as JSON object of text images, as shown in conflicts."""
    pairs = ", ".join(f"{quote_literal(c.name)}, {row}.k_{c.attnum}::text" for c in spec.key)
    return f"jsonb_build_object({pairs})"


class _Merge:
    """Collects the text of one merge statement."""

    def __init__(self, spec: TableSpec, shape: Shape) -> None:
        self.spec = spec
        self.shape = shape
        self.parameters = Parameters()
        self.origins = self.parameters.numbers("origins")
        self.contexts = self.parameters.numbers("contexts")
        self.registers = [c for c in spec.registers if c.attnum in shape.attnums]
        self.carried_counters = [c for c in spec.counters if c.attnum in shape.attnums]
        self.parked = parked_columns(spec) if shape.reinsert else ()
        self.in_place = ("U", "X") if self.parked else ("U",)
        self.taken_out = ("D",) if self.parked else ("D", "X")
        self.put_in = ("I",) if self.parked else ("I", "X")

    def covered(self, row: str, hlc: str, node: str) -> str:
        """Whether the context of the incoming change in ``row`` covers a dot of the row state."""
        return f"({node} = {row}.origin OR {hlc} <= coalesce(({self.contexts})[{row}.member][{node}], 0))"

    def staged(self) -> str:
        extra = (
            ("accepted", "text"),
            ("members", "int4"),
            *((f"seen:{c.attnum}", "text") for c in self.carried_counters if self.shape.full),
        )
        return staged(self.spec, self.shape, self.parameters, extra)

    def joined(self) -> str:
        on_state, on_user = key_match(self.spec, "g")
        select = [
            "g.*",
            "coalesce(g.members, 1) AS member",
            f"({self.origins})[coalesce(g.members, 1)] AS origin",
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
            "s.image",
            f"{DIRTY} AS dirty",
        ]
        for column in self.registers:
            select += registers.joined(column)
        for column in self.spec.counters:
            select += counters.joined(column)
        return (
            f"SELECT {_list(select)}\n    FROM g LEFT JOIN {row_table(self.spec)} AS s ON {on_state}\n"
            f"    LEFT JOIN {qualified_user_table(self.spec)} AS t ON {on_user}"
        )

    def decided(self) -> str:
        origin = "j.origin"
        newer = f"(j.hlc, {origin})"
        live_wins = f"j.op IN ('I', 'U', 'R') AND {newer} >= (j.s_live_hlc, j.s_live_node::int8)"
        dead_wins = f"j.op = 'D' AND (j.s_dead_hlc IS NULL OR {newer} >= (j.s_dead_hlc, j.s_dead_node::int8))"
        # An earlier part of the same transaction deleted the row; the dot of both is the same.
        again = f"coalesce(j.op IN ('I', 'R') AND {newer} = (j.s_dead_hlc, j.s_dead_node::int8), false)"
        row_wins = f"j.op IN ('I', 'R') AND (j.ins, {origin}) >= (j.s_row_hlc, j.s_row_node::int8)"
        versions = [
            f"CASE WHEN {live_wins} THEN j.hlc ELSE j.s_live_hlc END AS live_hlc",
            f"CASE WHEN {live_wins} THEN {origin} ELSE j.s_live_node END AS live_node",
            f"CASE WHEN {dead_wins} THEN j.hlc WHEN NOT {again} THEN j.s_dead_hlc END AS dead_hlc",
            f"CASE WHEN {dead_wins} THEN {origin} WHEN NOT {again} THEN j.s_dead_node END AS dead_node",
            f"CASE WHEN {row_wins} THEN j.ins ELSE j.s_row_hlc END AS rv_hlc",
            f"CASE WHEN {row_wins} THEN {origin} ELSE j.s_row_node END AS rv_node",
        ]
        live_covered = self.covered("j", "j.s_live_hlc", "j.s_live_node")
        dead_covered = self.covered("j", "j.s_dead_hlc", "j.s_dead_node")
        was_alive = "(j.s_dead_hlc IS NULL OR (j.s_live_hlc, j.s_live_node) > (j.s_dead_hlc, j.s_dead_node))"
        versions.append(
            f"CASE WHEN j.op = 'D' THEN j.s_ctid IS NOT NULL AND {was_alive} AND NOT {live_covered}"
            f" WHEN j.op = 'T' THEN false ELSE j.s_dead_hlc IS NOT NULL AND NOT {dead_covered} END AS conf_row"
        )
        for column in self.registers:
            versions += registers.decided(column)
        for column in self.spec.counters:
            carried = column.attnum in self.shape.attnums
            versions += counters.decided(self.spec, column, carried=carried, with_seen=self.shape.full)
        inner = f"SELECT j.*, {_list(versions)}\n      FROM j"
        alive = "(v.dead_hlc IS NULL OR (v.live_hlc, v.live_node) > (v.dead_hlc, v.dead_node))"
        middle = f"SELECT v.*, {alive} AS alive FROM ({inner}) AS v"
        return f"SELECT q.*, {self.action()} AS act,\n      {self.image()} AS new_image\n    FROM ({middle}) AS q"

    def action(self) -> str:
        changes = [f"q.win_{c.attnum}" for c in self.registers] + [counters.changed(c) for c in self.spec.counters]
        changed = " OR ".join(changes) or "false"
        update = f"WHEN q.alive AND q.present THEN CASE WHEN {changed} THEN 'U' ELSE 'N' END"
        if self.shape.reinsert:
            unique = {name for index in self.spec.unique for name in index}
            moves = [
                f"q.win_{c.attnum} AND q.val_{c.attnum} IS DISTINCT FROM q.old_{c.attnum}"
                for c in self.registers
                if c.name in unique
            ]
            update = f"WHEN q.alive AND q.present AND ({' OR '.join(moves) or 'false'}) THEN 'X' {update}"
        missing = "q.op NOT IN ('I', 'R') AND q.image IS NULL"
        return (
            f"CASE {update}\n        WHEN q.alive THEN CASE WHEN {missing} THEN 'M' ELSE 'I' END"
            " WHEN q.present THEN 'D' ELSE 'N' END"
        )

    def image(self) -> str:
        """The tombstone image after the merge; NULL while the row is alive."""
        patches = " || ".join(["coalesce(q.image, '{}')", *(registers.image_patch(c, "q") for c in self.registers)])
        if not self.shape.full:
            return f"CASE WHEN NOT q.alive THEN {patches} END"
        entries = [registers.image_entry(c, "q") for c in self.registers]
        entries += [counters.image_entry(c, "q") for c in self.spec.counters if counters.loose(c)]
        calls = [
            f"jsonb_build_object({', '.join(entries[i : i + IMAGE_COLUMNS_PER_CALL])})"
            for i in range(0, len(entries), IMAGE_COLUMNS_PER_CALL)
        ]
        fresh = " || ".join(calls) or "'{}'::jsonb"
        return f"CASE WHEN q.alive THEN NULL WHEN q.present THEN {fresh} ELSE {patches} END"

    def user_statements(self) -> list[tuple[str, str]]:
        table = qualified_user_table(self.spec)
        same_row = "t.ctid = p.t_ctid AND t.xmin = p.t_xmin"
        out = [
            (
                "del",
                f"DELETE FROM {table} AS t USING p WHERE {_acts(self.taken_out)} AND {same_row} AND {GO} RETURNING 1",
            )
        ]
        assignments = [f"{quote(c.name)} = {self._updated(c)}" for c in self.registers]
        assignments += [f"{quote(c.name)} = {counters.new_value(c, 'p')}" for c in self.spec.counters]
        if assignments:
            sets = _list(assignments)
            out.append(
                (
                    "upd",
                    f"UPDATE {table} AS t SET {sets}\n    FROM p WHERE {_acts(self.in_place)}"
                    f" AND {same_row} AND {GO} RETURNING 1",
                )
            )
        names = ", ".join(quote(c.name) for c in (*self.spec.key, *self.spec.columns))
        values = [f"p.k_{c.attnum}" for c in self.spec.key] + [self._inserted(c) for c in self.spec.columns]
        out.append(
            (
                "ins",
                f"INSERT INTO {table} ({names}) OVERRIDING SYSTEM VALUE\n    SELECT {_list(values)}\n"
                f"    FROM p WHERE {_acts(self.put_in)} AND {GO} RETURNING 1",
            )
        )
        return out

    def _updated(self, column: ColumnSpec) -> str:
        value = registers.new_value(column)
        if column not in self.parked:
            return value
        return f"CASE WHEN p.act = 'X' AND p.win_{column.attnum} THEN NULL ELSE {value} END"

    def _inserted(self, column: ColumnSpec) -> str:
        if column.is_counter:
            return counters.new_value(column, "p")
        revived = registers.revived_value(column, carried=column.attnum in self.shape.attnums)
        if not self.shape.reinsert:
            return revived
        return f"CASE WHEN p.act = 'X' THEN {registers.reinserted_value(column)} ELSE {revived} END"

    def state_values(self, *, exists: bool) -> dict[str, str]:
        """Column of the row state -> its value after the merge."""
        values = {
            "row_node": "p.rv_node::int2",
            "row_hlc": "p.rv_hlc",
            "live_node": "p.live_node::int2",
            "live_hlc": "p.live_hlc",
            "dead_node": "p.dead_node::int2",
            "dead_hlc": "p.dead_hlc",
            "row_xmin": "CASE WHEN p.act IN ('U', 'I', 'X') THEN pg_current_xact_id()::xid"
            " WHEN p.alive AND p.present THEN p.t_xmin END",
            "image": "p.new_image",
        }
        for column in self.registers:
            values.update(registers.state_values(column, exists=exists))
        for column in self.spec.counters:
            values[f"x_{column.attnum}"] = counters.state_value(column)
        return values

    def state_statements(self) -> list[tuple[str, str]]:
        table, values = row_table(self.spec), self.state_values(exists=False)
        sets = _list([f"{name} = {value}" for name, value in self.state_values(exists=True).items()])
        keys = [f"k_{c.attnum}" for c in self.spec.key]
        return [
            ("st_upd", f"UPDATE {table} AS s SET {sets}\n    FROM p WHERE s.ctid = p.s_ctid AND {GO} RETURNING 1"),
            (
                "st_ins",
                f"INSERT INTO {table} ({', '.join([*keys, *values])})\n"
                f"    SELECT {_list([*(f'p.{key}' for key in keys), *values.values()])}\n"
                f"    FROM p WHERE p.s_ctid IS NULL AND p.act <> 'M' AND {GO} RETURNING 1",
            ),
        ]

    def conflicts(self) -> str:
        """Record each concurrent overwrite. The id is a function of the conflict alone: the same on all nodes."""
        covered = self.covered("p", "{hlc}", "{node}")
        rows = [registers.conflict_row(c, covered) for c in self.registers]
        row_rule = quote_literal(f"row={self.spec.row_rule}")
        for condition, wins, hlc, node, incoming, other in (
            ("p.op = 'D'", "NOT p.alive", "p.s_live_hlc", "p.s_live_node", "deleted", "written"),
            ("p.op <> 'D'", "p.alive", "p.s_dead_hlc", "p.s_dead_node", "written", "deleted"),
        ):
            rows.append(
                f"(NULL, {row_rule}, p.conf_row AND {condition}, {wins}, p.hlc, '{incoming}', {hlc}, {node}, '{other}')"
            )
        table = quote_literal(self.spec.qualified)
        incoming, local = "c.hlc || '.' || p.origin", "c.here_hlc || '.' || c.here_node"
        digest = (
            f"md5(concat_ws(E'\\x01', {table}, {row_key_json(self.spec)}::text, c.name, "
            f"least({incoming}, {local}), greatest({incoming}, {local})))"
        )
        stamp = "lpad(to_hex(greatest(c.hlc, c.here_hlc) >> 16), 12, '0')"
        uuid = f"({stamp} || '7' || substr(d.md5, 1, 3) || '8' || substr(d.md5, 4, 15))::uuid"
        any_conflict = " OR ".join(["p.conf_row", *(registers.concurrent(c, covered) for c in self.registers)])
        pick = "CASE WHEN c.wins THEN {} ELSE {} END"
        pairs = [("p.origin", "c.here_node"), ("c.hlc", "c.here_hlc"), ("c.value", "c.here_value")]
        winner = [pick.format(a, b) for a, b in pairs]
        loser = [pick.format(b, a) for a, b in pairs]
        return (
            "INSERT INTO crdt_state.conflict (id, table_id, row_key, column_name, rule, winner_node, winner_hlc,"
            " winner_value, loser_node, loser_hlc, loser_value)\n"
            f"    SELECT {uuid}, {self.spec.table_id}, {row_key_json(self.spec)}, c.name, c.rule,"
            f" {_list(winner + loser)}\n"
            f"    FROM p, LATERAL (VALUES {_list(rows)})\n"
            "      AS c(name, rule, conflict, wins, hlc, value, here_hlc, here_node, here_value),\n"
            f"    LATERAL (SELECT {digest} AS md5) AS d\n"
            f"    WHERE ({any_conflict}) AND c.conflict AND c.value IS DISTINCT FROM c.here_value AND {GO}\n"
            "    ON CONFLICT (id) DO NOTHING RETURNING 1"
        )

    def missing(self) -> str:
        """A change of a row that is not here and has no tombstone: kept in quarantine, with its values."""
        pairs = [f"{quote_literal(c.name)}, p.val_{c.attnum}::text" for c in self.registers]
        pairs += [f"{quote_literal(c.name)}, p.d_{c.attnum}::text" for c in self.carried_counters]
        calls = [
            f"jsonb_build_object({', '.join(pairs[i : i + IMAGE_COLUMNS_PER_CALL])})"
            for i in range(0, len(pairs), IMAGE_COLUMNS_PER_CALL)
        ]
        reason = quote_literal("the row is not in this database and left no tombstone; copy it, then repeat the change")
        return (
            "INSERT INTO crdt_state.quarantine"
            " (origin, from_hlc, to_hlc, table_name, row_key, change, sqlstate, reason)\n"
            f"    SELECT p.origin, ({self.parameters.numbers('from_hlcs')})[p.member],"
            f" ({self.parameters.numbers('to_hlcs')})[p.member],"
            f" {quote_literal(self.spec.qualified)}, {row_key_json(self.spec)}, {' || '.join(calls) or 'NULL::jsonb'},"
            f" '02000', {reason}\n    FROM p WHERE p.act = 'M' AND p.op <> 'T' AND {GO} RETURNING 1"
        )

    def summary(self, done: list[str]) -> str:
        counts = ", ".join(f"(SELECT count(*) FROM {name}) AS {name}" for name in done)
        return (
            f"SELECT {counts},\n"
            "  n.staged, n.planned_del, n.planned_upd, n.planned_ins, n.dirty, n.dirty_xmin\n"
            f"FROM (SELECT count(*) AS staged, count(*) FILTER (WHERE {_acts(self.taken_out)}) AS planned_del,\n"
            f"    count(*) FILTER (WHERE {_acts(self.in_place)}) AS planned_upd,\n"
            f"    count(*) FILTER (WHERE {_acts(self.put_in)}) AS planned_ins,\n"
            "    array_agg(ord ORDER BY ord) FILTER (WHERE dirty) AS dirty,\n"
            "    array_agg(coalesce(t_xmin::text, '') ORDER BY ord) FILTER (WHERE dirty) AS dirty_xmin\n"
            "  FROM p) AS n"
        )

    def statement(self) -> Statement:
        parts = [("g", self.staged()), ("j", self.joined()), ("p", self.decided())]
        writes = [*self.user_statements(), *self.state_statements()]
        if self.carried_counters:
            columns = tuple(self.carried_counters)
            # A missing row (act M) is in quarantine as a whole, so its deltas do not count either.
            where = f"p.act <> 'M' AND {GO}"
            text = counters.upsert_deltas(self.spec, columns, "p", "p.origin::int2", where)
            writes.append(("counted", f"{text} RETURNING 1"))
        writes += [("conflicts", self.conflicts()), ("missing", self.missing())]
        texts = [
            f"{name} AS {'MATERIALIZED ' if name == 'p' else ''}(\n    {text}\n)" for name, text in [*parts, *writes]
        ]
        summary = self.summary([name for name, _ in writes])
        return self.parameters.statement("WITH " + ", ".join(texts) + "\n" + summary)


# Evaluated once per statement part (InitPlan): nothing is written when any staged row is dirty.
GO = "(SELECT NOT coalesce(bool_or(dirty), false) FROM p)"


def _acts(acts: tuple[str, ...]) -> str:
    return f"act IN ({', '.join(quote_literal(act) for act in acts)})"


def _list(items: list[str]) -> str:
    return ",\n      ".join(items)


def merge_statement(spec: TableSpec, shape: Shape) -> Statement:
    """Parameters besides the arrays of the batch: per change set of the transaction ``origins``, ``from_hlcs``,
    ``to_hlcs`` (int8[]) and ``contexts`` (int8[][], second index the node id); ``members`` (int4[] literal: the change
    set of each row, NULL for the first), ``accepted`` (text[] literal: xmin by position, '' for "no row", NULL for "not
    accepted"), ``first``/``last`` (positions)."""
    return _Merge(spec, shape).statement()


def seen_statement(spec: TableSpec, shape: Shape) -> Statement:
    """Merges the ``seen`` sums of deleted and re-inserted rows into the counter table; run after the merge statement,
    which must still see the older ``base`` sums. Only needed when a batch carries ``seen``."""
    parameters = Parameters()
    columns = tuple(c for c in spec.counters if c.attnum in shape.attnums)
    extra = tuple((f"seen:{c.attnum}", "text") for c in columns)
    text = staged(spec, shape, parameters, extra)
    upsert = counters.upsert_seen(spec, columns, "p.op IN ('D', 'I', 'R')")
    return parameters.statement(f"WITH p AS (\n    {text}\n)\n{upsert}")


def check_statement(spec: TableSpec) -> Statement:
    """The dirty rows of a batch: ``ord``, ``xmin`` ('' when there is no user row); writes nothing."""
    parameters = Parameters()
    on_state, on_user = key_match(spec, "g")
    keys = staged_keys(spec, parameters)
    accepted = parameters.text("accepted")
    return parameters.statement(
        f"WITH k AS (\n    {keys}\n), g AS (SELECT k.*, a.accepted FROM k LEFT JOIN"
        f" unnest({accepted}::text[]) WITH ORDINALITY AS a(accepted, ord) USING (ord))\n"
        "SELECT g.ord, coalesce(t.xmin::text, '') AS xmin\n"
        f"FROM g LEFT JOIN {row_table(spec)} AS s ON {on_state}\n"
        f"LEFT JOIN {qualified_user_table(spec)} AS t ON {on_user}\nWHERE {DIRTY} ORDER BY g.ord"
    )


def restamp_statement(spec: TableSpec) -> Statement:
    """After a merge below a savepoint: row states learn the sub-transaction's xid of the user rows that it wrote. Only
    states stamped by this transaction are touched; their user rows are its own, so nobody else's xid can be taken."""
    parameters = Parameters()
    on_state, on_user = key_match(spec, "g")
    return parameters.statement(
        f"WITH g AS (\n    {staged_keys(spec, parameters)}\n)\n"
        f"UPDATE {row_table(spec)} AS s SET row_xmin = t.xmin\n"
        f"FROM g JOIN {qualified_user_table(spec)} AS t ON {on_user}\n"
        f"WHERE {on_state} AND s.row_xmin = pg_current_xact_id()::xid AND t.xmin IS DISTINCT FROM s.row_xmin"
    )


def lock_statement(spec: TableSpec) -> Statement:
    """Locks the user rows of a batch in key order, as a local UPDATE of non-key columns would; returns their number."""
    parameters = Parameters()
    _, on_user = key_match(spec, "g")
    order = ", ".join(f"g.k_{c.attnum}" for c in spec.key)
    keys = staged_keys(spec, parameters)
    return parameters.statement(
        f"WITH g AS MATERIALIZED (\n    {keys}\n)\n"
        f"SELECT 1 FROM g JOIN {qualified_user_table(spec)} AS t ON {on_user} ORDER BY {order} FOR NO KEY UPDATE OF t"
    )


__all__ = [
    "check_statement",
    "counter_table",
    "lock_statement",
    "merge_statement",
    "restamp_statement",
    "seen_statement",
]
