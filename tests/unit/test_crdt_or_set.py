"""Cases of ``or_set``: what an UPDATE says."""

from __future__ import annotations

from sidecar.core.crdt.or_set import SetChange, apply, genesis, insert, update, value


def test_an_update_names_what_is_new_and_what_is_gone() -> None:
    change = update(["a", "b"], ["b", "c"], hlc=7, node=1)
    assert change == SetChange(1, 7, add={"c": 7}, remove={"a": 7})
    assert update(["a", "b"], ["b", "a", "a"], hlc=7, node=1) == SetChange(1, 7)
    assert update(None, ["a"], hlc=7, node=1) == SetChange(1, 7, add={"a": 7})
    assert update(["a"], None, hlc=7, node=1) == SetChange(1, 7, remove={"a": 7}, null=True)


def test_an_insert_is_the_whole_value() -> None:
    assert insert(["a"], hlc=7, node=1) == SetChange(1, 7, add={"a": 7}, full=True)
    assert insert(None, hlc=7, node=1) == SetChange(1, 7, full=True, null=True)


def test_an_element_left_alone_may_be_removed_elsewhere() -> None:
    start = genesis(["a", "b"])
    grown = apply(start, update(["a", "b"], ["a", "b", "c"], hlc=10, node=1), start.context)
    assert value(apply(grown, update(["a", "b"], ["b"], hlc=9, node=2), {})) == ("b", "c")
