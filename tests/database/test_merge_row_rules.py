"""What the row rules keep, take away and record, through capture and merge, against hand-computed cases."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from node_harness import HarnessNode, cluster, converged

SCHEMA = """
CREATE TABLE kept (id int PRIMARY KEY, a text, b text, n int NOT NULL DEFAULT 0);
COMMENT ON TABLE kept IS '@crdt(row=add_wins)';
COMMENT ON COLUMN kept.n IS '@crdt(pn_counter)';
CREATE TABLE gone (id int PRIMARY KEY, a text, b text);
COMMENT ON TABLE gone IS '@crdt(row=remove_wins)';
CREATE TABLE late (id int PRIMARY KEY, a text, b text);
COMMENT ON TABLE late IS '@crdt';
INSERT INTO kept VALUES (1, 'a', 'b', 5);
INSERT INTO late VALUES (1, 'a', 'b');
INSERT INTO gone VALUES (1, 'a', 'b');
"""
FUTURE = 4_102_444_800_000 << 16
"""An hlc of the year 2100: above everything that commit times give, so that tests can choose versions."""


@pytest.fixture
async def nodes(postgres_server) -> AsyncIterator[list[HarnessNode]]:  # type: ignore[no-untyped-def]
    async with cluster(postgres_server, 3, SCHEMA) as nodes:
        yield nodes


async def write(node: HarnessNode, at: int, *statements: str) -> None:
    """One local transaction whose hlc is FUTURE + at."""
    node.state.hlc.last = FUTURE + at - 1
    async with node.app.transaction():
        for statement in statements:
            await node.sql(statement)
    await node.captured()


async def kinds(node: HarnessNode) -> list[tuple[str, str, str]]:
    """Conflicts about rows: rule, winner's side, kind."""
    rows = await node.conflicts()
    return [(r["rule"], r["winner_value"], r["kind"]) for r in rows if r["column_name"] is None]


@pytest.mark.parametrize(("write_at", "delete_at"), [(10, 20), (20, 10)])
async def test_add_wins_keeps_a_row_that_the_delete_had_not_seen_written(
    nodes: list[HarnessNode], write_at: int, delete_at: int
) -> None:
    a, b, _ = nodes
    await write(a, write_at, "UPDATE kept SET a = 'A', n = n + 2 WHERE id = 1")
    await write(b, delete_at, "DELETE FROM kept WHERE id = 1")
    assert await converged(nodes, "kept") == [["(1,A,b,7)"]]
    assert {(rule, winner) for rule, winner, _ in await kinds(a)} == {("row=add_wins", "written")}
    assert {(rule, winner) for rule, winner, _ in await kinds(b)} == {("row=add_wins", "written")}


@pytest.mark.parametrize(("write_at", "delete_at"), [(10, 20), (20, 10)])
async def test_remove_wins_takes_a_row_away_whatever_the_clock_says(
    nodes: list[HarnessNode], write_at: int, delete_at: int
) -> None:
    a, b, _ = nodes
    await write(a, write_at, "UPDATE gone SET a = 'A' WHERE id = 1")
    await write(b, delete_at, "DELETE FROM gone WHERE id = 1")
    assert await converged(nodes, "gone") == [[]]
    assert {(rule, winner) for rule, winner, _ in await kinds(a)} == {("row=remove_wins", "deleted")}


async def test_a_record_tells_what_became_of_its_two_writes_not_of_the_row(nodes: list[HarnessNode]) -> None:
    """A delete brings down a write that was earlier, also where a third node's later write keeps the row."""
    a, b, c = nodes
    await write(a, 20, "DELETE FROM late WHERE id = 1")
    await write(b, 30, "UPDATE late SET a = 'A' WHERE id = 1")
    await write(c, 10, "UPDATE late SET b = 'B' WHERE id = 1")
    for other in (b, c):
        await a.merge_from(other)
    assert set(await kinds(a)) == {("row=lww", "written", "revived"), ("row=lww", "deleted", "overwrite")}
    assert await converged(nodes, "late") == [["(1,A,B)"]]


async def test_add_wins_looks_at_every_write_that_was_not_seen_not_only_at_the_latest(nodes: list[HarnessNode]) -> None:
    """Node 1's earlier write is not seen by a delete that has seen node 2's later one."""
    a, b, c = nodes
    await write(b, 20, "UPDATE kept SET b = 'B' WHERE id = 1")
    await c.merge_from(b)
    await write(c, 30, "DELETE FROM kept WHERE id = 1")
    await write(a, 10, "UPDATE kept SET a = 'A' WHERE id = 1")
    assert await converged(nodes, "kept") == [["(1,A,B,5)"]]


async def test_add_wins_deletes_a_row_all_of_whose_writes_were_seen(nodes: list[HarnessNode]) -> None:
    a, b, c = nodes
    await write(a, 10, "UPDATE kept SET a = 'A' WHERE id = 1")
    await write(b, 11, "UPDATE kept SET b = 'B' WHERE id = 1")
    await c.merge_from(a)
    await c.merge_from(b)
    await write(c, 12, "DELETE FROM kept WHERE id = 1")
    assert await converged(nodes, "kept") == [[]]
    assert [await kinds(node) for node in nodes] == [[], [], []]
    assert await a.rows(f"SELECT alive, row_dots FROM crdt_state.row_{a.table('kept').table_id}") == [(False, [])]


async def test_remove_wins_needs_an_insert_that_has_seen_the_delete(nodes: list[HarnessNode]) -> None:
    a, b, c = nodes
    await write(a, 10, "DELETE FROM gone WHERE id = 1")
    await write(b, 11, "DELETE FROM gone WHERE id = 1", "INSERT INTO gone VALUES (1, 'new', 'new')")
    await write(c, 12, "UPDATE gone SET b = 'late' WHERE id = 1")
    assert await converged(nodes, "gone") == [[]], "node 2's insert has seen its own delete, not node 1's"
    await write(b, 20, "INSERT INTO gone VALUES (1, 'again', 'x')")
    assert await converged(nodes, "gone") == [["(1,again,x)"]]


@pytest.mark.parametrize("table", ["kept", "gone"])
async def test_a_row_lives_and_dies_in_order_on_one_node(nodes: list[HarnessNode], table: str) -> None:
    a, b, _ = nodes
    await write(a, 10, f"INSERT INTO {table} VALUES (2, 'x', 'y')")
    await write(a, 11, f"UPDATE {table} SET a = 'z' WHERE id = 2", f"DELETE FROM {table} WHERE id = 2")
    await write(a, 12, f"INSERT INTO {table} VALUES (3, 'x', 'y')", f"DELETE FROM {table} WHERE id = 3")
    await b.merge_from(a)
    assert len(await b.copy(table)) == 1
    await write(b, 13, f"INSERT INTO {table} VALUES (2, 'back', 'y')")
    (rows,) = await converged(nodes, table)
    assert [row[:7] for row in rows] == ["(1,a,b" + row[6] for row in rows[:1]] + ["(2,back"]


async def test_a_touch_leaves_the_dots_that_others_have_not_seen(nodes: list[HarnessNode]) -> None:
    """An update that changes nothing is no write: it takes no dot and gives none."""
    a, b, c = nodes
    await write(a, 10, "UPDATE kept SET a = 'A' WHERE id = 1")
    await write(b, 11, "UPDATE kept SET b = 'B' WHERE id = 1")
    await b.merge_from(a)
    await write(b, 12, "UPDATE kept SET b = b WHERE id = 1")
    dots = (await b.rows(f"SELECT row_dots FROM crdt_state.row_{b.table('kept').table_id}"))[0][0]
    assert sorted(dots[0::2]) == [1, 2]
    await c.merge_from(b)
    await write(c, 13, "DELETE FROM kept WHERE id = 1")
    assert await converged(nodes, "kept") == [["(1,A,B,5)"]], "node 3 had not seen node 1's write"
