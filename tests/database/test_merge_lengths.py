"""Values that do not fit a column of this database are an error of their row, and are never cut off without a word."""

from __future__ import annotations

import json

import pytest
from node_harness import cluster

SCHEMA = """
CREATE DOMAIN short AS varchar(3);
CREATE TABLE item (id varchar(4) PRIMARY KEY, name varchar(5), code char(3), flags bit(3), tags varchar(2)[], d short,
                   amount numeric(4,1), winner varchar(3));
COMMENT ON TABLE item IS '@crdt';
COMMENT ON COLUMN item.winner IS '@crdt(mv_register)';
"""
WIDER = """
ALTER TABLE item ALTER id TYPE varchar(9), ALTER name TYPE varchar(9), ALTER code TYPE char(9), ALTER flags TYPE bit(9),
  ALTER tags TYPE varchar(9)[], ALTER d TYPE varchar(9), ALTER amount TYPE numeric(9,1), ALTER winner TYPE varchar(9)
"""
FITTING = "name = 'five5', code = 'abc', flags = '101', tags = '{ab}', d = 'abc', amount = 1.5, winner = 'abc'"


@pytest.mark.parametrize(
    ("column", "value", "sqlstate"),
    [
        ("name", "sixsix", "22001"),
        ("code", "abcd", "22001"),
        ("flags", "101010101", "22026"),
        ("tags", "{abc}", "22001"),
        ("d", "abcd", "22001"),
        ("amount", "1000.5", "22003"),
        ("winner", "abcd", "22001"),
    ],
)
@pytest.mark.parametrize("kind", ["update", "insert"])
async def test_a_value_that_is_too_long_here_is_put_aside(
    postgres_server,
    column: str,
    value: str,
    sqlstate: str,
    kind: str,  # type: ignore[no-untyped-def]
) -> None:
    async with cluster(postgres_server, 2, SCHEMA) as (a, b):
        await b.sql("INSERT INTO item (id) VALUES ('one'), ('two')")
        await b.captured()
        await a.merge_from(b)
        if column == "flags":
            await b.sql("ALTER TABLE item ALTER flags TYPE bit(9) USING flags::bit(9)")
        else:
            await b.sql(WIDER.replace("ALTER flags TYPE bit(9),", ""))
        await b.refresh()
        if kind == "update":
            await b.sql(f"UPDATE item SET {column} = '{value}' WHERE id = 'one'")
        else:
            await b.sql(f"INSERT INTO item (id, {column}) VALUES ('new', '{value}')")
        await b.captured()
        result = await a.merge_from(b)
        assert result.quarantined == 1
        assert await a.rows(f"SELECT id, {column} FROM item ORDER BY id") == [("one", None), ("two", None)]
        [kept] = await a.quarantine()
        assert kept["sqlstate"] == sqlstate
        assert json.loads(kept["change"])["values"][column].startswith(value)


async def test_values_that_fit_are_merged_as_they_are(postgres_server) -> None:  # type: ignore[no-untyped-def]
    async with cluster(postgres_server, 2, SCHEMA) as (a, b):
        await b.sql("INSERT INTO item (id) VALUES ('one')")
        await b.sql(f"UPDATE item SET {FITTING}")
        await b.sql("INSERT INTO item (id, code) VALUES ('two', 'a')")
        await b.captured()
        await a.merge_from(b)
        assert await a.copy("item") == await b.copy("item")
        await a.sql("DELETE FROM item WHERE id = 'one'")
        await b.sql("UPDATE item SET name = 'later' WHERE id = 'one'")
        await b.captured()
        await a.captured()
        await a.merge_from(b)
        await b.merge_from(a)
        assert await a.copy("item") == await b.copy("item"), "and come back from a tombstone"


async def test_a_key_that_is_too_long_here_is_nobody_elses(postgres_server) -> None:  # type: ignore[no-untyped-def]
    """Cut off, it would be the key of another row."""
    async with cluster(postgres_server, 2, SCHEMA) as (a, b):
        await a.sql("INSERT INTO item (id, name) VALUES ('abcd', 'here')")
        await a.captured()
        await b.sql("ALTER TABLE item ALTER id TYPE varchar(9)")
        await b.refresh()
        await b.sql("INSERT INTO item (id, name) VALUES ('abcdef', 'there'), ('ok', 'there')")
        await b.captured()
        assert (await a.merge_from(b)).quarantined == 1
        assert await a.rows("SELECT id, name FROM item ORDER BY id") == [("abcd", "here"), ("ok", "there")]
        [kept] = await a.quarantine()
        assert (kept["sqlstate"], json.loads(kept["row_key"])) == ("22001", {"id": "abcdef"})
