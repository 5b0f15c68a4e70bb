"""Registers that keep what was written concurrently, through the merge statement, in every order of delivery."""

from __future__ import annotations

import json
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest
from hand_merge import HandNode, Row, Write, hand_node, table
from type_algebra import KINDS, Sent, causal_orders, random_batches, random_history

SPEC = table(
    ("note", "text", "mv_register"),
    ("high", "integer", "max_register"),
    ("low", "text", "min_register"),
    ("cart", "jsonb", "merge:cart_union"),
    ("odd", "text", "merge:public.fails"),
    ("title", "text", "lww_register"),
)
GENESIS = """INSERT INTO t VALUES (1, 'n', 5, 'm', '{"pen": 1}', 'o', 'x')"""
FUNCTIONS = (
    """CREATE FUNCTION public.cart_union(winner jsonb, other jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$
           SELECT jsonb_object_agg(key, greatest((winner -> key)::int, (other -> key)::int))
           FROM (SELECT jsonb_object_keys(winner) UNION SELECT jsonb_object_keys(other)) AS either (key)
       $$""",
    """CREATE FUNCTION public.fails(winner text, other text) RETURNS text LANGUAGE plpgsql
       AS 'BEGIN RAISE EXCEPTION ''no''; END'""",
)
HISTORIES = 12
STEPS = 30


@pytest.fixture
async def node(postgres_server) -> AsyncIterator[HandNode]:  # type: ignore[no-untyped-def]
    async with hand_node(postgres_server, SPEC, *FUNCTIONS) as node:
        yield node


@dataclass(frozen=True)
class Case:
    """``writes``: (origin, hlc, context, column, value) of row 1. ``siblings``: (node, hlc, value), the latest first,
    empty when one write is left. ``conflicts``: (winner, loser, kind), sides as ``(node, hlc, value)``."""

    name: str
    writes: tuple[tuple[int, int, dict[int, int], str, str | None], ...]
    shown: str | None
    siblings: tuple[tuple[int, int, str | None], ...] = ()
    conflicts: tuple[Any, ...] = ()


A, B, C = (1, 10, "a"), (2, 11, "b"), (3, 12, "c")

CASES = [
    Case("a single write", ((1, 10, {}, "note", "a"),), "a"),
    Case("a write that saw the other", ((1, 10, {}, "note", "a"), (2, 11, {1: 10}, "note", "b")), "b"),
    Case(
        "two that did not see each other",
        ((1, 10, {}, "note", "a"), (2, 11, {}, "note", "b")),
        "b",
        (B, A),
        ((B, A, "overwrite"),),
    ),
    Case(
        "three",
        ((1, 10, {}, "note", "a"), (2, 11, {}, "note", "b"), (3, 12, {}, "note", "c")),
        "c",
        (C, B, A),
        ((B, A, "overwrite"), (C, A, "overwrite"), (C, B, "overwrite")),
    ),
    Case(
        "the next write resolves what it saw",
        ((1, 10, {}, "note", "a"), (2, 11, {}, "note", "b"), (3, 12, {1: 10, 2: 11}, "note", "c")),
        "c",
        (),
        ((B, A, "overwrite"),),
    ),
    Case(
        "and only that",
        ((1, 10, {}, "note", "a"), (2, 11, {}, "note", "b"), (3, 12, {1: 10}, "note", "c")),
        "c",
        (C, B),
    ),
    Case("NULL is a value", ((1, 10, {}, "note", None), (2, 9, {}, "note", "b")), None, ((1, 10, None), (2, 9, "b"))),
    Case("the greatest is shown", ((1, 10, {}, "high", "9"), (2, 11, {}, "high", "10")), "10"),
    Case(
        "whichever was later",
        ((1, 10, {}, "high", "10"), (2, 11, {}, "high", "9")),
        "10",
        ((2, 11, "9"), (1, 10, "10")),
        (((1, 10, "10"), (2, 11, "9"), "overwrite"),),
    ),
    Case("NULL loses", ((1, 10, {}, "high", "1"), (2, 11, {}, "high", None)), "1"),
    Case("a write that saw it may lower it", ((1, 10, {}, "high", "10"), (2, 11, {1: 10}, "high", "3")), "3"),
    Case("the least is shown, by its bytes", ((1, 10, {}, "low", "B"), (2, 11, {}, "low", "a")), "B"),
    Case(
        "the application's function",
        ((1, 10, {}, "cart", '{"pen": 3}'), (2, 11, {}, "cart", '{"pen": 2, "ink": 1}')),
        '{"ink": 1, "pen": 3}',
    ),
    Case("is not asked for one value", ((1, 10, {}, "odd", "a"),), "a"),
    Case(
        "a function that fails",
        ((1, 10, {}, "odd", "a"), (2, 11, {}, "odd", "b")),
        "b",
        (B, A),
        ((B, A, "overwrite"), (B, A, "merge_failed")),
    ),
]


def told(record: dict[str, Any]) -> Any:
    sides = [tuple(record[f"{side}_{part}"] for part in ("node", "hlc", "value")) for side in ("winner", "loser")]
    return *sides, record["kind"]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_cases_in_every_order(node: HandNode, case: Case) -> None:
    sent = [Sent(origin, hlc, context, (column, value)) for origin, hlc, context, column, value in case.writes]
    column = case.writes[0][3]
    attnum = next(c.attnum for c in SPEC.columns if c.name == column)
    states, records = [], []
    orders = causal_orders(sent)
    for order, together in [*((order, False) for order in orders), (orders[0], True)]:
        await node.reset(GENESIS)
        writes = [Write(s.origin, s.hlc, s.context, (Row(1, s.hlc, dict([s.change])),)) for s in order]
        for step in [writes] if together else [[write] for write in writes]:
            await node.merge(*step)
        assert await node.shown(column) == case.shown
        states.append(await node.state())
        records.append(await node.conflicts())
        if case.siblings:
            assert states[0][0][f"sib_{attnum}"] == [list(s) for s in case.siblings]
        await node.touch(1)
        assert await node.shown(column) == case.shown
    assert all(state == states[0] for state in states)
    assert records[0] == [] or case.conflicts or case.siblings or case.shown
    if case.conflicts:
        seen_everywhere = set.intersection(*({told(r) for r in each} for each in records))
        assert seen_everywhere <= set(case.conflicts) == set.union(*({told(r) for r in each} for each in records))
    assert all({r["rule"] for r in each} <= {c.crdt for c in SPEC.columns} for each in records)


async def test_records_say_what_both_sides_had_seen(node: HandNode) -> None:
    await node.app.execute(GENESIS)
    await node.merge(Write(3, 5, {}, (Row(1, 5, {"note": "c", "odd": "c"}),)))
    await node.merge(Write(1, 10, {3: 5}, (Row(1, 10, {"note": "a", "odd": "a"}),)))
    await node.merge(Write(2, 11, {3: 4}, (Row(1, 11, {"note": "b", "odd": "b"}),)))
    vectors = [
        (r["column_name"], r["kind"], r["winner_vector"], r["loser_vector"])
        for r in await node.conflicts()
        if r["loser_value"] == "a"
    ]
    assert sorted(vectors) == [
        ("note", "overwrite", [2, 11, 3, 4], [1, 10, 3, 5]),
        ("odd", "merge_failed", [2, 11, 3, 4], [1, 10, 3, 5]),
        ("odd", "overwrite", [2, 11, 3, 4], [1, 10, 3, 5]),
    ]
    await node.merge(Write(4, 12, {}, (Row(1, 12, {"note": "d"}),)))
    several = {r["loser_value"]: r["loser_vector"] for r in await node.conflicts() if r["winner_value"] == "d"}
    assert several == {"a": [1, 10], "b": [2, 11]}, "of one among several no more is known than itself"


async def test_a_failure_says_why(node: HandNode) -> None:
    await node.app.execute(GENESIS)
    await node.merge(Write(1, 10, {}, (Row(1, 10, {"odd": "a"}),)), Write(2, 11, {}, (Row(1, 11, {"odd": "b"}),)))
    notes = {r["kind"]: r["note"] for r in await node.conflicts()}
    assert notes == {"overwrite": None, "merge_failed": "function public.fails raised P0001: no"}


async def test_a_missing_function_shows_the_latest_write_until_it_is_there(node: HandNode) -> None:
    await node.app.execute(GENESIS)
    await node.app.execute("DROP FUNCTION public.fails")
    await node.merge(Write(1, 10, {}, (Row(1, 10, {"odd": "a"}),)), Write(2, 11, {}, (Row(1, 11, {"odd": "b"}),)))
    assert await node.shown("odd") == "b"
    body = "LANGUAGE sql AS 'SELECT winner || other'"
    await node.app.execute(f"CREATE FUNCTION public.fails(winner text, other text) RETURNS text {body}")
    await node.touch(1)
    assert await node.shown("odd") == "ba"


async def test_a_deleted_row_keeps_its_siblings(node: HandNode) -> None:
    await node.app.execute(GENESIS)
    await node.merge(Write(1, 10, {}, (Row(1, 10, {"note": "a", "high": "9"}),)))
    await node.merge(Write(2, 11, {}, (Row(1, 11, {"note": "b", "high": "7"}),)))
    await node.merge(Write(3, 20, {1: 10, 2: 11}, (Row(1, 20, op="D"),)))
    [state] = await node.state()
    assert (state["image"]["note"], state["image"]["high"]) == ("b", "9")
    assert state["sib_2"] == [[2, 11, "b"], [1, 10, "a"]]
    await node.merge(Write(1, 15, {}, (Row(1, 15, {"note": "late"}),)))
    assert (await node.state())[0]["image"]["note"] == "late"
    await node.merge(Write(2, 30, {}, (Row(1, 30, {"title": "back"}),)))
    assert await node.app.fetchrow("SELECT note, high, cart, title FROM t") == ("late", 9, {"pen": 1}, "back")
    assert (await node.state())[0]["sib_2"] == [[1, 15, "late"], [2, 11, "b"]]


async def test_an_insert_is_one_write(node: HandNode) -> None:
    values = {"note": "n", "high": "1", "low": "l", "cart": "{}", "odd": None, "title": "t"}
    await node.merge(Write(1, 10, {}, (Row(2, 10, values, op="I"),)))
    await node.merge(Write(2, 9, {}, (Row(2, 9, values | {"note": "m", "high": "3"}, op="I"),)))
    assert await node.app.fetchrow("SELECT note, high, low FROM t WHERE id = 2") == ("n", 3, "l")
    [state] = await node.state()
    assert state["sib_2"] == [[1, 10, "n"], [2, 9, "m"]]
    records = {(r["column_name"], r["winner_value"]) for r in await node.conflicts()}
    assert records == {("high", "3"), ("note", "n")}, "of equal values, NULL as well, nothing is lost"


async def test_random_histories_equal_the_algebra(postgres_server) -> None:  # type: ignore[no-untyped-def]
    kind = KINDS["mv_register"]
    spec = table(("col", "text", "mv_register"), ("top", "text", "max_register"))
    async with hand_node(postgres_server, spec) as node:
        for seed in range(HISTORIES):
            sent, final = random_history(kind, seed, nodes=4, steps=STEPS)
            states = []
            for variant in range(2):
                await node.reset("INSERT INTO t VALUES (1, 'g', 'g')")
                for batch in random_batches(sent, random.Random(seed * 2 + variant)):
                    rows = [(Row(1, s.hlc, dict.fromkeys(("col", "top"), s.change.value)),) for s in batch]
                    await node.merge(*(Write(s.origin, s.hlc, s.context, r) for s, r in zip(batch, rows, strict=True)))
                assert await node.shown("col") == kind.shown(final)
                assert await node.shown("top") == max((w.value or "" for w in final.writes), default="") or None
                [state] = await node.state()
                expected = kind.as_state(final)
                assert json.loads(json.dumps(state["sib_2"])) == (expected if len(expected) > 1 else None)
                states.append(state)
            assert states[0] == states[1]


@pytest.mark.parametrize("column", ["code", "labels"])
async def test_unique_values_that_swap(postgres_server, column: str) -> None:  # type: ignore[no-untyped-def]
    """Rows are taken out and put back, because what such a column shows is not what was written last."""
    spec = table(("code", "text", "max_register"), ("labels", "text[]", "or_set"), unique=((column,),))
    unique = f"CREATE UNIQUE INDEX t_{column} ON t ({column})"
    genesis = """INSERT INTO t VALUES (1, 'a', '{a}'), (2, 'b', '{b}')"""
    async with hand_node(postgres_server, spec, unique, genesis) as node:
        rows = [
            Row(key, 10, {"code": new, "labels": {"add": {new: 10}, "del": {old: 10}}})
            for key, old, new in ((1, "a", "b"), (2, "b", "a"))
        ]
        await node.merge(Write(1, 10, {}, (rows[0], rows[1])))
        assert await node.app.fetch("SELECT id, code, labels FROM t ORDER BY id") == [(1, "b", ["b"]), (2, "a", ["a"])]
