"""The algebra and the oracle give what the merge vectors expect, whatever comes first and however it comes."""

from __future__ import annotations

import collections
import dataclasses
import itertools
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import pytest

from sidecar.core.annotations import COLUMN_WORDS, ROW_RULES
from sidecar.core.crdt import dots, lww_set, max_register, merge_function, min_register, pn_counter
from tests.merge_vectors import (
    ABSENT,
    MERGE_FUNCTIONS,
    VECTORS,
    MergeVector,
    Write,
    elements,
    image,
    json_image,
    literal,
)
from tests.unit import crdt_replicas
from tests.unit.crdt_replicas import Network, Replica, network, wanted, wanted_siblings
from tests.unit.crdt_types import COLUMN_TYPES, ColumnType
from tests.unit.crdt_types import ROW_RULES as LIVENESS

COUNTERS = ("pn_counter", "g_counter")
SETS = ("g_set", "or_set", "aw_set", "lww_set")

A, B, C = range(3)


def _value(vector: MergeVector, value: Any) -> Any:
    """As the algebra takes it."""
    if value is ABSENT:
        return crdt_replicas.ABSENT
    if vector.crdt in SETS:
        return elements(value, vector.type_name)
    if value is None:
        return None
    if vector.crdt == "lww_map":
        return {key: json_image(held) for key, held in value.items()}
    return image(value, vector.type_name)


def _order(type_name: str) -> Any:
    return Decimal if type_name in ("integer", "numeric") else str.encode


def _column(vector: MergeVector) -> ColumnType:
    """The type on this vector's column type: what it shows depends on that."""
    column, type_name = COLUMN_TYPES[vector.crdt], vector.type_name
    numbers = type_name in ("integer[]", "numeric[]", "jsonb")
    function = MERGE_FUNCTIONS[vector.function].python if vector.function else None
    shown = {
        "max_register": lambda state: max_register.value(state, _order(type_name)),
        "min_register": lambda state: min_register.value(state, _order(type_name)),
        "merge": lambda state: merge_function.value(state, function).value,
        "lww_set": lambda state: lww_set.value(state, numbers=numbers),
        "pn_counter": lambda state: str(pn_counter.clamp(pn_counter.value(state), type_name)),
        **dict.fromkeys(("g_set", "or_set", "aw_set"), lambda state: dots.value(state, numbers=numbers)),
    }.get(vector.crdt, column.shown)
    told = dataclasses.replace(column.column, type_name=type_name, function=function)
    return dataclasses.replace(column, shown=shown, column=told)


def _run(vector: MergeVector, replica: Replica, transactions: Sequence[Sequence[Write]], ms: int) -> None:
    for offset, transaction in enumerate(transactions):
        for index, write in enumerate(transaction):
            together = index > 0
            if write.kind == "delete":
                assert replica.delete(ms=ms + offset, same_transaction=together), "there is no row to delete"
                continue
            there = replica.table is not crdt_replicas.ABSENT
            assert there == (write.kind == "update"), f"{write.kind}: the row is{'' if there else ' not'} there"
            replica.write(_value(vector, write.value), ms=ms + offset, same_transaction=together)


def _meet(vector: MergeVector, genesis: bool) -> Network:
    """Three nodes with the initial row, which was there before or is A's insert, and what A wrote."""
    held = _value(vector, vector.initial)
    lab = network(_column(vector), LIVENESS[vector.row_rule], 3, held if genesis else crdt_replicas.ABSENT)
    if not genesis and held is not crdt_replicas.ABSENT:
        lab.replicas[A].write(held, ms=1)
    _run(vector, lab.replicas[A], vector.at_a, 2)
    lab.settle()
    return lab


def _check(vector: MergeVector, replica: Replica, how: str) -> None:
    assert replica.table == _value(vector, vector.expected), how
    if vector.siblings is not None:
        assert replica.column.kept is not None
        assert replica.column.kept(replica.state.column) == [_value(vector, v) for v in vector.siblings], how


WAYS = ("changes", "one change set", "states")


@pytest.mark.parametrize("vector", VECTORS, ids=str)
def test_vector(vector: MergeVector) -> None:
    """B's or C's changes come first, one by one or in one change set, or both nodes' states are joined; every change
    set comes twice; the initial row was there before the table was attached, or was inserted at A."""
    for way, first, genesis in itertools.product(WAYS, (B, C), (True, False)):
        lab = _meet(vector, genesis)
        _write_apart(vector, lab, capture_each=way == "changes")
        if way == "states":
            _join_all(lab, first)
        _deliver_twice(lab, first)
        _run(vector, lab.replicas[A], vector.after, 40)
        lab.settle()
        for replica in lab.replicas:
            _check(vector, replica, f"node {replica.node}, {way}, node {first + 1} first, {genesis=}")
            assert replica.state == lab.replicas[A].state


def _write_apart(vector: MergeVector, lab: Network, *, capture_each: bool) -> None:
    starts = {B: 20, C: 10} if vector.later == "B" else {B: 10, C: 20}
    for node, transactions in ((B, vector.at_b), (C, vector.at_c)):
        for offset, transaction in enumerate(transactions):
            _run(vector, lab.replicas[node], [transaction], starts[node] + offset)
            if capture_each:
                lab.capture(lab.replicas[node])


def _join_all(lab: Network, first: int) -> None:
    for receiver in lab.replicas:
        for index in (first, B, C, first):
            lab.join(receiver, lab.replicas[index])


def _deliver_twice(lab: Network, first: int) -> None:
    for replica in lab.replicas:
        lab.capture(replica)
    for receiver in lab.replicas:
        for origin in (first, B, C):
            for change_set in [c for c in lab.sent if c.origin == origin + 1]:
                receiver.receive(change_set)
                receiver.receive(change_set)
    lab.settle()


@pytest.mark.parametrize("vector", VECTORS, ids=str)
def test_the_oracle_expects_the_same(vector: MergeVector) -> None:
    lab = _meet(vector, genesis=True)
    first, second = (C, B) if vector.later == "B" else (B, C)
    writes = {B: vector.at_b, C: vector.at_c}
    _run(vector, lab.replicas[first], writes[first], 10)
    _run(vector, lab.replicas[second], writes[second], 20)
    lab.settle()
    _run(vector, lab.replicas[A], vector.after, 40)
    lab.settle()
    operations = lab.replicas[A].operations.values()
    genesis = lab.replicas[A].genesis
    assert wanted(_column(vector), vector.row_rule, genesis, operations) == _value(vector, vector.expected)
    if vector.siblings is not None:
        kept = [_value(vector, value) for value in vector.siblings]
        assert wanted_siblings(_column(vector), genesis, operations) == kept


def test_there_are_vectors_for_everything() -> None:
    counts = collections.Counter(vector.crdt for vector in VECTORS)
    assert set(counts) == set(COLUMN_WORDS)
    assert min(counts.values()) >= 6
    assert {vector.row_rule for vector in VECTORS} == set(ROW_RULES)
    assert len({(str(v), v.row_rule) for v in VECTORS}) == len(VECTORS)
    assert all(vector.source.startswith(("http", "derived", "Shapiro")) or "20" in vector.source for vector in VECTORS)


@pytest.mark.parametrize(
    ("value", "type_name", "sql"),
    [
        (None, "text", "NULL::text"),
        ("it's", "text", "'it''s'::text"),
        (5, "smallint", "'5'::smallint"),
        (["a", None, 'b"'], "text[]", """'{"a",NULL,"b\\""}'::text[]"""),
        ([], "integer[]", "'{}'::integer[]"),
        ({"long": 1, "b": None, "a": [1, "é"]}, "jsonb", """'{"a": [1, "é"], "b": null, "long": 1}'::jsonb"""),
    ],
)
def test_literals(value: Any, type_name: str, sql: str) -> None:
    assert literal(value, type_name) == sql


def test_statements() -> None:
    assert Write("insert", 1).sql("t", "7", "bigint") == "INSERT INTO t (id, v) VALUES (7, '1'::bigint)"
    assert Write("update", None).sql("t", "7", "text") == "UPDATE t SET v = NULL::text WHERE id = 7"
    assert Write("delete").sql("t", "7", "text") == "DELETE FROM t WHERE id = 7"
