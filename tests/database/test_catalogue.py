"""The catalogue of annotated tables: every problem of a schema at once, and the specs of the good ones."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import psycopg
import pytest

from sidecar.core.catalog import TableSpec
from sidecar.postgres.admin import connect
from sidecar.postgres.catalogue import Catalogue, read_catalogue
from sidecar.postgres.facts import read_facts
from sidecar.postgres.problem import Problem

Read = Callable[[str], Awaitable[Catalogue]]


@pytest.fixture
async def read(database: str) -> AsyncIterator[Read]:
    """Runs DDL as the application and reads the catalogue."""
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as app, await connect(database) as conn:

        async def execute_and_read(ddl: str) -> Catalogue:
            await app.execute(ddl)
            return await read_catalogue(conn)

        yield execute_and_read


def of(catalogue: Catalogue, table: str, column: str = "") -> list[Problem]:
    return [p for p in catalogue.problems if p.table == f"public.{table}" and p.column == column]


async def test_a_spec_says_everything_about_a_table(read: Read) -> None:
    catalogue = await read(
        """
        CREATE DOMAIN price AS numeric(10, 2); CREATE DOMAIN sale_price AS price CHECK (VALUE > 0);
        CREATE SCHEMA shop;
        CREATE TABLE shop.stock (
            amount bigint NOT NULL DEFAULT 0,
            shelf  text,
            sku    uuid,
            gone   int,
            cost   sale_price,
            tags   varchar(20)[],
            twice  bigint GENERATED ALWAYS AS (amount * 2) STORED,
            email  text, active boolean,
            PRIMARY KEY (sku, shelf),
            UNIQUE (email, shelf)
        );
        ALTER TABLE shop.stock DROP COLUMN gone;
        CREATE UNIQUE INDEX ON shop.stock (lower(email)) INCLUDE (tags) WHERE active;
        COMMENT ON TABLE shop.stock IS 'What we have. @crdt(row=lww)';
        COMMENT ON COLUMN shop.stock.amount IS '@crdt(pn_counter)';
        """
    )
    (spec,) = catalogue.tables
    assert (spec.table_id, spec.qualified, spec.row_rule, spec.key_index) == (0, "shop.stock", "lww", "stock_pkey")
    assert [(c.name, c.attnum, c.base_type) for c in spec.key] == [("sku", 3, "uuid"), ("shelf", 2, "text")]
    assert [(c.name, c.attnum, c.type_name, c.base_type, c.crdt, c.not_null) for c in spec.columns] == [
        ("amount", 1, "bigint", "bigint", "pn_counter", True),
        ("cost", 5, "public.sale_price", "numeric", "lww_register", False),
        ("tags", 6, "character varying(20)[]", "character varying[]", "lww_register", False),
        ("email", 8, "text", "text", "lww_register", False),
        ("active", 9, "boolean", "boolean", "lww_register", False),
    ]
    assert ("shelf", "email") in spec.unique
    assert any({"email", "active"} <= set(columns) for columns in spec.unique)
    assert [p.severity for p in catalogue.problems] == ["warning", "warning", "advice"]
    assert any(p.column == "twice" and "generated" in p.message for p in catalogue.problems)


async def test_unannotated_tables_and_look_alikes_are_left_alone(read: Read) -> None:
    catalogue = await read(
        "CREATE TABLE a (x int); CREATE TABLE b (x int); COMMENT ON TABLE b IS 'ask ops@crdt.org';"
        "CREATE VIEW v AS SELECT 1; COMMENT ON VIEW v IS 'see @crdtx'"
    )
    assert (catalogue.tables, catalogue.problems, catalogue.annotated) == ((), (), frozenset())


TABLES: list[tuple[str, str, str, str]] = [
    ("CREATE TABLE t (a int)", "error", "has no primary key", "ADD PRIMARY KEY"),
    ("CREATE UNLOGGED TABLE t (a int PRIMARY KEY)", "error", "is unlogged", 'ALTER TABLE "public"."t" SET LOGGED'),
    ("CREATE TABLE t (a int PRIMARY KEY) PARTITION BY RANGE (a)", "error", "is partitioned", "plain table"),
    (
        "CREATE TABLE p (a int PRIMARY KEY) PARTITION BY RANGE (a); CREATE TABLE t PARTITION OF p DEFAULT",
        "error",
        "is a partition",
        "plain table",
    ),
    ("CREATE TABLE p (a int); CREATE TABLE t (a int PRIMARY KEY) INHERITS (p)", "error", "inheritance", "NO INHERIT"),
    ("CREATE TABLE t (a int PRIMARY KEY DEFERRABLE)", "error", "is deferrable", "DEFERRABLE"),
    ("CREATE TABLE t (a int PRIMARY KEY, b int UNIQUE)", "warning", "unique index t_b_key (b)", "quarantines"),
    (
        "CREATE TABLE t (a int PRIMARY KEY, b int4range, EXCLUDE USING gist (b WITH &&))",
        "warning",
        "exclusion constraint",
        "one node only",
    ),
    ("CREATE TABLE p (a int PRIMARY KEY); CREATE TABLE t (a int PRIMARY KEY REFERENCES p)", "advice", "public.p", ""),
    (
        "CREATE TABLE t (a int PRIMARY KEY); CREATE TRIGGER tr BEFORE UPDATE ON t FOR EACH ROW EXECUTE FUNCTION "
        "suppress_redundant_updates_trigger()",
        "advice",
        "trigger tr does not fire",
        "",
    ),
    (
        "CREATE TABLE t (a int PRIMARY KEY); CREATE TRIGGER tr BEFORE UPDATE ON t FOR EACH ROW EXECUTE FUNCTION "
        "suppress_redundant_updates_trigger(); ALTER TABLE t ENABLE ALWAYS TRIGGER tr",
        "warning",
        "(ENABLE ALWAYS)",
        "not captured",
    ),
]


@pytest.mark.parametrize(("ddl", "severity", "message", "mend"), TABLES)
async def test_problems_of_tables(read: Read, ddl: str, severity: str, message: str, mend: str) -> None:
    catalogue = await read(f"{ddl}; COMMENT ON TABLE t IS '@crdt'")
    (problem,) = of(catalogue, "t")
    assert problem.severity == severity
    assert message in problem.message
    assert mend in problem.mend
    assert bool(catalogue.tables) is (severity != "error")


COLUMNS: list[tuple[str, str, str, str, str]] = [
    ("a bigserial PRIMARY KEY", "a", "error", "same key to different rows", "crdt.uuidv7()"),
    ("a int GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY", "a", "error", "same key", "INCREMENT BY"),
    ("a int GENERATED BY DEFAULT AS IDENTITY (INCREMENT BY 3) PRIMARY KEY", "a", "advice", "INCREMENT BY 3", "START"),
    ("a serial, n int, PRIMARY KEY (n, a)", "a", "warning", "unless another key column", "uuid"),
    ("a numeric PRIMARY KEY", "a", "error", "different texts can be the same key", "numeric(p,s)"),
    ("a interval, b int, PRIMARY KEY (b, a)", "a", "error", "different texts", "use uuid"),
    ("a uuid PRIMARY KEY, b serial", "b", "advice", "equal numbers", ""),
    ("a uuid PRIMARY KEY, b int GENERATED ALWAYS AS IDENTITY (INCREMENT BY 2)", "b", "error", "ALWAYS", "BY DEFAULT"),
]


async def test_a_key_with_a_nondeterministic_collation_is_refused(read: Read) -> None:
    """``Bob`` and ``bob`` are one key to the server then, and two to whoever compares texts."""
    try:
        catalogue = await read(
            "CREATE COLLATION loose (provider = icu, locale = 'und-u-ks-level2', deterministic = false);"
            "CREATE TABLE t (a text COLLATE loose PRIMARY KEY, b text COLLATE loose); COMMENT ON TABLE t IS '@crdt'"
        )
    except psycopg.errors.FeatureNotSupported:
        pytest.skip("this server was built without ICU")
    assert [p.severity for p in of(catalogue, "t", "b")] == [], "it matters for keys only"
    problem = of(catalogue, "t", "a")[0]
    assert (problem.severity, catalogue.tables) == ("error", ())
    assert "nondeterministic collation" in problem.message
    assert 'COLLATE "default"' in problem.mend


@pytest.mark.parametrize(("columns", "column", "severity", "message", "mend"), COLUMNS)
async def test_numbered_columns(read: Read, columns: str, column: str, severity: str, message: str, mend: str) -> None:
    catalogue = await read(f"CREATE TABLE t ({columns}); COMMENT ON TABLE t IS '@crdt'")
    problem = of(catalogue, "t", column)[0]
    assert problem.severity == severity
    assert message in problem.message
    assert mend in problem.mend
    assert bool(catalogue.tables) is (severity != "error")


WORDS: list[tuple[str, str, str, str]] = [
    ("n", "@crdt(pn_countr)", "error", "unknown annotation"),
    ("n", "Likes. @crdt(", "error", "at character 13 of the column's comment"),
    ("n", "@crdt(row=lww)", "error", "is for a table"),
    ("s", "@crdt(pn_counter)", "error", "column s is pn_counter"),
    ("a", "@crdt(pn_counter)", "error", "part of the primary key"),
    ("a", "@crdt(lww_register)", "", ""),
    ("g", "@crdt(lww_register)", "error", "is generated"),
    ("n", "@crdt(pn_counter)", "advice", "NULL counts as 0"),
]


@pytest.mark.parametrize(("column", "comment", "severity", "message"), WORDS)
async def test_annotations_of_columns(read: Read, column: str, comment: str, severity: str, message: str) -> None:
    catalogue = await read(
        "CREATE TABLE t (a int PRIMARY KEY, n int, s text, g int GENERATED ALWAYS AS (1) STORED);"
        f"COMMENT ON COLUMN t.{column} IS '{comment}'"
    )
    found = of(catalogue, "t", column)
    assert [p.severity for p in found] == ([severity] if severity else [])
    assert not found or message in found[0].message
    assert bool(catalogue.tables) is (severity != "error")


async def test_everything_wrong_is_reported_at_once_and_good_tables_go_on(read: Read) -> None:
    catalogue = await read(
        """
        CREATE TABLE good (id uuid PRIMARY KEY, n int); COMMENT ON TABLE good IS '@crdt';
        CREATE UNLOGGED TABLE bad (a int, b text, c text);
        COMMENT ON TABLE bad IS '@crdt(row=nonsense)';
        COMMENT ON COLUMN bad.b IS '@crdt(pn_counter)';
        COMMENT ON COLUMN bad.c IS '@crdt(what)';
        CREATE VIEW v AS SELECT 1 AS x; COMMENT ON VIEW v IS '@crdt';
        CREATE MATERIALIZED VIEW m AS SELECT 1 AS x; COMMENT ON MATERIALIZED VIEW m IS '@crdt';
        CREATE SCHEMA crdt; CREATE TABLE crdt.mine (a int PRIMARY KEY); COMMENT ON TABLE crdt.mine IS '@crdt';
        """
    )
    assert [t.qualified for t in catalogue.tables] == ["public.good"]
    bad = [p.message for p in catalogue.problems if p.table == "public.bad" and p.severity == "error"]
    assert len(bad) == 5
    assert [p.message for p in of(catalogue, "v")] == ["is a view"]
    assert [p.message for p in of(catalogue, "m")] == ["is a materialized view"]
    assert any(p.table == "crdt.mine" and "own schema" in p.message for p in catalogue.problems)
    assert len(catalogue.annotated) == 5
    assert all(p.mend for p in catalogue.problems if p.severity == "error")


async def test_a_role_that_does_not_own_the_table_is_told(read: Read, restricted_dsn: str) -> None:
    await read(
        "CREATE SCHEMA hidden; CREATE TABLE hidden.t (a int PRIMARY KEY); COMMENT ON TABLE hidden.t IS '@crdt';"
        "ALTER TABLE hidden.t ENABLE ROW LEVEL SECURITY; ALTER TABLE hidden.t FORCE ROW LEVEL SECURITY"
    )
    async with await connect(restricted_dsn) as conn:
        catalogue = await read_catalogue(conn)
    assert catalogue.tables == ()
    text = " ".join(p.line() for p in catalogue.problems)
    assert "belongs to role 'postgres'" in text
    assert 'GRANT USAGE ON SCHEMA "hidden"' in text
    assert "BYPASSRLS" in text


async def test_many_tables_take_no_more_queries(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    executed: list[Any] = []
    execute = psycopg.AsyncCursor.execute

    async def counting(self: Any, *args: Any, **kwargs: Any) -> Any:
        executed.append(args[0])
        return await execute(self, *args, **kwargs)

    monkeypatch.setattr(psycopg.AsyncCursor, "execute", counting)
    counts = []
    async with await connect(database) as conn:
        for tables in (1, 40):
            async with conn.transaction():
                for i in range(tables):
                    await conn.execute(f"CREATE TABLE public.t{tables}_{i} (id uuid PRIMARY KEY, n int)")
                    await conn.execute(f"COMMENT ON TABLE public.t{tables}_{i} IS '@crdt'")
            executed.clear()
            facts = await read_facts(conn)
            counts.append((len(executed), len(facts.relations)))
    assert [relations for _, relations in counts] == [1, 41]
    assert 5 < counts[0][0] == counts[1][0] <= 10


async def test_the_fingerprint_does_not_depend_on_column_order(read: Read) -> None:
    catalogue = await read(
        "CREATE TABLE t (a int, b text, id uuid PRIMARY KEY); COMMENT ON TABLE t IS '@crdt';"
        "CREATE SCHEMA s; CREATE TABLE s.t (id uuid PRIMARY KEY, b text, a int); COMMENT ON TABLE s.t IS '@crdt'"
    )

    def moved(spec: TableSpec) -> str:
        return TableSpec(0, "x", spec.name, spec.key, spec.columns).fingerprint()

    one, two = catalogue.tables
    assert moved(one) == moved(two)
    assert one.fingerprint() != two.fingerprint()


async def test_only_ordered_types_have_a_greatest_value(read: Read) -> None:
    types = {
        "a": "int",
        "b": "varchar(3)",
        "c": "mood",
        "d": "int4range",
        "e": "mood[]",
        "f": "varchar[]",
        "g": "uuid",
        "h": "pair",
        "x": "xid",
        "y": "pg_snapshot",
        "z": "pg_snapshot[]",
    }
    columns = ", ".join(f"{name} {kind}" for name, kind in types.items())
    comments = "".join(f"COMMENT ON COLUMN t.{name} IS '@crdt(max_register)';" for name in types)
    catalogue = await read(
        "CREATE TYPE mood AS ENUM ('sad', 'ok'); CREATE TYPE pair AS (a int, b int);"
        f"CREATE TABLE t (id uuid PRIMARY KEY, {columns}); {comments}"
    )
    assert {p.column for p in catalogue.problems if p.severity == "error"} == {"x", "y", "z"}
    (problem,) = of(catalogue, "t", "z")
    assert "pg_snapshot[]" in problem.message


async def test_a_merge_function_that_is_not_there_is_a_warning(read: Read) -> None:
    functions = {
        "a": "shop.longer",
        "b": "longer",
        "c": "SHOP . LONGER",
        "d": '"Odd ""na me"',
        "e": "shop.shorter",
        "f": "pg_catalog.lower",
        "g": "not a name",
        "h": "larger",
    }
    columns = ", ".join(f"{name} {'numeric(9,2)' if name == 'h' else 'text'}" for name in functions)
    comments = "".join(f"COMMENT ON COLUMN shop.t.{name} IS '@crdt(merge({fn}))';" for name, fn in functions.items())
    body = "RETURNS {0} LANGUAGE sql AS 'SELECT $1'"
    catalogue = await read(
        f"""
        CREATE SCHEMA shop;
        CREATE FUNCTION shop.longer(text, text) {body.format("text")};
        CREATE FUNCTION shop."Odd ""na me"(text, text) {body.format("text")};
        CREATE FUNCTION shop.shorter(text, text) RETURNS int LANGUAGE sql AS 'SELECT 1';
        CREATE FUNCTION shop.larger(numeric, numeric) {body.format("numeric")};
        CREATE TABLE shop.t (id uuid PRIMARY KEY, {columns}); {comments}
        """
    )
    assert len(catalogue.tables) == 1, "no refusal"
    assert {p.column for p in catalogue.problems if p.severity == "warning"} == {"e", "f", "g"}
    mends = {p.column: p.mend for p in catalogue.problems}
    assert mends["e"] == 'create "shop"."shorter"(text, text) RETURNS text'
