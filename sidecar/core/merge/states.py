"""The state merge: whole row states of another node, staged (:mod:`.state_rows`), become part of this node's.

Two nodes' states have one least upper bound, whatever way led to them: registers by ``(hlc, node)``; siblings, sets and
maps by the ``*_join`` functions, where a dot that one side lacks was removed if that side's clock covers it; counters
by the maximum of each node's sums; the row by its rule. Merging the same states again changes nothing.

What genesis held in a counter is in no sum. It is the other node's true value less the value of its sums, and the
merged true value is that plus the value of the merged sums. A delete of the row has turned it into a sum of node 0, and
after a TRUNCATE it counts nowhere (:mod:`.genesis`).

Reads as the merge of change sets does (:mod:`.apply`): ``g`` staged -> ``j`` with row state ``s`` and user row ``t``
looked up -> ``p`` decided -> ``go`` -> user's table, row states, counters, conflicts -> one summary row. Nothing is
written when any row is not clean.
"""

from __future__ import annotations

from sidecar.core.catalog import ColumnSpec, TableSpec, quote, quote_literal
from sidecar.core.merge import counters, elements, genesis, liveness, registers, siblings
from sidecar.core.merge.apply import FENCE
from sidecar.core.merge.clean import SEEN_HERE, dirty, looked_up, looked_up_columns
from sidecar.core.merge.quarantine import json_object
from sidecar.core.merge.staging import Parameters, Statement
from sidecar.core.merge.state_conflicts import StateConflicts
from sidecar.core.merge.state_rows import stage
from sidecar.core.merge.state_tables import counter_table, image, qualified_user_table, row_table

_CLEAN = "(SELECT clean FROM go)"


class _States:
    """Collects the text of one statement."""

    def __init__(self, spec: TableSpec) -> None:
        self.spec = spec
        self.parameters = Parameters()
        self.assigned = [c for c in spec.columns if not c.is_counter]
        self.conflicts = StateConflicts(spec, self.own_clock, self.in_clock)

    @property
    def own_clock(self) -> str:
        return self.parameters.numbers("own_clock")

    @property
    def in_clock(self) -> str:
        return self.parameters.numbers("in_clock")

    def looked_up(self) -> str:
        select = [
            "g.*",
            "s.ctid IS NOT NULL OR t.ctid IS NOT NULL AS here",
            *looked_up_columns(self.spec, states=True),
        ]
        for column in self.spec.columns:
            n, name = column.attnum, quote(column.name)
            select.append(f"t.{name}::text AS old_{n}")
            if column.is_counter:
                select.append(f"{_own_sums(self.spec, column)} AS ss_{n}")
                continue
            hlc, node = registers.here(column)
            before = f"{image(self.spec, 's')} ->> {quote_literal(column.name)}"
            here = f"CASE WHEN t.ctid IS NULL THEN {before} ELSE t.{name}::text END"
            select += [f"{hlc} AS sh_{n}", f"{node} AS sn_{n}", f"{here} AS hv_{n}", f"s.v_{n} AS sv_{n}"]
            if column.is_sibling:
                select.append(f"s.sib_{n}")
            if column.is_element:
                select += [f"s.e_{n}", f"s.z_{n}"]
        return f"SELECT {_list(select)}\n    FROM {stage(self.spec)} AS g {looked_up(self.spec)}\n    {FENCE}"

    def joined(self) -> str:
        """The states of both sides joined, column by column."""
        select = ["j.*", *self.versions()]
        for column in self.spec.columns:
            n = column.attnum
            if column.is_counter:
                select.append(f"crdt_state.sums_join(j.ss_{n}, j.is_{n}) AS sums_{n}")
                continue
            win = registers.dot_at_least(f"j.ih_{n}", f"j.in_{n}", f"j.sh_{n}", f"j.sn_{n}")
            select.append(f"(NOT j.here OR {win}) AS win_{n}")
            if column.is_sibling:
                select.append(f"{self._joined_siblings(column)} AS js_{n}")
            if column.is_element:
                select.append(f"{self._joined_elements(column)} AS ne_{n}")
        return f"SELECT {_list(select)}\n    FROM (\n    {self.looked_up()}) AS j {FENCE}"

    def versions(self) -> list[str]:
        """The row's dots."""
        out = []
        for kind, name in (("row", "rv"), ("live", "live"), ("dead", "dead")):
            there = (f"j.in_{kind}_hlc", f"j.in_{kind}_node")
            here = (f"j.s_{kind}_hlc", f"j.s_{kind}_node")
            later = f"{there[0]} IS NOT NULL AND ({here[0]} IS NULL OR {registers.dot_at_least(*there, *here)})"
            out += [
                f"CASE WHEN {later} THEN {one} ELSE {other} END AS {name}_{part}"
                for part, one, other in zip(("hlc", "node"), there, here, strict=True)
            ]
        if liveness.rule_of(self.spec) is not None:
            joined = f"crdt_state.dot_pairs_join(j.s_row_dots, {self.own_clock}, j.in_dots, {self.in_clock})"
            out.append(f"CASE WHEN j.here THEN {joined} ELSE j.in_dots END AS row_dots")
        return out

    def _joined_siblings(self, column: ColumnSpec) -> str:
        """All writes that neither side has superseded; NULL where both have the same one."""
        n = column.attnum
        here = f"coalesce(j.sib_{n}, jsonb_build_array(jsonb_build_array(j.sn_{n}, j.sh_{n}, j.hv_{n})))"
        there = f"coalesce(j.isib_{n}, jsonb_build_array(jsonb_build_array(j.in_{n}, j.ih_{n}, j.iv_{n})))"
        same = f"j.isib_{n} IS NULL AND j.sib_{n} IS NULL AND j.ih_{n} = j.sh_{n} AND j.in_{n} = j.sn_{n}"
        joined = f"crdt_state.siblings_join({here}, {self.own_clock}, {there}, {self.in_clock})"
        return f"CASE WHEN NOT j.here THEN j.isib_{n} WHEN {same} THEN NULL ELSE coalesce({joined}, {there}) END"

    def _joined_elements(self, column: ColumnSpec) -> str:
        """NULL where nobody has written the column since genesis."""
        n = column.attnum
        here = f"coalesce(j.e_{n}, {elements.genesis(column, f'j.hv_{n}')})"
        there = f"coalesce(j.ie_{n}, {elements.genesis(column, f'j.iv_{n}')})"
        emptied = f"crdt_state.stamps_written(crdt_state.stamps_join({here}, {there}))"
        joined = f"CASE WHEN {genesis.truncated(self.spec)} THEN {emptied}"
        joined += f" ELSE crdt_state.stamps_join({here}, {there}) END"
        if column.crdt in elements.DOT_SETS:
            joined = f"crdt_state.dots_join({here}, {self.own_clock}, {there}, {self.in_clock})"
        untouched = f"NOT j.here OR j.e_{n} IS NULL AND j.ie_{n} IS NULL"
        return f"CASE WHEN {untouched} THEN j.ie_{n} ELSE {joined} END"

    def several(self) -> str:
        """Siblings, where there are several; the vectors; the counters' true values."""
        select = ["k.*"]
        for column in self.spec.columns:
            n = column.attnum
            if column.is_counter:
                first = f"k.it_{n} - crdt_state.sums_value(k.is_{n})"
                value = (
                    f"CASE WHEN {genesis.truncated(self.spec)} THEN crdt_state.sums_value(k.sums_{n} - '0')"
                    f" ELSE CASE WHEN k.sums_{n} ? '0' THEN 0 ELSE {first} END + crdt_state.sums_value(k.sums_{n}) END"
                )
                select.append(f"{value} AS true_{n}")
                if counters.loose(column):
                    alone = f"NOT EXISTS (SELECT FROM jsonb_object_keys(k.sums_{n}) AS o WHERE o <> '0')"
                    kept = f"k.rv_hlc = 0 AND k.imaged AND {alone} AND NOT {genesis.truncated(self.spec)}"
                    select.append(f"{kept} AS keep_{n}")
                continue
            winner = f"CASE WHEN k.win_{n} THEN k.in_{n} ELSE k.sn_{n} END"
            vectors = f"k.ivec_{n}, k.in_{n}, k.ih_{n}, k.sv_{n}, k.sn_{n}, k.sh_{n}"
            joined = f"crdt_state.vectors_join({vectors}, {winner})"
            select.append(f"CASE WHEN k.here THEN {joined} ELSE k.ivec_{n} END AS nv_{n}")
            if column.is_sibling:
                select.append(f"CASE WHEN jsonb_array_length(k.js_{n}) > 1 THEN k.js_{n} END AS nsib_{n}")
                select.append(f"false AS a_{n}")
            if column.is_element:
                select.append(f"CASE WHEN k.win_{n} THEN k.iz_{n} ELSE k.z_{n} END AS nz_{n}")
        text = f"SELECT {_list(select)}\n    FROM (\n    {self.joined()}) AS k {FENCE}"
        folds = [part for c in self.spec.siblings for part in siblings.folds(self.spec, c, "m")]
        return f"SELECT m.*, {_list(folds)}\n    FROM (\n    {text}) AS m {FENCE}" if folds else text

    def shown(self) -> str:
        """Text images of what the user row shows, and whether it is there."""
        select = ["v.*", f"{liveness.alive_after(self.spec, 'v')} AS alive"]
        for column in self.spec.columns:
            n = column.attnum
            value = f"CASE WHEN v.win_{n} THEN v.iv_{n} ELSE v.hv_{n} END"
            if column.is_counter:
                value = f"({counters.shown(column, f'v.true_{n}')})::text"
                if counters.loose(column):  # what nobody wrote keeps its looks, see counters.untouched
                    value = f"CASE WHEN v.keep_{n} THEN v.iv_{n} ELSE {value} END"
            elif column.is_sibling:
                value = (
                    f"CASE WHEN v.nsib_{n} IS NOT NULL THEN ({siblings.chosen(column, 'v')})::text"
                    f" WHEN v.js_{n} IS NOT NULL THEN v.js_{n} -> 0 ->> 2 ELSE {value} END"
                )
            elif column.is_element:
                state = elements.shown(column, f"v.ne_{n}", f"v.nz_{n}")
                value = f"CASE WHEN v.ne_{n} IS NULL THEN v.iv_{n} ELSE ({state})::text END"
            select.append(f"{value} AS ns_{n}")
        return f"SELECT {_list(select)}\n    FROM (\n    {self.several()}) AS v {FENCE}"

    def decided(self) -> str:
        changed = " OR ".join(f"q.ns_{c.attnum} IS DISTINCT FROM q.old_{c.attnum}" for c in self.spec.columns)
        act = (
            f"CASE WHEN q.alive AND q.present THEN CASE WHEN {changed or 'false'} THEN 'U' ELSE 'N' END"
            " WHEN q.alive THEN 'I' WHEN q.present THEN 'D' ELSE 'N' END"
        )
        known = "q.imaged OR q.present OR q.image IS NOT NULL"
        entries = [f"{quote_literal(c.name)}, q.ns_{c.attnum}" for c in self.assigned]
        entries += [f"{quote_literal(c.name)}, q.ns_{c.attnum}" for c in self.spec.counters if counters.loose(c)]
        image = f"CASE WHEN NOT q.alive AND ({known}) THEN {json_object(entries)} END"
        order = ", ".join(f"q.k_{c.attnum}" for c in self.spec.key)
        select = f"q.*, {act} AS act, {image} AS new_image, {self.conflicts.flag('q')} AS concurrent"
        return f"SELECT {select}\n    FROM (\n    {self.shown()}) AS q ORDER BY {order}"

    def user_statements(self) -> list[tuple[str, str]]:
        table = qualified_user_table(self.spec)
        same_row = f"t.ctid = p.t_ctid AND t.xmin = p.t_xmin AND {_CLEAN}"
        out = [("del", f"DELETE FROM {table} AS t USING p WHERE p.act = 'D' AND {same_row} RETURNING 1")]
        values = {quote(c.name): f"p.ns_{c.attnum}::{c.cast_name}" for c in self.spec.columns}
        if values:
            sets = _list([f"{name} = {value}" for name, value in values.items()])
            out.append(
                ("upd", f"UPDATE {table} AS t SET {sets}\n    FROM p WHERE p.act = 'U' AND {same_row} RETURNING 1")
            )
        values = {quote(c.name): f"p.k_{c.attnum}" for c in self.spec.key} | values
        out.append(
            (
                "ins",
                f"INSERT INTO {table} ({', '.join(values)}) OVERRIDING SYSTEM VALUE\n"
                f"    SELECT {_list([*values.values()])}\n"
                f"    FROM p WHERE p.act = 'I' AND {_CLEAN} RETURNING 1",
            )
        )
        return out

    def state_values(self) -> dict[str, str]:
        values = {
            "row_node": "p.rv_node::int2",
            "row_hlc": "p.rv_hlc",
            "live_node": "p.live_node::int2",
            "live_hlc": "p.live_hlc",
            "dead_node": "p.dead_node::int2",
            "dead_hlc": "p.dead_hlc",
            "row_xmin": "CASE WHEN p.act IN ('U', 'I') THEN pg_current_xact_id()::xid"
            " WHEN p.alive AND p.present THEN p.t_xmin END",
            "image": "p.new_image",
            **liveness.state_values(self.spec),
        }
        for column in self.spec.columns:
            n = column.attnum
            if column.is_counter:
                values[f"x_{n}"] = counters.state_value(column)
                continue
            hlc = f"CASE WHEN p.win_{n} THEN p.ih_{n} ELSE p.sh_{n} END"
            node = f"CASE WHEN p.win_{n} THEN p.in_{n} ELSE p.sn_{n} END"
            own = f"{hlc} = p.rv_hlc AND {node} = p.rv_node"
            values[f"n_{n}"] = f"CASE WHEN NOT ({own}) THEN ({node})::int2 END"
            values[f"h_{n}"] = f"CASE WHEN NOT ({own}) THEN {hlc} END"
            values[f"v_{n}"] = f"p.nv_{n}"
            if column.is_sibling:
                values[f"sib_{n}"] = f"p.nsib_{n}"
            if column.is_element:
                values[f"e_{n}"] = f"p.ne_{n}"
                values[f"z_{n}"] = f"p.nz_{n}"
        return values

    def state_statements(self) -> list[tuple[str, str]]:
        table, values = row_table(self.spec), self.state_values()
        sets = _list([f"{name} = {value}" for name, value in values.items()])
        differs = f"({', '.join(f's.{name}' for name in values)}) IS DISTINCT FROM ({', '.join(values.values())})"
        keys = [f"k_{c.attnum}" for c in self.spec.key]
        return [
            (
                "st_upd",
                f"UPDATE {table} AS s SET {sets}\n    FROM p WHERE s.ctid = p.s_ctid AND {_CLEAN} AND {differs}",
            ),
            (
                "st_ins",
                f"INSERT INTO {table} ({', '.join([*keys, *values])})\n"
                f"    SELECT {_list([*(f'p.{key}' for key in keys), *values.values()])}\n"
                f"    FROM p WHERE p.s_ctid IS NULL AND p.has_state AND {_CLEAN}",
            ),
        ]

    def sums(self) -> list[tuple[str, str]]:
        if not self.spec.counters:
            return []
        keys = [f"k_{c.attnum}" for c in self.spec.key]
        rows = ", ".join(f"({c.attnum}, p.is_{c.attnum}, p.ss_{c.attnum})" for c in self.spec.counters)
        entries = ", ".join(f"(e.value -> {i})::numeric" for i in range(len(counters.SUMS)))
        names = ", ".join([*keys, "attnum", "node", *counters.SUMS])
        greatest = ", ".join(f"{name} = greatest(c.{name}, excluded.{name})" for name in counters.SUMS)
        return [
            (
                "sums",
                f"INSERT INTO {counter_table(self.spec)} AS c ({names})\n"
                f"    SELECT {', '.join(f'p.{key}' for key in keys)}, v.attnum, e.key::int2, {entries}\n"
                f"    FROM p, LATERAL (VALUES {rows}) AS v(attnum, there, here), LATERAL jsonb_each(v.there) AS e\n"
                f"    WHERE {_CLEAN} AND e.value IS DISTINCT FROM v.here -> e.key\n"
                f"    ON CONFLICT ({', '.join(keys)}, attnum, node) DO UPDATE SET {greatest}",
            )
        ]

    def statement(self) -> Statement:
        go = (
            "SELECT count(*) AS staged, NOT coalesce(bool_or(dirty), false) AS clean,\n"
            "      count(*) FILTER (WHERE dirty) AS dirty,\n"
            "      count(*) FILTER (WHERE act = 'D') AS planned_del,\n"
            "      count(*) FILTER (WHERE act = 'U') AS planned_upd,\n"
            "      count(*) FILTER (WHERE act = 'I') AS planned_ins,\n"
            "      count(*) FILTER (WHERE concurrent) AS concurrent\n    FROM p"
        )
        user = self.user_statements()
        notes = [("conflicts", self.conflicts.insert("(SELECT clean AND concurrent > 0 FROM go)"))]
        parts = [("p", self.decided()), ("go", go), *user, *self.state_statements(), *self.sums(), *notes]
        texts = [f"{name} AS {'MATERIALIZED ' if name in ('p', 'go') else ''}(\n    {text}\n)" for name, text in parts]
        # The writing parts run in the order in which they are asked for here: a unique value is given up, then taken.
        counts = ", ".join(f"(SELECT count(*) FROM {name}) AS {name}" for name, _ in [*user, *notes])
        return self.parameters.statement("WITH " + ", ".join(texts) + f"\nSELECT {counts}, go.* FROM go")


def _own_sums(spec: TableSpec, column: ColumnSpec) -> str:
    keys = " AND ".join(f"c.k_{k.attnum} = g.k_{k.attnum}" for k in spec.key)
    entry = ", ".join(f"c.{name}" for name in counters.SUMS)
    return (
        f"(SELECT jsonb_object_agg(c.node, jsonb_build_array({entry})) FROM {counter_table(spec)} AS c"
        f" WHERE {keys} AND c.attnum = {column.attnum})"
    )


def _list(items: list[str]) -> str:
    return ",\n      ".join(items)


def merge_states_statement(spec: TableSpec) -> Statement:
    """Merges what is staged. Parameters: ``own_clock``, this node's, and ``in_clock``, the other node's as of its
    states (int8[] by node id). Returns how many rows were staged, how many were not clean, and per step on the user's
    table how many rows it was to write (``planned_*``) and wrote."""
    return _States(spec).statement()


def accept_statement(spec: TableSpec) -> str:
    """Notes what was seen of each staged row that is not clean: once capture has passed the log, it is."""
    return (
        f"UPDATE {stage(spec)} AS a SET accepted = d.seen FROM (SELECT g.ctid AS place,"
        f" {SEEN_HERE} AS seen FROM {stage(spec)} AS g {looked_up(spec)}\n"
        f"WHERE {dirty(spec, states=True)}) AS d WHERE a.ctid = d.place"
    )


def lock_staged_statement(spec: TableSpec) -> str:
    """Locks the user rows of what is staged, in key order, see :func:`.clean.lock_statement`."""
    first, *others = spec.key
    on_user = f"t.{quote(first.name)} = ANY (ARRAY[g.k_{first.attnum}])"
    on_user += "".join(f" AND t.{quote(c.name)} = g.k_{c.attnum}" for c in others)
    order = ", ".join(f"g.k_{c.attnum}" for c in spec.key)
    return (
        f"SELECT count(*) FROM (SELECT 1 FROM {stage(spec)} AS g JOIN {qualified_user_table(spec)} AS t ON {on_user}"
        f" ORDER BY {order} FOR NO KEY UPDATE OF t) AS locked"
    )
