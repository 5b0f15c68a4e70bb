"""A counter that an application sets to NaN or to an infinity: what others add goes on being summed."""

from __future__ import annotations

import json

import pytest
from node_harness import cluster, converged, settle

SCHEMA = """
CREATE TABLE c (
    id int PRIMARY KEY, n numeric NOT NULL DEFAULT 0, s numeric(10,2) NOT NULL DEFAULT 0, g numeric, label text
);
COMMENT ON TABLE c IS '@crdt';
COMMENT ON COLUMN c.n IS '@crdt(pn_counter)';
COMMENT ON COLUMN c.s IS '@crdt(pn_counter)';
COMMENT ON COLUMN c.g IS '@crdt(g_counter)';
"""


@pytest.mark.parametrize(
    ("column", "value", "shown"),
    [("n", "NaN", "20"), ("n", "-Infinity", "20"), ("s", "NaN", "20.00"), ("g", "NaN", "20"), ("g", "Infinity", "20")],
)
async def test_it_adds_nothing_and_takes_nothing_away(postgres_server, column: str, value: str, shown: str) -> None:  # type: ignore[no-untyped-def]
    async with cluster(postgres_server, 2, SCHEMA) as nodes:
        a, b = nodes
        await a.sql("INSERT INTO c VALUES (1, 10, 10, 10, 'x')")
        await settle(nodes)
        await a.sql(f"UPDATE c SET {column} = '{value}' WHERE id = 1")
        await a.captured()
        (kept,) = await a.quarantine()
        assert json.loads(kept["row_key"]) == {"id": "1"}
        assert f"counter {column!r}" in kept["reason"]
        await b.sql(f"UPDATE c SET {column} = {column} + 5 WHERE id = 1")
        await settle(nodes)
        assert await a.value(f"SELECT {column}::text FROM c") == shown.replace("20", "15")
        await a.sql(f"UPDATE c SET {column} = {column} + 2 WHERE id = 1")
        await b.sql(f"UPDATE c SET {column} = {column} + 3 WHERE id = 1")
        await converged(nodes, "c")
        assert await b.value(f"SELECT {column}::text FROM c") == shown
        assert len(await a.quarantine()) == 1


async def test_a_number_over_it_adds_nothing_either(postgres_server) -> None:  # type: ignore[no-untyped-def]
    """What it was before nobody can tell; each turn is written down."""
    async with cluster(postgres_server, 2, SCHEMA) as nodes:
        a, b = nodes
        await a.sql("INSERT INTO c VALUES (1, 10, 10, 10, 'x')")
        await settle(nodes)
        await a.sql("UPDATE c SET n = 'NaN', s = 'NaN'")
        await a.sql("UPDATE c SET n = 500, s = 500")
        await a.sql("UPDATE c SET n = n + 1, s = s + 1")
        await b.sql("UPDATE c SET n = n + 5, s = s + 5")
        assert await converged(nodes, "c") == [["(1,16,16.00,10,x)"]]
        assert len(await a.quarantine()) == 2


async def test_a_row_inserted_and_deleted_with_it(postgres_server) -> None:  # type: ignore[no-untyped-def]
    async with cluster(postgres_server, 2, SCHEMA) as nodes:
        a, b = nodes
        await a.sql("INSERT INTO c VALUES (1, 'NaN', 'NaN', NULL, 'x'), (2, 10, 10, 10, 'y')")
        await settle(nodes)
        await b.sql("UPDATE c SET n = n + 1, s = s + 1 WHERE id = 1")
        await a.sql("UPDATE c SET n = 'Infinity', s = 'NaN' WHERE id = 2")
        await settle(nodes)
        await a.sql("DELETE FROM c WHERE id = 2")
        await settle(nodes)
        await b.sql("INSERT INTO c VALUES (2, 3, 3, 3, 'again')")
        assert await converged(nodes, "c") == [["(1,1,1.00,0,x)", "(2,3,3.00,3,again)"]]
