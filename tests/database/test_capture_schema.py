"""Capture across schema changes: a backlog was made under other names and columns than those of now."""

from __future__ import annotations

import asyncpg
import pytest
from node_harness import cluster, converged, open_node, wait_until

from sidecar.errors import HeldError

SCHEMA = """
CREATE TABLE doc (id int PRIMARY KEY, title text);
COMMENT ON TABLE doc IS '@crdt';
"""
DEADLINE_S = 60.0


@pytest.mark.parametrize("known", [True, False], ids=["taken up before", "found out by capture"])
async def test_a_backlog_of_a_renamed_table_is_captured(postgres_server, known: bool) -> None:  # type: ignore[no-untyped-def]
    async with cluster(postgres_server, 2, SCHEMA) as (a, b):
        a.hold_capture()
        await a.sql("INSERT INTO doc VALUES (1, 'before')")
        await a.sql("ALTER TABLE doc RENAME TO book")
        await a.sql("INSERT INTO book VALUES (2, 'after')")
        if known:
            await a.refresh()
        await a.release_capture()
        await a.captured()
        assert not a.state.problems
        names = [name for change_set in await a.sets() for name in change_set.rows()]
        # What the table is called now is not known before something asks; then both names are used, in turn.
        assert names == (["book"] if known else ["doc", "book"])
        if known:
            await b.sql("ALTER TABLE doc RENAME TO book")
            await b.refresh()
            await b.merge_from(a)
        else:
            [change_set] = await a.sets()
            with pytest.raises(HeldError, match=r"public\.book"):
                await b.merge(change_set)
            return
        assert await b.rows("SELECT * FROM book ORDER BY id") == [(1, "before"), (2, "after")]


async def test_a_backlog_of_a_table_that_was_made_anew_is_not_taken_for_the_new_ones(database: str) -> None:
    async with open_node(database, 1, SCHEMA) as node:
        node.hold_capture()
        await node.sql("INSERT INTO doc VALUES (1, 'of the old table')")
        await node.sql("DROP TABLE doc")
        await node.sql(SCHEMA)
        await node.refresh()
        await node.sql("INSERT INTO doc VALUES (2, 'of the new one')")
        await node.release_capture()
        await node.captured()
        spec = node.table("doc")
        assert await node.rows(f"SELECT k_1 FROM crdt_state.row_{spec.table_id}") == [(2,)]


async def test_a_new_column_is_not_passed_over_while_the_state_is_locked(database: str) -> None:
    async with open_node(database, 1, SCHEMA) as node:
        await node.sql("INSERT INTO doc VALUES (1, 'x')")
        await node.captured()
        before = await node.rows("SELECT lsn FROM crdt_state.position")
        reader = await asyncpg.connect(database)
        try:
            async with reader.transaction():
                await reader.fetch("SELECT count(*) FROM crdt_state.row_1")
                await node.sql("ALTER TABLE doc ADD COLUMN note text")
                await node.sql("INSERT INTO doc VALUES (2, 'x', 'kept')")
                assert node.capture_task is not None
                await wait_until(node.capture_task.done, DEADLINE_S, "capture waits for the column")
            with pytest.raises(HeldError, match=r"'note' of public\.doc is new"):
                node.check()
            assert await node.rows("SELECT lsn FROM crdt_state.position") == before, "it resumes before the column"
        finally:
            await reader.close()


@pytest.mark.parametrize("known", [True, False], ids=["taken up before", "found out by capture"])
async def test_a_backlog_under_a_columns_former_name_is_captured_whole(postgres_server, known: bool) -> None:  # type: ignore[no-untyped-def]
    async with cluster(postgres_server, 2, SCHEMA) as (a, b):
        await a.sql("INSERT INTO doc VALUES (1, 'first'), (2, 'gone')")
        await a.captured()
        await b.merge_from(a)
        a.hold_capture()
        await a.sql("INSERT INTO doc VALUES (3, 'before')")
        await a.sql("UPDATE doc SET title = 'changed' WHERE id = 1")
        await a.sql("DELETE FROM doc WHERE id = 2")
        await a.sql("ALTER TABLE doc RENAME COLUMN title TO headline")
        await a.sql("INSERT INTO doc VALUES (4, 'after')")
        if known:
            await a.refresh()
        await a.release_capture()
        await a.captured()
        assert await a.quarantine() == []
        await b.sql("ALTER TABLE doc RENAME COLUMN title TO headline")
        await b.refresh()
        assert await converged([a, b], "doc") == [["(1,changed)", "(3,before)", "(4,after)"]]
        image = await a.value("SELECT crdt_state.present_image(1, image) FROM crdt_state.row_1 WHERE k_1 = 2")
        assert image == '{"headline": "gone"}'


async def test_changes_under_a_columns_former_name_are_merged(postgres_server) -> None:  # type: ignore[no-untyped-def]
    """They were in a journal, or on their way, when the column was renamed on the node that merges them."""
    async with cluster(postgres_server, 2, SCHEMA) as (a, b):
        await a.sql("INSERT INTO doc VALUES (1, 'kept'), (2, 'gone')")
        await a.captured()
        for name in ("headline", "name"):
            await b.sql(f"ALTER TABLE doc RENAME COLUMN {'title' if name == 'headline' else 'headline'} TO {name}")
            await b.refresh()
        await b.merge_from(a)
        assert await b.rows("SELECT id, name FROM doc ORDER BY id") == [(1, "kept"), (2, "gone")]
        await b.sql("UPDATE doc SET name = 'newer' WHERE id = 1")
        await b.captured()
        [change_set] = await b.sets()
        with pytest.raises(HeldError, match="'name' is missing here") as caught:
            await a.merge(change_set)
        assert "RENAME" in caught.value.mend, "adding it would leave the values of the old one behind"


async def test_a_deleted_row_comes_back_with_a_renamed_column(postgres_server) -> None:  # type: ignore[no-untyped-def]
    async with cluster(
        postgres_server,
        2,
        "CREATE TABLE doc (id int PRIMARY KEY, title text, n int);"
        "COMMENT ON TABLE doc IS '@crdt(row=add_wins)'; INSERT INTO doc VALUES (1, 'whole', 1)",
    ) as (a, b):
        await a.sql("DELETE FROM doc")
        await a.captured()
        for node in (a, b):
            await node.sql("ALTER TABLE doc RENAME COLUMN title TO headline")
            await node.refresh()
        await b.sql("UPDATE doc SET n = 2")
        assert await converged([a, b], "doc") == [["(1,whole,2)"]]


async def test_values_of_a_column_that_is_gone_are_told_of(database: str) -> None:
    async with open_node(database, 1, SCHEMA) as node:
        await node.sql("ALTER TABLE doc ADD COLUMN note text")
        await node.refresh()
        node.hold_capture()
        await node.sql("INSERT INTO doc VALUES (1, 'x', 'lost')")
        await node.sql("ALTER TABLE doc DROP COLUMN note")
        await node.refresh()
        await node.sql("INSERT INTO doc VALUES (2, 'y')")
        await node.release_capture()
        await node.captured()
        [record] = await node.quarantine()
        assert "column 'note'" in record["reason"]


async def test_a_new_column_with_a_former_name_is_another_one(database: str) -> None:
    async with open_node(database, 1, SCHEMA) as node:
        node.hold_capture()
        await node.sql("INSERT INTO doc VALUES (1, 'before')")
        await node.sql("ALTER TABLE doc RENAME COLUMN title TO headline")
        await node.refresh()
        await node.sql("ALTER TABLE doc ADD COLUMN title text")
        await node.refresh()
        await node.sql("INSERT INTO doc VALUES (2, 'headline', 'title')")
        await node.release_capture()
        await node.captured()
        values = [(table.columns, table.values) for change_set in await node.sets() for table in change_set.tables()]
        assert values == [(["headline"], [b'{"before"}']), (["headline", "title"], [b'{"headline"}', b'{"title"}'])]
