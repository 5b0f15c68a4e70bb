"""Tables of every shape through capture and merge: keys, names, widths, types; swaps and chains in a transaction."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
from node_harness import HarnessNode, cluster, converged, open_node, settle

from sidecar.lab.waiting import wait_until

SWAPS = """
CREATE TABLE swap (id int PRIMARY KEY, u int NOT NULL UNIQUE, v text);
COMMENT ON TABLE swap IS '@crdt';
CREATE TABLE chain (id int PRIMARY KEY, v text, n int NOT NULL DEFAULT 0);
COMMENT ON COLUMN chain.n IS '@crdt(pn_counter)';
CREATE TABLE moved (id int PRIMARY KEY, v text, n int NOT NULL DEFAULT 0);
COMMENT ON COLUMN moved.n IS '@crdt(pn_counter)';
CREATE TABLE made (id int PRIMARY KEY, mail text NOT NULL, low text GENERATED ALWAYS AS (lower(mail)) STORED UNIQUE);
COMMENT ON TABLE made IS '@crdt';
CREATE TABLE made_of_null (id int PRIMARY KEY, mail text, low text GENERATED ALWAYS AS (lower(mail)) STORED UNIQUE);
COMMENT ON TABLE made_of_null IS '@crdt';
INSERT INTO made VALUES (1, 'A'), (2, 'B');
INSERT INTO made_of_null VALUES (1, 'A'), (2, 'B');
INSERT INTO swap SELECT i, i, 'v' || i FROM generate_series(1, 10) AS i;
INSERT INTO chain SELECT i, 'v' || i, i FROM generate_series(1, 10) AS i;
INSERT INTO moved SELECT i, 'v' || i, i FROM generate_series(1, 10) AS i;
"""


@pytest.fixture
async def swaps(postgres_server) -> AsyncIterator[list[HarnessNode]]:  # type: ignore[no-untyped-def]
    async with cluster(postgres_server, 2, SWAPS) as nodes:
        yield nodes


async def transaction(node: HarnessNode, *statements: str) -> None:
    async with node.app.transaction():
        for statement in statements:
            await node.sql(statement)
    await node.captured()


CASES = {
    "swap": [
        "UPDATE swap SET u = 0 WHERE id = 1",
        "UPDATE swap SET u = 1 WHERE id = 2",
        "UPDATE swap SET u = 2 WHERE id = 1",
    ],
    **{
        f"swap of what {table} is generated of": [
            f"UPDATE {table} SET mail = 'c' WHERE id = 1",
            f"UPDATE {table} SET mail = 'A' WHERE id = 2",
            f"UPDATE {table} SET mail = 'B' WHERE id = 1",
        ]
        for table in ("made", "made_of_null")
    },
    "three-cycle": [
        "UPDATE swap SET u = 0 WHERE id = 1",
        "UPDATE swap SET u = 1 WHERE id = 2",
        "UPDATE swap SET u = 2 WHERE id = 3",
        "UPDATE swap SET u = 3 WHERE id = 1",
    ],
    "upwards": ["UPDATE swap SET u = u + 100", "UPDATE swap SET u = u - 99"],
    "delete and insert of a value": ["DELETE FROM swap WHERE id = 1", "INSERT INTO swap VALUES (11, 1, 'new')"],
    "value freed by an update": ["UPDATE swap SET u = 99 WHERE id = 5", "INSERT INTO swap VALUES (12, 5, 'new')"],
    "delete and insert of a key": ["DELETE FROM swap WHERE id = 3", "INSERT INTO swap VALUES (3, 3, 'again')"],
    "insert and delete": ["INSERT INTO swap VALUES (20, 20, 'gone')", "DELETE FROM swap WHERE id = 20"],
    "key chain": ["UPDATE chain SET id = id + 100", "UPDATE chain SET id = id - 99"],
    "key chain back": ["UPDATE chain SET id = id + 100", "UPDATE chain SET id = id - 101"],
    "key chain and values": [
        "UPDATE chain SET n = n + 1",
        "UPDATE chain SET id = -id",
        "UPDATE chain SET id = 1 - id, v = v || 'x'",
    ],
    "keys swapped": ["UPDATE chain SET id = -id WHERE id < 3", "UPDATE chain SET id = 3 + id WHERE id < 0"],
    "keys moved away": ["UPDATE moved SET id = id + 100, v = v || 'm'"],
    "keys moved and back": ["UPDATE moved SET id = id + 100", "UPDATE moved SET id = id - 100"],
    "key moved onto a deleted one": ["DELETE FROM moved WHERE id = 1", "UPDATE moved SET id = 1 WHERE id = 2"],
}


@pytest.mark.parametrize("case", CASES)
async def test_what_one_transaction_may_do_to_keys_and_unique_values(swaps: list[HarnessNode], case: str) -> None:
    a, b = swaps
    await transaction(b, *CASES[case])
    result = await a.merge_from(b)
    assert result.quarantined == 0, [dict(q) for q in await a.quarantine()]
    await converged(swaps, "swap", "chain", "moved", "made", "made_of_null")
    # And once more on rows that both know by now.
    await transaction(a, "UPDATE swap SET v = v || '!'", "UPDATE chain SET n = n + 1", "UPDATE moved SET n = n + 1")
    await converged(swaps, "swap", "chain", "moved")


async def test_a_swap_among_rows_that_are_written_elsewhere_too(swaps: list[HarnessNode]) -> None:
    a, b = swaps
    await transaction(b, *CASES["swap"])
    await transaction(a, "UPDATE swap SET v = 'a' WHERE id < 3")
    [rows, *_] = await converged(swaps, "swap")
    assert {"(1,2,a)", "(2,1,a)"} <= set(rows)


ODD = "o\"d d'ness ümläut SELECT"
QUOTED = ODD.replace('"', '""')
LONG = "x" * 63
NAMES = f"""
CREATE SCHEMA "My Schema";
CREATE TABLE "My Schema"."select" (
    "op" int, "ord" text, "hlc" text, "image" text, "k_1" text, "{LONG}" text, "{QUOTED}" text,
    "User" int NOT NULL DEFAULT 0, "ctid_" text, "s" text, "t" text, "g" text, "p" text, "100%" text,
    "act" text, "dirty" text, "clean" text,
    "a_1" text, "a:b" text,
    PRIMARY KEY ("ord", "op")
);
COMMENT ON COLUMN "My Schema"."select"."User" IS '@crdt(pn_counter)';
CREATE TABLE only_keys (a int, b text, PRIMARY KEY (b, a));
COMMENT ON TABLE only_keys IS '@crdt';
"""


async def test_odd_names_composite_keys_and_tables_of_keys_alone(postgres_server) -> None:  # type: ignore[no-untyped-def]
    odd = '"My Schema"."select"'
    async with cluster(postgres_server, 2, NAMES) as (a, b):
        await transaction(a, f"INSERT INTO {odd} (op, ord, \"{LONG}\", \"{QUOTED}\") VALUES (1, 'x', 'long', 'odd')")
        await transaction(a, "INSERT INTO only_keys VALUES (1, 'one'), (2, 'two')")
        await converged([a, b], odd, "only_keys")
        await transaction(b, f"UPDATE {odd} SET \"{QUOTED}\" = 'b', image = 'i', \"100%\" = '%', \"a:b\" = ':'")
        await transaction(
            a, f"UPDATE {odd} SET \"{QUOTED}\" = 'a', \"User\" = \"User\" + 1, k_1 = 'k', hlc = NULL, g = 'g'"
        )
        await transaction(b, "DELETE FROM only_keys WHERE a = 1", "UPDATE only_keys SET a = 3 WHERE a = 2")
        await transaction(a, "UPDATE only_keys SET b = 'uno' WHERE a = 1")
        rows, keys = await converged([a, b], odd, "only_keys")
        assert len(rows) == 1
        assert keys == ["(1,uno)", "(3,two)"]
        assert [c["column_name"] for c in await a.conflicts()] == [ODD]
        await transaction(b, f"DELETE FROM {odd}")
        await converged([a, b], odd, "only_keys")


@pytest.mark.parametrize("width", [62, 70, 200, 220])
async def test_wide_tables(postgres_server, width: int) -> None:  # type: ignore[no-untyped-def]
    """A mask word holds 62 columns, jsonb_build_object 50 pairs, a target list 1664 entries."""
    columns = ", ".join(f"c{i} {'int NOT NULL DEFAULT 0' if i % 30 == 0 else 'text'}" for i in range(width))
    comments = "".join(f"COMMENT ON COLUMN wide.c{i} IS '@crdt(pn_counter)';" for i in range(0, width, 30))
    schema = f"CREATE TABLE wide (id int PRIMARY KEY, {columns}); COMMENT ON TABLE wide IS '@crdt'; {comments}"
    async with cluster(postgres_server, 2, schema) as (a, b):
        last = width - 1
        await transaction(a, f"INSERT INTO wide (id, c1, c{last}) VALUES (1, 'one', 'last'), (2, 'x', 'y')")
        await converged([a, b], "wide")
        await transaction(a, f"UPDATE wide SET c1 = 'a', c{last} = 'la', c0 = c0 + 1 WHERE id = 1")
        await transaction(b, f"UPDATE wide SET c2 = 'b', c{last} = 'lb', c0 = c0 + 2, c{last - 2} = NULL WHERE id = 1")
        every = ", ".join(f"c{i} = {'7' if i % 30 == 0 else repr(f'v{i}')}" for i in range(width))
        await transaction(b, f"UPDATE wide SET {every} WHERE id = 2", "INSERT INTO wide (id) VALUES (3)")
        await converged([a, b], "wide")
        assert await a.rows(f"SELECT c0, c1, c2, c{last} FROM wide WHERE id = 1") == [(3, "a", "b", "lb")]
        assert await a.quarantine() == []
        await transaction(a, "DELETE FROM wide WHERE id = 2")
        b.state.hlc.last = 4_102_444_800_000 << 16
        await transaction(b, "UPDATE wide SET c1 = 'revived' WHERE id = 2")
        await converged([a, b], "wide")
        assert await a.value("SELECT c1 FROM wide WHERE id = 2") == "revived"


async def test_a_table_that_is_too_wide_is_refused_with_its_mend(database: str) -> None:
    columns = ", ".join(f"c{i} text" for i in range(221))
    schema = f"CREATE TABLE wide (id int PRIMARY KEY, {columns}); COMMENT ON TABLE wide IS '@crdt'"
    with pytest.raises(AssertionError, match=r"has 221 columns .*; at most 220 can be replicated"):
        async with open_node(database, 1, schema):
            pass


async def test_columns_that_keep_several_writes_count_twice(database: str) -> None:
    columns = ", ".join(f"c{i} text[]" for i in range(111))
    comments = "".join(f"COMMENT ON COLUMN wide.c{i} IS '@crdt(or_set)';" for i in range(110))
    schema = f"CREATE TABLE wide (id int PRIMARY KEY, {columns}); {comments}"
    told = r"has 111 columns outside its primary key \(110 of them keep several writes and count twice\); at most 220"
    with pytest.raises(AssertionError, match=told):
        async with open_node(database, 1, schema):
            pass


async def test_a_virtual_generated_column_is_refused_before_it_breaks_the_application(
    postgres_server, database
) -> None:  # type: ignore[no-untyped-def]
    """The server itself refuses UPDATE and DELETE of such a table once it has REPLICA IDENTITY FULL."""
    if postgres_server.major < 18:
        pytest.skip("virtual generated columns are there from PostgreSQL 18 on")
    schema = "CREATE TABLE t (id int PRIMARY KEY, v int GENERATED ALWAYS AS (id * 2) VIRTUAL);"
    with pytest.raises(AssertionError, match="is a virtual generated column"):
        async with open_node(database, 1, schema + "COMMENT ON TABLE t IS '@crdt'"):
            pass
    connection = await asyncpg.connect(database)
    await connection.execute("INSERT INTO t VALUES (1); UPDATE t SET id = 2; DELETE FROM t")
    await connection.close()


TYPES = """
CREATE TYPE mood AS ENUM ('sad', 'so so', 'ha"ppy');
CREATE TYPE pair AS (x int, y text);
CREATE DOMAIN price AS numeric(10,2) CHECK (VALUE >= 0);
CREATE TABLE types (
    id uuid PRIMARY KEY, t text, b bytea, j jsonb, js json, ia int[], ta text[], e mood, ea mood[], c pair, r int4range,
    tr tstzrange, ts timestamptz, d date, iv interval, n numeric(10,2), nn numeric, f float8, f4 float4, ch char(5),
    vc varchar(7), dom price, bo boolean, bi bit(4), vb varbit, inet_ inet, m money, tsv tsvector, pt point,
    calc int GENERATED ALWAYS AS (length(t)) STORED, counted price DEFAULT 0
);
COMMENT ON TABLE types IS '@crdt';
CREATE TABLE keyed (
    ch char(4), d date, e mood, n numeric(6,2), ident int GENERATED BY DEFAULT AS IDENTITY, v text,
    PRIMARY KEY (ch, d, e, n)
);
COMMENT ON TABLE keyed IS '@crdt';
"""
VALUES = [
    """gen_random_uuid(), E'quote\\' "double" back\\\\slash\\nnewline\\ttab ümläut 🐘 {a,b} NULL', '\\x00ff5c22',
    '{"a": [1, null, "x\\"y"]}',
    '{"b":  1, "a":2}', '{1,NULL,3}', ARRAY['a"b', NULL, 'NULL', '', '{x}', E'\\\\'], 'ha"ppy', '{sad,"so so"}',
    ROW(1, 'a "b", (c)'),
    '[1,5)', '["2024-01-01 00:00+02","2024-02-01 00:00+02")', '2024-03-31 02:30:00.123456+05', '2024-02-29',
    '1 mon 2 days 03:04:05.6',
    12345678.90, 'NaN', 0.1::float8 + 0.2, 1.1, 'ab', 'abcdefg', 1.5, true, B'1010', B'101',
    '10.0.0.1/8', '12.34',
    to_tsvector('simple', 'a fat cat'), '(1,2)'""",
    "gen_random_uuid(), ''" + ", NULL" * 27,
    "gen_random_uuid(), 'NULL', '\\x', 'null', 'null', '{}', '{}', NULL, '{}', ROW(NULL, ''), 'empty', NULL, "
    "'infinity', '-infinity', '-1 day', -0.01, 1e-20, '-Infinity', 'NaN', '', '', 0, false, B'0000', B'', '::1', "
    "'-0.01', '', '(0,-0)'",
]


async def test_values_of_every_kind_of_type_survive(postgres_server) -> None:  # type: ignore[no-untyped-def]
    names = "id, t, b, j, js, ia, ta, e, ea, c, r, tr, ts, d, iv, n, nn, f, f4, ch, vc, dom, bo, bi, vb, inet_, m, tsv"
    names += ", pt"
    async with cluster(postgres_server, 2, TYPES) as (a, b):
        for values in VALUES:
            await transaction(a, f"INSERT INTO types ({names}) VALUES ({values})")
        [rows] = await converged([a, b], "types")
        assert len(rows) == 3
        assert await b.quarantine() == []
        # Every column by way of an update, a tombstone and a revival.
        first = await a.value("SELECT id FROM types WHERE n IS NOT NULL AND d = '2024-02-29'")
        sets = ", ".join(f"{c} = o.{c}" for c in names.split(", ")[1:])
        await transaction(a, f"UPDATE types AS t SET {sets} FROM types AS o WHERE o.id = '{first}' AND t.id <> o.id")
        [rows] = await converged([a, b], "types")
        assert len({row.split(",", 1)[1] for row in rows}) == 1
        await transaction(a, "DELETE FROM types")
        b.state.hlc.last = 4_102_444_800_000 << 16
        await transaction(b, "UPDATE types SET bo = NOT bo")
        [revived] = await converged([a, b], "types")
        assert len(revived) == 3
        assert await b.quarantine() == []


async def test_keys_of_other_types(postgres_server) -> None:  # type: ignore[no-untyped-def]
    async with cluster(postgres_server, 2, TYPES) as (a, b):
        await transaction(a, "INSERT INTO keyed VALUES ('ab', '2024-02-29', 'so so', 1.50, DEFAULT, 'v')")
        await converged([a, b], "keyed")
        await transaction(b, "UPDATE keyed SET v = 'w'")
        await transaction(b, "UPDATE keyed SET n = 2")
        [rows] = await converged([a, b], "keyed")
        assert rows == ['("ab  ",2024-02-29,"so so",2.00,1,w)']


async def test_an_application_that_waits_for_a_swapped_row_finds_it(
    postgres_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows whose unique values move stay where they are: taken out and put back, a waiting UPDATE would miss them."""
    schema = """
    CREATE TABLE seats (id int PRIMARY KEY, u int UNIQUE, v text);
    COMMENT ON TABLE seats IS '@crdt';
    """
    async with cluster(postgres_server, 2, schema) as nodes:
        a, b = nodes
        await a.sql("INSERT INTO seats VALUES (1, 1, 'x'), (2, 2, 'y')")
        await settle(nodes)
        async with a.app.transaction():
            await a.sql("UPDATE seats SET u = NULL WHERE id = 1")
            await a.sql("UPDATE seats SET u = 1 WHERE id = 2")
            await a.sql("UPDATE seats SET u = 2 WHERE id = 1")
        await a.captured()
        commit, reached, go_on = b.merge_session.commit, asyncio.Event(), asyncio.Event()

        async def late_commit() -> None:
            reached.set()
            await go_on.wait()
            await commit()

        monkeypatch.setattr(b.merge_session, "commit", late_commit)
        merging = asyncio.create_task(b.merge((await a.sets())[-1]))
        await reached.wait()
        waiting = asyncio.create_task(b.sql("UPDATE seats SET v = 'local' WHERE id = 1"))
        await wait_until(lambda: _blocked(b), 10, "the application waits for the merge")
        go_on.set()
        await merging
        assert await waiting == "UPDATE 1"
        assert await b.rows("SELECT * FROM seats ORDER BY id") == [(1, 2, "local"), (2, 1, "y")]


async def _blocked(node: HarnessNode) -> bool:
    """Whether somebody waits for a lock; asked on a session of its own."""
    connection = await asyncpg.connect(node.dsn)
    try:
        return bool(await connection.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"))
    finally:
        await connection.close()


KEEPERS = {
    "a CHECK": "u int UNIQUE CHECK (u IS NOT NULL)",
    "a CHECK over two columns": "u int UNIQUE, CHECK (coalesce(u, -1) >= 0 OR v = 'never')",
    "NULLS NOT DISTINCT": "u int UNIQUE NULLS NOT DISTINCT",
    "a domain": "u counted UNIQUE",
}


@pytest.mark.parametrize("kind", KEEPERS)
async def test_unique_values_swap_where_null_is_refused_for_a_moment(postgres_server, kind: str) -> None:  # type: ignore[no-untyped-def]
    """Parked at NULL, one row would break the CHECK, and two would clash under NULLS NOT DISTINCT."""
    schema = f"""
    CREATE DOMAIN counted AS int CHECK (VALUE IS NOT NULL);
    CREATE TABLE kept (id int PRIMARY KEY, v text, {KEEPERS[kind]});
    COMMENT ON TABLE kept IS '@crdt';
    INSERT INTO kept (id, v, u) SELECT i, 'v', i FROM generate_series(1, 4) AS i;
    """
    async with cluster(postgres_server, 2, schema) as (a, b):
        async with a.app.transaction():
            await a.sql("UPDATE kept SET u = u + 100")
            await a.sql("UPDATE kept SET u = 105 - u")
            await a.sql("UPDATE kept SET v = 'swapped'")
        await a.captured()
        assert (await b.merge_from(a)).quarantined == 0
        assert await b.rows("SELECT id, u, v FROM kept ORDER BY id") == [(i, 5 - i, "swapped") for i in range(1, 5)]
