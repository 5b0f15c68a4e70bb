"""Rows that can never apply are put aside one by one; everything else of their change set is merged."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import pytest
from node_harness import HarnessNode, cluster

SCHEMA = """
CREATE TABLE item (id int PRIMARY KEY, name text, size int, likes int NOT NULL DEFAULT 0, code text UNIQUE);
COMMENT ON TABLE item IS '@crdt';
COMMENT ON COLUMN item.likes IS '@crdt(pn_counter)';
"""
ROWS = 500


@pytest.fixture
async def nodes(postgres_server) -> AsyncIterator[list[HarnessNode]]:  # type: ignore[no-untyped-def]
    async with cluster(postgres_server, 2, SCHEMA) as nodes:
        yield nodes


@pytest.mark.parametrize(
    ("local", "bad", "sqlstate"),
    [
        ("ALTER TABLE item ADD CHECK (size < 1000)", "1000", "23514"),
        ("ALTER TABLE item ALTER size SET NOT NULL", "NULL", "23502"),
        ("ALTER TABLE item ALTER size TYPE smallint", "100000", "22003"),
    ],
    ids=["check", "not null", "out of range"],
)
async def test_the_bad_row_alone_is_put_aside(nodes: list[HarnessNode], local: str, bad: str, sqlstate: str) -> None:
    a, b = nodes
    await a.sql(local)
    if "TYPE" in local:
        # The catalogue would refuse the table; the merge must survive it all the same.
        a.merger.forget_statements()
        spec = a.table("item")
        changed = tuple(
            type(c)(c.name, c.attnum, "smallint", "smallint", c.crdt, c.argument, c.not_null) if c.name == "size" else c
            for c in spec.columns
        )
        a.state.tables["public.item"] = type(spec)(
            spec.table_id,
            spec.schema,
            spec.name,
            spec.key,
            changed,
            spec.row_rule,
            spec.unique,
            spec.relation_oid,
            spec.key_index,
        )
    sizes = f"CASE i WHEN 321 THEN {bad} ELSE i END"
    await b.sql(f"INSERT INTO item SELECT i, 'n', {sizes}, 3 FROM generate_series(1, {ROWS}) AS i")
    await b.captured()
    [change_set] = await b.sets()
    result = await a.merge(change_set)
    assert result.quarantined == 1
    assert await a.value("SELECT count(*) FROM item") == ROWS - 1
    assert await a.value("SELECT hlc FROM crdt_state.clock WHERE node = 2") == change_set.header.to_hlc
    [kept] = await a.quarantine()
    assert (kept["sqlstate"], kept["origin"], kept["table_name"]) == (sqlstate, 2, "public.item")
    assert json.loads(kept["row_key"]) == {"id": "321"}
    values = json.loads(kept["change"])["values"]
    assert values["size"] == (None if bad == "NULL" else bad)
    assert values["likes"] == "3"
    assert kept["reason"]
    # What was merged beside it is clean for the next change.
    await b.sql("UPDATE item SET name = 'next', likes = likes + 1 WHERE id <> 321")
    await b.captured()
    assert (await a.merge((await b.sets())[-1])).quarantined == 0
    assert await a.value("SELECT count(*) FROM item WHERE name = 'next' AND likes = 4") == ROWS - 1


async def test_rows_that_come_again_in_a_later_part_are_merged_beside_a_bad_one(postgres_server) -> None:  # type: ignore[no-untyped-def]
    """Parts repeat rows. What was merged below a savepoint carries a sub-transaction's xid, and must not count as
    somebody else's write, or the change set would be tried for ever."""
    async with cluster(postgres_server, 2, SCHEMA, limits={"batch_rows_max": 50}) as (a, b):
        await a.sql("ALTER TABLE item ADD CHECK (size < 1000)")
        async with b.app.transaction():
            sizes = "CASE i WHEN 99 THEN 1000 ELSE i END"
            await b.sql(f"INSERT INTO item SELECT i, 'n', {sizes} FROM generate_series(1, 120) AS i")
            await b.sql("UPDATE item SET likes = likes + 1, name = 'twice'")
        await b.captured()
        [change_set] = await b.sets()
        assert len(change_set.parts) > 2
        await a.merge(change_set)
        assert await a.value("SELECT count(*) FROM item WHERE likes = 1 AND name = 'twice'") == 119
        assert {json.loads(q["row_key"])["id"] for q in await a.quarantine()} == {"99"}


async def test_two_nodes_claim_one_unique_value(nodes: list[HarnessNode]) -> None:
    a, b = nodes
    await a.sql("INSERT INTO item (id, code) VALUES (1, 'taken')")
    await b.sql("INSERT INTO item (id, code) VALUES (2, 'taken'), (3, 'free')")
    await a.captured()
    await b.captured()
    result = await a.merge_from(b)
    assert result.quarantined == 1
    assert await a.rows("SELECT id, code FROM item ORDER BY id") == [(1, "taken"), (3, "free")]
    [kept] = await a.quarantine()
    assert kept["sqlstate"] == "23505"


async def test_a_change_of_a_row_that_is_not_here_is_kept(nodes: list[HarnessNode]) -> None:
    """Genesis differs between the databases: node 1 never had the row."""
    a, b = nodes
    async with b.app.transaction():
        await b.sql("SELECT pg_logical_emit_message(true, 'crdt', '')")  # not captured, as if it had been there before
        await b.sql("INSERT INTO item (id, name) VALUES (7, 'only here')")
    await b.sql("UPDATE item SET name = 'x', likes = 4 WHERE id = 7")
    await b.captured()
    result = await a.merge_from(b)
    assert result.quarantined == 1
    [kept] = await a.quarantine()
    assert (kept["sqlstate"], json.loads(kept["change"])) == ("02000", {"name": "x", "likes": "4"})
