"""Rows that point at nothing after a merge: ``crdt.orphans`` finds them, ``sidecar check`` speaks of them."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from typing import Any

import psycopg
import pytest

from sidecar.core.catalog import TableSpec
from sidecar.postgres.admin import connect
from sidecar.postgres.attach import initialise
from sidecar.postgres.orphans import ORPHANS_MAX, find_orphans
from sidecar.settings import NodeSettings, Settings

_ids = itertools.count(701)

SCHEMA = """
CREATE TABLE author (id uuid PRIMARY KEY);
CREATE SCHEMA "Shop";
CREATE TABLE "Shop"."Order" (region text, "No" int, PRIMARY KEY (region, "No"));
CREATE TABLE "Shop".line (
    id int8 PRIMARY KEY, region text, "No" int4, author uuid REFERENCES author,
    CONSTRAINT "of order" FOREIGN KEY (region, "No") REFERENCES "Shop"."Order"
);
COMMENT ON TABLE author IS '@crdt'; COMMENT ON TABLE "Shop"."Order" IS '@crdt'; COMMENT ON TABLE "Shop".line IS '@crdt';
INSERT INTO author VALUES ('00000000-0000-7000-8000-000000000001');
INSERT INTO "Shop"."Order" VALUES ('eu', 1);
INSERT INTO "Shop".line VALUES (1, 'eu', 1, '00000000-0000-7000-8000-000000000001'), (2, 'eu', NULL, NULL);
"""
ORPHANED = """
SET session_replication_role = replica;
INSERT INTO "Shop".line VALUES (3, 'eu', 2, NULL), (4, NULL, 5, '00000000-0000-7000-8000-000000000002');
"""
KEY = "00000000-0000-7000-8000-000000000002"


@pytest.fixture
async def tables(database: str) -> AsyncIterator[tuple[psycopg.AsyncConnection[Any], list[TableSpec]]]:
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as conn:
        await conn.execute(SCHEMA)
        config = Settings(node=NodeSettings(name="us-east", id=next(_ids), dsn=database))
        async with await connect(database) as own:
            report = await initialise(own, config)
        yield conn, list(report.tables)


async def listed(conn: psycopg.AsyncConnection[Any], call: str = "crdt.orphans()") -> list[tuple[Any, ...]]:
    return await (await conn.execute(f"SELECT * FROM {call} ORDER BY 1, 2".encode())).fetchall()


async def test_rows_that_point_at_nothing_are_found_and_others_are_not(tables: Any) -> None:
    conn, _ = tables
    assert await listed(conn) == []
    await conn.execute(ORPHANED)
    found = [
        ('"Shop".line', "line_author_fkey", {"id": 4}, "public.author", {"id": KEY}),
        ('"Shop".line', "of order", {"id": 3}, '"Shop"."Order"', {"region": "eu", "No": 2}),
    ]
    assert await listed(conn) == found
    assert await listed(conn, """crdt.orphans('"Shop".line')""") == found
    assert await listed(conn, "crdt.orphans('author')") == []


async def test_a_table_that_is_not_replicated_is_looked_at_when_named(tables: Any) -> None:
    conn, _ = tables
    await conn.execute("CREATE TABLE local (id int PRIMARY KEY, author uuid REFERENCES author)")
    await conn.execute(f"SET session_replication_role = replica; INSERT INTO local VALUES (1, '{KEY}')")
    assert await listed(conn) == []
    assert [row[2] for row in await listed(conn, "crdt.orphans('local')")] == [{"id": 1}]


async def test_no_more_are_listed_than_asked_for(tables: Any) -> None:
    conn, specs = tables
    await conn.execute(
        "SET session_replication_role = replica;"
        "INSERT INTO \"Shop\".line SELECT g, 'us', g FROM generate_series(10, 300) AS g"
    )
    assert len(await listed(conn, "crdt.orphans(max_rows => 7)")) == 7
    (problem,) = await find_orphans(conn, specs)
    assert f"{ORPHANS_MAX} or more rows point at nothing" in problem.message


async def test_check_warns_per_foreign_key_with_an_example(tables: Any) -> None:
    conn, specs = tables
    assert await find_orphans(conn, specs) == []
    await conn.execute(ORPHANED)
    first, second = await find_orphans(conn, specs)
    assert {first.severity, second.severity} == {"warning"}
    assert (
        first.message
        == """1 row points at nothing in public.author (foreign key 'line_author_fkey'), such as {"id": 4}"""
    )
    assert 'crdt.orphans(\'"Shop"."line"\')' in second.mend


async def test_a_search_that_takes_too_long_says_so_and_the_others_go_on(tables: Any) -> None:
    conn, specs = tables
    await conn.execute(ORPHANED)
    async with await psycopg.AsyncConnection.connect(conn.info.dsn) as other:
        await other.execute("LOCK TABLE author IN ACCESS EXCLUSIVE MODE")
        found = await find_orphans(conn, specs, timeout_ms=200)
    assert [(p.table, "not searched" in p.message) for p in found] == [("Shop.line", True)]
    assert (await (await conn.execute("SHOW statement_timeout")).fetchall())[0][0] == "0"


async def test_a_role_without_the_right_to_read_is_told(tables: Any) -> None:
    conn, specs = tables
    await conn.execute('CREATE ROLE stranger_to_orphans; GRANT USAGE ON SCHEMA "Shop" TO stranger_to_orphans')
    await conn.execute("SET ROLE stranger_to_orphans")
    try:
        problems = await find_orphans(conn, specs)
        assert ["permission denied" in p.message for p in problems] == [True]
    finally:
        await conn.execute(
            'RESET ROLE; REVOKE ALL ON SCHEMA "Shop" FROM stranger_to_orphans; DROP ROLE stranger_to_orphans'
        )


async def test_a_database_without_the_surface_is_passed_over(database: str) -> None:
    async with await connect(database, autocommit=True) as conn:
        assert await find_orphans(conn, []) == []
