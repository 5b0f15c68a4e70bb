"""Laws and cases of the last-writer-wins register."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.core.crdt.lww_register import EMPTY, LwwRegister, assign, merge, value

# A dot is written once, so the value is a function of the dot.
dots = st.tuples(st.integers(0, 5), st.integers(0, 3))
states = dots.map(lambda dot: LwwRegister(None if dot == (3, 1) else f"{dot}", *dot)) | st.just(EMPTY)


@given(states, states, states)
def test_merge_laws(a: LwwRegister, b: LwwRegister, c: LwwRegister) -> None:
    assert merge(a, b) == merge(b, a)
    assert merge(a, merge(b, c)) == merge(merge(a, b), c)
    assert merge(a, a) == a
    assert merge(a, EMPTY) == a
    assert merge(a, b) in (a, b)


@given(states, st.integers(1, 3))
def test_assign_moves_up(state: LwwRegister, node: int) -> None:
    after = assign(state, "new", hlc=state.hlc + 1, node=node)
    assert merge(state, after) == after
    assert value(after) == "new"


def test_the_higher_hlc_wins_then_the_higher_node() -> None:
    early = assign(EMPTY, "early", hlc=1, node=9)
    low = assign(EMPTY, "low", hlc=2, node=1)
    high = assign(EMPTY, "high", hlc=2, node=2)
    assert value(merge(early, low)) == "low"
    assert value(merge(low, high)) == "high"
    assert value(merge(merge(high, early), low)) == "high"


def test_null_is_a_value() -> None:
    assert value(merge(assign(EMPTY, "a", hlc=1, node=1), assign(EMPTY, None, hlc=2, node=1))) is None
    assert value(EMPTY) is None
    assert merge(EMPTY, LwwRegister("genesis")) == LwwRegister("genesis")


def test_broken_clocks_are_noticed() -> None:
    with pytest.raises(AssertionError, match="later than what its node has seen"):
        assign(LwwRegister("a", 5, 1), "b", hlc=5, node=1)
    with pytest.raises(AssertionError, match="one dot wrote two values"):
        merge(LwwRegister("a", 5, 1), LwwRegister("b", 5, 1))
