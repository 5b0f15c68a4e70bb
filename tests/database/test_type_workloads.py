"""Random histories over sets, maps and registers with siblings on three databases, against the oracle.

As :mod:`test_merge_histories`, with the columns of the types whose state is kept in jsonb.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from node_harness import HarnessNode, cluster, settle
from test_merge_histories import KEYS, STEPS, Workload

from tests.oracle import ElementWrite, Operation, expected, schema_of, set_write

SCHEMA = """
CREATE FUNCTION public.joined(winner text, other text) RETURNS text LANGUAGE sql AS 'SELECT winner || ''+'' || other';
CREATE TABLE doc (
    id int PRIMARY KEY, title text, note text, best text, least text, cart text, n int NOT NULL DEFAULT 0,
    tags text[], sizes int[], grown text[], flags numeric[], marks jsonb, prefs jsonb
);
COMMENT ON COLUMN doc.note IS '@crdt(mv_register)';
COMMENT ON COLUMN doc.best IS '@crdt(max_register)';
COMMENT ON COLUMN doc.least IS '@crdt(min_register)';
COMMENT ON COLUMN doc.cart IS '@crdt(merge(public.joined))';
COMMENT ON COLUMN doc.n IS '@crdt(pn_counter)';
COMMENT ON COLUMN doc.tags IS '@crdt(or_set)';
COMMENT ON COLUMN doc.sizes IS '@crdt(aw_set)';
COMMENT ON COLUMN doc.grown IS '@crdt(g_set)';
COMMENT ON COLUMN doc.flags IS '@crdt(lww_set)';
COMMENT ON COLUMN doc.marks IS '@crdt(or_set)';
COMMENT ON COLUMN doc.prefs IS '@crdt(lww_map)';
INSERT INTO doc VALUES
    (1, 'genesis', 'g', 'm', 'm', 'g', 10, '{b,a}', '{10,9}', '{x}', '{1.0,2}', '["b", 2]', '{"k": 1, "l": null}'),
    (2, 'genesis', NULL, NULL, NULL, NULL, 0, NULL, NULL, NULL, NULL, NULL, NULL);
"""
NULLS = dict.fromkeys(("note", "best", "least", "cart", "tags", "sizes", "grown", "flags", "marks", "prefs"))
GENESIS: dict[int, dict[str, Any]] = {
    1: {
        "title": "genesis",
        "note": "g",
        "best": "m",
        "least": "m",
        "cart": "g",
        "n": "10",
        "tags": ("b", "a"),
        "sizes": ("10", "9"),
        "grown": ("x",),
        "flags": ("1.0", "2"),
        "marks": ('"b"', "2"),
        "prefs": {"k": "1", "l": "null"},
    },
    2: {"title": "genesis", "n": "0", **NULLS},
}
REGISTERS = ("title", "note", "best", "least", "cart")
ARRAYS = {"tags": "abc", "sizes": ["1", "10", "9"], "grown": "xyz", "flags": ["1.0", "1.00", "-3"]}
MARKS = ("2", "10", '"b"', "true", "null")


def joined(winner: str | None, other: str | None) -> str | None:
    return None if winner is None or other is None else f"{winner}+{other}"


@pytest.fixture
async def nodes(postgres_server) -> AsyncIterator[list[HarnessNode]]:  # type: ignore[no-untyped-def]
    async with cluster(postgres_server, 3, SCHEMA) as nodes:
        yield nodes


class TypeWorkload(Workload):
    """Sets are written with NULL elements, twice the same, and in any order, as applications may."""

    async def row(self, node: HarnessNode, key: int) -> dict[str, Any] | None:
        arrays = ", ".join(f"{name}::text::text[] AS {name}" for name in ARRAYS)
        query = (
            f"SELECT {', '.join(REGISTERS)}, n::text, {arrays},"
            " CASE WHEN marks IS NOT NULL THEN crdt_state.json_elements(marks) END AS marks,"
            " CASE WHEN prefs IS NOT NULL"
            " THEN ARRAY(SELECT ARRAY[e.key, e.value::text] FROM jsonb_each(prefs) AS e) END AS prefs"
            " FROM doc WHERE id = $1"
        )
        row = await node.app.fetchrow(query, key)
        if row is None:
            return None
        values = {name: tuple(value) if isinstance(value, list) else value for name, value in row.items()}
        values["prefs"] = None if values["prefs"] is None else dict(values["prefs"])
        return values

    def insert(self, key: int) -> str:
        values = [self.text() for _ in REGISTERS] + [str(self.random.randrange(9))]
        values += [self.array(name, ()) for name in ARRAYS] + [self.marks(()), self.prefs({})]
        return f"INSERT INTO doc VALUES ({key}, {', '.join(values)})"

    def update(self, key: int, row: dict[str, Any]) -> str:
        sets = [f"{name} = {self.text()}" for name in REGISTERS if self.random.random() < 0.3]
        sets += [f"{name} = {self.array(name, row[name] or ())}" for name in ARRAYS if self.random.random() < 0.3]
        if self.random.random() < 0.3:
            sets.append(f"marks = {self.marks(row['marks'] or ())}")
        if self.random.random() < 0.3:
            sets.append(f"prefs = {self.prefs(row['prefs'] or {})}")
        if self.random.random() < 0.3:
            sets.append(f"n = n + {self.random.randrange(-5, 9)}")
        return f"UPDATE doc SET {', '.join(sets or ['title = title'])} WHERE id = {key}"

    def edited(self, old: tuple[str | None, ...], choices: Any) -> list[str | None] | None:
        """A set as an application may make it of another: NULL is a value, too."""
        new = [e for e in old if self.random.random() < 0.8]
        new += self.random.choices([*choices], k=self.random.randrange(3))
        self.random.shuffle(new)
        return None if self.random.random() < 0.1 else new

    def array(self, name: str, old: tuple[str | None, ...]) -> str:
        elements = self.edited(old, [*ARRAYS[name], None])
        if elements is None:
            return "NULL"
        return "'{" + ",".join("NULL" if e is None else e for e in elements) + "}'"

    def marks(self, old: tuple[str | None, ...]) -> str:
        elements = self.edited(old, MARKS)
        return "NULL" if elements is None else "'[" + ", ".join(map(str, elements)) + "]'"

    def prefs(self, old: dict[str, str]) -> str:
        keys = self.edited(tuple(old), "klm")
        if keys is None:
            return "NULL"
        pairs = {str(k): old.get(str(k)) if self.random.random() < 0.5 else None for k in keys}
        values = {k: v or self.random.choice(["1", "null", '{"q": [2]}']) for k, v in pairs.items()}
        return "'{" + ", ".join(f'"{k}": {v}' for k, v in values.items()) + "}'"

    def write_down(
        self,
        node: HarnessNode,
        hlc: int,
        kind: str,
        key: int,
        before: dict[str, Any],
        after: dict[str, Any],
        seen: dict[int, int],
    ) -> None:
        insert = kind == "insert"

        def changed(name: str) -> bool:
            return kind != "delete" and (insert or before[name] != after[name])

        assigned = {name: after[name] for name in REGISTERS if changed(name)}
        elements = {name: _set(before.get(name), after[name]) for name in (*ARRAYS, "marks") if changed(name)}
        if changed("prefs"):
            elements["prefs"] = ElementWrite(before.get("prefs"), after["prefs"])
        deltas = {"n": Decimal(after["n"]) - Decimal(before.get("n") or 0)} if changed("n") else {}
        if kind == "update" and not (assigned or elements or deltas):
            return
        self.operations.append(
            Operation(node.id, hlc, kind, "public.doc", key, assigned, deltas, seen, elements=elements)  # type: ignore[arg-type]
        )

    async def check(self) -> None:
        await settle(self.nodes)
        schema = schema_of(self.nodes[0].table("doc"))
        columns = schema["public.doc"]
        columns["cart"] = replace(columns["cart"], function=joined)
        want = expected(self.operations, schema, {"public.doc": GENESIS})["public.doc"]
        for node in self.nodes:
            got = {key: row for key in KEYS if (row := await self.row(node, key)) is not None}
            assert got == want, f"node {node.id}"
        states = []
        for node in self.nodes:
            table = f"crdt_state.row_{node.table('doc').table_id}"
            states.append(await node.rows(f"SELECT {_STATE} FROM {table} ORDER BY k_1"))
        assert states[1:] == states[:-1], "the states are equal, too"
        assert [await node.quarantine() for node in self.nodes] == [[], [], []]


_STATE = "k_1, " + ", ".join(f"sib_{n}" for n in range(3, 7)) + ", " + ", ".join(f"e_{n}, z_{n}" for n in range(8, 14))


def _set(old: tuple[str | None, ...] | None, new: tuple[str | None, ...] | None) -> ElementWrite:
    def named(value: tuple[str | None, ...] | None) -> list[str] | None:
        return None if value is None else [element for element in value if element is not None]

    return set_write(named(old), named(new))


@pytest.mark.parametrize("seed", range(8))
async def test_random_histories_end_as_the_oracle_says(nodes: list[HarnessNode], seed: int) -> None:
    workload = TypeWorkload(nodes, seed)
    for _ in range(STEPS):
        await workload.step()
    await workload.check()
