"""The algebra of every column type and row rule equals the oracle: random histories, delivered and joined in any order.

A few histories per type are run each time. ``SIDECAR_TEST_HISTORIES=10000`` runs that many per type, and as many per
row rule: ``SIDECAR_TEST_HISTORIES=10000 pytest tests/unit/test_oracle_column_types.py --timeout=7200``.
"""

from __future__ import annotations

import itertools
import os
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.crdt_replicas import ABSENT, Network, Replica, network, wanted, wanted_siblings
from tests.unit.crdt_types import COLUMN_TYPES, ROW_RULES, ColumnType

HISTORIES = int(os.environ.get("SIDECAR_TEST_HISTORIES", "60"))

STEPS = (
    ("write",) * 6 + ("also",) * 2 + ("delete", "recreate", "capture", "rewrite", "join", "repeat") + ("deliver",) * 5
)

Step = tuple[str, int, int]
steps = st.lists(st.tuples(st.sampled_from(STEPS), st.integers(0, 4), st.integers(0, 66)), min_size=8, max_size=30)
counts = st.sampled_from([3, 3, 4, 5])


def _take(step: Step, network: Network, column: ColumnType) -> Replica:
    """Carry out a step; which value, change set or other replica it takes is ``pick`` modulo what there is."""
    what, number, pick = step
    replica = network.replicas[number % len(network.replicas)]
    value = column.values[pick % len(column.values)]
    ms = pick % 7  # wall clocks stand still, jump and go back
    if what in ("write", "also"):
        replica.write(value, ms=ms, same_transaction=what == "also")
    elif what == "delete":
        replica.delete(ms=ms, same_transaction=pick % 3 == 0)
    elif what == "recreate" and replica.delete(ms=ms):
        replica.write(value, ms=ms, same_transaction=pick % 2 == 0)
    elif what == "deliver":
        network.deliver(replica, pick)
    elif what == "repeat":
        network.repeat(replica, pick)
    elif what == "join":
        network.join(replica, network.replicas[(number + 1 + pick) % len(network.replicas)])
    else:
        network.capture(replica)
        if what == "rewrite":
            replica.rewrite()
    return replica


def _matches_oracle(replica: Replica, rule: str) -> None:
    operations = replica.operations.values()
    assert replica.shown() == wanted(replica.column, rule, replica.genesis, operations)
    if replica.column.kept is not None:
        assert replica.column.kept(replica.state.column) == wanted_siblings(replica.column, replica.genesis, operations)


def _run(name: str, rule: str, count: int, genesis: Any, history: list[Step], orders: list[list[int]]) -> None:
    column = COLUMN_TYPES[name]
    lab = network(column, ROW_RULES[rule], count, genesis)
    for step in history:
        replica = _take(step, lab, column)
        if not replica.uncaptured:
            _matches_oracle(replica, rule)
    joined = _all_states_joined(lab, orders)
    lab.settle()
    for replica in lab.replicas:
        _matches_oracle(replica, rule)
        assert replica.state == lab.replicas[0].state
        assert replica.table == lab.replicas[0].table
    assert joined == lab.replicas[0].state


def _all_states_joined(lab: Network, orders: list[list[int]]) -> Any:
    """The same state in every order, and grouped in every way."""
    for replica in lab.replicas:
        lab.capture(replica)
    states = [lab.states_joined(index % len(lab.replicas) for index in order) for order in orders]
    everyone = [r.state for r in lab.replicas]
    merged = lab.replicas[0].merged
    for a, b, c in itertools.islice(itertools.permutations(everyone, 3), 6):
        assert merged(a, b) == merged(b, a)
        assert merged(a, merged(b, c)) == merged(merged(a, b), c)
        assert merged(a, a) == a
    assert all(state == states[0] for state in states)
    return states[0]


def _genesis(column: ColumnType, pick: int) -> Any:
    return ABSENT if pick % 4 == 0 else column.values[pick % len(column.values)]


orders = st.lists(st.permutations(range(5)), min_size=2, max_size=3)


@pytest.mark.parametrize("name", COLUMN_TYPES)
@settings(max_examples=HISTORIES)
@given(st.sampled_from(list(ROW_RULES)), counts, st.integers(0, 66), steps, orders)
def test_histories_of_a_column_type(
    name: str, rule: str, count: int, pick: int, history: list[Step], orders: list[list[int]]
) -> None:
    _run(name, rule, count, _genesis(COLUMN_TYPES[name], pick), history, orders)


row_steps = st.lists(
    st.tuples(
        st.sampled_from(("write", "write", "delete", "recreate", "also", "capture", "join", *("deliver",) * 3)),
        st.integers(0, 4),
        st.integers(0, 66),
    ),
    min_size=8,
    max_size=30,
)


@pytest.mark.parametrize("rule", ROW_RULES)
@settings(max_examples=HISTORIES)
@given(st.sampled_from(["lww_register", "or_set", "lww_map"]), counts, st.integers(0, 66), row_steps, orders)
def test_histories_of_a_row_rule(
    rule: str, name: str, count: int, pick: int, history: list[Step], orders: list[list[int]]
) -> None:
    """Rows that come and go more often than they are updated."""
    _run(name, rule, count, _genesis(COLUMN_TYPES[name], pick), history, orders)
