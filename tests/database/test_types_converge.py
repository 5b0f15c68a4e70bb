"""Sets, maps and registers that keep siblings, from an application's UPDATE on one node to the tables of all nodes."""

from __future__ import annotations

import json
import random
from collections.abc import AsyncIterator
from typing import Any

import pytest
from node_harness import HarnessNode, cluster, converged

from sidecar.core.annotations import ROW_RULES

SCHEMA = """
CREATE TABLE items (
    id int PRIMARY KEY, tags text[], grown int[], whole text[], stamps numeric[], attrs jsonb, marks jsonb,
    choice text, top numeric, low text, cart jsonb NOT NULL DEFAULT '{}', note text
);
CREATE FUNCTION fuller(a jsonb, b jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$
    SELECT coalesce(jsonb_object_agg(k, greatest((a ->> k)::int, (b ->> k)::int)), '{}')
    FROM (SELECT jsonb_object_keys(a) UNION SELECT jsonb_object_keys(b)) AS u(k)
$$;
COMMENT ON COLUMN items.tags IS '@crdt(or_set)';
COMMENT ON COLUMN items.grown IS '@crdt(g_set)';
COMMENT ON COLUMN items.whole IS '@crdt(aw_set)';
COMMENT ON COLUMN items.stamps IS '@crdt(lww_set)';
COMMENT ON COLUMN items.attrs IS '@crdt(lww_map)';
COMMENT ON COLUMN items.marks IS '@crdt(or_set)';
COMMENT ON COLUMN items.choice IS '@crdt(mv_register)';
COMMENT ON COLUMN items.top IS '@crdt(max_register)';
COMMENT ON COLUMN items.low IS '@crdt(min_register)';
COMMENT ON COLUMN items.cart IS '@crdt(merge(public.fuller))';
INSERT INTO items VALUES
    (1, '{b,a}', '{10,9}', '{x,y}', '{1.0,2}', '{"k": 1.00, "n": null}', '[2, "b"]', 'g', 5, 'm', '{"a": 1}', 'n');
"""


@pytest.fixture
async def nodes(postgres_server, request: pytest.FixtureRequest) -> AsyncIterator[list[HarnessNode]]:  # type: ignore[no-untyped-def]
    rule = f"COMMENT ON TABLE items IS '@crdt(row={getattr(request, 'param', 'lww')})';"
    async with cluster(postgres_server, 3, SCHEMA + rule) as nodes:
        yield nodes


async def write(node: HarnessNode, *statements: str) -> None:
    """Each statement is a transaction, and a change set, of its own."""
    for statement in statements:
        await node.sql(statement)
        await node.captured()


async def shown(nodes: list[HarnessNode], column: str, key: int = 1) -> str | None:
    """The text on which all nodes agree."""
    await converged(nodes, "items")
    return await nodes[0].value(f"SELECT {column}::text FROM items WHERE id = {key}")


# (word's column, writes at the first node, at the second, what all show)
CASES = {
    "an add survives a concurrent removal of others": ("tags", "'{a}'", "'{b,a,c}'", "{a,c}"),
    "an unchanged element goes with its removal": ("tags", "'{a,c}'", "'{b,a,d}'", "{a,c,d}"),
    "a growing set keeps all, numbers in their order": ("grown", "'{10,7}'", "'{8}'", "{9,10,7,8}"),
    "a kept element was added anew": ("whole", "'{x}'", "'{x,y,z}'", "{x,y,z}"),
    "the later operation on an element": ("stamps", "'{2,3}'", "'{1.0,2,4}'", "{2,3,4}"),
    "keys are set on their own": (
        "attrs",
        """'{"k": 2, "n": null}'""",
        """'{"k": 1.00, "m": [1]}'""",
        '{"k": 2, "m": [1]}',
    ),
    "a jsonb array": ("marks", """'[2, "b", {"x": 1.0}]'""", "'[\"b\", 1]'", '["b", {"x": 1.0}, 1]'),
    "the highest sibling": ("choice", "'one'", "'two'", "two"),
    "the greatest": ("top", "9.5", "7", "9.5"),
    "the least by bytes": ("low", "'Z'", "'a'", "Z"),
    "the application's function": ("cart", """'{"a": 2}'""", """'{"b": 3}'""", '{"a": 2, "b": 3}'),
}


@pytest.mark.parametrize("case", CASES)
async def test_concurrent_writes(nodes: list[HarnessNode], case: str) -> None:
    column, one, other, expected = CASES[case]
    a, b, _ = nodes
    await write(a, f"UPDATE items SET {column} = {one} WHERE id = 1")
    await write(b, f"UPDATE items SET {column} = {other} WHERE id = 1")
    assert await shown(nodes, column) == expected


@pytest.mark.parametrize("column", ["tags", "whole", "stamps", "attrs", "marks"])
async def test_a_new_row_after_a_delete_has_what_the_delete_had_not_seen(nodes: list[HarnessNode], column: str) -> None:
    value, later, again, expected = {
        "attrs": (
            """'{"k": 1.00, "n": null}'""",
            """'{"k": 1.00, "n": null, "z": 1}'""",
            """'{"y": 2}'""",
            '{"y": 2, "z": 1}',
        ),
        "marks": ("'[2, \"b\"]'", "'[2, \"b\", 7]'", "'[9]'", "[7, 9]"),
        "stamps": ("'{1.0,2}'", "'{1.0,2,7}'", "'{9}'", "{7,9}"),
    }.get(column, ("'{a,b}'", "'{a,b,z}'", "'{y}'", "{z,y}"))
    a, b, _ = nodes
    await write(a, f"UPDATE items SET {column} = {value} WHERE id = 1")
    for node in nodes[1:]:
        await node.merge_from(a)
    await write(b, f"UPDATE items SET {column} = {later} WHERE id = 1")
    await write(a, "DELETE FROM items WHERE id = 1", f"INSERT INTO items (id, {column}) VALUES (1, {again})")
    found = await shown(nodes, column)
    if column == "whole":
        assert found == "{a,b,z,y}", "a write of an aw_set keeps what it holds"
    else:
        assert found == expected


VALUES: dict[str, list[str]] = {
    "tags": ["NULL", "'{}'", "'{a}'", "'{a,b}'", "'{b,c,a}'", "'{c,c,NULL}'"],
    "grown": ["NULL", "'{1}'", "'{2,1}'", "'{10,9}'"],
    "whole": ["NULL", "'{}'", "'{x}'", "'{y,x}'", "'{z}'"],
    "stamps": ["NULL", "'{}'", "'{1.0,1.00}'", "'{2}'", "'{2,3,1.0}'"],
    "attrs": ["NULL", "'{}'", "'3'", "'{\"k\": 1}'", '\'{"k": 1.0, "n": null}\'', '\'{"n": {"x": 1}, "m": 0}\''],
    "marks": ["NULL", "'[]'", "'{}'", "'[1, \"a\"]'", "'[1.0, [2]]'", "'[\"a\", 1, null]'"],
    "choice": ["NULL", "'p'", "'q'", "'r'"],
    "top": ["NULL", "1", "2", "10"],
    "low": ["NULL", "'B'", "'a'", "'ä'"],
    "cart": ["'{}'", "'{\"a\": 2}'", '\'{"a": 1, "b": 5}\'', "'{\"c\": 1}'", '\'{"a": "x"}\''],
    "note": ["NULL", "'1'", "'2'"],
}


@pytest.mark.parametrize(("seed", "nodes"), list(enumerate(ROW_RULES)), indirect=["nodes"])
async def test_random_writes_converge(nodes: list[HarnessNode], seed: int) -> None:
    """Any mix of types, inserts, deletes, batches and partial deliveries."""
    choose = random.Random(seed)
    for _ in range(25):
        node = choose.choice(nodes)
        held = choose.random() < 0.4
        if held:
            node.hold_capture()
        for _ in range(choose.randint(1, 4)):
            await node.sql(statement(choose))
        if held:
            await node.release_capture()
        await node.captured()
        for other in choose.sample(nodes, choose.randint(0, 3)):
            if other is not node:
                await other.merge_from(node, choose.choice([1, 2, None]))
        if choose.random() < 0.3:
            await node.rewrite()
    await converged(nodes, "items")
    assert [await node.quarantine() for node in nodes] == [[], [], []]
    assert await states(nodes[0]) == await states(nodes[1]) == await states(nodes[2])


def statement(choose: random.Random) -> str:
    key, kind = choose.randint(1, 3), choose.random()
    columns = choose.sample(sorted(VALUES), choose.randint(1, 4))
    values = [choose.choice(VALUES[name]) for name in columns]
    if kind < 0.15:
        return f"DELETE FROM items WHERE id = {key}"
    if kind < 0.35:
        return (
            f"INSERT INTO items (id, {', '.join(columns)}) VALUES ({key}, {', '.join(values)}) ON CONFLICT DO NOTHING"
        )
    sets = ", ".join(f"{name} = {value}" for name, value in zip(columns, values, strict=True))
    return f"UPDATE items SET {sets} WHERE id = {key}"


async def states(node: HarnessNode) -> list[Any]:
    """The element states and siblings, by key."""
    spec = node.table("items")
    names = ["k_1", *(f"e_{c.attnum}" for c in spec.elements), *(f"sib_{c.attnum}" for c in spec.siblings)]
    rows = await node.rows(f"SELECT {', '.join(names)} FROM crdt_state.row_{spec.table_id} ORDER BY k_1")
    return [[json.loads(value) if isinstance(value, str) else value for value in row] for row in rows]


TWICE = """
CREATE TABLE twice (id int PRIMARY KEY, note text, high numeric);
COMMENT ON COLUMN twice.note IS '@crdt(mv_register)';
COMMENT ON COLUMN twice.high IS '@crdt(max_register)';
INSERT INTO twice SELECT i, 'g', 0 FROM generate_series(1, 4) AS i;
"""


async def test_a_column_written_twice_by_one_transaction_in_parts_has_one_value(postgres_server) -> None:  # type: ignore[no-untyped-def]
    """The parts of a large transaction share its dot; the later write takes the place of the earlier one."""
    async with cluster(postgres_server, 3, TWICE, limits={"batch_rows_max": 2}) as nodes:
        a, b, _ = nodes
        await b.sql("UPDATE twice SET note = 'B', high = 5")
        await b.captured()
        async with a.app.transaction():
            await a.sql("UPDATE twice SET note = 'first', high = 100")
            await a.sql("UPDATE twice SET note = 'second', high = 1")
        await a.captured()
        (rows,) = await converged(nodes, "twice")
        assert [row.rpartition(",")[2] for row in rows] == ["5)"] * 4


UNFIT = """
CREATE FUNCTION joined(winner varchar, other varchar) RETURNS varchar LANGUAGE sql
    AS $$ SELECT winner || '+' || other $$;
CREATE FUNCTION summed(winner numeric, other numeric) RETURNS numeric LANGUAGE sql AS $$ SELECT winner + other $$;
CREATE TABLE unfit (id int PRIMARY KEY, short varchar(5), small numeric(3,1));
COMMENT ON COLUMN unfit.short IS '@crdt(merge(public.joined))';
COMMENT ON COLUMN unfit.small IS '@crdt(merge(public.summed))';
INSERT INTO unfit VALUES (1, 'g', 1);
"""


async def test_a_merged_value_that_does_not_fit_shows_the_latest_write(postgres_server) -> None:  # type: ignore[no-untyped-def]
    async with cluster(postgres_server, 2, UNFIT) as nodes:
        a, b = nodes
        await a.sql("UPDATE unfit SET short = 'aaaa', small = 60")
        await a.captured()
        b.state.hlc.observe(a.state.hlc.last)
        await b.sql("UPDATE unfit SET short = 'bbbb', small = 70")
        assert await converged(nodes, "unfit") == [["(1,bbbb,70.0)"]]
        for node in nodes:
            assert await node.quarantine() == []
            assert len([c for c in await node.conflicts() if c["kind"] == "merge_failed"]) == 2
