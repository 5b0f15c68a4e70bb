"""Registers and row liveness through capture and merge on real databases, against hand-computed cases."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from node_harness import HarnessNode, cluster, converged

from sidecar.core.merge import registers

SCHEMA = """
CREATE TABLE doc (id int PRIMARY KEY, title text, body text);
COMMENT ON TABLE doc IS '@crdt';
INSERT INTO doc VALUES (1, 'genesis', 'g');
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
    assert node.state.hlc.last == FUTURE + at


def told(conflict) -> tuple:  # type: ignore[type-arg, no-untyped-def]
    """A conflict record in short: column, winner's node, version and value, loser's."""
    c = conflict
    return (
        c["column_name"],
        (c["winner_node"], c["winner_hlc"] - FUTURE, c["winner_value"]),
        (c["loser_node"], c["loser_hlc"] - FUTURE, c["loser_value"]),
    )


async def same_conflicts(nodes: list[HarnessNode], *expected: tuple) -> None:  # type: ignore[type-arg]
    """Every node has recorded exactly these, under the same ids."""
    records = [await node.conflicts() for node in nodes]
    assert sorted(map(told, records[0]), key=str) == sorted(expected, key=str)
    for other in records[1:]:
        assert sorted(map(told, other), key=str) == sorted(expected, key=str)
        assert {c["id"] for c in other} == {c["id"] for c in records[0]}


async def test_a_write_that_saw_another_supersedes_it_without_a_conflict(nodes: list[HarnessNode]) -> None:
    a, b, _ = nodes
    await a.sql("UPDATE doc SET title = 'first' WHERE id = 1")
    await a.captured()
    await b.merge_from(a)
    await b.sql("UPDATE doc SET title = 'second' WHERE id = 1")
    assert await converged(nodes, "doc") == [["(1,second,g)"]]
    await same_conflicts(nodes)


async def test_the_later_of_two_concurrent_writes_wins_on_every_node(nodes: list[HarnessNode]) -> None:
    """Nodes 1 and 2 see the pair in opposite roles, node 3 sees both as remote ones."""
    a, b, _ = nodes
    await write(a, 10, "UPDATE doc SET title = 'a' WHERE id = 1")
    await write(b, 11, "UPDATE doc SET title = 'b' WHERE id = 1")
    assert await converged(nodes, "doc") == [["(1,b,g)"]]
    await same_conflicts(nodes, ("title", (2, 11, "b"), (1, 10, "a")))


async def test_a_tie_goes_to_the_higher_node_id(nodes: list[HarnessNode]) -> None:
    a, b, _ = nodes
    await write(a, 10, "UPDATE doc SET title = 'a' WHERE id = 1")
    await write(b, 10, "UPDATE doc SET title = 'b' WHERE id = 1")
    assert await converged(nodes, "doc") == [["(1,b,g)"]]
    await same_conflicts(nodes, ("title", (2, 10, "b"), (1, 10, "a")))


async def test_different_columns_of_one_row_do_not_conflict(nodes: list[HarnessNode]) -> None:
    a, b, _ = nodes
    await write(a, 10, "UPDATE doc SET title = 'a' WHERE id = 1")
    await write(b, 11, "UPDATE doc SET body = 'b' WHERE id = 1")
    assert await converged(nodes, "doc") == [["(1,a,b)"]]
    await same_conflicts(nodes)


async def test_equal_values_are_no_conflict(nodes: list[HarnessNode]) -> None:
    a, b, _ = nodes
    await write(a, 10, "UPDATE doc SET title = 'same' WHERE id = 1")
    await write(b, 11, "UPDATE doc SET title = 'same' WHERE id = 1")
    assert await converged(nodes, "doc") == [["(1,same,g)"]]
    await same_conflicts(nodes)


async def test_a_null_is_a_value_in_conflicts(nodes: list[HarnessNode]) -> None:
    a, b, _ = nodes
    await write(a, 10, "UPDATE doc SET title = 'NULL' WHERE id = 1")
    await write(b, 11, "UPDATE doc SET title = NULL WHERE id = 1")
    assert await converged(nodes, "doc") == [["(1,,g)"]]
    await same_conflicts(nodes, ("title", (2, 11, None), (1, 10, "NULL")))


async def test_the_same_key_inserted_on_two_nodes(nodes: list[HarnessNode]) -> None:
    a, b, _ = nodes
    await write(a, 10, "INSERT INTO doc VALUES (2, 'a', 'x')")
    await write(b, 11, "INSERT INTO doc VALUES (2, 'b', 'x')")
    assert await converged(nodes, "doc") == [["(1,genesis,g)", "(2,b,x)"]]
    await same_conflicts(nodes, ("title", (2, 11, "b"), (1, 10, "a")))


async def test_an_insert_loses_to_a_column_written_later_elsewhere(nodes: list[HarnessNode]) -> None:
    """Node 1 inserts at 10 and writes one column at 12 (a late column's own version, in one change set); node 2 inserts
    at 11: each column has its own winner."""
    a, b, _ = nodes
    a.hold_capture()
    await a.sql("INSERT INTO doc VALUES (2, 'a', 'a')")
    await a.sql("UPDATE doc SET body = 'a2' WHERE id = 2")
    a.state.hlc.last = FUTURE + 9
    await a.release_capture()
    await a.captured()
    await write(b, 10, "INSERT INTO doc VALUES (2, 'b', 'b')")
    [change_set] = await a.sets(FUTURE)
    assert change_set.rows() == {"doc": 1}, "insert and update are one row change"
    assert await converged(nodes, "doc") == [["(1,genesis,g)", "(2,b,a2)"]]
    await same_conflicts(nodes, ("title", (2, 10, "b"), (1, 10, "a")), ("body", (1, 11, "a2"), (2, 10, "b")))


async def test_the_update_of_a_deleted_row_brings_it_back_whole(nodes: list[HarnessNode]) -> None:
    """Node 2 had not seen the delete. The values it did not write come from the tombstone."""
    a, b, c = nodes
    await write(a, 10, "DELETE FROM doc WHERE id = 1")
    await write(b, 11, "UPDATE doc SET title = 'kept' WHERE id = 1")
    await c.merge_from(a)
    assert await c.copy("doc") == []
    image = await c.value(f"SELECT image::text FROM crdt_state.row_{c.table('doc').table_id}")
    assert image == '{"body": "g", "title": "genesis"}'
    assert await converged(nodes, "doc") == [["(1,kept,g)"]]
    await same_conflicts(nodes, (None, (2, 11, "written"), (1, 10, "deleted")))


async def test_a_later_delete_takes_the_row_that_another_node_updated(nodes: list[HarnessNode]) -> None:
    a, b, _ = nodes
    await write(a, 10, "UPDATE doc SET title = 'lost' WHERE id = 1")
    await write(b, 11, "DELETE FROM doc WHERE id = 1")
    assert await converged(nodes, "doc") == [[]]
    await same_conflicts(nodes, (None, (2, 11, "deleted"), (1, 10, "written")))
    images = [await n.value(f"SELECT image::text FROM crdt_state.row_{n.table('doc').table_id}") for n in nodes]
    assert images == ['{"body": "g", "title": "lost"}'] * 3, "a tombstone takes in what loses against it"


async def test_two_deletes_are_no_conflict(nodes: list[HarnessNode]) -> None:
    a, b, _ = nodes
    await write(a, 10, "DELETE FROM doc WHERE id = 1")
    await write(b, 11, "DELETE FROM doc WHERE id = 1")
    assert await converged(nodes, "doc") == [[]]
    await same_conflicts(nodes)


async def test_a_delete_against_a_row_that_lived_twice_is_a_conflict_on_every_node(nodes: list[HarnessNode]) -> None:
    """Node 2 deletes the row, puts it back and writes it; node 1 deletes it concurrently. That node 2 holds an older
    delete of its own must not hide the conflict there."""
    a, b, _ = nodes
    await write(b, 5, "DELETE FROM doc WHERE id = 1")
    await write(b, 6, "INSERT INTO doc VALUES (1, 'new', 'n')")
    await write(a, 10, "DELETE FROM doc WHERE id = 1")
    await write(b, 11, "UPDATE doc SET title = 'newer' WHERE id = 1")
    assert await converged(nodes, "doc") == [["(1,newer,n)"]]
    ids = [{c["id"] for c in await n.conflicts() if told(c)[1][1] == 11} for n in nodes]
    assert ids[0] == ids[1] == ids[2]
    assert len(ids[0]) == 1


async def test_a_later_delete_that_saw_everything_is_final(nodes: list[HarnessNode]) -> None:
    a, b, _ = nodes
    await write(a, 10, "UPDATE doc SET title = 'x' WHERE id = 1")
    await b.merge_from(a)
    await write(b, 11, "DELETE FROM doc WHERE id = 1")
    assert await converged(nodes, "doc") == [[]]
    await same_conflicts(nodes)


async def test_a_row_is_deleted_and_inserted_again_after_everybody_saw_the_delete(nodes: list[HarnessNode]) -> None:
    a, b, _ = nodes
    await write(a, 10, "DELETE FROM doc WHERE id = 1")
    assert await converged(nodes, "doc") == [[]]
    await write(b, 12, "INSERT INTO doc (id, title) VALUES (1, 'again')")
    assert await converged(nodes, "doc") == [["(1,again,)"]]
    await same_conflicts(nodes)


async def test_updates_that_change_nothing_are_not_writes(nodes: list[HarnessNode]) -> None:
    """An ORM's full-row update of one column must not beat a concurrent write of another."""
    a, b, _ = nodes
    await write(a, 10, "UPDATE doc SET title = 'a' WHERE id = 1")
    await write(b, 11, "UPDATE doc SET title = 'genesis', body = 'b' WHERE id = 1")
    assert await converged(nodes, "doc") == [["(1,a,b)"]]
    before = [len(await n.sets()) for n in nodes]
    await a.sql("UPDATE doc SET title = title, body = body")
    await a.captured()
    assert [len(await n.sets()) for n in nodes] == before, "nothing is shipped"
    await write(b, 20, "UPDATE doc SET title = 'b' WHERE id = 1")
    assert await converged(nodes, "doc") == [["(1,b,b)"]]
    await same_conflicts(nodes)


async def test_a_conflict_with_a_value_in_a_tombstone_names_that_value(nodes: list[HarnessNode]) -> None:
    a, b, c = nodes
    await write(a, 10, "UPDATE doc SET title = 'a' WHERE id = 1")
    await write(b, 11, "UPDATE doc SET title = 'b' WHERE id = 1")
    await c.merge_from(a)
    await write(c, 12, "DELETE FROM doc WHERE id = 1")
    assert await converged(nodes, "doc") == [[]]
    ids = [{c["id"] for c in await n.conflicts() if c["column_name"] == "title"} for n in nodes]
    assert len(ids[2]) == 1
    assert ids[0] == ids[1] == ids[2]


async def test_version_vectors_keep_the_losers(nodes: list[HarnessNode]) -> None:
    a, b, c = nodes
    await write(a, 10, "UPDATE doc SET title = 'a' WHERE id = 1")
    await write(b, 11, "UPDATE doc SET title = 'b' WHERE id = 1")
    await write(c, 12, "UPDATE doc SET title = 'c' WHERE id = 1")
    assert await converged(nodes, "doc") == [["(1,c,g)"]]
    for node in nodes:
        spec = node.table("doc")
        n = next(column.attnum for column in spec.columns if column.name == "title")
        [row] = await node.rows(f"SELECT n_{n}, h_{n}, v_{n} FROM crdt_state.row_{spec.table_id}")
        assert row == (3, FUTURE + 12, [1, FUTURE + 10, 2, FUTURE + 11])


async def test_the_short_form_of_a_vector_is_what_the_function_says(nodes: list[HarnessNode]) -> None:
    vectors = ["NULL::int8[]", *(f"'{{{n},{h}}}'" for n in (1, 2, 3) for h in (1, 2, 3)), "'{1,2,2,1}'", "'{1,1,3,2}'"]
    values = ", ".join(f"({vector})" for vector in vectors)
    short = registers.vector_with("x.v", "n", "h", "w")
    [(cases, differing)] = await nodes[0].rows(
        f"SELECT count(*), count(*) FILTER (WHERE {short} IS DISTINCT FROM crdt_state.vector_add(x.v, n, h, w))"
        f" FROM (VALUES {values}) AS x(v), generate_series(1::int8, 3) AS n, generate_series(0::int8, 3) AS h,"
        " generate_series(1::int8, 3) AS w"
    )
    assert (cases, differing) == (12 * 3 * 4 * 3, 0)
