"""Cases of ``lww_map``; its laws are those of ``lww_set``."""

from __future__ import annotations

from sidecar.core.crdt.lww_map import StampChange, Stamps, apply, genesis, insert, merge, update, value


def test_an_update_names_the_keys_that_differ() -> None:
    old, new = {"a": "1", "b": "1", "c": "1"}, {"a": "1", "b": "2", "d": "null"}
    assert update(old, new, hlc=7, node=1) == StampChange(1, 7, {"b": (7, "2"), "d": (7, "null")}, {"c": 7})
    assert update(None, {"a": "1"}, hlc=7, node=1) == StampChange(1, 7, {"a": (7, "1")})
    assert update({"a": "1"}, None, hlc=7, node=1) == StampChange(1, 7, {}, {"a": 7}, null=True)


def test_the_later_value_of_a_key() -> None:
    start = genesis({"a": "1", "b": "1"})
    one = apply(start, update({"a": "1", "b": "1"}, {"a": "2", "b": "1"}, hlc=10, node=1))
    two = apply(start, update({"a": "1", "b": "1"}, {"a": "3", "c": "1"}, hlc=9, node=2))
    assert value(merge(one, two)) == value(merge(two, one)) == {"a": "2", "c": "1"}


def test_json_null_is_a_value_and_a_removal_is_none() -> None:
    start = genesis({"a": "1"})
    assert value(apply(start, update({"a": "1"}, {"a": "null"}, hlc=1, node=1))) == {"a": "null"}
    assert value(apply(start, update({"a": "1"}, {}, hlc=1, node=1))) == {}
    assert value(apply(start, update({"a": "1"}, None, hlc=1, node=1))) is None
    assert value(Stamps()) is None


def test_an_insert_removes_what_a_deleted_row_had_left() -> None:
    assert insert(genesis({"a": "1", "b": "1"}), {"b": "1"}, hlc=7, node=1) == StampChange(
        1, 7, {"b": (7, "1")}, {"a": 7}
    )
