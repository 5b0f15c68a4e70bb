"""The oracle: hand-computed cases and impossible histories."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal
from typing import Any, Literal

import pytest

from sidecar.core.catalog import ColumnSpec, TableSpec
from tests.oracle import Column, Operation, expected, schema_of

COLUMNS = {
    "title": Column(),
    "body": Column(),
    "likes": Column("pn_counter", "smallint"),
    "views": Column("g_counter", "bigint"),
}
SCHEMA = {"posts": COLUMNS}
GENESIS_ROW = {"title": "old", "body": None, "likes": "10", "views": "100"}

Kind = Literal["insert", "update", "delete"]


def op(
    dot: tuple[int, int], kind: Kind, seen: Mapping[int, int] | None = None, order: int = 0, **values: Any
) -> Operation:
    """``dot`` is ``(node, hlc)``; ints are deltas of counters, texts are assigned."""
    deltas = {name: Decimal(v) for name, v in values.items() if name in ("likes", "views")}
    assigned = {name: v for name, v in values.items() if name not in deltas}
    return Operation(dot[0], dot[1], kind, "posts", "k", assigned, deltas, seen or {}, order)


def row(*operations: Operation, genesis: Mapping[str, str | None] | None = None) -> dict[str, str | None] | None:
    """The one row, whatever the order in which the operations are given."""
    rows = {"posts": {"k": genesis}} if genesis is not None else None
    results = [expected(p, SCHEMA, rows) for p in itertools.islice(itertools.permutations(operations), 24)]
    assert all(result == results[0] for result in results)
    return results[0]["posts"].get("k")


def test_genesis_rows_stay_as_they_are() -> None:
    assert row(genesis=GENESIS_ROW) == GENESIS_ROW
    assert row(genesis={"title": "x"}) == {"title": "x", "body": None, "likes": None, "views": None}


def test_a_row_that_was_never_inserted_does_not_exist() -> None:
    assert row() is None
    assert row(op((1, 10), "update", title="a")) is None
    assert row(op((1, 10), "delete")) is None


def test_an_insert_assigns_every_column() -> None:
    assert row(op((1, 10), "insert", title="a", likes=3)) == {"title": "a", "body": None, "likes": "3", "views": "0"}


def test_concurrent_inserts_of_one_key_add_their_counters() -> None:
    a = op((1, 10), "insert", title="a", body="a", likes=3, views=5)
    b = op((2, 11), "insert", title="b", likes=-1, views=7)
    assert row(a, b) == {"title": "b", "body": None, "likes": "2", "views": "12"}


def test_concurrent_updates_the_higher_hlc_wins_per_column() -> None:
    a = op((1, 20), "update", title="a")
    b = op((2, 19), "update", title="b", body="b")
    assert row(a, b, genesis=GENESIS_ROW) == {**GENESIS_ROW, "title": "a", "body": "b"}


def test_concurrent_updates_with_equal_hlc_the_higher_node_wins() -> None:
    a = op((1, 20), "update", title="a")
    b = op((2, 20), "update", title="b")
    assert row(a, b, genesis=GENESIS_ROW) == {**GENESIS_ROW, "title": "b"}


def test_three_nodes_a_write_that_saw_another_wins_over_it_only() -> None:
    a = op((1, 10), "update", title="a")
    b = op((2, 11), "update", {1: 10}, title="b", likes=1)
    c = op((3, 30), "update", title="c", likes=1)
    assert row(a, b, c, genesis=GENESIS_ROW) == {**GENESIS_ROW, "title": "c", "likes": "12"}
    d = op((1, 31), "update", {1: 10, 2: 11, 3: 30}, title="d")
    assert row(a, b, c, d, genesis=GENESIS_ROW) == {**GENESIS_ROW, "title": "d", "likes": "12"}


@pytest.mark.parametrize(("node", "hlc", "alive"), [(2, 9, False), (2, 11, True), (2, 10, True), (0, 0, False)])
def test_delete_against_a_concurrent_increment(node: int, hlc: int, alive: bool) -> None:
    changes = [op((1, 10), "delete")]
    if node:
        changes.append(op((node, hlc), "update", likes=5))
    shown = row(*changes, genesis=GENESIS_ROW)
    assert shown == ({**GENESIS_ROW, "likes": "15"} if alive else None)  # nothing is erased: no insert saw the delete


def test_equal_hlc_the_delete_of_the_higher_node_wins() -> None:
    assert row(op((2, 10), "delete"), op((1, 10), "update", likes=5), genesis=GENESIS_ROW) is None


def test_re_insert_shows_the_inserted_values() -> None:
    update = op((1, 9), "update", title="b", likes=4, views=4)
    delete = op((1, 10), "delete", {1: 9})
    insert = op((1, 11), "insert", {1: 10}, title="again", likes=2, views=1)
    assert row(update, delete, insert, genesis=GENESIS_ROW) == {
        "title": "again",
        "body": None,
        "likes": "2",
        "views": "1",
    }


@pytest.mark.parametrize("hlc", [8, 20])
def test_re_insert_keeps_increments_that_the_delete_had_not_seen(hlc: int) -> None:
    delete = op((1, 10), "delete")
    unseen = op((2, hlc), "update", likes=4, views=4)
    insert = op((1, 30), "insert", {1: 10, 2: hlc}, likes=2, views=1)
    assert row(delete, unseen, insert, genesis=GENESIS_ROW) == {
        "title": None,
        "body": None,
        "likes": "6",
        "views": "5",
    }


def test_re_insert_on_another_node_and_an_update_it_had_not_seen() -> None:
    delete = op((1, 10), "delete")
    insert = op((2, 11), "insert", {1: 10}, title="again", likes=2)
    late = op((3, 40), "update", title="late", likes=1)
    assert row(delete, insert, late, genesis=GENESIS_ROW) == {"title": "late", "body": None, "likes": "3", "views": "0"}


def test_concurrent_re_inserts_add_up() -> None:
    delete = op((1, 10), "delete")
    a = op((1, 11), "insert", {1: 10}, title="a", likes=2)
    b = op((2, 12), "insert", {1: 10}, title="b", likes=3)
    assert row(delete, a, b, genesis=GENESIS_ROW) == {"title": "b", "body": None, "likes": "5", "views": "0"}


def test_a_delete_that_no_insert_saw_erases_nothing() -> None:
    seen_by_insert = op((1, 10), "delete")
    other = op((2, 12), "delete")
    increment = op((2, 11), "update", likes=5)
    insert = op((1, 20), "insert", {1: 10}, likes=1)
    # The increment was seen by node 2's delete, but the insert saw only node 1's.
    shown = row(seen_by_insert, increment, other, insert, genesis=GENESIS_ROW)
    assert shown == {"title": None, "body": None, "likes": "6", "views": "0"}
    # Had it seen both deletes, the increment would be erased too.
    saw_both = replace(insert, seen={1: 10, 2: 12})
    assert row(seen_by_insert, increment, other, saw_both, genesis=GENESIS_ROW) == {**shown, "likes": "1"}


def test_an_insert_that_a_later_delete_erased_stays_erased() -> None:
    changes = [
        op((1, 10), "insert", likes=1),
        op((1, 11), "delete", {1: 10}),
        op((2, 12), "insert", {1: 11}, likes=2),
        op((2, 13), "delete", {1: 11, 2: 12}),
        op((1, 14), "insert", {1: 11, 2: 13}, likes=4),
    ]
    for length, likes in enumerate(["1", None, "2", None, "4"], start=1):
        shown = row(*changes[:length])
        assert (shown and shown["likes"]) == likes


def test_delete_and_insert_in_one_transaction() -> None:
    delete = op((1, 10), "delete", order=0)
    insert = op((1, 10), "insert", order=1, title="new", likes=1)
    elsewhere = op((2, 9), "update", likes=7)
    assert row(delete, insert, elsewhere, genesis=GENESIS_ROW) == {
        "title": "new",
        "body": None,
        "likes": "8",
        "views": "0",
    }
    gone = [op((1, 10), "insert", order=0, likes=1), op((1, 10), "delete", order=1)]
    assert row(*gone) is None


def test_a_write_that_changes_nothing_is_no_write() -> None:
    delete = op((1, 10), "delete")
    assert row(delete, op((2, 11), "update", likes=0), genesis=GENESIS_ROW) is None
    assert row(delete, op((2, 11), "update"), genesis=GENESIS_ROW) is None


def test_g_counter_takes_no_decrease() -> None:
    changes = [op((1, 10), "update", views=-50), op((2, 10), "update", views=3)]
    assert row(*changes, genesis={**GENESIS_ROW, "views": "-5"}) == {**GENESIS_ROW, "views": "-2"}


def test_pn_counter_saturates_and_comes_back() -> None:
    up = [op((1, 10), "update", likes=32_000), op((2, 10), "update", likes=32_000)]
    down = op((3, 10), "update", likes=-32_000)
    assert row(*up, genesis=GENESIS_ROW) == {**GENESIS_ROW, "likes": "32767"}
    assert row(*up, down, genesis=GENESIS_ROW) == {**GENESIS_ROW, "likes": "32010"}
    assert row(down, op((1, 10), "update", likes=-32_000), genesis=GENESIS_ROW) == {**GENESIS_ROW, "likes": "-32768"}


@pytest.mark.parametrize(
    ("type_name", "held", "deltas", "text"),
    [
        ("numeric", "1.50", ["0.5"], "2"),
        ("numeric", "100", ["0"], "100"),
        ("numeric", "1e40", ["0.1"], f"1{'0' * 40}.1"),
        ("numeric(10,2)", "1.5", ["1"], "2.50"),
        ("numeric(4, 2)", "99", ["1"], "99.99"),
        ("numeric(4,2)", "-99", ["-1"], "-99.99"),
        ("numeric(3)", "5", ["1"], "6"),
        ("numeric(2,-3)", "99000", ["1000"], "99000"),
        ("bigint", "9223372036854775807", ["5"], "9223372036854775807"),
        ("integer", "-2147483648", ["-5"], "-2147483648"),
        ("bigint", None, ["5"], "5"),
    ],
)
def test_number_images(type_name: str, held: str | None, deltas: list[str], text: str) -> None:
    schema = {"t": {"n": Column("pn_counter", type_name)}}
    operations = [Operation(1, 10 + i, "update", "t", 1, {}, {"n": Decimal(d)}) for i, d in enumerate(deltas)]
    assert expected(operations, schema, {"t": {1: {"n": held}}}) == {"t": {1: {"n": text}}}


def test_tables_and_keys_do_not_mix() -> None:
    schema = {"a": {"n": Column()}, "b": {"n": Column()}, "c": {}}
    operations = [
        Operation(1, 10, "insert", "a", ("x", "y"), {"n": "1"}),
        Operation(1, 10, "insert", "b", ("x", "y"), {"n": "2"}),
        Operation(1, 10, "insert", "a", ("x", "z"), {"n": "3"}),
    ]
    assert expected(operations, schema) == {
        "a": {("x", "y"): {"n": "1"}, ("x", "z"): {"n": "3"}},
        "b": {("x", "y"): {"n": "2"}},
        "c": {},
    }


def test_schema_of_table_specs() -> None:
    key = ColumnSpec("id", 1, "uuid", "uuid")
    likes = ColumnSpec("likes", 2, "numeric(10,2)", "numeric", "pn_counter")
    spec = TableSpec(1, "public", "posts", (key,), (likes,))
    assert schema_of(spec) == {"public.posts": {"likes": Column("pn_counter", "numeric(10,2)")}}


@pytest.mark.parametrize(
    ("operations", "message"),
    [
        ([op((0, 1), "insert")], "node 0"),
        ([op((1, 10), "update", title="a"), op((1, 10), "update", title="b")], "two operations"),
        ([op((1, 10), "update"), op((2, 9), "update", {1: 10})], "has seen a later one of node 1"),
        ([op((1, 10), "update"), op((2, 10), "update", {1: 10})], "has seen a later one of node 1"),
        ([op((1, 5), "update"), op((2, 10), "update", {1: 5}), op((2, 11), "update")], "forgot"),
    ],
)
def test_impossible_histories(operations: list[Operation], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        expected(operations, SCHEMA)


def test_unknown_rules_are_refused() -> None:
    with pytest.raises(ValueError, match="no rule for or_sett"):
        expected([Operation(1, 1, "insert", "t", 1)], {"t": {"n": Column("or_sett", "text[]")}})


def test_a_version_vector_ahead_of_all_operations_is_fine() -> None:
    assert row(op((1, 5), "insert", title="a"), op((2, 10), "update", {1: 99}, title="b")) is not None
