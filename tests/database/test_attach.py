"""Attaching databases and tables on a real server."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest

from sidecar.core.catalog import TableSpec
from sidecar.errors import ConfigurationError, FatalError
from sidecar.postgres.admin import connect, own_transaction
from sidecar.postgres.attach import InitReport, attach_tables, initialise
from sidecar.postgres.catalogue import catalogue_version
from sidecar.postgres.migrations import read_migrations
from sidecar.settings import NodeSettings, Settings

Connection = psycopg.AsyncConnection[Any]

# Slot names carry the node's id and are shared by all databases of the server: each test takes another id.
_ids = itertools.count(101)

POSTS = """
CREATE TABLE posts (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), title text, likes bigint NOT NULL DEFAULT 0);
COMMENT ON COLUMN posts.likes IS 'Number of likes. @crdt(pn_counter)';
"""


def node_settings(dsn: str, **node: Any) -> Settings:
    return Settings(node=NodeSettings(**{"name": "us-east", "id": next(_ids), "dsn": dsn, **node}))


@dataclass
class Database:
    """A database under test: a session of the sidecar's and one of the application's."""

    conn: Connection
    app: Connection
    settings: Settings

    async def init(self) -> InitReport:
        return await initialise(self.conn, self.settings)

    async def rows(self, query: str, *parameters: Any) -> list[tuple[Any, ...]]:
        return await (await self.app.execute(query, parameters)).fetchall()

    async def value(self, query: str, *parameters: Any) -> Any:
        return (await self.rows(query, *parameters))[0][0]


@pytest.fixture
async def db(database: str) -> AsyncIterator[Database]:
    settings = node_settings(database)
    async with await connect(database) as conn, await psycopg.AsyncConnection.connect(database, autocommit=True) as app:
        yield Database(conn, app, settings)
        await app.execute(
            "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = current_database()"
        )


def by_name(tables: tuple[TableSpec, ...], name: str) -> TableSpec:
    return next(table for table in tables if table.name == name)


async def test_init_attaches_everything_and_a_second_one_changes_nothing(db: Database) -> None:
    await db.app.execute(POSTS)
    await db.app.execute("INSERT INTO posts (title) VALUES ('genesis')")
    lines: list[str] = []
    first = await initialise(db.conn, db.settings, progress=lines.append)
    assert first.migrations == [f"{m.version:04}_{m.name}" for m in read_migrations()]
    assert (first.node_created, first.publication_created, first.slot_created) == (True, True, True)
    assert first.attached == ["public.posts"]
    assert "table public.posts attached" in lines
    posts = first.tables[0]
    assert posts.table_id > 0
    assert [c.name for c in posts.key] == ["id"]
    assert {c.name: c.crdt for c in posts.columns} == {"title": "lww_register", "likes": "pn_counter"}
    assert await db.value("SELECT relreplident FROM pg_class WHERE oid = 'posts'::regclass") == "f"
    assert await db.rows("SELECT tablename FROM pg_publication_tables WHERE pubname = 'crdt'") == [("posts",)]
    slot = await db.rows(
        "SELECT plugin, confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name = %s", first.slot
    )
    position = await db.rows("SELECT slot, lsn, to_hlc FROM crdt_state.position")
    assert position == [(first.slot, slot[0][1], 0)]
    assert await db.rows("SELECT node, hlc FROM crdt_state.clock") == [(db.settings.node.id, 0)]
    hlc_age = "SELECT abs((hlc >> 16) - extract(epoch FROM now()) * 1000) FROM crdt_state.node"
    assert await db.value(hlc_age) < 60_000
    assert await db.value(f"SELECT count(*) FROM crdt_state.row_{posts.table_id}") == 0

    before = await catalogue_version(db.conn)
    again = await db.init()
    assert (again.migrations, again.node_created, again.publication_created, again.slot_created) == (
        [],
        False,
        False,
        False,
    )
    assert (again.attached, again.changed, again.detached) == ([], [], [])
    assert again.tables == first.tables
    assert again.version == before == await catalogue_version(db.conn)
    assert await db.rows("SELECT slot, lsn, to_hlc FROM crdt_state.position") == position


@pytest.mark.parametrize("other", [{"name": "eu-west"}, {"id": 999}, {"cluster": "another"}])
async def test_a_database_of_another_node_is_refused(db: Database, other: dict[str, Any]) -> None:
    await db.init()
    node = {"id": db.settings.node.id, **other}
    with pytest.raises(ConfigurationError, match="belongs to node 'us-east'") as caught:
        await initialise(db.conn, node_settings(db.settings.node.dsn, **node))
    assert caught.value.mend
    assert await db.value("SELECT count(*) FROM pg_replication_slots WHERE slot_name = 'sidecar_999'") == 0


async def test_a_lost_slot_is_fatal(db: Database) -> None:
    report = await db.init()
    await db.app.execute("SELECT pg_drop_replication_slot(%s)", [report.slot])
    with pytest.raises(FatalError, match="slot lost") as caught:
        await db.init()
    assert "sidecar init" in caught.value.mend


async def test_an_init_that_was_cut_short_is_finished(db: Database) -> None:
    report = await db.init()
    old = await db.value("SELECT lsn FROM crdt_state.position")
    await db.app.execute("DELETE FROM crdt_state.position")
    again = await db.init()
    assert (again.slot, again.slot_created) == (report.slot, True)
    assert await db.value("SELECT lsn > %s::pg_lsn FROM crdt_state.position", old)


async def test_a_slot_that_another_database_has_is_left_to_it_and_another_name_taken(
    db: Database, postgres_server: Any
) -> None:
    """Two clusters may share a server, and the nodes of each begin with 1."""
    slot = f"sidecar_{db.settings.node.id}"
    async with await psycopg.AsyncConnection.connect(postgres_server.dsn(), autocommit=True) as other:
        await other.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", [slot])
        try:
            report = await db.init()
            oid = await db.value("SELECT oid FROM pg_database WHERE datname = current_database()")
            assert (report.slot, report.slot_created) == (f"{slot}_{oid}", True)
            assert await db.value("SELECT slot FROM crdt_state.position") == report.slot
            again = await db.init()
            assert (again.slot, again.slot_created) == (report.slot, False)
            await db.app.execute("DELETE FROM crdt_state.position")  # an init cut short after the slot
            assert (await db.init()).slot == report.slot
            assert await db.value("SELECT database FROM pg_replication_slots WHERE slot_name = %s", slot) == "postgres"
        finally:
            await other.execute("SELECT pg_drop_replication_slot(%s)", [slot])


async def test_a_publication_for_all_tables_is_refused(db: Database) -> None:
    await db.app.execute("CREATE PUBLICATION crdt FOR ALL TABLES")
    with pytest.raises(ConfigurationError, match="FOR ALL TABLES"):
        await db.init()


async def test_a_narrow_publication_is_widened(db: Database) -> None:
    await db.app.execute("CREATE PUBLICATION crdt WITH (publish = 'insert')")
    report = await db.init()
    assert not report.publication_created
    assert await db.rows("SELECT pubinsert, pubupdate, pubdelete, pubtruncate FROM pg_publication") == [(True,) * 4]


async def test_a_role_without_rights_gets_the_mend(restricted_dsn: str, db: Database) -> None:
    async with await connect(restricted_dsn) as conn:
        with pytest.raises(ConfigurationError, match="may not create schemas") as caught:
            await initialise(conn, db.settings)
    assert "GRANT CREATE ON DATABASE" in caught.value.mend


async def test_a_plain_role_that_owns_its_tables_is_enough(db: Database) -> None:
    """LOGIN, REPLICATION, CREATE on the database and its own tables; no superuser anywhere."""
    name = db.settings.node.dsn.rsplit("/", 1)[1]
    await db.app.execute(
        f"CREATE ROLE plain_owner LOGIN REPLICATION; CREATE ROLE app_owner; GRANT app_owner TO plain_owner;"
        f"GRANT CREATE ON DATABASE {name} TO plain_owner; {POSTS} ALTER TABLE posts OWNER TO app_owner"
    )
    await db.app.execute("INSERT INTO posts (id, title) VALUES (gen_random_uuid(), 'genesis')")
    dsn = db.settings.node.dsn.replace("//postgres@", "//plain_owner@")
    try:
        async with await connect(dsn) as conn:
            report = await initialise(conn, db.settings)
            assert report.attached == ["public.posts"]
            assert {p.severity for p in report.problems} <= {"warning", "advice"}
            await conn.set_autocommit(True)
            query = "SELECT writer FROM public.posts AS p, crdt.explain('public.posts', p.id::text)"
            assert await (await conn.execute(query)).fetchall() == [("genesis",), ("genesis",), (None,)]
            assert (await initialise(conn, db.settings)).attached == []
    finally:
        await db.app.execute("SELECT pg_drop_replication_slot(%s)", [f"sidecar_{db.settings.node.id}"])
        await db.app.execute("DROP OWNED BY plain_owner, app_owner CASCADE; DROP ROLE plain_owner, app_owner")


async def test_two_that_attach_at_once_do_it_once(db: Database) -> None:
    await db.init()
    await db.app.execute(POSTS)
    async with await connect(db.settings.node.dsn) as other:
        results = await asyncio.gather(*(attach_tables(conn, db.settings, tries=50) for conn in (db.conn, other)))
    assert sorted(result.attached for result in results) == [[], ["public.posts"]]
    assert results[0].tables == results[1].tables
    assert len(results[0].tables) == 1
    assert [p for result in results for p in result.problems if p.severity == "error"] == []


async def test_a_new_annotation_is_taken_up_without_init(db: Database) -> None:
    report = await db.init()
    assert report.tables == ()
    await db.app.execute(POSTS)
    assert await catalogue_version(db.conn) != report.version
    result = await attach_tables(db.conn, db.settings)
    assert result.attached == ["public.posts"]
    settled = await attach_tables(db.conn, db.settings)
    assert (settled.attached, settled.tables) == ([], result.tables)
    assert settled.version == await catalogue_version(db.conn)


async def test_a_bad_table_leaves_the_others_alone(db: Database) -> None:
    await db.app.execute(POSTS + "CREATE TABLE log (line text); COMMENT ON TABLE log IS '@crdt'")
    report = await db.init()
    assert report.attached == ["public.posts"]
    problem = next(p for p in report.problems if p.table == "public.log")
    assert (problem.severity, problem.message) == ("error", "has no primary key")


async def test_a_busy_table_does_not_block_the_application_and_is_tried_again(db: Database) -> None:
    await db.init()
    await db.app.execute(POSTS)
    async with await psycopg.AsyncConnection.connect(db.settings.node.dsn) as writer:
        await writer.execute("INSERT INTO posts (title) VALUES ('open transaction')")
        result = await attach_tables(db.conn, db.settings)
        assert (result.attached, result.tables, result.version) == ([], (), "")
        assert any("busy" in problem.message for problem in result.problems)
        assert await db.value("SELECT count(*) FROM crdt_state.replicated_table") == 0
        await writer.rollback()
    assert (await attach_tables(db.conn, db.settings)).attached == ["public.posts"]


async def test_new_and_dropped_and_renamed_columns_are_followed(db: Database) -> None:
    await db.app.execute(POSTS)
    await db.init()
    await db.app.execute(
        "ALTER TABLE posts ADD COLUMN views int NOT NULL DEFAULT 0, ADD COLUMN body text;"
        "COMMENT ON COLUMN posts.views IS '@crdt(g_counter)'"
    )
    result = await attach_tables(db.conn, db.settings)
    assert result.changed == ["public.posts"]
    spec = by_name(result.tables, "posts")
    assert {c.name: c.crdt for c in spec.columns} == {
        "title": "lww_register",
        "likes": "pn_counter",
        "views": "g_counter",
        "body": "lww_register",
    }
    state = {
        row[0]
        for row in await db.rows(
            "SELECT attname::text FROM pg_attribute WHERE attrelid = %s::regclass", f"crdt_state.row_{spec.table_id}"
        )
    }
    views, body = (next(c.attnum for c in spec.columns if c.name == name) for name in ("views", "body"))
    assert {f"x_{views}", f"n_{body}", f"h_{body}", f"v_{body}"} <= state
    await db.app.execute("ALTER TABLE posts DROP COLUMN body")
    await db.app.execute("ALTER TABLE posts RENAME COLUMN title TO headline")
    await db.app.execute("ALTER TABLE posts RENAME TO articles")
    result = await attach_tables(db.conn, db.settings)
    spec = by_name(result.tables, "articles")
    assert [c.name for c in spec.columns] == ["headline", "likes", "views"]
    assert await db.rows("SELECT table_name FROM crdt_state.replicated_table") == [("articles",)]
    assert await db.value("SELECT fingerprint FROM crdt_state.replicated_table") == spec.fingerprint()


async def add_state(db: Database, spec: TableSpec, key: str = "gen_random_uuid()") -> None:
    await db.app.execute(
        f"INSERT INTO crdt_state.row_{spec.table_id} (k_{spec.key[0].attnum}, row_node, row_hlc, live_node, live_hlc)"
        f" VALUES ({key}, 1, 1, 1, 1)"
    )


async def test_another_crdt_type_is_taken_while_there_is_no_state(db: Database) -> None:
    await db.app.execute(POSTS)
    await db.init()
    await db.app.execute("COMMENT ON COLUMN posts.likes IS '@crdt(lww_register)'")
    result = await attach_tables(db.conn, db.settings)
    assert result.changed == ["public.posts"]
    spec = result.tables[0]
    assert not spec.counters
    likes = next(c.attnum for c in spec.columns if c.name == "likes")
    await db.app.execute(f"SELECT n_{likes} FROM crdt_state.row_{spec.table_id}")


async def test_another_crdt_type_is_refused_once_there_is_state(db: Database) -> None:
    await db.app.execute(POSTS)
    spec = (await db.init()).tables[0]
    await add_state(db, spec)
    await db.app.execute(
        "COMMENT ON COLUMN posts.likes IS '@crdt(lww_register)'; ALTER TABLE posts ADD COLUMN body text"
    )
    for _ in range(2):
        result = await attach_tables(db.conn, db.settings)
        problem = next(p for p in result.problems if p.column == "likes")
        assert problem.severity == "error"
        assert "@crdt(pn_counter) back" in problem.mend
        assert {c.name: c.crdt for c in result.tables[0].columns} == {
            "title": "lww_register",
            "likes": "pn_counter",
            "body": "lww_register",
        }
    await db.app.execute("COMMENT ON COLUMN posts.likes IS '@crdt(pn_counter)'")
    result = await attach_tables(db.conn, db.settings)
    assert not [p for p in result.problems if p.severity == "error"]


@pytest.mark.parametrize(
    ("first", "change", "message"),
    [
        ("or_set", "COMMENT ON COLUMN posts.tags IS '@crdt(lww_set)'", "lww_set is asked for"),
        ("lww_set", "COMMENT ON COLUMN posts.tags IS '@crdt(mv_register)'", "state of lww_set"),
        ("merge(a)", "COMMENT ON COLUMN posts.tags IS '@crdt(merge(b))'", "merge(b) is asked for"),
        (
            "or_set",
            "ALTER TABLE posts ALTER COLUMN tags TYPE jsonb USING to_jsonb(tags)",
            "its type was changed to jsonb",
        ),
    ],
)
async def test_state_of_sets_and_siblings_holds_their_column(
    db: Database, first: str, change: str, message: str
) -> None:
    await db.app.execute(f"{POSTS}; ALTER TABLE posts ADD COLUMN tags text[]")
    await db.app.execute(f"COMMENT ON COLUMN posts.tags IS '@crdt({first})'")
    spec = (await db.init()).tables[0]
    await add_state(db, spec)
    await db.app.execute(change)
    result = await attach_tables(db.conn, db.settings)
    (problem,) = [p for p in result.problems if p.severity == "error"]
    assert (problem.column, message in problem.message) == ("tags", True)
    assert next(c for c in result.tables[0].columns if c.name == "tags").crdt == first.partition("(")[0]


async def test_a_broken_annotation_leaves_what_is_in_force(db: Database) -> None:
    await db.app.execute(POSTS)
    before = (await db.init()).tables
    await db.app.execute("COMMENT ON COLUMN posts.likes IS '@crdt(pn_countre)'")
    result = await attach_tables(db.conn, db.settings)
    assert result.tables == before
    assert any(p.severity == "error" and p.column == "likes" for p in result.problems)


async def test_an_altered_key_type_reaches_the_state_tables(db: Database) -> None:
    await db.app.execute("CREATE TABLE stock (sku int PRIMARY KEY, n int)")
    await db.app.execute("COMMENT ON COLUMN stock.n IS '@crdt(pn_counter)'")
    spec = (await db.init()).tables[0]
    await add_state(db, spec, "7")
    await db.app.execute("ALTER TABLE stock ALTER COLUMN sku TYPE bigint")
    result = await attach_tables(db.conn, db.settings)
    assert result.tables[0].key[0].type_name == "bigint"
    key_type = "SELECT atttypid::regtype::text FROM pg_attribute WHERE attrelid = %s::regclass AND attname = 'k_1'"
    for table in ("row", "counter"):
        assert await db.value(key_type, f"crdt_state.{table}_{spec.table_id}") == "bigint"
    assert await db.value(f"SELECT k_1 FROM crdt_state.row_{spec.table_id}") == 7


async def test_a_taken_away_annotation_detaches_and_a_new_one_starts_over(db: Database) -> None:
    await db.app.execute(POSTS)
    old = (await db.init()).tables[0]
    await db.app.execute("COMMENT ON COLUMN posts.likes IS 'Number of likes.'")
    result = await attach_tables(db.conn, db.settings)
    assert (result.detached, result.tables) == (["public.posts"], ())
    assert any(p.severity == "warning" and "no @crdt any more" in p.message for p in result.problems)
    assert await db.rows("SELECT * FROM pg_publication_tables WHERE pubname = 'crdt'") == []
    assert await db.value("SELECT to_regclass(%s)", f"crdt_state.row_{old.table_id}") is not None
    await db.app.execute("COMMENT ON TABLE posts IS '@crdt'")
    result = await attach_tables(db.conn, db.settings)
    assert result.attached == ["public.posts"]
    assert result.tables[0].table_id > old.table_id
    assert await db.value("SELECT to_regclass(%s)", f"crdt_state.row_{old.table_id}") is None


async def test_a_dropped_and_recreated_table_is_a_new_one(db: Database) -> None:
    await db.app.execute(POSTS)
    old = (await db.init()).tables[0]
    await db.app.execute("DROP TABLE posts;" + POSTS)
    result = await attach_tables(db.conn, db.settings)
    assert (result.detached, result.attached) == (["public.posts"], ["public.posts"])
    assert result.tables[0].table_id != old.table_id
    assert await db.value("SELECT to_regclass(%s)", f"crdt_state.row_{old.table_id}") is None


async def test_tables_that_swap_their_names_stay_what_they_are(db: Database) -> None:
    await db.app.execute(POSTS + "CREATE TABLE other (id int PRIMARY KEY); COMMENT ON TABLE other IS '@crdt'")
    before = {table.relation_oid: table.table_id for table in (await db.init()).tables}
    await db.app.execute(
        "BEGIN; ALTER TABLE posts RENAME TO x; ALTER TABLE other RENAME TO posts; ALTER TABLE x RENAME TO other; COMMIT"
    )
    result = await attach_tables(db.conn, db.settings)
    assert result.problems == []
    assert {table.relation_oid: table.table_id for table in result.tables} == before
    assert await db.rows(
        "SELECT table_name, relation_oid::regclass::text FROM crdt_state.replicated_table ORDER BY 1"
    ) == [
        ("other", "other"),
        ("posts", "posts"),
    ]


async def test_a_lost_publication_or_identity_is_put_back(db: Database) -> None:
    await db.app.execute(POSTS)
    version = (await attach_after_init(db)).version
    for damage in ("ALTER PUBLICATION crdt DROP TABLE posts", "ALTER TABLE posts REPLICA IDENTITY DEFAULT"):
        await db.app.execute(damage)
        assert await catalogue_version(db.conn) != version
        result = await attach_tables(db.conn, db.settings)
        assert any("put back" in problem.message for problem in result.problems)
        assert await db.value("SELECT relreplident FROM pg_class WHERE oid = 'posts'::regclass") == "f"
        assert await db.value("SELECT count(*) FROM pg_publication_tables WHERE pubname = 'crdt'") == 1


async def attach_after_init(db: Database) -> Any:
    await db.init()
    return await attach_tables(db.conn, db.settings)


CHANGES: dict[str, str] = {
    "column comment": "COMMENT ON COLUMN posts.title IS '@crdt(lww_register)'",
    "new column": "ALTER TABLE posts ADD COLUMN n int",
    "dropped column": "ALTER TABLE posts DROP COLUMN title",
    "column type": "ALTER TABLE posts ALTER COLUMN likes TYPE numeric",
    "unique index": "CREATE UNIQUE INDEX ON posts (title)",
    "new table": "CREATE TABLE t (id int PRIMARY KEY); COMMENT ON TABLE t IS '@crdt'",
    "dropped table": "DROP TABLE posts",
    "renamed table": "ALTER TABLE posts RENAME TO p",
    "annotation away": "COMMENT ON COLUMN posts.likes IS NULL",
}


async def test_a_failed_table_is_tried_again(db: Database) -> None:
    await db.init()
    await db.app.execute(POSTS)
    await db.app.execute(
        "CREATE FUNCTION refuse() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'not today'; END $$;"
        "CREATE EVENT TRIGGER refuse ON ddl_command_start WHEN TAG IN ('ALTER PUBLICATION') EXECUTE FUNCTION refuse()"
    )
    result = await attach_tables(db.conn, db.settings)
    assert (result.attached, result.version) == ([], "")
    assert [p.message for p in result.problems if p.severity == "error"] == ["could not be attached: not today"]
    await db.app.execute("DROP EVENT TRIGGER refuse")
    assert (await attach_tables(db.conn, db.settings)).attached == ["public.posts"]


async def test_a_granted_right_is_noticed(db: Database, restricted_dsn: str) -> None:
    await db.app.execute("CREATE TABLE t (id uuid PRIMARY KEY); COMMENT ON TABLE t IS '@crdt'; CREATE ROLE t_owner")
    try:
        await db.app.execute("ALTER TABLE t OWNER TO t_owner")
        async with await connect(restricted_dsn) as conn:
            before = await catalogue_version(conn)
            assert await catalogue_version(conn) == before
            await db.app.execute("GRANT t_owner TO restricted")
            assert await catalogue_version(conn) != before
    finally:
        await db.app.execute("DROP OWNED BY t_owner; DROP ROLE t_owner")


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
async def test_the_version_changes_with_what_matters(db: Database, change: str) -> None:
    await db.app.execute(POSTS)
    version = (await attach_after_init(db)).version
    await db.app.execute("INSERT INTO posts (title) VALUES ('x'); CREATE TABLE other (a int); ANALYZE posts")
    assert await catalogue_version(db.conn) == version
    await db.app.execute(change)
    assert await catalogue_version(db.conn) != version


async def test_names_that_need_quoting(db: Database) -> None:
    await db.app.execute(
        'CREATE SCHEMA "we""ird"; CREATE TABLE "we""ird"."Ta ble\'s" ("K ey" text PRIMARY KEY, "n%%s" int, "ünï" text);'
        'COMMENT ON COLUMN "we""ird"."Ta ble\'s"."n%%s" IS \'@crdt(pn_counter)\''
    )
    report = await db.init()
    assert report.attached == ["we\"ird.Ta ble's"]
    assert [c.name for c in report.tables[0].columns] == ["n%%s", "ünï"]


async def first_of_each_transaction(app: Connection, slot: str, work: Callable[[], Awaitable[Any]]) -> list[list[str]]:
    """The kinds of pgoutput messages of every transaction that ``work`` commits."""
    await app.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", [slot])
    try:
        await work()
        cursor = await app.execute(
            "SELECT chr(get_byte(data, 0)) FROM pg_logical_slot_peek_binary_changes("
            "%s, NULL, NULL, 'proto_version', '1', 'publication_names', 'crdt', 'messages', 'true')",
            [slot],
        )
        kinds = "".join(row[0] for row in await cursor.fetchall())
    finally:
        await app.execute("SELECT pg_drop_replication_slot(%s)", [slot])
    return [list(part) for part in kinds.split("B")[1:]]


@pytest.mark.parametrize("autocommit", [True, False])
async def test_own_transactions_start_with_the_mark(db: Database, autocommit: bool) -> None:
    await db.app.execute(POSTS)
    await db.init()
    await db.conn.set_autocommit(autocommit)

    async def work() -> None:
        async with own_transaction(db.conn):
            await db.conn.execute("INSERT INTO public.posts (title) VALUES ('own')")
        await db.app.execute("INSERT INTO posts (title) VALUES ('local')")

    own, local = await first_of_each_transaction(db.app, f"echo_{db.settings.node.id}", work)
    assert own[0] == "M"
    assert "I" in own
    assert "M" not in local
    assert "I" in local


async def test_own_transactions_refuse_a_connection_that_already_wrote(db: Database) -> None:
    await db.conn.execute("SELECT 1")
    with pytest.raises(RuntimeError, match="idle"):
        async with own_transaction(db.conn):
            pass
