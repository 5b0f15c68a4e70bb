"""Laws and cases of the counter that only goes up."""

from __future__ import annotations

from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from sidecar.core.crdt.g_counter import GCounter, delete, genesis, increment, insert, merge, value

numbers = st.integers(-5, 5).map(Decimal) | st.decimals(-9, 9, places=2)
sums = st.dictionaries(st.integers(0, 3), st.integers(-2, 9).map(Decimal))
states = st.builds(GCounter, sums, sums, sums)
nodes = st.integers(1, 3)


@given(states, states, states)
def test_merge_laws(a: GCounter, b: GCounter, c: GCounter) -> None:
    assert merge(a, b) == merge(b, a)
    assert merge(a, merge(b, c)) == merge(merge(a, b), c)
    assert merge(a, a) == a
    assert merge(a, GCounter()) == a


@given(states, numbers, nodes)
def test_operations_move_up(state: GCounter, number: Decimal, node: int) -> None:
    for after in (increment(state, number, node=node), delete(state), insert(state, number, node=node)):
        assert merge(state, after) == after


@given(states, numbers, nodes)
def test_a_decrease_is_undone(state: GCounter, number: Decimal, node: int) -> None:
    assert value(increment(state, number, node=node)) == value(state) + max(number, Decimal(0))


@given(st.lists(st.tuples(nodes, numbers), max_size=10))
def test_the_value_never_falls_without_a_delete(changes: list[tuple[int, Decimal]]) -> None:
    left, right = genesis(Decimal(-3)), genesis(Decimal(-3))
    for node, number in changes:
        before = value(left)
        left = increment(left, number, node=node)
        assert value(left) >= before
        assert value(merge(left, right)) >= max(value(left), value(right))
        right = merge(right, left) if number > 0 else right


def test_re_insert_restarts_and_keeps_unseen_increases() -> None:
    state = increment(genesis(Decimal(10)), Decimal(3), node=1)
    elsewhere = increment(state, Decimal(4), node=2)
    again = insert(delete(state), Decimal(100), node=1)
    assert value(again) == 100
    assert value(merge(again, elsewhere)) == 104
    assert value(merge(elsewhere, delete(state))) == 17


def test_increments_that_came_between_delete_and_re_insert_are_kept() -> None:
    state = genesis(Decimal(10))
    dead = merge(delete(state), increment(state, Decimal(4), node=2))
    assert value(insert(dead, Decimal(100), node=1)) == 104


def test_genesis_may_be_negative_or_null() -> None:
    assert value(genesis(Decimal(-7))) == -7
    assert value(insert(delete(genesis(Decimal(-7))), Decimal(2), node=1)) == 2
    assert value(genesis(None)) == value(GCounter()) == value(insert(GCounter(), Decimal(-1), node=1)) == 0


def test_sums_are_never_rounded() -> None:
    large, tiny = Decimal("1e100"), Decimal("1e-100")
    assert value(increment(genesis(large), tiny, node=1)) == Decimal(f"1{'0' * 100}.{'0' * 99}1")
    assert value(insert(delete(genesis(large)), tiny, node=1)) == tiny
