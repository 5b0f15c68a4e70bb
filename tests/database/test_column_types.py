"""Column types that mean the same on every node: what is refused because it would not, and the order of the rest."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from node_harness import converged, open_node

from sidecar.lab.binaries import installed
from sidecar.lab.embedded import FAST_SETTINGS, EmbeddedPostgres
from sidecar.postgres.admin import connect
from sidecar.postgres.catalogue import read_catalogue
from sidecar.postgres.problem import Problem

TYPES = """
CREATE TYPE spot AS (x int, y date); CREATE TYPE tagged AS (at int, tag text);
CREATE TYPE pinned AS (at int, tag text COLLATE "C"); CREATE TYPE nested AS (a int, b tagged[]);
CREATE DOMAIN short AS text; CREATE DOMAIN tag AS tagged; CREATE DOMAIN shape AS box; CREATE DOMAIN shapes AS box[];
CREATE DOMAIN price AS numeric(9, 2); CREATE TYPE document AS (body jsonb); CREATE DOMAIN amount AS numeric;
CREATE TYPE words AS RANGE (subtype = text, multirange_type_name = many_words);
CREATE TYPE codes AS RANGE (subtype = text, collation = "C");
CREATE TYPE money_at AS (amount numeric, at date);
"""

ICU = "CREATE COLLATION loose (provider = icu, locale = 'und-u-ks-level2', deterministic = false)"


async def problems(dsn: str, *ddl: str) -> dict[str, list[Problem]]:
    """What is wrong with the columns of table ``t``, by column."""
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as app, await connect(dsn) as conn:
        for statement in (TYPES, *ddl):
            await app.execute(statement)
        catalogue = await read_catalogue(conn)
    found: dict[str, list[Problem]] = {}
    for problem in catalogue.problems:
        found.setdefault(problem.column, []).append(problem)
    return found


def table(columns: dict[str, str], word: str) -> str:
    """``columns``: name to type."""
    comments = "".join(f"; COMMENT ON COLUMN t.{name} IS '@crdt({word})'" for name in columns)
    return f"CREATE TABLE t (id uuid PRIMARY KEY, {', '.join(f'{n} {t}' for n, t in columns.items())}){comments}"


def named(first: str, *types: str) -> dict[str, str]:
    """Columns by letters from the first one on."""
    return {chr(ord(first) + place): kind for place, kind in enumerate(types)}


ORDERED = named("a", "int", "text", "varchar(9)[]", "short", "spot", "pinned", "codes", "daterange", "name", "price")
LOCALE = named("p", "tagged", "tagged[]", "tag", "nested", "words", "document", "many_words")


@pytest.mark.parametrize("word", ["max_register", "min_register"])
async def test_an_order_that_depends_on_the_database_is_refused(database: str, word: str) -> None:
    found = await problems(database, table(ORDERED | LOCALE, word))
    assert set(found) == set(LOCALE)
    for column, (problem,) in found.items():
        assert problem.severity == "error", column
        assert f"is {word}, but the order of" in problem.message
        assert 'COLLATE "C"' in problem.mend
    assert "public.nested (with text in it)" in found["s"][0].message


async def test_jsonb_has_no_order_that_all_nodes_share(database: str) -> None:
    found = await problems(database, table({"n": "jsonb"}, "max_register"))
    assert "needs an ordered type, but its type is jsonb" in found["n"][0].message


async def test_sets_need_a_comma_between_their_elements(database: str) -> None:
    columns = {"a": "box[]", "b": "shapes", "c": "shape[]", "d": "point[]", "e": "text[]", "f": "jsonb"}
    found = await problems(database, table(columns, "or_set"))
    assert {name: problem.severity for name, (problem,) in found.items()} == dict.fromkeys("abc", "error")
    assert "public.shape[] are separated by ';'" in found["c"][0].message
    assert "text[]" in found["c"][0].mend


async def test_sets_whose_equal_elements_differ_in_text_are_told(database: str) -> None:
    columns = {
        "a": "numeric[]",
        "b": "numeric(9, 2)[]",
        "c": "real[]",
        "d": "money_at[]",
        "e": "uuid[]",
        "f": "jsonb[]",
    }
    found = await problems(database, table(columns, "or_set"))
    assert {name: problem.severity for name, (problem,) in found.items()} == dict.fromkeys("acdf", "warning")
    assert "with numeric in it" in found["d"][0].message


LOOSE = ["amount", "jsonb", "money_at", "numeric[]", "numrange", "interval[]", "real", "document"]
STRICT = ["spot", "numeric(9,2)[]", "daterange", "short", "text", "char(3)", "bytea", "timestamptz"]


@pytest.mark.parametrize("kind", LOOSE)
async def test_keys_whose_equal_values_differ_in_text_are_refused(database: str, kind: str) -> None:
    found = await problems(database, f"CREATE TABLE t (k {kind} PRIMARY KEY)", "COMMENT ON TABLE t IS '@crdt'")
    [problem] = found["k"]
    assert problem.severity == "error"
    assert "different texts can be the same key" in problem.message
    assert "use uuid" in problem.mend


@pytest.mark.parametrize(
    "kind", ["spot", "numeric(9,2)[]", "daterange", "short", "text", "char(3)", "bytea", "timestamptz"]
)
async def test_other_keys_are_not(database: str, kind: str) -> None:
    assert await problems(database, f"CREATE TABLE t (k {kind} PRIMARY KEY)", "COMMENT ON TABLE t IS '@crdt'") == {}


@pytest.fixture(scope="module")
def icu_server(postgres_server: Any) -> Iterator[Any]:
    """The server of the run where it knows ICU, else one of another version that is installed and does."""
    if knows_icu(postgres_server):
        yield postgres_server
        return
    for folder in filter(None, map(installed, (18, 17, 16, 15))):
        with EmbeddedPostgres(bin_dir=folder, settings=FAST_SETTINGS) as server:
            if knows_icu(server):
                yield server
                return
    pytest.skip("no server with ICU is installed")


def knows_icu(server: Any) -> bool:
    with psycopg.connect(server.dsn()) as connection:
        try:
            connection.execute(ICU)
        except psycopg.errors.FeatureNotSupported:
            return False
        finally:
            connection.rollback()
    return bool(server.major >= 15)


async def test_nondeterministic_collations_in_keys_and_sets(icu_server: Any) -> None:
    dsn = icu_server.create_database("loose_collations")
    try:
        found = await problems(
            dsn,
            ICU,
            "CREATE DOMAIN folded AS text COLLATE loose; CREATE TYPE pair AS (a int, b text COLLATE loose)",
            "CREATE TABLE t (a folded, b pair, c text[] COLLATE loose, d text COLLATE loose, PRIMARY KEY (a, b))",
            "COMMENT ON COLUMN t.c IS '@crdt(or_set)'",
        )
    finally:
        icu_server.drop_database("loose_collations")
    severities = {column: [problem.severity for problem in listed] for column, listed in found.items()}
    assert severities == {"a": ["error"], "b": ["error"], "c": ["warning"]}


async def test_citext_is_no_key_and_is_told_of_in_sets(icu_server: Any) -> None:
    dsn = icu_server.create_database("citexts")
    try:
        with psycopg.connect(dsn, autocommit=True) as connection:
            known = connection.execute("SELECT FROM pg_available_extensions WHERE name = 'citext'").fetchone()
            if known is None:
                pytest.skip("this server has no citext")
            connection.execute("CREATE EXTENSION citext")
        ddl = "CREATE TABLE t (k citext PRIMARY KEY, a citext, b citext[], c citext[])"
        words = {"a": "max_register", "b": "or_set", "c": "min_register"}
        comments = (f"COMMENT ON COLUMN t.{name} IS '@crdt({word})'" for name, word in words.items())
        found = await problems(dsn, ddl, *comments)
    finally:
        icu_server.drop_database("citexts")
    assert {name: problem.severity for name, (problem,) in found.items()} == {"k": "error", "b": "warning"}


DATABASES: dict[str, tuple[str, bool]] = {
    "TEMPLATE template0 LOCALE 'C'": ("B", False),
    "TEMPLATE template0 LOCALE 'C' LOCALE_PROVIDER icu ICU_LOCALE 'en-US'": ("a", True),
    "TEMPLATE template0 LOCALE 'C' LOCALE_PROVIDER icu ICU_LOCALE 'da-u-kf-upper'": ("Å", True),
}
"""Options of a database to what is written there, and whether ``a`` is less than ``B`` there."""

SCHEMA = """
CREATE DOMAIN short AS text;
CREATE TABLE t (id int PRIMARY KEY, a text, b varchar(9)[], c short, d name, e char(3), tags text[] DEFAULT '{}');
COMMENT ON COLUMN t.a IS '@crdt(max_register)'; COMMENT ON COLUMN t.b IS '@crdt(min_register)';
COMMENT ON COLUMN t.c IS '@crdt(min_register)'; COMMENT ON COLUMN t.d IS '@crdt(max_register)';
COMMENT ON COLUMN t.e IS '@crdt(max_register)'; COMMENT ON COLUMN t.tags IS '@crdt(or_set)';
INSERT INTO t VALUES (1);
"""
WRITE = "UPDATE t SET a = $1, b = ARRAY[$1], c = $1, d = $1::text::name, e = $1, tags = ARRAY[$1, lower($1)]"


async def test_databases_with_different_collations_converge(icu_server: Any) -> None:
    """``a < B`` in English, ``B < a`` by bytes: each pair of writes would be decided differently."""
    async with contextlib.AsyncExitStack() as stack:
        nodes = []
        for node_id, options in enumerate(DATABASES, 1):
            name = f"collated_{node_id}"
            with psycopg.connect(icu_server.dsn(), autocommit=True) as connection:
                connection.execute(f"CREATE DATABASE {name} {options}")  # type: ignore[call-overload]
            stack.callback(icu_server.drop_database, name)
            nodes.append(await stack.enter_async_context(open_node(icu_server.dsn(name), node_id, SCHEMA)))
        for node, (text, a_first) in zip(nodes, DATABASES.values(), strict=True):
            assert await node.value("SELECT 'a' < 'B'") is a_first
            await node.sql(WRITE, text)
        [row] = (await converged(nodes, "t"))[0]
        assert row.startswith('(1,Å,{B},B,Å,"Å  "')
