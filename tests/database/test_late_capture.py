"""A node whose capture is behind: what it committed before a merge keeps its time, whatever else it merges since."""

from __future__ import annotations

import pytest
from node_harness import HarnessNode, cluster, converged, settle

from sidecar.core.hlc import from_ms, to_ms
from sidecar.errors import DirtyRowsError

SCHEMA = """
    CREATE TABLE doc (id int PRIMARY KEY, title text);
    COMMENT ON TABLE doc IS '@crdt';
"""


async def newest(node: HarnessNode) -> int:
    return (await node.sets())[-1].header.to_hlc


@pytest.mark.parametrize("looked", [True, False])
async def test_an_older_write_that_is_captured_late_loses_against_a_newer_one(  # type: ignore[no-untyped-def]
    postgres_server, looked: bool
) -> None:
    """Node a writes, then b writes the same row, then c another one; a has merged c's when it captures its own write.
    As long as a had not looked where its log ends, it cannot know that its write stood before the merge."""
    async with cluster(postgres_server, 3, SCHEMA) as nodes:
        a, b, c = nodes
        await a.sql("INSERT INTO doc VALUES (1, 'first'), (2, 'first')")
        await settle(nodes)
        a.hold_capture()
        await a.sql("UPDATE doc SET title = 'older' WHERE id = 1")
        if looked:
            a.state.log_end = await a.log_end()
        b.state.hlc.observe(from_ms(a.state.now_ms() + 20))
        await b.sql("UPDATE doc SET title = 'newer' WHERE id = 1")
        await b.captured()
        c.state.hlc.observe(from_ms(a.state.now_ms() + 300))
        await c.sql("UPDATE doc SET title = 'of c' WHERE id = 2")
        await c.captured()
        await a.try_merge((await c.sets())[-1])
        with pytest.raises(DirtyRowsError):
            await a.try_merge((await b.sets())[-1])
        await a.release_capture()
        await settle(nodes)
        title = "newer" if looked else "older"
        assert await a.rows("SELECT title FROM doc ORDER BY id") == [(title,), ("of c",)]
        await converged(nodes, "doc")
        # What is committed now has seen the merges, and is above them.
        await a.sql("UPDATE doc SET title = 'last' WHERE id = 2")
        await a.captured()
        assert await newest(a) > await newest(c)
        await settle(nodes)
        assert [await node.rows("SELECT title FROM doc WHERE id = 2") for node in nodes] == [[("last",)]] * 3
        assert to_ms(await newest(a)) >= to_ms(await newest(c))
