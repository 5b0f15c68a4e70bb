"""What a state merge writes down of writes that did not know of each other.

A dot that the other node's clock does not cover was unknown there, and the other way round; so two writes of which
either side knows one alone are concurrent. The records are those of the merge of change sets (:mod:`.conflicts`,
:mod:`.column_conflicts`), under the same ids: whichever way a node learns of a conflict, and however often, it is one.
Where one side had both writes already, the conflict was recorded there. Rows with commits that the other node had not
captured are left out: their values may be newer than their dots, and come again with a change set. Removals from sets
and maps leave nothing in a state by which they could be told.
"""

from __future__ import annotations

from sidecar.core.catalog import ColumnSpec, TableSpec, quote_literal
from sidecar.core.merge import liveness, siblings
from sidecar.core.merge.identity import conflict_id, row_key_json


class StateConflicts:
    """Fragments over a row before (``q``) and after it was decided (``p``). ``own`` and ``other`` are the clocks,
    int8[] by node."""

    def __init__(self, spec: TableSpec, own: str, other: str) -> None:
        self._spec = spec
        self._own = own
        self._other = other
        self._registers = [c for c in spec.registers if not c.is_sibling]

    def flag(self, row: str) -> str:
        """Whether anything in the row may have been written on both sides."""
        several = [f"{row}.js_{c.attnum} IS NOT NULL" for c in self._spec.siblings]
        found = [self._concurrent(c, row) for c in self._registers] + [self._deleted(row), self._written(row)] + several
        return f"({row}.here AND NOT {row}.uncaptured AND ({' OR '.join(found)}))"

    def insert(self, due: str) -> str:
        """Records them; ``due`` says whether the statement writes at all."""
        rows = [self._register(column) for column in self._registers]
        rows += [self._siblings(column) for column in self._spec.siblings] + self._rows()
        key = row_key_json(self._spec, "p")
        of_what = "CASE WHEN c.name IS NULL THEN 'row' ELSE c.kind END"
        uuid = conflict_id(self._spec, key, "c.name", of_what, "NULL", ("c.node", "c.hlc"), ("c.o_node", "c.o_hlc"))
        fields = ("node", "hlc", "value", "vector")
        winner = ", ".join(f"CASE WHEN c.wins THEN c.{name} ELSE c.o_{name} END" for name in fields)
        loser = ", ".join(f"CASE WHEN c.wins THEN c.o_{name} ELSE c.{name} END" for name in fields)
        named = ", ".join(["name", "rule", "kind", "wins", *fields, *(f"o_{name}" for name in fields)])
        union = "\n      UNION ALL ".join(rows)
        return (
            "INSERT INTO crdt_state.conflict (id, table_id, row_key, column_name, rule, kind, winner_node, winner_hlc,"
            " winner_value, winner_vector, loser_node, loser_hlc, loser_value, loser_vector)\n"
            f"    SELECT {uuid}, {self._spec.table_id}, {key}, c.name, c.rule, c.kind,\n"
            f"      {winner},\n      {loser}\n"
            f"    FROM p, LATERAL ({union})\n      AS c({named})\n"
            f"    WHERE p.concurrent AND c.value IS DISTINCT FROM c.o_value AND {due}\n"
            "    ON CONFLICT (id) DO NOTHING RETURNING 1"
        )

    def _unknown(self, clock: str, node: str, hlc: str) -> str:
        return f"{hlc} > coalesce(({clock})[{node}], 0)"

    def _both_unknown(self, there: tuple[str, str], here: tuple[str, str]) -> str:
        return f"({self._unknown(self._own, *there)} AND {self._unknown(self._other, *here)})"

    def _concurrent(self, column: ColumnSpec, row: str) -> str:
        n = column.attnum
        return self._both_unknown((f"{row}.in_{n}", f"{row}.ih_{n}"), (f"{row}.sn_{n}", f"{row}.sh_{n}"))

    def _deleted(self, row: str) -> str:
        """Deleted over there, written and there here."""
        dots = (f"{row}.in_dead_node", f"{row}.in_dead_hlc"), (f"{row}.s_live_node", f"{row}.s_live_hlc")
        return f"({row}.present AND {self._both_unknown(*dots)})"

    def _written(self, row: str) -> str:
        dots = (f"{row}.in_live_node", f"{row}.in_live_hlc"), (f"{row}.s_dead_node", f"{row}.s_dead_hlc")
        return f"({row}.there AND {self._both_unknown(*dots)})"

    def _register(self, column: ColumnSpec) -> str:
        n = column.attnum
        return (
            f"SELECT {_named(column)}, p.win_{n},"
            f" p.in_{n}, p.ih_{n}, p.iv_{n}, array_cat(ARRAY[p.in_{n}, p.ih_{n}], p.ivec_{n}),"
            f" p.sn_{n}::int8, p.sh_{n}, p.hv_{n}, array_cat(ARRAY[p.sn_{n}::int8, p.sh_{n}], p.sv_{n})"
            f" WHERE {self._concurrent(column, 'p')}"
        )

    def _siblings(self, column: ColumnSpec) -> str:
        """Each write of the other node against each one here."""
        n = column.attnum
        there = f"coalesce(p.isib_{n}, jsonb_build_array(jsonb_build_array(p.in_{n}, p.ih_{n}, p.iv_{n})))"
        here = f"coalesce(p.sib_{n}, jsonb_build_array(jsonb_build_array(p.sn_{n}, p.sh_{n}, p.hv_{n})))"
        # What one write among several had seen nobody here knows.
        alone = (
            f"CASE WHEN p.isib_{n} IS NULL THEN array_cat(ARRAY[p.in_{n}, p.ih_{n}], p.ivec_{n}) END",
            f"CASE WHEN p.sib_{n} IS NULL THEN array_cat(ARRAY[p.sn_{n}::int8, p.sh_{n}], p.sv_{n}) END",
        )
        sides = zip(("x.value", "y.value"), alone, strict=True)
        one, other = (f"({x} -> 0)::int8, ({x} -> 1)::int8, {x} ->> 2, {vector}" for x, vector in sides)
        newer = "((x.value -> 1)::int8, (x.value -> 0)::int8) > ((y.value -> 1)::int8, (y.value -> 0)::int8)"
        one_value, other_value = (f"({x}.value ->> 2)::{column.cast_name}" for x in "xy")
        wins = siblings.shown_of_two(column, one_value, other_value, newer)
        known = self._both_unknown(
            ("(x.value -> 0)::int8", "(x.value -> 1)::int8"), ("(y.value -> 0)::int8", "(y.value -> 1)::int8")
        )
        return (
            f"SELECT {_named(column)}, {wins}, {one}, {other}"
            f" FROM jsonb_array_elements({there}) AS x, jsonb_array_elements({here}) AS y WHERE {known}"
        )

    def _rows(self) -> list[str]:
        head = f"SELECT NULL::text, {quote_literal(f'row={self._spec.row_rule}')}"
        there, here = (
            {kind: (f"p.{side}_{kind}_hlc", f"p.{side}_{kind}_node") for kind in ("live", "dead")}
            for side in ("in", "s")
        )
        kept, came = (
            liveness.write_wins(self._spec, written, deleted)
            for written, deleted in ((here["live"], there["dead"]), (there["live"], here["dead"]))
        )
        return [
            f"{head}, {liveness.record_kind(kept, came=False)}, NOT {kept},"
            f" p.in_dead_node, p.in_dead_hlc, 'deleted', NULL::int8[],"
            f" p.s_live_node::int8, p.s_live_hlc, 'written', NULL::int8[] WHERE {self._deleted('p')}",
            f"{head}, {liveness.record_kind(came, came=True)}, {came},"
            f" p.in_live_node, p.in_live_hlc, 'written', NULL::int8[],"
            f" p.s_dead_node::int8, p.s_dead_hlc, 'deleted', NULL::int8[] WHERE {self._written('p')}",
        ]


def _named(column: ColumnSpec) -> str:
    return f"{quote_literal(column.name)}, {quote_literal(column.crdt)}, 'overwrite'"
