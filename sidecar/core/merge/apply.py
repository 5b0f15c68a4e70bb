"""The merge statement: one per table and batch merges staged remote changes into row states and user rows.

Reads as: ``g`` staged rows -> ``j`` with the row state ``s`` and the user row ``t`` looked up -> ``p`` decided, and
kept for the parts that write -> ``go`` what there is to do -> ``del``, ``upd``, ``ins`` on the user's table -> state,
counters, conflicts -> one summary row. Nothing is written when any row is not clean (invariant 4); then the summary
names the dirty rows by position and xmin. A row that the caller has seen with the same xmin before capture passed the
log is accepted as clean (parameter ``accepted``).

A part for which ``go`` counts no row does not run at all. ``p`` is written once and read by every part that runs, so it
holds flags first (filters look at no more than those) and nothing that a part can find by tuple id: the statement's
snapshot shows the rows there as they were, also after another part wrote them.

The writing parts run in the order in which the summary asks for them: deletes, updates, inserts. So a unique value that
one row gives up can be taken by another within the same batch.

User rows are touched by ctid *and* xmin. PostgreSQL re-evaluates both after a lock wait (READ COMMITTED), so a local
commit that slips in makes the row drop out and the counts differ.
"""

from __future__ import annotations

import re

from sidecar.core.catalog import ColumnSpec, TableSpec, quote, quote_literal
from sidecar.core.merge import counters, elements, liveness, multivalue, registers
from sidecar.core.merge.clean import looked_up, looked_up_columns, seen
from sidecar.core.merge.conflicts import conflict_insert
from sidecar.core.merge.multivalue import MultiValue
from sidecar.core.merge.quarantine import absent_insert, json_object
from sidecar.core.merge.staging import Parameters, Shape, Statement, staged
from sidecar.core.merge.state_tables import qualified_user_table, row_table
from sidecar.core.merge.unique import parked_columns

# A subquery with it stays one: what it computes is computed once per row, not wherever its columns are mentioned.
FENCE = "OFFSET 0"


class _Merge:
    """Collects the text of one merge statement."""

    def __init__(self, spec: TableSpec, shape: Shape) -> None:
        self.spec = spec
        self.shape = shape
        self.parameters = Parameters()
        self.origins = self.parameters.numbers("origins")
        self.contexts = self.parameters.numbers("contexts")
        self.registers = [c for c in spec.registers if c.attnum in shape.attnums and not c.is_sibling]
        self.multi = MultiValue(spec, shape)
        self.carried_counters = [c for c in spec.counters if c.attnum in shape.attnums]
        self.parked = parked_columns(spec) if shape.reinsert else ()
        self.in_place = ("U", "X") if self.parked else ("U",)
        self.taken_out = ("D",) if self.parked else ("D", "X")
        self.put_in = ("I",) if self.parked else ("I", "X")

    @property
    def covered(self) -> str:
        """Whether the context of the change in ``row`` covers the dot ``(hlc, node)``, to be filled in."""
        context = f"coalesce(({self.contexts})[{{row}}.member][{{node}}], 0)"
        return f"({{node}} = {{row}}.origin OR {{hlc}} <= {context})"

    @property
    def row_context(self) -> str:
        """The context of the change in ``j`` as int8[] by node."""
        return f"ARRAY(SELECT unnest(({self.contexts})[j.member:j.member]))"

    def staged(self) -> str:
        extra = (
            ("accepted", "text"),
            ("members", "int4"),
            *((f"seen:{c.attnum}", "text") for c in self.carried_counters if self.shape.full),
        )
        # In the order of the keys, lookups and writes find the same pages of indexes and tables again and again.
        order = ", ".join(f"k_{c.attnum}" for c in self.spec.key)
        return f"{staged(self.spec, self.shape, self.parameters, extra)} ORDER BY {order}"

    def joined(self) -> str:
        select = [
            "g.*",
            "coalesce(g.members, 1) AS member",
            f"({self.origins})[coalesce(g.members, 1)] AS origin",
            *looked_up_columns(self.spec, locked=self.parameters.number("locked")),
        ]
        for column in self.registers:
            select += registers.joined(column)
        for column in self.spec.counters:
            select += counters.joined(column)
        select += self.multi.joined()
        rows = f"SELECT {_list(select)}\n    FROM g {looked_up(self.spec)}\n    {FENCE}"
        return self.multi.merged(rows, self.row_context.replace("j.", "h."), self.covered, FENCE)

    def versions(self) -> list[str]:
        """The row's dots after the merge. In a narrow shape nothing is inserted or deleted (see :class:`Shape`)."""
        live = registers.dot_at_least("j.hlc", "j.origin", "j.s_live_hlc", "j.s_live_node")
        live_wins = f"j.op {'IN (' + WRITES + ')' if self.shape.full else '= ' + UPDATE} AND {live}"
        out = [
            f"CASE WHEN {live_wins} THEN j.hlc ELSE j.s_live_hlc END AS live_hlc",
            f"CASE WHEN {live_wins} THEN j.origin ELSE j.s_live_node END AS live_node",
        ]
        if not self.shape.full:
            return [*out, "j.s_dead_hlc AS dead_hlc", "j.s_dead_node AS dead_node"]
        dead = registers.dot_at_least("j.hlc", "j.origin", "j.s_dead_hlc", "j.s_dead_node")
        dead_wins = f"j.op = 'D' AND (j.s_dead_hlc IS NULL OR {dead})"
        # An earlier part of the same transaction deleted the row; the dot of both is the same.
        again = f"(j.op IN ({INSERTS}) AND j.hlc = j.s_dead_hlc AND j.origin = j.s_dead_node)"
        row = registers.dot_at_least("j.ins", "j.origin", "j.s_row_hlc", "j.s_row_node")
        row_wins = f"j.op IN ({INSERTS}) AND {row}"
        return [
            *out,
            f"CASE WHEN {dead_wins} THEN j.hlc WHEN {again} THEN NULL ELSE j.s_dead_hlc END AS dead_hlc",
            f"CASE WHEN {dead_wins} THEN j.origin WHEN {again} THEN NULL ELSE j.s_dead_node END AS dead_node",
            f"CASE WHEN {row_wins} THEN j.ins ELSE j.s_row_hlc END AS rv_hlc",
            f"CASE WHEN {row_wins} THEN j.origin ELSE j.s_row_node END AS rv_node",
        ]

    def row_conflict(self) -> str:
        """Whether a delete met a write that it had not seen, or the other way round."""
        dead_covered = self.covered.format(row="j", hlc="j.s_dead_hlc", node="j.s_dead_node")
        revived = f"j.op <> 'T' AND {liveness.delete_unseen(self.spec, 'j', dead_covered, self.row_context)}"
        if not self.shape.full:
            return revived
        live_covered = self.covered.format(row="j", hlc="j.s_live_hlc", node="j.s_live_node")
        unseen = liveness.write_unseen(self.spec, "j", live_covered, self.row_context)
        deleted = f"j.s_ctid IS NOT NULL AND {liveness.was_alive(self.spec, 'j')} AND {unseen}"
        return f"CASE WHEN j.op = 'D' THEN {deleted} ELSE {revived} END"

    def decided(self) -> str:
        versions = [*self.versions(), f"{self.row_conflict()} AS conf_row"]
        versions += liveness.decided(self.spec, "j", self.row_context)
        for column in self.registers:
            versions += registers.decided(column)
        for column in self.spec.counters:
            carried = column.attnum in self.shape.attnums
            versions += counters.decided(self.spec, column, carried=carried, with_seen=self.shape.full)
        inner = f"SELECT j.*, {_list(versions)}\n      FROM j {FENCE}"
        alive = liveness.alive_after(self.spec, "v")
        middle = f"SELECT v.*, {alive} AS alive FROM (\n      {inner}) AS v {FENCE}"
        # A unique value is mostly free again when rows are written in the order in which the origin wrote them.
        order = " ORDER BY q.ord" if self.spec.unique else ""
        flags, values = self.kept()
        within = f"{self.multi.any_conflict('q')} AS within,\n      " if self.multi.columns else ""
        return (
            f"SELECT {self.action()} AS act,\n      {self.any_conflict()} AS concurrent,\n      {within}"
            f"{', '.join(f'q.{name}' for name in flags)},\n      {', '.join(f'q.{name}' for name in values)},\n"
            f"      {self.image()} AS new_image, {seen('q')} AS seen\n    FROM ({middle}) AS q{order}"
        )

    def kept(self) -> tuple[list[str], list[str]]:
        """The columns of ``p`` besides what is computed last: what is never NULL first, because a reader finds such a
        column at a fixed place."""
        flags = ["op", "dirty", "present", "alive", "conf_row"]
        values = ["member", "ord", "hlc", "origin", "live_hlc", "live_node"]
        values += ["rv_hlc", "rv_node"] if self.shape.full else []
        values += [f"k_{c.attnum}" for c in self.spec.key]
        values += ["s_ctid", "t_ctid", "t_xmin"]
        for column in self.registers:
            more_flags, more_values = registers.kept(column, old=self.shape.reinsert)
            flags, values = flags + more_flags, values + more_values
        for column in self.spec.counters:
            more_flags, more_values = counters.kept(column, carried=column.attnum in self.shape.attnums)
            flags, values = flags + more_flags, values + more_values
        more_flags, more_values = self.multi.kept(old=self.shape.reinsert)
        flags, values = flags + more_flags, values + more_values
        values += ["dead_hlc", "dead_node"] if self.shape.full else []
        values += liveness.kept(self.spec)
        return flags, [*values, "image"]

    def any_conflict(self) -> str:
        columns = [
            registers.concurrent(c, "q", f"q.sh_{c.attnum}", f"q.sn_{c.attnum}", self.covered) for c in self.registers
        ]
        # Nobody has written a row without state, so most inserts need no look at the context.
        columns = [f"q.s_ctid IS NOT NULL AND ({' OR '.join(columns)})"] if columns else []
        columns += [counters.saturated(c, "q") for c in self.carried_counters]
        return f"({' OR '.join(['q.conf_row', *columns])})"

    def action(self) -> str:
        changes = [f"q.win_{c.attnum}" for c in self.registers] + [counters.changed(c) for c in self.spec.counters]
        changes += [multivalue.changed(c, "q") for c in self.multi.columns]
        changed = " OR ".join(changes) or "false"
        update = f"WHEN q.alive AND q.present THEN CASE WHEN {changed} THEN {_act('U')} ELSE {_act('N')} END"
        if self.shape.reinsert:
            unique = {name for index in self.spec.unique for name in index}
            moves = [
                f"q.win_{c.attnum} AND q.val_{c.attnum} IS DISTINCT FROM q.old_{c.attnum}"
                for c in self.registers
                if c.name in unique
            ]
            moves += [multivalue.moves(c, "q") for c in self.multi.columns if c.name in unique]
            update = f"WHEN q.alive AND q.present AND ({' OR '.join(moves) or 'false'}) THEN {_act('X')} {update}"
        return (
            f"CASE {update}\n        WHEN q.alive THEN CASE WHEN {self.lost()} THEN {_act('M')} ELSE {_act('I')} END"
            f" WHEN q.present THEN {_act('D')} ELSE {_act('N')} END"
        )

    def lost(self) -> str:
        """Whether a row that comes (back) needs values that are not here."""
        if not self.shape.full:
            return "q.image IS NULL"
        return f"q.image IS NULL AND (q.op NOT IN ({INSERTS}) OR {self.outlived()})"

    def outlived(self) -> str:
        """Whether an insert, which brings a value for every column, leaves another write that counts. Over a row that
        went with a TRUNCATE here, that one's value is lost."""
        counts = [f"q.sh_{c.attnum} > 0 AND NOT q.win_{c.attnum}" for c in self.registers]
        counts += [f"q.nsib_{c.attnum} IS NOT NULL" for c in self.multi.siblings]
        return f"q.s_ctid IS NOT NULL AND ({' OR '.join(counts) or 'false'})"

    def image(self) -> str:
        """The tombstone image after the merge; NULL while the row is alive, and where nobody here knows the whole."""
        changes = [registers.image_patch(c, "q") for c in self.registers]
        changes += [multivalue.image_patch(c, "q") for c in self.multi.columns]
        before = "q.image"
        if self.shape.full:
            before = (
                f"coalesce(q.image, CASE WHEN q.ins IS NOT NULL AND NOT ({self.outlived()}) THEN '{{}}'::jsonb END)"
            )
        patches = " || ".join([before, *changes])
        if not self.shape.full:
            return f"CASE WHEN NOT q.alive THEN {patches} END"
        entries = [registers.image_entry(c, "q") for c in self.registers]
        entries += [counters.image_entry(c, "q") for c in self.spec.counters if counters.loose(c)]
        entries += [multivalue.image_entry(c, "q") for c in self.multi.columns]
        return f"CASE WHEN q.alive THEN NULL WHEN q.present THEN {json_object(entries)} ELSE {patches} END"

    def source(self, text: str, where: str) -> str:
        """The decided rows that an UPDATE or DELETE joins, with the columns that ``text`` reads and no more: the server
        copies the whole joined row for each row that it writes, in case it waits for a lock and has to look again."""
        flags, values = self.kept()
        read = set(re.findall(r"\bp\.(\w+)", text))
        names = ", ".join(f"p.{name}" for name in ["act", *flags, *values, "new_image"] if name in read)
        return f"(SELECT {names} FROM p WHERE {where} {FENCE}) AS p"

    def user_statements(self) -> list[tuple[str, str]]:
        table = qualified_user_table(self.spec)
        same_row = "t.ctid = p.t_ctid AND t.xmin = p.t_xmin"
        taken_out = self.source(same_row, f"{_acts(self.taken_out)} AND {_due('planned_del')}")
        out = [("del", f"DELETE FROM {table} AS t USING {taken_out} WHERE {same_row} RETURNING 1")]
        assignments = [f"{quote(c.name)} = {self._updated(c)}" for c in self.registers]
        assignments += [f"{quote(c.name)} = {counters.new_value(c, 'p')}" for c in self.spec.counters]
        assignments += [f"{quote(c.name)} = p.ns_{c.attnum}" for c in self.multi.columns]
        if assignments:
            sets = _list(assignments)
            in_place = self.source(f"{sets} {same_row}", f"{_acts(self.in_place)} AND {_due('planned_upd')}")
            out.append(("upd", f"UPDATE {table} AS t SET {sets}\n    FROM {in_place} WHERE {same_row} RETURNING 1"))
        names = ", ".join(quote(c.name) for c in (*self.spec.key, *self.spec.columns))
        values = [f"p.k_{c.attnum}" for c in self.spec.key] + [self._inserted(c) for c in self.spec.columns]
        out.append(
            (
                "ins",
                f"INSERT INTO {table} ({names}) OVERRIDING SYSTEM VALUE\n    SELECT {_list(values)}\n"
                f"    FROM p WHERE {_acts(self.put_in)} AND {_due('planned_ins')} RETURNING 1",
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
        if column in self.multi.columns:
            return f"p.ns_{column.attnum}"
        if column.is_element:
            return elements.revived_value(column)
        revived = registers.revived_value(column, carried=column.attnum in self.shape.attnums)
        if not self.shape.reinsert:
            return revived
        return f"CASE WHEN p.act = 'X' THEN {registers.reinserted_value(column)} ELSE {revived} END"

    def state_values(self, *, exists: bool) -> dict[str, str]:
        """Column of the row state -> its value after the merge. A narrow shape neither inserts nor deletes rows, so it
        leaves the dots of those as they are."""
        values = {
            "live_node": "p.live_node::int2",
            "live_hlc": "p.live_hlc",
            "row_xmin": "CASE WHEN p.act IN ('U', 'I', 'X') THEN pg_current_xact_id()::xid"
            " WHEN p.alive AND p.present THEN p.t_xmin END",
            "image": "p.new_image",
        }
        row_dot = ("s.row_hlc", "s.row_node") if exists else ("0", "0")
        if self.shape.full:
            row_dot = ("p.rv_hlc", "p.rv_node")
            values.update(dead_node="p.dead_node::int2", dead_hlc="p.dead_hlc")
        if self.shape.full or not exists:
            values.update(row_hlc=row_dot[0], row_node=f"{row_dot[1]}::int2")
        values.update(liveness.state_values(self.spec))
        for column in self.registers:
            state = registers.state_values(column, row_dot, exists=exists, row_may_change=self.shape.full)
            values.update(state)
        for column in self.spec.counters:
            values[f"x_{column.attnum}"] = counters.state_value(column)
        values.update(self.multi.state_values(row_dot, exists=exists, row_may_change=self.shape.full))
        return values

    def state_statements(self) -> list[tuple[str, str]]:
        table, values = row_table(self.spec), self.state_values(exists=False)
        sets = _list([f"{name} = {value}" for name, value in self.state_values(exists=True).items()])
        keys = [f"k_{c.attnum}" for c in self.spec.key]
        same_row = "s.ctid = p.s_ctid"
        known = self.source(f"{sets} {same_row}", f"p.s_ctid IS NOT NULL AND {_due('known')}")
        return [
            ("st_upd", f"UPDATE {table} AS s SET {sets}\n    FROM {known} WHERE {same_row}"),
            (
                "st_ins",
                f"INSERT INTO {table} ({', '.join([*keys, *values])})\n"
                f"    SELECT {_list([*(f'p.{key}' for key in keys), *values.values()])}\n"
                f"    FROM p WHERE p.s_ctid IS NULL AND p.act <> 'M' AND {_due('unknown')}",
            ),
        ]

    def missing(self) -> str:
        pairs = [f"{quote_literal(c.name)}, p.val_{c.attnum}::text" for c in self.registers]
        pairs += [f"{quote_literal(c.name)}, p.d_{c.attnum}::text" for c in self.carried_counters]
        return absent_insert(self.spec, pairs + self.multi.pairs(), self.parameters, _due("absent"))

    def to_do(self) -> str:
        """One row: is everything clean, and how many rows each part will find."""
        within = " count(*) FILTER (WHERE within) AS within," if self.multi.columns else ""
        return (
            "SELECT count(*) AS staged, NOT coalesce(bool_or(dirty), false) AS clean,\n"
            f"      count(*) FILTER (WHERE {_acts(self.taken_out)}) AS planned_del,\n"
            f"      count(*) FILTER (WHERE {_acts(self.in_place)}) AS planned_upd,\n"
            f"      count(*) FILTER (WHERE {_acts(self.put_in)}) AS planned_ins,\n"
            "      count(*) FILTER (WHERE act = 'M') AS absent, count(*) FILTER (WHERE concurrent) AS concurrent,"
            f"{within}\n"
            "      count(s_ctid) AS known, count(*) - count(s_ctid) AS unknown,\n"
            "      array_agg(ord) FILTER (WHERE NOT present AND NOT alive) AS vacant,\n"
            "      array_agg(ord) FILTER (WHERE dirty) AS dirty,\n"
            "      array_agg(seen) FILTER (WHERE dirty) AS dirty_seen\n"
            "    FROM p"
        )

    def statement(self) -> Statement:
        parts = [("g", self.staged()), ("j", self.joined()), ("p", self.decided()), ("go", self.to_do())]
        user, counted = self.user_statements(), []
        if self.carried_counters:
            columns = tuple(self.carried_counters)
            # A missing row (act M) is in quarantine as a whole, so its deltas do not count either.
            where = f"p.act <> 'M' AND {_due('staged')}"
            counted = [("counted", counters.upsert_deltas(self.spec, columns, "p", "p.origin::int2", where))]
        conflicts = conflict_insert(
            self.spec, self.registers, self.carried_counters, self.covered, self.contexts, _due("concurrent")
        )
        notes = [("conflicts", conflicts), ("missing", self.missing())]
        if self.multi.columns:
            notes.append(("within", self.multi.conflicts(self.contexts, _due("within"))))
        texts = [
            f"{name} AS {'MATERIALIZED ' if name in ('p', 'go') else ''}(\n    {text}\n)"
            for name, text in [*parts, *user, *self.state_statements(), *counted, *notes]
        ]
        counts = ", ".join(f"(SELECT count(*) FROM {name}) AS {name}" for name, _ in [*user, *notes])
        return self.parameters.statement("WITH " + ", ".join(texts) + f"\n{SUMMARY.format(counts=counts)}")


SUMMARY = "SELECT {counts},\n  staged, planned_del, planned_upd, planned_ins, vacant, dirty, dirty_seen\nFROM go"

UPDATE = "'U'"
INSERTS = "'I', 'R'"
WRITES = "'I', 'U', 'R'"


def _due(count: str) -> str:
    """Evaluated once per statement part (InitPlan): everything is clean, and there are rows for the part."""
    return f"(SELECT clean AND {count} > 0 FROM go)"


def _act(act: str) -> str:
    return f'{quote_literal(act)}::"char"'


def _acts(acts: tuple[str, ...]) -> str:
    return f"p.act IN ({', '.join(quote_literal(act) for act in acts)})"


def _list(items: list[str]) -> str:
    return ",\n      ".join(items)


def merge_statement(spec: TableSpec, shape: Shape) -> Statement:
    """Parameters besides the arrays of the batch: per change set of the transaction ``origins``, ``from_hlcs``,
    ``to_hlcs`` (int8[]) and ``contexts`` (int8[][], second index the node id); ``members`` (int4[] literal: the change
    set of each row, NULL for the first), ``accepted`` (text[] literal by position: what was seen, each as
    :data:`.clean.SEEN`, separated by spaces; '' for any absence, NULL for "not accepted"), ``first``/``last``
    (positions), ``locked`` (as for :func:`.clean.dirty`)."""
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
