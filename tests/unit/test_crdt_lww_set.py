"""Laws and cases of ``lww_set`` and of what it shares with ``lww_map``."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.core.crdt.lww_set import StampChange, Stamps, apply, genesis, insert, merge, then, update, value
from sidecar.core.crdt.stamps import Entry


def held(hlcs: st.SearchStrategy[int], nodes: st.SearchStrategy[int]) -> st.SearchStrategy[Stamps]:
    """One dot says one thing about an element, so an entry is a function of the dot."""
    dots = st.tuples(hlcs, nodes)
    entries = dots.map(lambda dot: Entry(*dot, (dot[0] + dot[1]) % 3 != 0))
    elements = st.dictionaries(st.sampled_from("abc"), entries)
    return st.builds(lambda e, last: Stamps(e, last, last[0] % 2 == 0), elements, dots)


states = held(st.integers(0, 5), st.integers(0, 3))


@given(states, states, states)
def test_merge_laws(a: Stamps, b: Stamps, c: Stamps) -> None:
    assert merge(a, b) == merge(b, a)
    assert merge(a, merge(b, c)) == merge(merge(a, b), c)
    assert merge(a, a) == a
    assert merge(a, Stamps()) == a


@given(states, st.sets(st.sampled_from("abc")), st.sets(st.sampled_from("abc")))
def test_changes_move_up_and_may_come_twice(state: Stamps, old: set[str], new: set[str]) -> None:
    for change in (update(old, new, hlc=9, node=1), insert(state, new, hlc=9, node=1)):
        after = apply(state, change)
        assert merge(state, after) == apply(after, change) == after


def test_the_higher_stamp_stands_whoever_saw_what() -> None:
    start = genesis(["a"])
    removed = apply(start, update(["a"], [], hlc=10, node=1))
    again = apply(apply(start, update(["a"], [], hlc=8, node=2)), update([], ["a"], hlc=9, node=2))
    assert value(merge(removed, again)) == ()
    later = apply(apply(start, update(["a"], [], hlc=9, node=2)), update([], ["a"], hlc=10, node=2))
    assert value(merge(removed, later)) == ("a",)  # equal hlc: the higher node


def test_an_insert_removes_what_a_deleted_row_had_left() -> None:
    start = apply(genesis(["a", "b"]), update(["a", "b"], ["b"], hlc=3, node=2))
    change = insert(start, ["x"], hlc=10, node=1)
    assert change == StampChange(1, 10, add={"x": (10, None)}, remove={"b": 10})
    elsewhere = apply(genesis(["a", "b"]), update(["a", "b"], ["a", "b", "y"], hlc=9, node=3))
    assert value(apply(elsewhere, change)) == ("a", "y", "x")


def test_an_element_is_as_old_as_its_add_that_counts() -> None:
    state = apply(genesis(["a", "b"]), update(["a", "b"], ["b"], hlc=1, node=1))
    assert value(apply(state, update(["b"], ["a", "b"], hlc=2, node=1))) == ("b", "a")
    assert value(genesis(["10", "9"]), numbers=True) == ("9", "10")
    assert value(genesis(["10", "9"])) == ("10", "9")


@given(
    st.lists(st.tuples(st.booleans(), st.sets(st.sampled_from("abc"))), min_size=2, max_size=6),
    held(st.integers(1, 20), st.integers(1, 3)),
)
def test_one_change_of_many_is_all_of_them(steps: list[tuple[bool, set[str]]], there: Stamps) -> None:
    """The origin inserts over its own state; another node may hold what the origin has not seen."""
    mine, theirs, folded, table = genesis(["a"]), merge(genesis(["a"]), there), None, {"a"}
    for hlc, (inserts, new) in enumerate(steps, start=10):
        change = insert(mine, new, hlc=hlc, node=4) if inserts else update(table, new, hlc=hlc, node=4)
        mine, theirs, table = apply(mine, change), apply(theirs, change), new
        folded = change if folded is None else then(folded, change)
    assert folded is not None
    assert apply(merge(genesis(["a"]), there), folded) == theirs
    assert apply(genesis(["a"]), folded) == mine


def test_null_shows_when_nothing_is_there() -> None:
    nulled = apply(genesis(["a"]), update(["a"], None, hlc=5, node=1))
    assert value(nulled) is None
    assert value(apply(nulled, update(None, [], hlc=6, node=1))) == ()
    assert value(Stamps()) is None


def test_one_dot_saying_two_things_is_noticed() -> None:
    with pytest.raises(AssertionError, match="one dot said two things"):
        merge(Stamps({"a": Entry(1, 1, True)}), Stamps({"a": Entry(1, 1, False)}))
