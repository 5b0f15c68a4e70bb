"""A role that may not set session_replication_role: foreign keys fire when merging, and must delete nothing for it."""

from __future__ import annotations

from typing import Any

import pytest
from node_harness import HarnessNode, cluster

from sidecar.postgres import merge
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


def busy(node: HarnessNode) -> None:
    """Somebody else's transaction ends before each of the merge's statements."""
    unit = node.merger.merge_unit

    async def merge_unit(*arguments: Any, **options: Any) -> None:
        await node.sql("SELECT pg_current_xact_id()")
        await unit(*arguments, **options)

    node.merger.merge_unit = merge_unit  # type: ignore[method-assign]


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
        busy(a)
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


async def test_a_row_that_comes_again_in_a_later_part_does_not_wait_for_its_parent(postgres_server) -> None:  # type: ignore[no-untyped-def]
    """Merged after the later part it would win over it."""
    schema = ACTIONS + "CREATE TABLE fill (id int PRIMARY KEY, n int); COMMENT ON TABLE fill IS '@crdt'"
    async with cluster(postgres_server, 2, schema, limits={"batch_rows_max": 20}) as (a, b):
        await give_up_replica(a)
        async with b.app.transaction():
            await b.sql("UPDATE child SET parent_id = NULL WHERE id = 10")
            await b.sql("INSERT INTO parent VALUES (9)")
            await b.sql("UPDATE child SET parent_id = 9 WHERE id = 20")
            await b.sql("INSERT INTO fill SELECT i FROM generate_series(1, 60) AS i")
            await b.sql("UPDATE child SET parent_id = 1 WHERE id = 20")
        await b.captured()
        assert len((await b.sets())[-1].parts) > 1
        await a.merge_from(b)
        assert await a.rows(QUERIES[1]) == await b.rows(QUERIES[1]) == [(10, None), (20, 1), (30, 3)]


CHAIN = """
CREATE TABLE tree (id int PRIMARY KEY, up int REFERENCES tree, n int CONSTRAINT small CHECK (n < 5));
COMMENT ON TABLE tree IS '@crdt';
"""


@pytest.mark.parametrize("tries_max", [4000, 0])
async def test_a_chain_of_rows_in_no_order_is_merged_within_a_bounded_number_of_tries(
    postgres_server, monkeypatch: pytest.MonkeyPatch, tries_max: int
) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(merge, "POSTPONED_TRIES_MAX", tries_max)
    async with cluster(postgres_server, 2, CHAIN) as (a, b):
        await give_up_replica(a)
        tries = 0
        isolate = a.merger._isolate

        async def counted(*arguments: Any) -> None:
            nonlocal tries
            tries += 1
            await isolate(*arguments)

        a.merger._isolate = counted  # type: ignore[method-assign]
        # With a row among them that cannot apply they are merged by halves.
        await b.sql("ALTER TABLE tree DROP CONSTRAINT small")
        async with b.app.transaction():
            await b.sql(
                "INSERT INTO tree SELECT i * 37 % 64, CASE WHEN i < 63 THEN (i + 1) * 37 % 64 END"
                " FROM generate_series(0, 63) AS i"
            )
            await b.sql("INSERT INTO tree VALUES (64, NULL, 9)")
        await b.captured()
        quarantined = (await a.merge_from(b)).quarantined
        assert tries < 64 * 3 + tries_max
        if tries_max == 4000:
            assert quarantined == 1
            rows = "SELECT * FROM tree WHERE id < 64 ORDER BY id"
            assert await a.rows(rows) == await b.rows(rows)
        else:
            assert quarantined > 1


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


ARCHIVE = """
CREATE TABLE job (id int PRIMARY KEY, t text);
CREATE TABLE done (id int PRIMARY KEY, t text);
COMMENT ON TABLE job IS '@crdt';
COMMENT ON TABLE done IS '@crdt';
INSERT INTO job VALUES (1, 'a'), (2, 'b');
INSERT INTO done VALUES (0, 'z');
CREATE FUNCTION archive() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN INSERT INTO public.done VALUES (OLD.id, OLD.t); RETURN NULL; END $$;
CREATE TRIGGER archive AFTER DELETE ON job FOR EACH ROW EXECUTE FUNCTION archive();
ALTER TABLE job ENABLE ALWAYS TRIGGER archive;
"""


async def test_what_a_trigger_puts_where_the_merge_left_nothing_does_not_hold_it_up(postgres_server) -> None:  # type: ignore[no-untyped-def]
    """It is no local insert that came meanwhile. What such a trigger writes is not replicated, so nodes may differ."""
    async with cluster(postgres_server, 2, ARCHIVE) as (a, b):
        b.hold_capture()
        await b.sql("DELETE FROM done WHERE id = 0")  # so that this table comes first
        await b.sql("DELETE FROM job WHERE id = 1")
        await b.sql("DELETE FROM done WHERE id = 1")
        await b.release_capture()
        await b.captured()
        busy(a)
        assert (await a.merge_from(b)).quarantined == 0
        assert await a.rows("SELECT * FROM job") == [(2, "b")]
