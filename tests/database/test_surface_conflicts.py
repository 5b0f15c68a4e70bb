"""Conflicts as data: what ``crdt.conflicts``, ``crdt.explain`` and ``crdt.siblings`` say of them, and writing again
what lost (``crdt.reassert``)."""

from __future__ import annotations

from collections.abc import AsyncIterator

import asyncpg
import pytest
from node_harness import HarnessNode, cluster, converged

SCHEMA = """
CREATE TABLE doc (id int PRIMARY KEY, title text, body text, n int);
COMMENT ON TABLE doc IS '@crdt';
INSERT INTO doc VALUES (1, 'genesis', 'g', 1);
"""


@pytest.fixture
async def nodes(postgres_server) -> AsyncIterator[list[HarnessNode]]:  # type: ignore[no-untyped-def]
    async with cluster(postgres_server, 2, SCHEMA) as nodes:
        yield nodes


async def conflict(nodes: list[HarnessNode], first: str, second: str) -> asyncpg.Record:
    """Two concurrent writes, the second one later; the one conflict they give."""
    a, b = nodes
    await a.sql(first)
    await a.captured()
    b.state.hlc.observe(a.state.hlc.last)
    await b.sql(second)
    await converged(nodes, "doc")
    (found,) = await a.app.fetch("SELECT * FROM crdt.conflicts")
    return found


async def test_a_conflict_shows_kind_and_what_both_sides_had_seen(nodes: list[HarnessNode]) -> None:
    found = await conflict(nodes, "UPDATE doc SET title = 'a' WHERE id = 1", "UPDATE doc SET title = 'b' WHERE id = 1")
    assert (found["winner"], found["winner_value"], found["loser"], found["loser_value"]) == ("node 2", "b", "n1", "a")
    assert (found["kind"], found["rule"], found["column"], found["note"]) == (
        "overwrite",
        "lww_register",
        "title",
        None,
    )


async def test_explain_shows_the_lost_value(nodes: list[HarnessNode]) -> None:
    found = await conflict(nodes, "UPDATE doc SET title = 'a' WHERE id = 1", "UPDATE doc SET title = 'b' WHERE id = 1")
    rows = {row["column"]: row for row in await nodes[0].app.fetch("SELECT * FROM crdt.explain('doc', '1')")}
    assert rows["body"]["lost"] is None
    assert rows["title"]["value"] == "b"
    assert f'"{found["id"]}"' in rows["title"]["lost"]
    assert '"value": "a"' in rows["title"]["lost"]
    assert '"writer": "n1"' in rows["title"]["lost"]


async def test_reassert_writes_the_lost_value_as_a_later_write(nodes: list[HarnessNode]) -> None:
    found = await conflict(
        nodes,
        "UPDATE doc SET title = 'a''s \"title\"', n = 7 WHERE id = 1",
        "UPDATE doc SET title = 'b' WHERE id = 1",
    )
    assert await nodes[1].value("SELECT crdt.reassert($1)", found["id"]) == 'a\'s "title"'
    assert await converged(nodes, "doc") == [['(1,"a\'s ""title""",g,7)']]
    assert len(await nodes[0].conflicts()) == 1, "the new write had seen the winner: no second conflict"


async def test_reassert_deletes_a_row_again_that_a_later_write_kept(nodes: list[HarnessNode]) -> None:
    found = await conflict(nodes, "DELETE FROM doc WHERE id = 1", "UPDATE doc SET title = 'b' WHERE id = 1")
    assert (found["column"], found["loser_value"]) == (None, "deleted")
    assert await nodes[0].value("SELECT crdt.reassert($1)", found["id"]) == "deleted"
    assert await converged(nodes, "doc") == [[]]


async def test_reassert_puts_a_row_back_whole(nodes: list[HarnessNode]) -> None:
    found = await conflict(nodes, "UPDATE doc SET title = 'kept' WHERE id = 1", "DELETE FROM doc WHERE id = 1")
    assert (found["column"], found["loser_value"]) == (None, "written")
    assert await nodes[0].value("SELECT crdt.reassert($1)", found["id"]) == "written"
    assert await converged(nodes, "doc") == [["(1,kept,g,1)"]]


async def test_reassert_says_what_is_wrong(nodes: list[HarnessNode]) -> None:
    found = await conflict(nodes, "UPDATE doc SET title = 'a' WHERE id = 1", "UPDATE doc SET title = 'b' WHERE id = 1")
    a = nodes[0]
    with pytest.raises(asyncpg.NoDataFoundError, match="there is no conflict"):
        await a.value("SELECT crdt.reassert('00000000-0000-7000-8000-000000000000')")
    await a.sql("DELETE FROM doc WHERE id = 1")
    with pytest.raises(asyncpg.NoDataFoundError, match="the row is not there"):
        await a.value("SELECT crdt.reassert($1)", found["id"])
    await a.sql("UPDATE crdt_state.conflict SET kind = 'undone'")
    with pytest.raises(asyncpg.FeatureNotSupportedError, match="cannot be written again"):
        await a.value("SELECT crdt.reassert($1)", found["id"])


async def test_reassert_needs_the_callers_own_rights(nodes: list[HarnessNode]) -> None:
    found = await conflict(nodes, "UPDATE doc SET title = 'a' WHERE id = 1", "UPDATE doc SET title = 'b' WHERE id = 1")
    a = nodes[0]
    role = f"reader_{a.dsn.rpartition('/')[2]}"
    await a.sql(f"CREATE ROLE {role}; GRANT {role} TO current_user")
    try:
        await a.sql(f"SET ROLE {role}")
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await a.value("SELECT crdt.reassert($1)", found["id"])
        await a.sql(f"RESET ROLE; GRANT SELECT ON doc TO {role}; SET ROLE {role}")
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await a.value("SELECT crdt.reassert($1)", found["id"])
        assert await a.rows("SELECT \"column\", value, shown FROM crdt.siblings('doc', '1', 'title')") == [
            ("title", "b", True)
        ]
    finally:
        await a.sql(f"RESET ROLE; DROP OWNED BY {role}; DROP ROLE {role}")


async def test_siblings_of_columns_without_concurrent_writes(nodes: list[HarnessNode]) -> None:
    a, _ = nodes
    await a.sql("UPDATE doc SET title = 'new' WHERE id = 1")
    await a.captured()
    rows = await a.app.fetch("SELECT * FROM crdt.siblings('doc', '1')")
    assert [(r["column"], r["value"], r["writer"], r["shown"]) for r in rows] == [
        ("title", "new", "n1", True),
        ("body", "g", "genesis", True),
        ("n", "1", "genesis", True),
    ]
    assert await a.rows("SELECT 1 FROM crdt.siblings('doc', '99')") == []
    with pytest.raises(asyncpg.UndefinedColumnError, match="no replicated column"):
        await a.rows("SELECT 1 FROM crdt.siblings('doc', '1', 'nothing')")
