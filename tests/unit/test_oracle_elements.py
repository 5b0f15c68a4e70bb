"""The oracle on sets, maps, siblings and row rules: cases computed by hand that the merge vectors do not show."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from sidecar.core.catalog import ColumnSpec, TableSpec
from tests.oracle import Column, ElementWrite, Operation, expected, expected_siblings, row_rules_of, set_write

COLUMNS = {"tags": Column("or_set", "text[]"), "facts": Column("lww_map", "jsonb"), "name": Column("mv_register")}
GENESIS_ROW = {"tags": ("a", "b"), "facts": {"x": "1"}, "name": "old"}


def op(
    dot: tuple[int, int], kind: str, seen: Mapping[int, int] | None = None, order: int = 0, **values: Any
) -> Operation:
    """Texts are assigned; of ``tags`` and ``facts`` the old and the new value are given."""
    elements = {}
    if "tags" in values:
        elements["tags"] = set_write(*values.pop("tags"))
    if "facts" in values:
        elements["facts"] = ElementWrite(*values.pop("facts"))
    return Operation(*dot, kind, "t", "k", values, {}, seen or {}, order, elements)  # type: ignore[arg-type]


def row(*operations: Operation, rule: str = "lww", genesis: Any = GENESIS_ROW) -> dict[str, Any] | None:
    rows = {"t": {"k": genesis}} if genesis is not None else None
    return expected(operations, {"t": COLUMNS}, rows, {"t": rule})["t"].get("k")


def test_genesis_rows_stay_as_they_are() -> None:
    assert row() == GENESIS_ROW
    assert row(genesis={"tags": ["b", "a"]}) == {"tags": ("a", "b"), "facts": None, "name": None}
    assert row(genesis={"tags": [], "facts": {}}) == {"tags": (), "facts": {}, "name": None}


def test_an_insert_assigns_sets_and_maps_that_it_leaves_out() -> None:
    assert row(op((1, 5), "delete"), op((1, 6), "insert")) == {"tags": None, "facts": None, "name": None}


def test_an_add_that_a_remove_saw_and_one_that_it_did_not() -> None:
    add = op((1, 10), "update", tags=("ab", "abc"))
    also = op((2, 11), "update", tags=("ab", "abc"))
    remove = op((3, 12), "update", {1: 10}, tags=("abc", "ab"))
    assert row(add, also, remove) == {**GENESIS_ROW, "tags": ("a", "b", "c")}
    assert row(add, remove) == GENESIS_ROW


def test_order_within_a_transaction() -> None:
    there_and_back = [op((1, 10), "update", tags=("ab", "b")), op((1, 10), "update", order=1, tags=("b", "ab"))]
    assert row(*there_and_back) == {**GENESIS_ROW, "tags": ("b", "a")}
    facts = [op((1, 10), "update", facts=({"x": "1"}, {})), op((1, 10), "update", order=1, facts=({}, {"x": "1"}))]
    assert row(*facts) == GENESIS_ROW
    assert row(*facts, op((2, 10), "update", facts=({"x": "1"}, {}))) == {**GENESIS_ROW, "facts": {}}


def test_an_insert_removes_from_a_map_only_what_was_there_for_it() -> None:
    removed = op((2, 5), "update", facts=({"x": "1"}, {}))
    unseen = op((3, 8), "update", facts=({"x": "1"}, {"x": "2"}))
    delete = op((1, 9), "delete", {2: 5})
    insert = op((1, 10), "insert", {2: 5}, facts=(None, {"n": "1"}))
    # x was gone when the row was inserted, so the insert said nothing about it.
    assert row(removed, unseen, delete, insert) == {"tags": None, "facts": {"n": "1", "x": "2"}, "name": None}
    # Had it been there, the insert would have removed it, later than node 3 wrote it.
    there = [op((1, 9), "delete"), op((1, 10), "insert", facts=(None, {"n": "1"}))]
    assert row(unseen, *there) == {"tags": None, "facts": {"n": "1"}, "name": None}


def test_siblings_of_dead_rows_too() -> None:
    changes = [op((1, 10), "update", name="a"), op((2, 11), "update", name="b"), op((3, 12), "delete", {1: 10, 2: 11})]
    assert row(*changes) is None
    assert expected_siblings(changes, {"t": COLUMNS}, {"t": {"k": GENESIS_ROW}}) == {"t": {"k": {"name": ["b", "a"]}}}


@pytest.mark.parametrize(("rule", "alive"), [("lww", False), ("add_wins", True), ("remove_wins", False)])
def test_an_earlier_write_that_the_delete_had_not_seen(rule: str, alive: bool) -> None:
    changes = [op((1, 10), "update", tags=("ab", "ba")), op((2, 11), "delete")]
    assert (row(*changes, rule=rule) is not None) == alive


@pytest.mark.parametrize(("rule", "alive"), [("lww", True), ("add_wins", True), ("remove_wins", False)])
def test_an_insert_that_saw_one_of_two_deletes(rule: str, alive: bool) -> None:
    changes = [op((1, 10), "delete"), op((2, 11), "delete"), op((1, 12), "insert")]
    assert (row(*changes, rule=rule) is not None) == alive
    saw_both = [*changes, op((1, 13), "update", {2: 11}, name="x"), op((1, 14), "delete", {2: 11})]
    assert row(*saw_both, rule=rule) is None
    assert row(*saw_both, op((1, 15), "insert", {2: 11}), rule=rule) is not None


def test_row_rules_of_table_specs() -> None:
    key = ColumnSpec("id", 1, "uuid", "uuid")
    assert row_rules_of(TableSpec(1, "public", "t", (key,), (), row_rule="add_wins")) == {"public.t": "add_wins"}


def test_what_cannot_be_ordered_is_refused() -> None:
    schema = {"t": {"n": Column("max_register", "integer")}}
    with pytest.raises(ValueError, match="'x' is no integer"):
        expected([Operation(1, 1, "insert", "t", 1, {"n": "x"})], schema)
