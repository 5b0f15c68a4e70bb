"""A role that may not set session_replication_role: foreign keys fire when merging, and must delete nothing for it."""

from __future__ import annotations

import pytest
from node_harness import HarnessNode, cluster

from sidecar.postgres.session import Privileges

SCHEMA = """
CREATE TABLE parent (id int PRIMARY KEY, code int NOT NULL UNIQUE);
CREATE TABLE child (id int PRIMARY KEY, parent_id int REFERENCES parent ON DELETE CASCADE);
CREATE TABLE alone (id int PRIMARY KEY, code int NOT NULL UNIQUE);
COMMENT ON TABLE parent IS '@crdt';
COMMENT ON TABLE child IS '@crdt';
COMMENT ON TABLE alone IS '@crdt';
INSERT INTO parent VALUES (1, 1), (2, 2);
INSERT INTO child VALUES (10, 1), (20, 2);
INSERT INTO alone VALUES (1, 1), (2, 2);
"""


async def give_up_replica(node: HarnessNode) -> None:
    await node.merge_session.connection.execute("SET session_replication_role = origin")
    node.merge_session.privileges = Privileges(replica_role=False, origin=False)


async def swapped(node: HarnessNode, table: str) -> None:
    async with node.app.transaction():
        await node.sql(f"UPDATE {table} SET code = 0 WHERE id = 1")
        await node.sql(f"UPDATE {table} SET code = 1 WHERE id = 2")
        await node.sql(f"UPDATE {table} SET code = 2 WHERE id = 1")
    await node.captured()


@pytest.mark.parametrize(("table", "quarantined"), [("parent", True), ("alone", False)])
async def test_a_swap_of_unique_values_deletes_no_children(postgres_server, table: str, quarantined: bool) -> None:  # type: ignore[no-untyped-def]
    """Rows are taken out and put back only where nothing hangs on them; else what cannot be told apart is put aside."""
    async with cluster(postgres_server, 2, SCHEMA) as (a, b):
        await give_up_replica(a)
        await swapped(b, table)
        result = await a.merge_from(b)
        assert bool(result.quarantined) is quarantined
        assert await a.rows("SELECT * FROM child ORDER BY id") == [(10, 1), (20, 2)]
        if not quarantined:
            assert await a.rows(f"SELECT id, code FROM {table} ORDER BY id") == [(1, 2), (2, 1)]


async def test_with_the_replica_role_the_swap_is_merged_and_the_children_stay(postgres_server) -> None:  # type: ignore[no-untyped-def]
    async with cluster(postgres_server, 2, SCHEMA) as (a, b):
        await swapped(b, "parent")
        assert (await a.merge_from(b)).quarantined == 0
        assert await a.rows("SELECT id, code FROM parent ORDER BY id") == [(1, 2), (2, 1)]
        assert await a.rows("SELECT * FROM child ORDER BY id") == [(10, 1), (20, 2)]


ACTIONS = """
CREATE TABLE parent (id int PRIMARY KEY);
CREATE TABLE child (id int PRIMARY KEY, parent_id int REFERENCES parent ON DELETE SET NULL ON UPDATE CASCADE);
COMMENT ON TABLE parent IS '@crdt';
COMMENT ON TABLE child IS '@crdt';
INSERT INTO parent VALUES (1), (2), (3);
INSERT INTO child VALUES (10, 1), (20, 2), (30, 3);
"""
QUERIES = ("SELECT * FROM parent ORDER BY id", "SELECT * FROM child ORDER BY id")


@pytest.mark.parametrize("written", [False, True])
@pytest.mark.parametrize(
    ("statement", "parents", "children"),
    [
        ("DELETE FROM parent WHERE id = 1", [2, 3], [(10, None), (20, 2), (30, 3)]),
        ("UPDATE parent SET id = 4 WHERE id = 1", [2, 3, 4], [(10, 4), (20, 2), (30, 3)]),
    ],
)
async def test_what_a_foreign_key_does_amidst_the_merge_does_not_hold_it_up(  # type: ignore[no-untyped-def]
    postgres_server, statement: str, parents: list[int], children: list[tuple[int, int | None]], written: bool
) -> None:
    """Its action writes rows that the origin's own change set brings, too: they looked as if somebody else wrote them,
    with every try anew. ``written``: the rows have states."""
    async with cluster(postgres_server, 2, ACTIONS) as (a, b):
        await give_up_replica(a)
        if written:
            await b.sql("UPDATE child SET parent_id = NULL; UPDATE child SET parent_id = id / 10")
            await b.captured()
            await a.merge_from(b)
        await b.sql(statement)
        await b.captured()
        assert (await a.merge_from(b)).quarantined == 0
        for node in (a, b):
            assert [await node.rows(query) for query in QUERIES] == [[(n,) for n in parents], children]
        # Nothing of it is taken for the application's, and the rows are written as ever.
        await b.sql("UPDATE child SET parent_id = 2")
        await b.captured()
        await a.merge_from(b)
        assert await a.rows(QUERIES[1]) == [(10, 2), (20, 2), (30, 2)]


async def test_children_that_come_before_their_parents_are_merged_after_them(postgres_server) -> None:  # type: ignore[no-untyped-def]
    """Rows come by table, in the order in which the change set met the tables first."""
    async with cluster(postgres_server, 2, ACTIONS) as (a, b):
        await give_up_replica(a)
        b.hold_capture()
        await b.sql("UPDATE child SET parent_id = NULL WHERE id = 30")
        await b.sql("BEGIN; INSERT INTO parent VALUES (9); INSERT INTO child VALUES (90, 9); COMMIT")
        await b.sql("BEGIN; UPDATE child SET parent_id = 9 WHERE id = 20; DELETE FROM parent WHERE id = 2; COMMIT")
        await b.release_capture()
        await b.captured()
        assert (await a.merge_from(b)).quarantined == 0
        for node in (a, b):
            assert await node.rows(QUERIES[0]) == [(1,), (3,), (9,)]
            assert await node.rows(QUERIES[1]) == [(10, 1), (20, 9), (30, None), (90, 9)]


async def test_a_row_whose_parent_never_comes_is_put_aside_and_the_others_are_merged(postgres_server) -> None:  # type: ignore[no-untyped-def]
    async with cluster(postgres_server, 2, ACTIONS) as (a, b):
        await give_up_replica(a)
        await a.sql("DELETE FROM parent WHERE id = 3")
        await b.sql("INSERT INTO child VALUES (40, 3), (50, 1)")
        await b.captured()
        await a.captured()
        assert (await a.merge_from(b)).quarantined == 1
        assert await a.rows(QUERIES[1]) == [(10, 1), (20, 2), (30, None), (50, 1)]
        (entry,) = await a.quarantine()
        assert entry["sqlstate"] == "23503"
