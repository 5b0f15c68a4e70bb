"""Laws and cases of row=lww."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.core.crdt.row_liveness import GENESIS, NEVER, RowLiveness, delete, merge, value, write

stamps = st.tuples(st.integers(0, 5), st.integers(0, 3)) | st.just(NEVER)
states = st.builds(RowLiveness, stamps, stamps)


@given(states, states, states)
def test_merge_laws(a: RowLiveness, b: RowLiveness, c: RowLiveness) -> None:
    assert merge(a, b) == merge(b, a)
    assert merge(a, merge(b, c)) == merge(merge(a, b), c)
    assert merge(a, a) == a
    assert merge(a, RowLiveness()) == a


@given(states, st.integers(1, 3))
def test_write_and_delete_move_up_and_decide(state: RowLiveness, node: int) -> None:
    hlc = max(state.live, state.dead)[0] + 1
    written = write(state, hlc=hlc, node=node)
    assert merge(state, written) == written
    assert value(written)
    deleted = delete(state, hlc=hlc, node=node)
    assert merge(state, deleted) == deleted
    assert not value(deleted)


def test_cases() -> None:
    assert not value(RowLiveness())
    assert value(GENESIS)
    dead = delete(GENESIS, hlc=10, node=2)
    assert not value(dead)
    assert value(merge(dead, write(GENESIS, hlc=11, node=1)))  # a later concurrent update keeps the row
    assert not value(merge(dead, write(GENESIS, hlc=9, node=1)))  # an earlier one loses
    assert not value(merge(dead, write(GENESIS, hlc=10, node=1)))  # equal hlc: the higher node
    assert value(merge(dead, write(GENESIS, hlc=10, node=3)))
    assert value(write(dead, hlc=11, node=2))  # re-insert


def test_broken_clocks_are_noticed() -> None:
    with pytest.raises(AssertionError, match="later than what its node has seen"):
        write(RowLiveness(dead=(5, 2)), hlc=5, node=2)
    with pytest.raises(AssertionError, match="later than what its node has seen"):
        delete(RowLiveness(live=(5, 2)), hlc=5, node=1)
