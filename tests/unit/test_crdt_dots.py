"""Laws and cases of sets whose elements carry dots: what ``g_set``, ``or_set`` and ``aw_set`` share."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.core.crdt import aw_set, g_set, or_set
from sidecar.core.crdt.dots import DotSet, SetChange, apply, assignment, genesis, merge, then, value

START = genesis(["a", "b"])


def local(state: DotSet, change: SetChange) -> DotSet:
    return apply(state, change, state.context)


def test_a_remove_takes_only_what_it_saw() -> None:
    removed = local(START, or_set.update(["a", "b"], ["b"], hlc=10, node=1))
    again = local(START, or_set.update(["a", "b"], ["b"], hlc=8, node=2))
    again = local(again, or_set.update(["b"], ["b", "a"], hlc=9, node=2))
    assert value(removed) == ("b",)
    assert value(merge(removed, again)) == value(merge(again, removed)) == ("b", "a")
    assert merge(removed, again).dots["a"] == {2: 9}


def test_states_and_changes_give_the_same() -> None:
    one = or_set.update(["a", "b"], ["b", "c"], hlc=10, node=1)
    two = or_set.update(["a", "b"], ["a", "c"], hlc=9, node=2)
    joined = merge(local(START, one), local(START, two))
    assert apply(local(START, one), two, {}) == apply(local(START, two), one, {}) == joined
    assert joined.dots == {"c": {1: 10, 2: 9}}


def test_an_element_is_as_old_as_its_oldest_add() -> None:
    one = local(START, assignment(["c"], hlc=10, node=1))
    two = local(START, assignment(["d", "c"], hlc=9, node=2))
    three = local(START, assignment(["0"], hlc=9, node=3))
    assert value(merge(merge(one, two), three)) == ("0", "c", "d")


def test_null_is_as_of_the_last_write_and_shows_when_nothing_is_there() -> None:
    nulled = local(START, or_set.update(["a", "b"], None, hlc=10, node=1))
    emptied = local(START, or_set.update(["a", "b"], [], hlc=11, node=2))
    added = local(START, or_set.update(["a", "b"], ["a", "b", "c"], hlc=1, node=3))
    assert value(nulled) is None
    assert value(emptied) == ()
    assert value(merge(nulled, emptied)) == ()
    assert value(merge(nulled, added)) == ("c",)
    assert value(apply(emptied, or_set.update(["a", "b"], None, hlc=10, node=1), {})) == ()
    assert value(genesis(None)) is None
    assert value(DotSet()) is None


def test_never_written_is_below_genesis() -> None:
    assert merge(DotSet(), START) == merge(START, DotSet()) == START


changes = st.lists(
    st.tuples(st.sampled_from(["g", "or", "aw", "insert"]), st.sets(st.sampled_from("abcd"))), min_size=2, max_size=6
)
UPDATES = {"g": g_set.update, "or": or_set.update, "aw": aw_set.update}


@given(changes, st.sets(st.sampled_from("abcd")))
def test_one_change_of_many_is_all_of_them(steps: list[tuple[str, set[str]]], unseen: set[str]) -> None:
    """At the origin, and at a node that holds adds which the origin has not seen."""
    there = apply(START, or_set.update([], unseen, hlc=5, node=2), {})
    one_by_one, folded, table = there, None, {"a", "b"}
    for hlc, (kind, new) in enumerate(steps, start=10):
        change = or_set.insert(new, hlc=hlc, node=1) if kind == "insert" else UPDATES[kind](table, new, hlc=hlc, node=1)
        one_by_one, table = apply(one_by_one, change, {}), new
        folded = change if folded is None else then(folded, change)
    assert folded is not None
    assert apply(there, folded, {}) == one_by_one


@pytest.mark.parametrize(
    ("elements", "numbers", "shown"),
    [
        (["10", "9", "-1", "1e2"], True, ("-1", "9", "10", "1e2")),
        (["10", "9", "-1", "1e2"], False, ("-1", "10", "1e2", "9")),
        (["1.00", "1.0", "1"], True, ("1", "1.0", "1.00")),
        (["NaN", "Infinity", "5", "-Infinity"], True, ("-Infinity", "5", "Infinity", "NaN")),
        (
            ['"a"', "10", "9", "null", "true", '{"x": 1}', '"10"'],
            True,
            ("9", "10", '"10"', '"a"', "null", "true", '{"x": 1}'),
        ),
        (["é", "z", "a", "B"], False, ("B", "a", "z", "é")),
        (["", "1_0", "5"], True, ("5", "", "1_0")),
    ],
)
def test_elements_of_one_write_in_order(elements: list[str], numbers: bool, shown: tuple[str, ...]) -> None:
    assert value(genesis(elements), numbers=numbers) == shown
