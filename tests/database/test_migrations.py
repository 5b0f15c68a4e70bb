"""Migrations on a real server, named statements, and the messages of a failed connection."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest

from sidecar.errors import ConfigurationError, FatalError, TransientError
from sidecar.lab.ports import free_port
from sidecar.postgres import statements
from sidecar.postgres.admin import SESSION_SETTINGS, connect, connect_error, parse_dsn
from sidecar.postgres.migrations import Migration, migrate, read_migrations
from sidecar.postgres.session import Session
from sidecar.postgres.walsender import command, open_connection

Connection = psycopg.AsyncConnection[Any]


@pytest.fixture
async def conn(database: str) -> AsyncIterator[Connection]:
    async with await connect(database) as connection:
        yield connection


async def applied(conn: Connection) -> list[tuple[Any, ...]]:
    async with conn.transaction():
        return await (await conn.execute("SELECT version, name FROM crdt_state.migration ORDER BY version")).fetchall()


async def exists(conn: Connection, name: str) -> bool:
    async with conn.transaction():
        row = await (await conn.execute("SELECT to_regclass(%s) IS NOT NULL", (name,))).fetchone()
    assert row is not None
    return bool(row[0])


async def test_each_migration_is_applied_once(conn: Connection) -> None:
    first = await migrate(conn)
    assert first == [f"{m.version:04}_{m.name}" for m in read_migrations()]
    assert await migrate(conn) == []
    assert [version for version, _ in await applied(conn)] == list(range(1, len(first) + 1))


async def test_two_that_start_together_do_not_meet(database: str) -> None:
    async with await connect(database) as one, await connect(database) as two:
        results = await asyncio.gather(migrate(one), migrate(two))
    assert sorted(results, key=len)[0] == []
    assert len(sorted(results, key=len)[1]) == len(read_migrations())


async def test_a_changed_file_is_fatal(conn: Connection) -> None:
    await migrate(conn)
    first, *rest = read_migrations()
    with pytest.raises(FatalError, match="0001_state was applied with other content") as caught:
        await migrate(conn, (replace(first, checksum="0" * 64), *rest))
    assert caught.value.mend


async def test_a_newer_database_is_fatal(conn: Connection) -> None:
    await migrate(conn)
    known = read_migrations()
    later = Migration(len(known) + 1, "later", "1" * 64, "CREATE TABLE crdt_state.later ()")
    assert await migrate(conn, (*known, later)) == [f"{later.version:04}_later"]
    with pytest.raises(FatalError, match=f"at version {later.version}, this release knows {len(known)}") as caught:
        await migrate(conn)
    assert "upgrade" in caught.value.mend


async def test_a_failure_leaves_nothing_behind(conn: Connection) -> None:
    known = read_migrations()
    broken = Migration(len(known) + 1, "broken", "1" * 64, "CREATE TABLE crdt_state.half (); SELECT 1 / 0")
    with pytest.raises(psycopg.errors.DivisionByZero):
        await migrate(conn, (*known, broken))
    assert not await exists(conn, "crdt_state.node")
    assert await migrate(conn)


@pytest.mark.parametrize("schema", ["crdt", "crdt_state"])
async def test_a_schema_of_somebody_else_is_refused(conn: Connection, schema: str) -> None:
    async with conn.transaction():
        await conn.execute(f"CREATE SCHEMA {schema}")
    with pytest.raises(ConfigurationError, match=f"schema '{schema}' exists"):
        await migrate(conn)


async def test_a_missing_privilege_is_one_line(restricted_dsn: str) -> None:
    async with await connect(restricted_dsn) as conn:
        with pytest.raises(ConfigurationError, match="may not create") as caught:
            await migrate(conn)
    assert "GRANT CREATE ON DATABASE" in caught.value.mend


def test_migration_files_are_numbered_without_a_gap(tmp_path: Path) -> None:
    (tmp_path / "0001_one.sql").write_text("SELECT 1")
    assert [m.name for m in read_migrations(tmp_path)] == ["one"]
    (tmp_path / "0003_three.sql").write_text("SELECT 3")
    with pytest.raises(ValueError, match="without a gap"):
        read_migrations(tmp_path)
    (tmp_path / "two.sql").write_text("SELECT 2")
    with pytest.raises(ValueError, match="not named"):
        read_migrations(tmp_path)


async def test_every_shipped_statement_is_valid_sql(conn: Connection) -> None:
    """The server parses each administrative statement; names that do not resolve fail here."""
    await migrate(conn)
    unknown = {"oids": [1], "attached": [1]}
    for file in ("catalogue", "server_check"):
        for name, text in statements.load(file).items():
            async with conn.transaction(force_rollback=True):
                await conn.execute(text, unknown if "%(" in text else None)
                assert name


def test_statements_are_split_by_name() -> None:
    text = "-- a file\n\n-- name: one\n-- comment\nSELECT 1;\n\n-- name: two\nSELECT\n  2\n"
    parsed = statements.parse(text, "x.sql")
    assert list(parsed) == ["one", "two"]
    assert parsed["one"].endswith("SELECT 1")
    assert parsed["two"] == "SELECT\n  2"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("-- name: a\nSELECT 1\n-- name: a\nSELECT 2\n", "'a' stands twice"),
        ("-- name: a\n-- only a comment\n", "'a' is empty"),
        ("SELECT 1\n-- name: a\nSELECT 1\n", "before the first"),
    ],
)
def test_a_broken_statement_file_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        statements.parse(text, "x.sql")


async def test_a_session_has_the_fixed_settings_whatever_the_defaults_are(database: str) -> None:
    name = database.rsplit("/", 1)[1]
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as app:
        for setting in (
            "DateStyle = 'German'",
            "search_path = 'nowhere'",
            "statement_timeout = '1h'",
            "synchronous_commit = off",
            "array_nulls = off",
            "quote_all_identifiers = on",
            "standard_conforming_strings = off",
            "default_transaction_read_only = on",
            "idle_session_timeout = '1h'",
        ):
            await app.execute(f"ALTER DATABASE {name} SET {setting}")
        later = await (
            await app.execute("SELECT count(*) FROM pg_settings WHERE name = 'transaction_timeout'")
        ).fetchone()
        if later == (1,):
            await app.execute(f"ALTER DATABASE {name} SET transaction_timeout = '1h'")
    session = await Session.open(database, purpose="merge", origin=False)
    for setting, value in SESSION_SETTINGS.items():
        assert await session.connection.fetchval("SELECT current_setting($1)", setting) == value
    timeout = "SELECT coalesce(current_setting('transaction_timeout', true), '0')"
    assert await session.connection.fetchval(timeout) == "0"
    await session.close()
    walsender = await open_connection(database)
    assert (await command(walsender.pgconn, timeout)).get_value(0, 0) == b"0"
    await walsender.close()
    async with await connect(database) as conn:
        assert conn.autocommit is False
        for setting, value in SESSION_SETTINGS.items():
            row = await (await conn.execute("SELECT current_setting(%s)", (setting,))).fetchone()
            assert row == (value,)
        await conn.rollback()
        assert await (await conn.execute(timeout)).fetchone() == ("0",)
        row = await (await conn.execute("SELECT current_setting('DateStyle')")).fetchone()
        assert row == ("ISO, MDY",)


async def test_failed_connections_say_what_is_wrong(database: str) -> None:
    with pytest.raises(ConfigurationError, match="database 'nowhere' does not exist") as caught:
        await connect(database.rsplit("/", 1)[0] + "/nowhere")
    assert caught.value.mend
    with pytest.raises(ConfigurationError, match="role 'nobody_here' does not exist"):
        await connect(database.replace("//postgres@", "//nobody_here:secret@"))
    dsn = f"postgresql://postgres:secret@127.0.0.1:{free_port()}/app"
    with pytest.raises(ConfigurationError, match="cannot connect to PostgreSQL at") as caught:
        await connect(dsn)
    assert "secret" not in caught.value.line()
    with pytest.raises(TransientError):
        await connect(dsn, waiting=True)


@pytest.mark.parametrize("dsn", ["host=x password='s3cret", "postgresql://u:s3cret@[::1/db", "s3cret", "x=s3cret"])
def test_a_dsn_that_cannot_be_read_is_not_shown(dsn: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_dsn(dsn)
    assert "s3cret" not in caught.value.line()
    assert "postgresql://" in caught.value.mend


@pytest.mark.parametrize(
    ("answer", "line"),
    [
        ('FATAL:  password authentication failed for user "u"', "wrong or missing password"),
        ("fe_sendauth: no password supplied", "wrong or missing password"),
        ('FATAL:  no pg_hba.conf entry for host "1.2.3.4", user "u", database "d"', "refuses role 'u': no pg_hba.conf"),
        ('FATAL:  permission denied for database "d"', "no CONNECT privilege"),
        ("FATAL:  sorry, too many clients already", "no free connection"),
        ("FATAL:  Datenbank kaputt s3cret", "cannot connect to h:5432/d: Datenbank kaputt ********"),
    ],
)
def test_answers_of_a_server_become_one_line(answer: str, line: str) -> None:
    parameters = {"host": "h", "dbname": "d", "user": "u", "password": "s3cret"}
    error = connect_error(psycopg.OperationalError(f"connection failed: {answer}\n"), parameters)
    assert line in error.line()
    assert error.mend
    assert "s3cret" not in error.line()
