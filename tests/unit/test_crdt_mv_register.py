"""Laws and cases of the registers that keep concurrent values: ``mv_register`` and what its relatives share with it."""

from __future__ import annotations

from sidecar.core.crdt.mv_register import Siblings, Write, apply, assign, genesis, latest_first, merge, value

BOTH = {1: 10, 2: 20}


def concurrent() -> tuple[Siblings, Siblings]:
    """Node 1 wrote at 10, node 2 at 20; neither saw the other."""
    return assign(genesis("x"), "a", hlc=10, node=1), assign(genesis("x"), "b", hlc=20, node=2)


def test_a_local_write_replaces_all_that_is_here() -> None:
    both = merge(*concurrent())
    assert [w.value for w in latest_first(both)] == ["b", "a"]
    assert latest_first(assign(both, "c", hlc=30, node=1)) == [Write(30, 1, "c")]


def test_states_and_changes_give_the_same() -> None:
    a, b = concurrent()
    assert apply(a, Write(20, 2, "b"), {}) == merge(a, b) == merge(b, a) == apply(b, Write(10, 1, "a"), {})
    resolved = assign(merge(a, b), "c", hlc=30, node=1)
    assert apply(b, Write(30, 1, "c"), BOTH) == merge(b, resolved) == merge(resolved, b)


def test_a_superseded_write_does_not_come_back() -> None:
    a, b = concurrent()
    resolved = assign(merge(a, b), "c", hlc=30, node=3)
    for old in (a, b, genesis("x"), Siblings()):
        assert merge(resolved, old) == merge(old, resolved) == resolved


def test_a_write_that_saw_one_of_two_leaves_the_other() -> None:
    a, b = concurrent()
    later = apply(merge(a, b), Write(30, 3, "c"), {1: 10})
    assert [w.value for w in latest_first(later)] == ["c", "b"]


def test_a_node_supersedes_its_own_earlier_writes() -> None:
    a, _ = concurrent()
    assert latest_first(apply(a, Write(11, 1, "a2"), {})) == [Write(11, 1, "a2")]


def test_equal_hlc_the_higher_node_is_shown() -> None:
    low, high = assign(Siblings(), "low", hlc=5, node=1), assign(Siblings(), "high", hlc=5, node=2)
    assert value(merge(low, high)) == value(merge(high, low)) == "high"


def test_never_written_and_null() -> None:
    assert value(Siblings()) is None
    assert value(genesis(None)) is None
    assert merge(Siblings(), genesis("x")) == genesis("x")
    assert latest_first(merge(assign(genesis("x"), None, hlc=9, node=1), concurrent()[1])) == [
        Write(20, 2, "b"),
        Write(9, 1, None),
    ]
