"""The schema ``crdt``: keys, annotations by SQL, views and ``explain``, seen by an application role."""

from __future__ import annotations

import itertools
import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from psycopg.rows import dict_row

from sidecar.core import hlc
from sidecar.core.annotations import set_annotation
from sidecar.core.catalog import TableSpec
from sidecar.errors import AnnotationError
from sidecar.postgres.admin import connect
from sidecar.postgres.attach import attach_tables, initialise
from sidecar.postgres.migrations import migrate
from sidecar.settings import NodeSettings, Settings

_ids = itertools.count(501)

READER = "crdt_reader"


@dataclass
class Surface:
    """An initialised database: the owner's session and that of a role with nothing but SELECT on ``posts``."""

    app: psycopg.AsyncConnection[dict[str, Any]]
    reader: psycopg.AsyncConnection[dict[str, Any]]
    posts: TableSpec
    node: int

    async def rows(self, query: str, *parameters: Any, reader: bool = True) -> list[dict[str, Any]]:
        conn = self.reader if reader else self.app
        return await (await conn.execute(query, parameters)).fetchall()

    async def explain(self, key: str, table: str = "posts") -> dict[str, dict[str, Any]]:
        return {row["column"]: row for row in await self.rows("SELECT * FROM crdt.explain(%s, %s)", table, key)}


@pytest.fixture
async def surface(database: str) -> AsyncIterator[Surface]:
    node = next(_ids)
    async with await psycopg.AsyncConnection.connect(database, autocommit=True, row_factory=dict_row) as app:
        if not await (await app.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [READER])).fetchall():
            await app.execute(f"CREATE ROLE {READER} LOGIN")
        await app.execute(
            "CREATE TABLE posts (id int PRIMARY KEY, title text, likes smallint NOT NULL DEFAULT 0);"
            "COMMENT ON COLUMN posts.likes IS '@crdt(pn_counter)';"
            "CREATE TABLE secrets (a int, b text, v text, PRIMARY KEY (b, a)); COMMENT ON TABLE secrets IS '@crdt';"
            f"GRANT SELECT ON posts TO {READER}; INSERT INTO posts VALUES (1, 'genesis', 5)"
        )
        async with await connect(database) as conn:
            config = Settings(node=NodeSettings(name="us-east", id=node, dsn=database))
            report = await initialise(conn, config)
        await app.execute(
            "INSERT INTO crdt_state.peer (id, name, acknowledged, connected, last_seen, clock_offset_ms, last_error)"
            " VALUES (2, 'eu-west', %s, true, now(), 1.5, NULL)",
            [dot(1000)],
        )
        dsn = database.replace("//postgres@", f"//{READER}@")
        async with await psycopg.AsyncConnection.connect(dsn, autocommit=True, row_factory=dict_row) as reader:
            yield Surface(app, reader, next(t for t in report.tables if t.name == "posts"), node)


def dot(ms: int, counter: int = 0) -> int:
    return hlc.from_ms(ms, counter)


# -- keys --


async def test_uuidv7_is_a_version_7_uuid_of_now(surface: Surface) -> None:
    before = time.time_ns() // 1_000_000
    (row,) = await surface.rows("SELECT crdt.uuidv7() AS u")
    key: uuid.UUID = row["u"]
    assert (key.version, key.variant) == (7, uuid.RFC_4122)
    assert before - 1000 <= key.int >> 80 <= time.time_ns() // 1_000_000 + 1000


async def test_uuidv7_rises_inside_one_millisecond_and_in_a_default(surface: Surface) -> None:
    rows = await surface.rows("SELECT crdt.uuidv7() AS u FROM generate_series(1, 20000)")
    keys = [row["u"] for row in rows]
    assert keys == sorted(keys)
    assert len(set(keys)) == len(keys)
    assert len({key.int >> 80 for key in keys}) < len(keys) / 2, "several in each millisecond, or this shows nothing"
    await surface.app.execute("CREATE TABLE t (id uuid PRIMARY KEY DEFAULT crdt.uuidv7(), n int)")
    await surface.app.execute("INSERT INTO t (n) SELECT generate_series(1, 1000)")
    assert [row["n"] for row in await surface.rows("SELECT n FROM t ORDER BY id", reader=False)] == list(range(1, 1001))


async def test_uuidv7_rises_when_the_clock_steps_back(surface: Surface, postgres_server: Any) -> None:
    if postgres_server.major >= 18:
        pytest.skip("PostgreSQL 18 has uuidv7() of its own, whose state cannot be set")
    ahead = (time.time_ns() // 1_000_000 + 3_600_000) << 12
    await surface.rows("SELECT set_config('crdt.uuidv7_last', %s, false)", str(ahead))
    rows = await surface.rows("SELECT crdt.uuidv7() AS u FROM generate_series(1, 5000)")
    ticks = [(row["u"].int >> 80) << 12 | (row["u"].int >> 64) & 0xFFF for row in rows]
    assert ticks == list(range(ahead + 1, ahead + 5001))


# -- annotations by SQL --

_MARKERS = ["@crdt", "@CRDT", "x@crdt.org", "@crdt.org", "@crdtx", "@crdt."]
_TEXTS = ["(pn_counter)", " (", "(", ")", '"', "Likes", " ", "\n", ". ", ",", "row=lww", "%", "'", "\\", "-"]
_PIECES = st.sampled_from([*_MARKERS, *_TEXTS])
_COMMENTS = st.none() | st.lists(_PIECES, max_size=8).map("".join)
_WORDS = st.sampled_from(
    [
        None,
        "",
        "pn_counter",
        " row=lww ",
        "@crdt",
        "@Crdt (g_counter)",
        "merge(f(a, b))",
        "it's",
        "a) b",
        "(",
        "x @crdt",
    ]
)


@pytest.fixture(scope="module")
def commenting(postgres_server: Any) -> Any:
    """A synchronous session in a database with the surface, for many examples."""
    import asyncio

    name = "test_commenting"
    dsn = postgres_server.create_database(name)

    async def prepare() -> None:
        async with await connect(dsn) as conn:
            await migrate(conn)

    asyncio.run(prepare())
    with psycopg.connect(dsn, autocommit=True) as conn:
        yield conn
    postgres_server.drop_database(name)


@given(comment=_COMMENTS, words=_WORDS)
@settings(max_examples=400)
def test_sql_and_python_edit_comments_alike(commenting: Any, comment: str | None, words: str | None) -> None:
    def in_sql() -> str | None:
        row = commenting.execute("SELECT crdt.comment_with_annotation(%s, %s)", [comment, words]).fetchone()
        return row[0]  # type: ignore[no-any-return]

    try:
        expected = set_annotation(comment, words)
    except AnnotationError:
        with pytest.raises(psycopg.errors.RaiseException):
            in_sql()
        return
    assert in_sql() == expected


async def comment_on(surface: Surface, table: str, column: int = 0) -> str | None:
    query = "SELECT CASE WHEN %s = 0 THEN obj_description(%s::regclass) ELSE col_description(%s::regclass, %s) END AS c"
    (row,) = await surface.rows(query, column, table, table, column, reader=False)
    return row["c"]  # type: ignore[no-any-return]


async def test_annotate_sets_replaces_and_removes(surface: Surface) -> None:
    await surface.app.execute("COMMENT ON COLUMN posts.likes IS 'How many like it. @crdt(pn_counter)'")
    await surface.app.execute("SELECT crdt.annotate('posts', 'likes', 'g_counter')")
    assert await comment_on(surface, "posts", 3) == "How many like it. @crdt(g_counter)"
    await surface.app.execute("SELECT crdt.annotate('posts', 'likes', NULL)")
    assert await comment_on(surface, "posts", 3) == "How many like it."
    await surface.app.execute("SELECT crdt.annotate('posts', NULL, 'row=lww')")
    assert await comment_on(surface, "posts") == "@crdt(row=lww)"
    await surface.app.execute("SELECT crdt.annotate('posts', '', '')")
    assert await comment_on(surface, "posts") == "@crdt"
    await surface.app.execute("SELECT crdt.annotate('posts', '', NULL)")
    assert await comment_on(surface, "posts") is None


async def test_annotate_quotes_everything(surface: Surface) -> None:
    await surface.app.execute(
        """CREATE SCHEMA "a.b'c";
        CREATE TABLE "a.b'c"."t ""q"" %s" (id int PRIMARY KEY, "c'; DROP TABLE posts; --" int);
        COMMENT ON COLUMN "a.b'c"."t ""q"" %s"."c'; DROP TABLE posts; --" IS 'it''s \\ a "comment"'"""
    )
    table, column = """"a.b'c"."t ""q"" %s\"""", "c'; DROP TABLE posts; --"
    await surface.rows("SELECT crdt.annotate(%s, %s, 'pn_counter')", table, column, reader=False)
    assert await comment_on(surface, table, 2) == 'it\'s \\ a "comment" @crdt(pn_counter)'


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("posts", "nothing", "pn_counter"), psycopg.errors.UndefinedColumn),
        (("crdt.columns", None, ""), psycopg.errors.WrongObjectType),
        (("posts", "xmin", "pn_counter"), psycopg.errors.UndefinedColumn),
        (("posts", "likes", "a) b"), psycopg.errors.RaiseException),
    ],
)
async def test_annotate_refuses_nonsense(surface: Surface, arguments: tuple[Any, ...], error: type[Exception]) -> None:
    with pytest.raises(error):
        await surface.rows("SELECT crdt.annotate(%s, %s, %s)", *arguments, reader=False)


async def test_annotate_has_the_callers_rights(surface: Surface) -> None:
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        await surface.rows("SELECT crdt.annotate('posts', 'title', 'lww_register')")


# -- views --


async def test_columns_shows_what_is_in_force(surface: Surface) -> None:
    rows = await surface.rows("SELECT * FROM crdt.columns WHERE \"table\" = 'posts'")
    assert [(r["schema"], r["column"], r["annotation"], r["type"], r["key"]) for r in rows] == [
        ("public", "id", "lww_register", "integer", 1),
        ("public", "title", "lww_register", "text", None),
        ("public", "likes", "pn_counter", "smallint", None),
    ]
    keys = await surface.rows(
        'SELECT "column", key FROM crdt.columns WHERE "table" = \'secrets\' AND key > 0 ORDER BY key'
    )
    assert [(r["column"], r["key"]) for r in keys] == [("b", 1), ("a", 2)]


async def test_nodes_lists_this_node_its_peers_and_strangers(surface: Surface) -> None:
    await surface.app.execute("INSERT INTO crdt_state.clock VALUES (2, %s), (7, %s)", [dot(1000, 3), dot(5)])
    rows = {row["id"]: row for row in await surface.rows("SELECT * FROM crdt.nodes")}
    assert [(rows[i]["name"], rows[i]["is_local"]) for i in (surface.node, 2, 7)] == [
        ("us-east", True),
        ("eu-west", False),
        ("node 7", False),
    ]
    assert (rows[2]["clock"], rows[2]["clock_shown"], rows[2]["acknowledged"]) == (dot(1000, 3), "1000.3", dot(1000))
    assert (rows[2]["connected"], rows[2]["clock_offset_ms"]) == (True, 1.5)
    assert (rows[surface.node]["connected"], rows[surface.node]["last_seen"]) == (None, None)


async def test_lag_counts_what_a_peer_has_not_acknowledged(surface: Surface) -> None:
    now_ms = time.time_ns() // 1_000_000
    await surface.app.execute("INSERT INTO crdt_state.clock VALUES (2, %s)", [dot(now_ms - 60_000)])
    await surface.app.execute("CREATE TABLE crdt_state.journal_test PARTITION OF crdt_state.journal DEFAULT")
    for seq, part, last, to_ms in ((1, 0, True, 900), (2, 0, False, now_ms - 30_000), (2, 1, True, now_ms - 30_000)):
        await surface.app.execute(
            "INSERT INTO crdt_state.journal VALUES (%s, %s, %s, 0, %s, '\\x01', '\\x0203', 1)",
            [seq, part, last, dot(to_ms)],
        )
    rows = {row["node"]: row for row in await surface.rows("SELECT * FROM crdt.lag")}
    peer = rows[2]
    assert 60_000 <= peer["behind_ms"] < 90_000
    assert 30_000 <= peer["unacknowledged_ms"] < 60_000
    assert (peer["unacknowledged_change_sets"], peer["unacknowledged_bytes"]) == (1, 6)
    assert rows[surface.node]["unacknowledged_bytes"] is None
    await surface.app.execute("UPDATE crdt_state.peer SET acknowledged = %s", [dot(now_ms)])
    (peer,) = await surface.rows("SELECT * FROM crdt.lag WHERE node = 2")
    assert (peer["unacknowledged_ms"], peer["unacknowledged_change_sets"], peer["unacknowledged_bytes"]) == (0, 0, 0)


async def record_conflict(surface: Surface, table: str) -> None:
    await surface.app.execute(
        """INSERT INTO crdt_state.conflict (id, table_id, row_key, column_name, rule,
               winner_node, winner_hlc, winner_value, loser_node, loser_hlc, loser_value)
           SELECT gen_random_uuid(), table_id, '{"id": "1"}', 'title', 'lww_register', 2, %s, 'theirs', %s, %s, 'ours'
           FROM crdt_state.replicated_table WHERE table_name = %s""",
        [dot(20, 1), surface.node, dot(20), table],
    )


async def test_conflicts_show_names_dots_and_values_to_those_who_may_read(surface: Surface) -> None:
    await record_conflict(surface, "posts")
    await record_conflict(surface, "secrets")
    (row,) = await surface.rows("SELECT * FROM crdt.conflicts")
    assert (row["table"], row["key"], row["column"], row["rule"]) == (
        "public.posts",
        {"id": "1"},
        "title",
        "lww_register",
    )
    assert (row["winner"], row["winner_dot"], row["winner_value"]) == ("eu-west", "20.1", "theirs")
    assert (row["loser"], row["loser_dot"], row["loser_value"]) == ("us-east", "20.0", "ours")
    assert len(await surface.rows("SELECT * FROM crdt.conflicts", reader=False)) == 2


async def test_quarantine_is_shown_to_those_who_may_read(surface: Surface) -> None:
    for table in ("public.posts", "public.secrets", "public.gone"):
        await surface.app.execute(
            "INSERT INTO crdt_state.quarantine (origin, from_hlc, to_hlc, table_name, sqlstate, reason)"
            " VALUES (2, %s, %s, %s, '23514', 'check')",
            [dot(1), dot(2, 1), table],
        )
    (row,) = await surface.rows("SELECT * FROM crdt.quarantine")
    assert (row["table"], row["origin"], row["to_dot"], row["reason"]) == ("public.posts", "eu-west", "2.1", "check")
    assert len(await surface.rows("SELECT * FROM crdt.quarantine", reader=False)) == 3


# -- explain --


async def add_state(surface: Surface, key: int, **values: Any) -> None:
    row = {"row_node": surface.node, "row_hlc": dot(10), "live_node": surface.node, "live_hlc": dot(10), **values}
    await surface.app.execute(
        f"INSERT INTO crdt_state.row_{surface.posts.table_id} (k_1, {', '.join(row)}) VALUES (%s{', %s' * len(row)})",
        [key, *row.values()],
    )


async def test_explain_of_a_genesis_row(surface: Surface) -> None:
    rows = await surface.explain("1")
    assert list(rows) == ["id", "title", "likes"]
    title = rows["title"]
    assert (title["type"], title["value"], title["writer"], title["dot"]) == ("text", "genesis", "genesis", "0.0")
    assert (title["written_at"], title["version_vector"], title["row_alive"]) == (None, {}, True)
    assert (rows["likes"]["value"], rows["likes"]["true_value"], rows["likes"]["contributions"]) == ("5", 5, {})


async def test_explain_names_writers_dots_and_vectors(surface: Surface) -> None:
    await surface.app.execute("INSERT INTO posts VALUES (2, 'both', 32767)")
    await add_state(surface, 2, n_2=2, h_2=dot(1_700_000_000_123, 4), v_2=[surface.node, dot(10), 7, dot(3)], x_3=100)
    await surface.app.execute(
        f"INSERT INTO crdt_state.counter_{surface.posts.table_id} (k_1, attnum, node, increased, decreased,"
        " base_increased) VALUES (2, 3, 2, 40000, 3, 10), (2, 3, %s, 5, 0, 0)",
        [surface.node],
    )
    rows = await surface.explain("2")
    title = rows["title"]
    assert (title["writer"], title["dot"]) == ("eu-west", "1700000000123.4")
    assert abs(title["written_at"].timestamp() - 1_700_000_000.123) < 0.001
    assert title["version_vector"] == {"eu-west": "1700000000123.4", "us-east": "10.0", "node 7": "3.0"}
    assert (rows["id"]["writer"], rows["id"]["dot"]) == ("us-east", "10.0")
    likes = rows["likes"]
    assert (likes["writer"], likes["version_vector"]) == (None, None)
    assert (likes["value"], likes["true_value"]) == ("32767", 32867)
    assert likes["contributions"] == {
        "eu-west": {"increased": 39990, "decreased": 3},
        "us-east": {"increased": 5, "decreased": 0},
    }
    assert (title["row_alive"], title["row_inserted"], title["row_deleted"]) == (True, "us-east 10.0", None)


async def test_explain_of_a_deleted_row(surface: Surface) -> None:
    await add_state(surface, 3, dead_node=2, dead_hlc=dot(11))
    rows = await surface.explain("3")
    assert (rows["title"]["value"], rows["title"]["row_alive"], rows["title"]["row_deleted"]) == (
        None,
        False,
        "eu-west 11.0",
    )
    await add_state(surface, 4, live_node=7, live_hlc=dot(11), dead_node=2, dead_hlc=dot(11))
    assert (await surface.explain("4"))["title"]["row_alive"] is True
    assert await surface.explain("5") == {}


async def test_explain_of_a_key_of_several_columns(surface: Surface) -> None:
    await surface.app.execute("INSERT INTO secrets VALUES (1, 'x', 'v')")
    query = "SELECT * FROM crdt.explain('secrets', %s)"
    rows = await surface.rows(query, '{"b": "x", "a": 1}', reader=False)
    assert [(row["column"], row["value"]) for row in rows] == [("a", "1"), ("b", "x"), ("v", "v")]
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="lacks a column"):
        await surface.rows(query, '{"b": "x"}', reader=False)


async def test_explain_keeps_other_peoples_values(surface: Surface) -> None:
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="secrets"):
        await surface.explain('{"b": "x", "a": 1}', "secrets")
    await surface.app.execute(f"SET ROLE {READER}")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        await surface.rows("SELECT * FROM crdt.explain('secrets', '{}')", reader=False)
    await surface.app.execute("RESET ROLE; ALTER TABLE posts ENABLE ROW LEVEL SECURITY")
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="row security"):
        await surface.explain("1")
    assert await surface.rows("SELECT * FROM crdt.explain('posts', '1')", reader=False)


async def test_explain_of_a_table_that_is_not_replicated(surface: Surface) -> None:
    with pytest.raises(psycopg.errors.UndefinedTable, match="not replicated"):
        await surface.explain("1", "pg_class")


async def test_explain_after_a_column_was_added(surface: Surface, database: str) -> None:
    await surface.app.execute("ALTER TABLE posts ADD COLUMN body text DEFAULT 'b'")
    async with await connect(database) as conn:
        config = Settings(node=NodeSettings(name="us-east", id=surface.node, dsn=database))
        await attach_tables(conn, config)
    assert (await surface.explain("1"))["body"]["value"] == "b"


async def test_the_internal_schema_is_closed(surface: Surface) -> None:
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        await surface.rows("SELECT * FROM crdt_state.node")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        await surface.rows("SELECT crdt_state.node_name(1)")
