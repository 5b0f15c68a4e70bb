"""What the surface for conflicts shows and runs for whom, and under which settings."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from node_harness import HarnessNode, cluster, settle

SCHEMA = """
CREATE TABLE doc (id varchar(10) PRIMARY KEY, title text, tags text[]);
COMMENT ON COLUMN doc.title IS '@crdt(mv_register)';
COMMENT ON COLUMN doc.tags IS '@crdt(lww_set)';
INSERT INTO doc VALUES ('k', 'genesis', '{a}');
CREATE TABLE event (id timestamptz PRIMARY KEY, until timestamptz);
COMMENT ON COLUMN event.until IS '@crdt(mv_register)';
INSERT INTO event VALUES ('2020-01-01 00:00+00');
"""
PLANTED = """
CREATE TABLE planted (who text);
CREATE FUNCTION public.array_append(text[], text) RETURNS text[] LANGUAGE plpgsql AS
    $$ BEGIN INSERT INTO public.planted VALUES (current_user); RETURN $1; END $$;
CREATE FUNCTION public.array_remove(text[], text) RETURNS text[] LANGUAGE plpgsql AS
    $$ BEGIN INSERT INTO public.planted VALUES (current_user); RETURN $1; END $$;
CREATE FUNCTION public.planted_equal(varchar, varchar) RETURNS boolean LANGUAGE plpgsql AS
    $$ BEGIN INSERT INTO public.planted VALUES (current_user); RETURN true; END $$;
CREATE OPERATOR public.= (LEFTARG = varchar, RIGHTARG = varchar, FUNCTION = public.planted_equal);
"""


@pytest.fixture
async def nodes(postgres_server) -> AsyncIterator[list[HarnessNode]]:  # type: ignore[no-untyped-def]
    async with cluster(postgres_server, 2, SCHEMA) as nodes:
        yield nodes


async def concurrently(nodes: list[HarnessNode], first: str, second: str) -> None:
    a, b = nodes
    await a.sql(first)
    await a.captured()
    b.state.hlc.observe(a.state.hlc.last)
    await b.sql(second)
    await b.captured()
    await settle(nodes)


async def again(node: HarnessNode, element: str) -> None:
    """Take an element away and add it again."""
    for tags in ("{}", f"{{{element}}}"):
        await node.sql(f"UPDATE doc SET tags = '{tags}'")
        await node.captured()


@asynccontextmanager
async def as_role(node: HarnessNode, rights: str) -> AsyncIterator[None]:
    role = f"app_{node.dsn.rpartition('/')[2]}"
    await node.sql(
        f"CREATE ROLE {role}; GRANT {rights} ON doc TO {role}; GRANT {role} TO current_user; SET ROLE {role}"
    )
    try:
        yield
    finally:
        await node.sql(f"RESET ROLE; DROP OWNED BY {role}; DROP ROLE {role}")


async def test_an_application_role_may_write_a_lost_value_again(nodes: list[HarnessNode]) -> None:
    await concurrently(nodes, "UPDATE doc SET title = 'a'", "UPDATE doc SET title = 'b'")
    async with as_role(nodes[0], "SELECT, UPDATE"):
        conflict = await nodes[0].value("SELECT id FROM crdt.conflicts")
        assert await nodes[0].value("SELECT crdt.reassert($1)", conflict) == "a"


async def test_nothing_planted_in_a_schema_of_the_caller_runs(nodes: list[HarnessNode]) -> None:
    a, b = nodes
    await a.sql(PLANTED)
    # The addition loses against the later removal; to write it again calls array_append and compares the key.
    await again(b, "a")
    await concurrently(nodes, "UPDATE doc SET tags = '{}'", "UPDATE doc SET title = 'b'")
    conflicts = await a.conflicts()
    assert [conflict["loser_value"] for conflict in conflicts] == ["a"]
    for conflict in conflicts:
        await a.value("SELECT crdt.reassert($1)", conflict["id"])
    assert await a.rows("SELECT * FROM planted") == []


async def test_row_security_hides_conflicts_too(nodes: list[HarnessNode]) -> None:
    await concurrently(nodes, "UPDATE doc SET title = 'a'", "UPDATE doc SET title = 'b'")
    assert await nodes[0].rows("SELECT 1 FROM crdt.conflicts")
    await nodes[0].sql("ALTER TABLE doc ENABLE ROW LEVEL SECURITY")
    async with as_role(nodes[0], "SELECT"):
        assert await nodes[0].rows("SELECT * FROM doc") == []
        assert await nodes[0].rows("SELECT * FROM crdt.conflicts") == []


async def test_values_look_the_same_under_any_setting_of_the_caller(nodes: list[HarnessNode]) -> None:
    await concurrently(
        nodes, "UPDATE event SET until = '2021-01-01 00:00+00'", "UPDATE event SET until = '2022-01-01 00:00+00'"
    )
    a, _ = nodes
    await a.sql("SET TimeZone = 'Asia/Tokyo'; SET DateStyle = 'German'")
    siblings = await a.rows("SELECT value, shown FROM crdt.siblings('event', '2020-01-01 00:00+00')")
    assert siblings == [("2022-01-01 00:00:00+00", True), ("2021-01-01 00:00:00+00", False)]
    lost = await a.value("SELECT lost FROM crdt.explain('event', '2020-01-01 00:00+00') WHERE \"column\" = 'until'")
    assert '"2021-01-01 00:00:00+00"' in lost
