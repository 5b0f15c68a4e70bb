"""Capture across schema changes: a backlog was made under other names and columns than those of now."""

from __future__ import annotations

import asyncpg
import pytest
from node_harness import cluster, open_node, wait_until

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
