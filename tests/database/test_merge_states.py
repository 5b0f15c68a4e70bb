"""State merges: diverged nodes, all types, either order, twice; every merge vector by states in place of changes."""

from __future__ import annotations

from typing import Any

import pytest
from node_harness import HarnessNode, cluster, settle
from state_exchange import merge_states
from test_database_vectors import begin, diverge, run, wrong_values

from tests.merge_vectors.placed import PLACED, schema_sql


async def xmins(node: HarnessNode) -> dict[str, list[Any]]:
    """Each user row's place and xmin: what a merge that changes nothing leaves alone."""
    return {t.name: await node.rows(f"SELECT ctid, xmin FROM {t.name} ORDER BY 1") for t in node.state.tables.values()}


@pytest.mark.parametrize("first", [2, 3])
@pytest.mark.parametrize("as_genesis", [True, False], ids=["genesis", "inserted"])
async def test_all_vectors_by_state(postgres_server, as_genesis: bool, first: int) -> None:  # type: ignore[no-untyped-def]
    """Node 1, which wrote nothing concurrently, merges the states of 2 and 3 in the order of ``first``, then both merge
    its; everybody merges the same again, and nothing is written."""
    async with cluster(postgres_server, 3, schema_sql(as_genesis=as_genesis)) as nodes:
        a, b, c = nodes
        await begin(nodes, as_genesis=as_genesis)
        await diverge(b, c)
        for node in (b, c):
            await node.rewrite()
        order = sorted((b, c), key=lambda node: node.id != first)
        for other in order:
            await merge_states(a, other)
        before = await xmins(a)
        for other in order:
            again = await merge_states(a, other)
            assert (again.inserted, again.updated, again.deleted) == (0, 0, 0)
        assert await xmins(a) == before
        for other in order:
            await merge_states(other, a)
        await settle(nodes)
        await run(a, [p.statements(t) for p in PLACED for t in p.vector.after])
        await settle(nodes)
        assert await wrong_values(nodes) == []


OVERWRITES = """
    SELECT id, column_name, row_key, winner_node, winner_hlc, winner_value, loser_node, loser_hlc, loser_value
    FROM crdt_state.conflict WHERE element IS NULL AND kind IN ('overwrite', 'lost_delete', 'revived') ORDER BY id
"""
"""Conflicts between two whole writes of a column or a row; what happened to a row, its kind, differs between nodes."""


@pytest.mark.parametrize("apart", [False, True], ids=["one-change-set", "change-set-each"])
async def test_a_conflict_is_the_same_one_by_states_and_by_changes(postgres_server, apart: bool) -> None:  # type: ignore[no-untyped-def]
    """Nodes 2 and 3 write concurrently; 2 merges 3's states, and 3 the change sets of 2.

    A state has the latest delete and write of a row, a node that merges one change set after the other met each: a
    write that lost against a delete beside a later one was recorded nowhere, and which of two stands went by what
    became of the row in the end.
    """
    async with cluster(postgres_server, 3, schema_sql(as_genesis=False)) as nodes:
        _, b, c = nodes
        await begin(nodes, as_genesis=False)
        assert await b.rows(OVERWRITES) == []
        await diverge(b, c, apart=apart)
        for node in (b, c):
            await node.rewrite()
        merged = await merge_states(b, c)
        by_states = await b.rows(OVERWRITES)
        assert merged.conflicts == len(by_states) > 20
        assert (await merge_states(b, c)).conflicts == 0
        await c.merge_from(b)
        by_changes = await c.rows(OVERWRITES)
        states, changes = ({row[0]: row for row in rows} for rows in (by_states, by_changes))
        # Of several writes of one node a state knows the last one, and change sets perhaps all.
        assert {found: changes.get(found) for found in states} == states
        assert {row[1:3] for row in by_changes} == {row[1:3] for row in by_states}


MEMBERS = """
CREATE TABLE member (id int PRIMARY KEY, email text UNIQUE, points bigint NOT NULL DEFAULT 0);
COMMENT ON TABLE member IS '@crdt';
COMMENT ON COLUMN member.points IS '@crdt(pn_counter)';
"""


async def test_a_row_that_cannot_be_here_goes_to_the_quarantine_and_the_others_are_merged(postgres_server) -> None:  # type: ignore[no-untyped-def]
    async with cluster(postgres_server, 2, MEMBERS) as nodes:
        a, b = nodes
        await a.sql("INSERT INTO member SELECT i, 'm' || i, i FROM generate_series(1, 20) AS i")
        await b.sql("INSERT INTO member VALUES (107, 'm7', 1), (111, 'm11', 1)")
        await merge_states(b, a)
        await merge_states(b, a)
        entries = await b.rows(
            "SELECT row_key ->> 'id', change, sqlstate, origin FROM crdt_state.quarantine ORDER BY 1"
        )
        assert [(key, state, origin) for key, _, state, origin in entries] == [("11", "23505", 1), ("7", "23505", 1)]
        assert '"email": "m11"' in entries[0][1]
        assert '"points": "11"' in entries[0][1]
        shown = await b.rows("SELECT id, email, points FROM member WHERE id <= 20 ORDER BY id")
        assert shown == [(i, f"m{i}", i) for i in range(1, 21) if i not in (7, 11)]
        assert await b.value("SELECT count(*) FROM member WHERE id > 20") == 2


async def test_a_unique_value_that_another_row_gives_up_is_no_clash(postgres_server) -> None:  # type: ignore[no-untyped-def]
    """Whatever the order in which the two are merged: the one that takes it comes first here."""
    async with cluster(postgres_server, 2, MEMBERS) as nodes:
        a, b = nodes
        await a.sql("INSERT INTO member VALUES (1, 'x'), (2, 'y')")
        await settle(nodes)
        await a.sql("UPDATE member SET email = 'z' WHERE id = 2")
        await a.sql("UPDATE member SET email = 'y' WHERE id = 1")
        await merge_states(b, a)
        assert await b.rows("SELECT id, email FROM member ORDER BY id") == [(1, "y"), (2, "z")]
        assert await b.quarantine() == []
