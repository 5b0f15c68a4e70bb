"""A table that got a column on one node first: rows from the others have the column's default here."""

from __future__ import annotations

import pytest
from node_harness import cluster, converged

SCHEMA = """
CREATE TABLE doc (id int PRIMARY KEY, title text);
COMMENT ON TABLE doc IS '@crdt';
INSERT INTO doc VALUES (1, 'genesis');
"""
COLUMNS = """
CREATE TYPE mood AS ENUM ('sad', 'fine');
CREATE DOMAIN short AS varchar(4) DEFAULT 'dom';
ALTER TABLE doc ADD note text NOT NULL DEFAULT 'none', ADD n numeric(4,1) DEFAULT 1 + 0.5, ADD e mood DEFAULT 'fine',
  ADD d short, ADD j jsonb NOT NULL DEFAULT '{}', ADD nothing text, ADD seen text DEFAULT 'all';
COMMENT ON COLUMN doc.seen IS '@crdt(mv_register)';
"""
DEFAULTS = "('none', 1.5, 'fine', 'dom', '{}'::jsonb, NULL, 'all')"


@pytest.mark.parametrize("part_of_a_batch", [False, True])
async def test_an_insert_without_the_column_gets_its_default(postgres_server, part_of_a_batch: bool) -> None:  # type: ignore[no-untyped-def]
    async with cluster(postgres_server, 2, SCHEMA) as (a, b):
        await a.sql(COLUMNS)
        await a.refresh()
        await b.sql("INSERT INTO doc VALUES (2, 'there')")
        if part_of_a_batch:
            await b.sql("DELETE FROM doc WHERE id = 2")
            await b.sql("INSERT INTO doc VALUES (2, 'again')")
        await b.captured()
        assert (await a.merge_from(b)).quarantined == 0
        query = f"SELECT count(*) FROM doc WHERE (note, n, e, d, j, nothing, seen) IS NOT DISTINCT FROM {DEFAULTS}"
        assert await a.value(query) == 2
        # The other node follows, and both are equal.
        await b.sql(COLUMNS)
        await b.refresh()
        await converged([a, b], "doc")
        await a.sql("UPDATE doc SET note = 'a', j = '{}', nothing = 'x' WHERE id = 2")
        await converged([a, b], "doc")


async def test_a_row_that_was_deleted_before_it_had_the_column_comes_back_with_the_default(postgres_server) -> None:  # type: ignore[no-untyped-def]
    async with cluster(postgres_server, 2, SCHEMA) as (a, b):
        await a.sql("DELETE FROM doc WHERE id = 1")
        await a.captured()
        await a.sql(COLUMNS)
        await a.refresh()
        await b.sql("UPDATE doc SET title = 'later' WHERE id = 1")
        await b.captured()
        assert (await a.merge_from(b)).quarantined == 0
        assert await a.rows("SELECT title, note, j FROM doc") == [("later", "none", "{}")]


async def test_another_default_is_taken_up(postgres_server) -> None:  # type: ignore[no-untyped-def]
    async with cluster(postgres_server, 2, SCHEMA) as (a, b):
        await a.sql("ALTER TABLE doc ADD note text DEFAULT 'first'")
        await a.refresh()
        await a.sql("ALTER TABLE doc ALTER note SET DEFAULT 'second'")
        await a.refresh()
        await b.sql("INSERT INTO doc VALUES (2, 'there')")
        await b.captured()
        await a.merge_from(b)
        assert await a.rows("SELECT id, note FROM doc ORDER BY id") == [(1, "first"), (2, "second")]
