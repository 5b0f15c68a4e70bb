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
