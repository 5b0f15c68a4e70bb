"""Capture waits for nobody's lock on a user's table: it holds the writer lock, for which everything else waits."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest
from node_harness import HarnessNode, cluster, open_node

SCHEMA = """
CREATE TABLE doc (id int PRIMARY KEY, title text, hits numeric DEFAULT 0);
CREATE TABLE other (id int PRIMARY KEY);
COMMENT ON TABLE doc IS '@crdt';
COMMENT ON TABLE other IS '@crdt';
COMMENT ON COLUMN doc.hits IS '@crdt(pn_counter)';
"""


async def looks(node: HarnessNode) -> None:
    """A delete, and an update of a counter that may look odd: both are checked against the user's rows."""
    await node.sql("INSERT INTO doc VALUES (1, 'a'), (2, 'b'), (3, 'c')")
    await node.captured()
    node.hold_capture()
    await node.sql("DELETE FROM doc WHERE id = 1")
    await node.sql("UPDATE doc SET hits = NULL WHERE id = 2")
    await node.sql("INSERT INTO other VALUES (1)")


async def settled(node: HarnessNode) -> None:
    await node.captured()
    await node.rewrite()
    assert await node.rows("SELECT id, hits FROM doc ORDER BY id") == [(2, 0), (3, 0)]
    assert await node.value("SELECT count(*) FROM crdt_state.row_2") == 1


async def test_a_locked_table_does_not_stop_capture(database: str) -> None:
    async with open_node(database, 1, SCHEMA) as node:
        await looks(node)
        holder = await asyncpg.connect(database)
        async with holder.transaction():
            await holder.execute("LOCK TABLE doc IN ACCESS EXCLUSIVE MODE")
            await node.release_capture()
            await node.captured()
            queued = await node.rows("SELECT row_key FROM crdt_state.rewrite ORDER BY 1")
            assert queued == [(["1"],), (["2"],)], "nobody could look, so the rewrite does"
        await settled(node)
        await holder.close()


async def test_an_alter_table_that_waits_does_not_stop_capture(database: str) -> None:
    """It waits behind a reader, and new readers wait behind it."""
    async with open_node(database, 1, SCHEMA) as node:
        await looks(node)
        reader, changer = await asyncpg.connect(database), await asyncpg.connect(database)
        async with reader.transaction():
            await reader.fetch("SELECT * FROM doc")
            await changer.execute("SET lock_timeout = '20s'")
            waiting = asyncio.ensure_future(changer.execute("ALTER TABLE doc ALTER title SET STORAGE MAIN"))
            query = "SELECT count(*) FROM pg_locks WHERE relation = 'doc'::regclass AND NOT granted"
            while not await node.value(query):
                assert not waiting.done()
            await node.release_capture()
            await node.captured()
        await waiting
        await settled(node)
        await reader.close()
        await changer.close()


@pytest.mark.parametrize("change", ["ALTER TABLE doc RENAME TO book", "DROP TABLE doc"])
async def test_changes_of_a_table_that_is_gone_do_not_stop_capture(postgres_server, change: str) -> None:  # type: ignore[no-untyped-def]
    async with cluster(postgres_server, 1, SCHEMA) as [node]:
        await looks(node)
        await node.sql(change)
        await node.release_capture()
        await node.captured()
        assert await node.value("SELECT count(*) FROM crdt_state.row_2") == 1
