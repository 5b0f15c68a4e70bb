"""The SQL functions of sets, maps and siblings: tables of cases."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from sidecar.postgres.migrations import read_migrations


@pytest.fixture(scope="module")
def sql(postgres_server) -> Iterator[psycopg.Connection[Any]]:  # type: ignore[no-untyped-def]
    dsn = postgres_server.create_database("type_functions")
    with psycopg.connect(dsn, autocommit=True) as conn:
        for migration in read_migrations():
            conn.execute(migration.text)
        yield conn
    postgres_server.drop_database("type_functions")


def call(sql: psycopg.Connection[Any], expression: str, *arguments: Any) -> Any:
    row = sql.execute(f"SELECT {expression}", arguments).fetchone()
    assert row is not None
    return row[0]


DOTS = {"a": {"1": 5}, "b": {"2": 6, "3": 7}, "g": {"0": 0}}


@pytest.mark.parametrize(
    ("change", "origin", "context", "expected"),
    [
        pytest.param({}, 1, [9, 9, 9], DOTS, id="nothing"),
        pytest.param({"add": {"n": 8}}, 1, [0, 0, 0], DOTS | {"n": {"1": 8}}, id="a new element"),
        pytest.param({"add": {"a": 8}}, 1, [0, 0, 0], DOTS | {"a": {"1": 8}}, id="own dots are always covered"),
        pytest.param({"add": {"b": 8}}, 1, [0, 6, 0], DOTS | {"b": {"1": 8, "3": 7}}, id="one of two dots was seen"),
        pytest.param({"del": {"b": 8}}, 1, [0, 6, 0], DOTS | {"b": {"3": 7}}, id="an unseen add survives a removal"),
        pytest.param({"del": {"b": 8}}, 1, [0, 6, 7], {"a": {"1": 5}, "g": {"0": 0}}, id="a seen one does not"),
        pytest.param(
            {"del": {"g": 8, "x": 8}}, 3, [0, 0], {"a": {"1": 5}, "b": {"2": 6, "3": 7}}, id="genesis is seen"
        ),
        pytest.param({"full": 8}, 1, [0, 6], {"b": {"3": 7}}, id="a full change keeps what it had not seen"),
        pytest.param({"full": 8, "add": {"g": 8}}, 3, [5, 5], {"b": {"2": 6}, "g": {"3": 8}}, id="and adds"),
        pytest.param({"full": 8, "add": {"g": 8}}, 3, None, {"g": {"3": 8}}, id="everything covered: replaced"),
        pytest.param({"add": {"a": 8}, "del": {"b": 8}}, 3, None, {"a": {"3": 8}, "g": {"0": 0}}, id="covered"),
    ],
)
def test_dots_merge(
    sql: psycopg.Connection[Any], change: Any, origin: int, context: list[int] | None, expected: Any
) -> None:
    got = call(sql, "crdt_state.dots_merge(%s, %s, %s, %s)", json.dumps(DOTS), json.dumps(change), origin, context)
    assert got == expected


STAMPS = {"a": [5, 1, True], "b": [6, 2, False], "g": [0, 0, True]}


@pytest.mark.parametrize(
    ("change", "origin", "expected"),
    [
        pytest.param({"add": {"a": 4}}, 3, STAMPS, id="an older operation loses"),
        pytest.param({"add": {"b": 7}}, 1, STAMPS | {"b": [7, 1, True]}, id="a later add"),
        pytest.param({"del": {"a": 5}}, 2, STAMPS | {"a": [5, 2, False]}, id="a tie: the higher node"),
        pytest.param({"del": {"n": 5}}, 2, STAMPS | {"n": [5, 2, False]}, id="a removal of the unknown is kept"),
        pytest.param({"full": 9, "add": {"n": 9}}, 2, STAMPS | {"n": [9, 2, True]}, id="only what is named counts"),
    ],
)
def test_stamps_merge(sql: psycopg.Connection[Any], change: Any, origin: int, expected: Any) -> None:
    arguments = json.dumps(STAMPS), json.dumps(change), origin
    assert call(sql, "crdt_state.stamps_merge(%s, %s, %s, false)", *arguments) == expected


def test_a_json_null_in_a_map_is_a_value(sql: psycopg.Connection[Any]) -> None:
    state = call(sql, """crdt_state.stamps_merge('{"k": [1, 1]}', '{"add": {"k": [2, null]}}', 1, true)""")
    assert state == {"k": [2, 1, None]}
    assert call(sql, "crdt_state.map_value(%s)", json.dumps(state)) == {"k": None}


@pytest.mark.parametrize(
    ("dots", "numbers", "expected"),
    [
        ({"10": {"1": 5}, "9": {"1": 5}}, False, ["10", "9"]),
        ({"10": {"1": 5}, "9": {"1": 5}, "-1.5": {"1": 5}, "1e3": {"1": 5}}, True, ["-1.5", "9", "10", "1e3"]),
        (
            {"NaN": {"1": 5}, "Infinity": {"1": 5}, "1.00": {"1": 5}, "1.0": {"1": 5}},
            True,
            ["1.0", "1.00", "Infinity", "NaN"],
        ),
        ({'"a"': {"1": 5}, "2": {"1": 5}, "null": {"1": 5}, '"10"': {"1": 5}}, True, ["2", '"10"', '"a"', "null"]),
        ({"b": {"1": 4, "2": 9}, "a": {"1": 5}}, False, ["b", "a"]),
        ({"é": {"1": 5}, "a": {"1": 5}, "Z": {"1": 5}}, False, ["Z", "a", "é"]),
    ],
    ids=["text", "numbers", "special numbers", "json", "the oldest dot first", "bytes"],
)
def test_canonical_order(sql: psycopg.Connection[Any], dots: Any, numbers: bool, expected: list[str]) -> None:
    assert call(sql, "crdt_state.dots_elements(%s, %s)", json.dumps(dots), numbers) == expected
    stamps = {e: [min(d.values()), 1, True] for e, d in dots.items()} | {"gone": [1, 1, False]}
    assert call(sql, "crdt_state.stamps_elements(%s, %s)", json.dumps(stamps), numbers) == expected


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("crdt_state.genesis_dots('{a,NULL,a}')", {"a": {"0": 0}}),
        ("crdt_state.genesis_dots('{{a,b},{c,d}}')", {e: {"0": 0} for e in "abcd"}),
        ("crdt_state.genesis_dots(NULL)", {}),
        ("crdt_state.genesis_stamps('{a}')", {"a": [0, 0, True]}),
        ('crdt_state.genesis_map(\'{"k": null, "l": [1]}\')', {"k": [0, 0, None], "l": [0, 0, [1]]}),
        ("crdt_state.genesis_map('[1]')", {}),
        ("crdt_state.genesis_map(NULL)", {}),
        ('crdt_state.json_elements(\'[1, "a", {"x": null}, null]\')', ["1", '"a"', '{"x": null}', "null"]),
        ("crdt_state.json_elements('{\"no\": 1}')", []),
        ("crdt_state.json_elements(NULL)", []),
        ("crdt_state.json_array(ARRAY['1', '\"a\"', '{\"x\": null}'])", [1, "a", {"x": None}]),
        ("crdt_state.json_array('{}')", []),
        ("crdt_state.json_array(NULL)", None),
    ],
)
def test_genesis_and_json(sql: psycopg.Connection[Any], expression: str, expected: Any) -> None:
    assert call(sql, expression) == expected


@pytest.mark.parametrize("change", ['{"add": []}', '{"add": {"a": "x"}}', '{"del": 3}', '{"add": {"a": 1.5e40}}'])
def test_a_malformed_change_is_an_error_of_its_row(sql: psycopg.Connection[Any], change: str) -> None:
    with pytest.raises(psycopg.DataError):
        call(sql, "crdt_state.dots_merge('{}', %s, 1, NULL)", change)
    with pytest.raises(psycopg.DataError):
        call(sql, "crdt_state.stamps_merge('{}', %s, 1, false)", change)


@pytest.mark.parametrize(
    ("change", "context", "expected"),
    [
        pytest.param({"add": {"b": 8}}, [0, 0, 0], None, id="adds never conflict"),
        pytest.param({"del": {"b": 8}}, [0, 6, 7], None, id="a removal that saw all"),
        pytest.param({"del": {"b": 8}}, None, None, id="everything covered"),
        pytest.param(
            {"del": {"b": 8}}, [0, 0, 0], [["b", 8, None, 3, 7, "b", False]], id="against the highest survivor"
        ),
        pytest.param(
            {"full": 8, "add": {"a": 8}}, [9, 6, 0], [["b", 8, None, 3, 7, "b", False]], id="a whole new value"
        ),
        pytest.param({"full": 8, "add": {}}, [9, 0, 0], None, id="which never saw the element"),
        pytest.param({"full": 8, "add": {"b": 8}}, [9, 6, 0], None, id="or keeps it"),
    ],
)
def test_dots_conflicts(sql: psycopg.Connection[Any], change: Any, context: list[int] | None, expected: Any) -> None:
    arguments = json.dumps(DOTS), json.dumps(change), context
    assert call(sql, "crdt_state.dots_conflicts(%s, %s, 1, %s)", *arguments) == expected


MAP = {"a": [5, 1, {"x": 1}], "b": [6, 2], "g": [0, 0, 7]}


@pytest.mark.parametrize(
    ("change", "context", "expected"),
    [
        pytest.param({"add": {"a": [8, 2], "g": [8, 2], "n": [8, 1]}}, [5, 6], None, id="seen, genesis, new"),
        pytest.param({"add": {"a": [8, {"x": 1}]}}, [4, 0], None, id="equal values"),
        pytest.param({"del": {"b": 8}}, [9, 0], None, id="removed on both sides"),
        pytest.param(
            {"add": {"a": [4, 2]}}, [0], [["a", 4, '{"a": 2}', 1, 5, '{"a": {"x": 1}}', False]], id="an older write"
        ),
        pytest.param({"del": {"a": 8}}, [4], [["a", 8, None, 1, 5, '{"a": {"x": 1}}', True]], id="a later removal"),
        pytest.param({"add": {"b": [6, 2]}}, [9], [["b", 6, '{"b": 2}', 2, 6, None, True]], id="a tie"),
    ],
)
def test_map_conflicts(sql: psycopg.Connection[Any], change: Any, context: list[int], expected: Any) -> None:
    arguments = json.dumps(MAP), json.dumps(change), context
    assert call(sql, "crdt_state.stamps_conflicts(%s, %s, 3, %s, true)", *arguments) == expected


def test_stamp_set_conflicts(sql: psycopg.Connection[Any]) -> None:
    state, change = '{"a": [5, 1, true], "b": [6, 1, false]}', '{"add": {"b": 8}, "del": {"a": 4}}'
    got = call(sql, "crdt_state.stamps_conflicts(%s, %s, 3, '{0}', false)", state, change)
    assert sorted(got) == [["a", 4, None, 1, 5, "a", False], ["b", 8, "b", 1, 6, None, True]]


FUNCTIONS = """
CREATE SCHEMA IF NOT EXISTS "o'dd";
CREATE OR REPLACE FUNCTION public.joined(winner text, other text) RETURNS text LANGUAGE sql
    AS 'SELECT winner || ''+'' || other';
CREATE OR REPLACE FUNCTION "o'dd"."jo""in"(winner text, other text) RETURNS text LANGUAGE sql AS 'SELECT ''odd''';
CREATE OR REPLACE FUNCTION public.nothing(winner text, other text) RETURNS text LANGUAGE sql AS 'SELECT NULL::text';
CREATE OR REPLACE FUNCTION public.fails(winner text, other text) RETURNS text LANGUAGE plpgsql
    AS 'BEGIN RAISE EXCEPTION ''no %'', other; END';
CREATE OR REPLACE FUNCTION public.asserts(winner text, other text) RETURNS text LANGUAGE plpgsql
    AS 'BEGIN ASSERT false, ''never''; RETURN 1; END';
CREATE OR REPLACE FUNCTION public.busy(winner text, other text) RETURNS text LANGUAGE plpgsql
    AS 'BEGIN RAISE EXCEPTION ''busy'' USING ERRCODE = ''lock_not_available''; END';
CREATE OR REPLACE FUNCTION public.counts(winner text, other text) RETURNS bigint LANGUAGE sql AS 'SELECT 1::bigint';
CREATE OR REPLACE FUNCTION public.larger(winner int, other int) RETURNS int LANGUAGE sql AS 'SELECT greatest($1, $2)';
"""
WRITES = '[[3, 9, "c"], [2, 8, "b"], [1, 7, "a"]]'


@pytest.mark.parametrize(
    ("function", "value", "reason"),
    [
        ("public.joined", "c+b+a", None),
        ("joined", "c+b+a", None),
        ("""  "o'dd"."jo""in" """, "odd", None),
        ("public.nothing", "c", "function public.nothing returned NULL"),
        ("public.fails", "c", "function public.fails raised P0001: no b"),
        ("public.asserts", "c", "function public.asserts raised P0004: never"),
        ("public.missing", "c", "there is no function public.missing(text, text) returns text"),
        ("public.counts", "c", "there is no function public.counts(text, text) returns text"),
        ("public.larger", "c", "there is no function public.larger(text, text) returns text"),
        ("pg_catalog.lower", "c", "there is no function pg_catalog.lower(text, text) returns text"),
        ("a.b.c", "c", "there is no function a.b.c(text, text) returns text"),
        ("joined(''); DROP TABLE x; --", "c", "raised 22023"),
    ],
)
def test_fold_siblings(sql: psycopg.Connection[Any], function: str, value: str, reason: str | None) -> None:
    sql.execute(FUNCTIONS)
    got = call(sql, "crdt_state.fold_siblings(%s, %s, 'public', 'text')", WRITES, function)
    assert got[0] == value
    assert got[1] is None if reason is None else reason in got[1]


def test_fold_siblings_of_another_type(sql: psycopg.Connection[Any]) -> None:
    sql.execute(FUNCTIONS)
    assert call(sql, """crdt_state.fold_siblings('[[2,8,"3"],[1,7,"7"]]', 'larger', 'public', 'integer')""") == [
        "7",
        None,
    ]


def test_a_function_that_waits_is_tried_again(sql: psycopg.Connection[Any]) -> None:
    """A reason that is gone at the next try must not make nodes differ."""
    sql.execute(FUNCTIONS)
    with pytest.raises(psycopg.errors.LockNotAvailable):
        call(sql, "crdt_state.fold_siblings(%s, 'busy', 'public', 'text')", WRITES)
