"""Laws and cases of the counter that goes up and down."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.core.crdt.pn_counter import PnCounter, clamp, delete, genesis, increment, insert, merge, value

numbers = st.integers(-5, 5).map(Decimal) | st.decimals(-9, 9, places=2)
sums = st.dictionaries(st.integers(0, 3), st.tuples(*[st.integers(0, 9).map(Decimal)] * 2))
states = st.builds(PnCounter, sums, sums, sums)
nodes = st.integers(1, 3)


@given(states, states, states)
def test_merge_laws(a: PnCounter, b: PnCounter, c: PnCounter) -> None:
    assert merge(a, b) == merge(b, a)
    assert merge(a, merge(b, c)) == merge(merge(a, b), c)
    assert merge(a, a) == a
    assert merge(a, PnCounter()) == a


@given(states, numbers, nodes)
def test_operations_move_up(state: PnCounter, number: Decimal, node: int) -> None:
    for after in (increment(state, number, node=node), delete(state), insert(state, number, node=node)):
        assert merge(state, after) == after


@given(states, numbers, nodes)
def test_increment_adds_exactly(state: PnCounter, number: Decimal, node: int) -> None:
    assert value(increment(state, number, node=node)) == value(state) + number


@given(st.lists(st.tuples(nodes, numbers), max_size=10), numbers, numbers)
def test_re_insert_restarts_at_the_inserted_value(
    changes: list[tuple[int, Decimal]], first: Decimal, again: Decimal
) -> None:
    state = genesis(first)
    for node, number in changes:
        state = increment(state, number, node=node)
    assert value(state) == first + sum(number for _, number in changes)
    assert value(delete(state)) == value(state)  # the row is gone, its value is kept for a revival
    assert value(insert(delete(state), again, node=1)) == again


def test_increments_that_the_delete_had_not_seen_are_kept() -> None:
    state = increment(genesis(Decimal(10)), Decimal(3), node=1)
    elsewhere = increment(state, Decimal(-4), node=2)
    again = insert(delete(state), Decimal(100), node=1)
    assert value(merge(again, elsewhere)) == 96
    assert value(merge(elsewhere, delete(state))) == 9


def test_increments_that_came_between_delete_and_re_insert_are_kept() -> None:
    state = genesis(Decimal(10))
    dead = merge(delete(state), increment(state, Decimal(4), node=2))
    assert value(insert(dead, Decimal(100), node=1)) == 104


def test_concurrent_re_inserts_add_up() -> None:
    gone = delete(genesis(Decimal(10)))
    assert value(merge(insert(gone, Decimal(3), node=1), insert(gone, Decimal(4), node=2))) == 7


def test_null_counts_as_zero() -> None:
    assert value(PnCounter()) == value(genesis(None)) == value(insert(PnCounter(), None, node=1)) == 0


def test_sums_are_never_rounded() -> None:
    large, tiny = Decimal("1e100"), Decimal("1e-100")
    state = increment(increment(genesis(large), tiny, node=1), -large, node=2)
    assert value(state) == tiny


@pytest.mark.parametrize(
    ("number", "type_name", "shown"),
    [
        ("32768", "smallint", "32767"),
        ("-32769", "smallint", "-32768"),
        ("-32768", "smallint", "-32768"),
        ("2147483648", "integer", "2147483647"),
        ("-2147483649", "integer", "-2147483648"),
        ("9223372036854775808", "bigint", "9223372036854775807"),
        ("-9223372036854775809", "bigint", "-9223372036854775808"),
        ("9223372036854775808", "numeric", "9223372036854775808"),
        ("100.00", "numeric(4,2)", "99.99"),
        ("-100.00", "numeric(4,2)", "-99.99"),
        ("99.99", "numeric(4,2)", "99.99"),
        ("1000", "numeric(3)", "999"),
        ("123456", "numeric(3,-2)", "99900"),
        ("1" + "0" * 40, "numeric(40,0)", "9" * 40),
        ("5", "smallint", "5"),
    ],
)
def test_clamp(number: str, type_name: str, shown: str) -> None:
    assert clamp(Decimal(number), type_name) == Decimal(shown)


def test_the_true_sum_survives_saturation() -> None:
    state = increment(genesis(Decimal(32_000)), Decimal(1_000), node=1)
    assert clamp(value(state), "smallint") == 32_767
    assert clamp(value(increment(state, Decimal(-500), node=2)), "smallint") == 32_500
