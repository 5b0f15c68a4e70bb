"""Sets and maps through the merge statement: hand-computed cases in every order of delivery, and random histories."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import asyncpg
import pytest
from hand_merge import HandNode, Row, Write, hand_node, table
from type_algebra import KINDS, Sent, causal_orders, random_batches, random_history

from sidecar.core.merge.multivalue import width
from sidecar.core.merge.state_tables import COLUMNS_MAX

SPEC = table(
    ("tags", "text[]", "or_set"),
    ("sizes", "integer[]", "or_set"),
    ("flags", "boolean[]", "lww_set"),
    ("notes", "jsonb", "aw_set"),
    ("prefs", "jsonb", "lww_map"),
    ("seen", "numeric[]", "g_set"),
    ("title", "text", "lww_register"),
)
GENESIS = """INSERT INTO t VALUES (1, '{b,a}', '{10,9}', '{t}', '["x", 2]', '{"k": 1, "l": null}', '{1.0}', 'x')"""

HISTORIES = 12
STEPS = 30


@pytest.fixture
async def node(postgres_server) -> AsyncIterator[HandNode]:  # type: ignore[no-untyped-def]
    async with hand_node(postgres_server, SPEC) as node:
        yield node


@dataclass(frozen=True)
class Case:
    """``writes``: (origin, hlc, context, column, change) of row 1. ``conflicts``: (element, winner, loser) with sides
    ``(node, hlc, value)``, as recorded in every order, or in ``some`` orders only."""

    name: str
    writes: tuple[tuple[int, int, dict[int, int], str, dict[str, Any]], ...]
    shown: str | None
    conflicts: tuple[Any, ...] = ()
    some: bool = False


CASES = [
    Case("an add, canonical order", ((1, 10, {}, "tags", {"add": {"0": 10}}),), "{a,b,0}"),
    Case("numbers by value", ((1, 10, {}, "sizes", {"add": {"-1": 10, "100": 10, "20": 10}}),), "{9,10,-1,20,100}"),
    Case("booleans keep their image", ((1, 10, {}, "flags", {"add": {"f": 10}}),), "{t,f}"),
    Case(
        "quotes and commas",
        ((1, 10, {}, "tags", {"add": {'a"b,{} \\': 10, "NULL": 10}}),),
        '{a,b,"NULL","a\\"b,{} \\\\"}',
    ),
    Case(
        "concurrent adds of one element",
        ((1, 10, {}, "tags", {"add": {"c": 10}}), (2, 9, {}, "tags", {"add": {"c": 9, "d": 9}})),
        "{a,b,c,d}",
    ),
    Case(
        "an add wins over a concurrent removal, and is recorded where it was there first",
        ((1, 10, {}, "tags", {"add": {"a": 10}}), (2, 11, {}, "tags", {"del": {"a": 11}})),
        "{b,a}",
        (("a", (1, 10, "a"), (2, 11, None)),),
        some=True,
    ),
    Case(
        "a removal of what it saw",
        ((1, 10, {}, "tags", {"add": {"c": 10}}), (2, 11, {1: 10}, "tags", {"del": {"a": 11, "c": 11}})),
        "{b}",
    ),
    Case(
        "a whole new value leaves what it had not seen",
        (
            (1, 10, {}, "notes", {"full": 10, "add": {'"y"': 10}}),
            (2, 9, {}, "notes", {"full": 9, "add": {"2": 9, "3": 9}}),
        ),
        '[2, 3, "y"]',
    ),
    Case("a set that becomes empty", ((1, 10, {}, "tags", {"del": {"a": 10, "b": 10}}),), "{}"),
    Case("or NULL", ((1, 10, {}, "tags", {"null": True, "del": {"a": 10, "b": 10}}),), None),
    Case(
        "NULL is the last write's affair",
        (
            (1, 10, {}, "tags", {"null": True, "del": {"a": 10, "b": 10}}),
            (2, 11, {}, "tags", {"del": {"a": 11, "b": 11}}),
        ),
        "{}",
    ),
    Case(
        "of stamps the later operation wins",
        ((1, 10, {}, "flags", {"add": {"f": 10}}), (2, 11, {}, "flags", {"del": {"f": 11, "t": 11}})),
        "{}",
        (("f", (2, 11, None), (1, 10, "f")),),
    ),
    Case(
        "a tie goes to the higher node",
        ((2, 10, {}, "flags", {"add": {"f": 10}}), (1, 10, {}, "flags", {"del": {"f": 10}})),
        "{t,f}",
        (("f", (2, 10, "f"), (1, 10, None)),),
    ),
    Case(
        "keys of a map are registers",
        (
            (1, 10, {}, "prefs", {"add": {"k": [10, 2], "m": [10, {"q": 1}]}}),
            (2, 11, {}, "prefs", {"add": {"k": [11, None]}, "del": {"l": 11}}),
        ),
        '{"k": null, "m": {"q": 1}}',
        (("k", (2, 11, '{"k": null}'), (1, 10, '{"k": 2}')),),
    ),
    Case(
        "a key that is removed and set",
        ((1, 10, {}, "prefs", {"del": {"k": 10}}), (2, 11, {}, "prefs", {"add": {"k": [11, 5]}})),
        '{"k": 5, "l": null}',
        (("k", (2, 11, '{"k": 5}'), (1, 10, None)),),
    ),
    Case("a grow-only set", ((1, 10, {}, "seen", {"add": {"1.00": 10, "NaN": 10}}),), "{1.0,1.00,NaN}"),
]


def told(record: dict[str, Any]) -> Any:
    sides = [tuple(record[f"{side}_{part}"] for part in ("node", "hlc", "value")) for side in ("winner", "loser")]
    return record["element"], *sides


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_cases_in_every_order(node: HandNode, case: Case) -> None:
    sent = [Sent(origin, hlc, context, (column, change)) for origin, hlc, context, column, change in case.writes]
    column = case.writes[0][3]
    states, ids = [], []
    orders = causal_orders(sent)
    for order, together in [*((order, False) for order in orders), (orders[0], True)]:
        await node.reset(GENESIS)
        writes = [Write(s.origin, s.hlc, s.context, (Row(1, s.hlc, dict([s.change])),)) for s in order]
        results = [await node.merge(*writes)] if together else [await node.merge(write) for write in writes]
        assert await node.shown(column) == case.shown
        states.append(await node.state())
        records = await node.conflicts()
        assert {told(r) for r in records} == set(case.conflicts) or (case.some and not records)
        assert sum(r.conflicts for r in results) == len(records)
        ids.append({r["id"] for r in records} or ids[0] if ids else {r["id"] for r in records})
        await node.touch(1)
        assert await node.shown(column) == case.shown, "a row that is right stays as it is"
    assert all(state == states[0] for state in states)
    if not case.some:
        assert all(one == ids[0] for one in ids), "the same conflict has the same id"


async def test_records_say_what_both_sides_had_seen(node: HandNode) -> None:
    await node.app.execute(GENESIS)
    changes = {"tags": {"add": {"a": 10}}, "flags": {"add": {"f": 10}}, "prefs": {"add": {"k": [10, 2]}}}
    await node.merge(Write(1, 10, {3: 5}, (Row(1, 10, changes),)))
    changes = {"tags": {"del": {"a": 11}}, "flags": {"del": {"f": 11}}, "prefs": {"add": {"k": [11, 3]}}}
    await node.merge(Write(2, 11, {3: 4}, (Row(1, 11, changes),)))
    incoming, here = [2, 11, 3, 4], [1, 10]
    assert {r["column_name"]: (r["winner_vector"], r["loser_vector"]) for r in await node.conflicts()} == {
        "tags": (here, incoming),
        "flags": (incoming, here),
        "prefs": (incoming, here),
    }


@pytest.mark.parametrize("name", ["or_set", "aw_set", "lww_set", "lww_map"])
async def test_random_histories_equal_the_algebra(postgres_server, name: str) -> None:  # type: ignore[no-untyped-def]
    kind, type_name = KINDS[name], "jsonb" if name == "lww_map" else "text[]"
    async with hand_node(postgres_server, table(("col", type_name, name), ("title", "text", "lww_register"))) as node:
        for seed in range(HISTORIES):
            sent, final = random_history(kind, seed, nodes=3, steps=STEPS)
            states = []
            for variant in range(2):
                await node.reset()
                await node.app.execute("INSERT INTO t (id, col) VALUES (1, $1)", kind.shown(kind.empty))
                for batch in random_batches(sent, random.Random(seed * 2 + variant)):
                    rows = [(Row(1, s.hlc, {"col": kind.as_change(s.change)}),) for s in batch]
                    await node.merge(*(Write(s.origin, s.hlc, s.context, r) for s, r in zip(batch, rows, strict=True)))
                shown, expected = await node.app.fetchval("SELECT col FROM t"), kind.shown(final)
                assert shown == (None if final.null and not expected else expected)
                states.append(await node.state())
            assert states[0] == states[1]


DELETE = Row(1, 20, op="D")


async def test_a_deleted_row_comes_back_with_its_elements(node: HandNode) -> None:
    """A delete leaves the state alone; so does what others wrote to the dead row."""
    await node.app.execute(GENESIS)
    await node.merge(Write(1, 10, {}, (Row(1, 10, {"tags": {"add": {"c": 10}}, "prefs": {"del": {"l": 10}}}),)))
    await node.merge(Write(2, 20, {1: 10}, (DELETE,)))
    assert await node.shown("tags") is None
    [state] = await node.state()
    assert (state["image"]["tags"], state["image"]["prefs"]) == ("{a,b,c}", '{"k": 1}')
    await node.merge(Write(3, 15, {}, (Row(1, 15, {"tags": {"add": {"d": 15}, "del": {"a": 15}}}),)))
    [state] = await node.state()
    assert state["image"]["tags"] == "{b,c,d}", "the tombstone takes in what comes"
    await node.merge(Write(1, 30, {3: 15}, (Row(1, 30, {"title": "back"}),)))
    assert await node.app.fetchrow("SELECT tags, sizes::text, prefs, title FROM t") == (
        ["b", "c", "d"], "{10,9}", {"k": 1}, "back"
    )  # fmt: skip


async def test_a_change_brings_a_row_back(node: HandNode) -> None:
    await node.app.execute(GENESIS)
    await node.merge(Write(2, 20, {}, (DELETE,)))
    await node.merge(Write(1, 30, {}, (Row(1, 30, {"flags": {"add": {"f": 30}}}),)))
    assert await node.app.fetchrow("SELECT tags, flags::text, prefs FROM t") == (
        ["b", "a"],
        "{t,f}",
        {"k": 1, "l": None},
    )
    [record] = await node.conflicts()
    assert record["column_name"] is None, "only the row's life was disputed"


async def test_a_re_insert_shows_the_inserted_value_and_what_the_delete_had_not_seen(node: HandNode) -> None:
    values = dict.fromkeys((c.name for c in SPEC.columns), None) | {
        "tags": {"full": 25, "add": {"n": 25}},
        "prefs": {"full": 25, "add": {"n": [25, 1]}, "del": {"k": 25, "l": 25}},
        "sizes": {"full": 25, "null": True},
        "notes": {"full": 25},
        "flags": {"full": 25, "del": {"t": 25}},
        "seen": {"full": 25, "add": {"2": 25}},
    }
    again = Write(2, 25, {}, (Row(1, 25, values, op="R"),))
    unseen = Write(1, 10, {}, (Row(1, 10, {"tags": {"add": {"c": 10}}, "prefs": {"add": {"m": [10, 3]}}}),))
    for order in ([again, unseen], [unseen, again]):
        await node.reset(GENESIS)
        for write in order:
            await node.merge(write)
        row = await node.app.fetchrow("SELECT tags, sizes, flags, notes, prefs, seen::text FROM t")
        assert row == (["c", "n"], None, [], [], {"m": 3, "n": 1}, "{2}")


async def test_an_insert_of_a_new_row(node: HandNode) -> None:
    values: dict[str, Any] = {c.name: {"full": 5} for c in SPEC.columns}
    values |= {"tags": {"full": 5, "add": {"b": 5, "a": 5}}, "notes": {"full": 5, "null": True}, "title": "t"}
    await node.merge(Write(1, 5, {}, (Row(7, 5, values, op="I"),)))
    row = await node.app.fetchrow("SELECT tags, sizes::text, notes, prefs, title FROM t WHERE id = 7")
    assert row == (["a", "b"], "{}", None, {}, "t")


async def test_a_touched_row_shows_its_elements_in_order_again(node: HandNode) -> None:
    """What capture asks for after a local write whose order, duplicates or NULL elements are not as shown elsewhere."""
    await node.app.execute(GENESIS)
    await node.merge(Write(1, 10, {}, (Row(1, 10, {"tags": {"add": {"c": 10}}, "prefs": {"del": {"l": 10}}}),)))
    await node.app.execute("UPDATE t SET tags = '{c,NULL,a,b,b}', prefs = '7', sizes = '{1}'")
    await node.app.execute(f"UPDATE crdt_state.row_{SPEC.table_id} SET row_xmin = (SELECT xmin FROM t)")
    await node.touch(1)
    row = await node.app.fetchrow("SELECT tags, prefs, sizes::text FROM t")
    assert row == (["a", "b", "c"], {"k": 1}, "{1}"), "a column without state is as genesis left it"
    assert not await node.app.fetchval("SELECT count(*) FROM crdt_state.conflict")


@pytest.mark.parametrize("change", ['{"add": []}', '{"add": {"x": "y"}}', "[1", '{"add": {"no number": 5}}'])
async def test_a_change_that_cannot_apply_goes_to_quarantine(node: HandNode, change: str) -> None:
    await node.app.execute(GENESIS)
    good, bad = Row(2, 10, {"sizes": {"add": {"1": 10}}, "title": "t"}), Row(1, 10, {"sizes": change, "title": "t"})
    await node.app.execute("INSERT INTO t (id, sizes) VALUES (2, NULL)")
    with pytest.raises(asyncpg.DataError):
        await node.merge(Write(1, 10, {}, (good, bad)))
    result = await node.merge(Write(1, 10, {}, (good, bad)), isolate=True)
    assert result.quarantined == 1
    [record] = await node.app.fetch("SELECT row_key, change FROM crdt_state.quarantine")
    assert (record["row_key"], record["change"]["values"]["sizes"]) == ({"id": "1"}, change)
    assert (await node.shown("sizes", 2), await node.shown("title", 1)) == ("{1}", "x")


async def test_a_change_of_a_row_that_is_not_here_is_kept(node: HandNode) -> None:
    result = await node.merge(Write(1, 10, {}, (Row(1, 10, {"tags": {"add": {"c": 10}}}),)))
    assert result.quarantined == 1
    assert (await node.app.fetchval("SELECT change FROM crdt_state.quarantine"))["tags"] == '{"add": {"c": 10}}'
    assert await node.state() == []


async def test_the_widest_table_of_sets(postgres_server) -> None:  # type: ignore[no-untyped-def]
    """Each of them counts twice, because the statement carries more values for it."""
    count = COLUMNS_MAX // width("or_set")
    spec = table(*((f"c{i}", "text[]", "or_set") for i in range(count)))
    async with hand_node(postgres_server, spec, "INSERT INTO t (id) VALUES (1)") as node:
        values = {f"c{i}": {"add": {"x": 10}} for i in range(count)}
        await node.merge(Write(1, 10, {}, tuple(Row(key, 10, values, op=op) for key, op in ((1, "U"), (2, "I")))))
        assert [await node.shown(f"c{count - 1}", key) for key in (1, 2)] == ["{x}", "{x}"]
