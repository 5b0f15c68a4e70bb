"""What a history says of changes that were over when a merge put in what their change set has seen."""

from __future__ import annotations

from tests.cluster.history import overtaken
from tests.oracle import Operation


def operation(node: int, hlc: int, kind: str, seen: dict[int, int], order: int = 0) -> Operation:
    return Operation(node, hlc, kind, "items", 1, {}, {}, seen, order)  # type: ignore[arg-type]


def test_what_was_over_when_a_row_was_put_in_has_not_seen_it() -> None:
    history = [
        operation(1, 5, "delete", {2: 30, 3: 40}),
        operation(1, 10, "insert", {2: 30, 3: 40}),
        operation(1, 20, "delete", {2: 30, 3: 40}),
        operation(2, 25, "insert", {}),
        operation(2, 27, "update", {}),
        operation(1, 28, "update", {2: 30, 3: 40}),
    ]
    assert [o.seen for o in overtaken(history) if o.node == 1] == [{2: 24, 3: 40}] * 3 + [{2: 30, 3: 40}]


def test_what_stood_there_or_came_after_it_stays_as_it_is() -> None:
    stands = [operation(1, 10, "insert", {2: 30}), operation(2, 25, "insert", {})]
    assert overtaken(stands) == stands
    no_insert = [
        operation(1, 10, "insert", {2: 30}),
        operation(1, 11, "delete", {2: 30}),
        operation(2, 25, "update", {}),
    ]
    assert overtaken(no_insert) == no_insert
    after = [operation(2, 25, "insert", {}), operation(1, 26, "delete", {2: 30})]
    assert overtaken(after) == after
