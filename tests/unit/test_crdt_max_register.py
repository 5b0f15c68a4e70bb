"""Cases of ``max_register`` and of the order that it is given."""

from __future__ import annotations

from decimal import Decimal

import pytest

from sidecar.core.crdt.max_register import Siblings, Write, assign, genesis, merge, value


def written(*values: str | None) -> Siblings:
    """Concurrent writes, the last one the latest."""
    state = genesis("1000")
    for node, text in enumerate(values, start=1):
        state = merge(state, assign(genesis("1000"), text, hlc=node, node=node))
    return state


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        (["10", "9"], "10"),
        (["9", "10"], "10"),
        (["-1", None], "-1"),
        ([None, None], None),
        (["1.0", "1.00"], "1.00"),  # equal: the later
        (["1.00", "1.0"], "1.0"),
        (["7"], "7"),
    ],
)
def test_the_greatest_by_the_order_of_the_type(values: list[str | None], shown: str | None) -> None:
    assert value(written(*values), Decimal) == shown


def test_texts_are_compared_by_their_bytes() -> None:
    assert value(written("a", "Z"), str.encode) == "a"
    assert value(written("z", "é"), str.encode) == "é"


def test_a_later_write_lowers_it() -> None:
    assert value(assign(written("5", "7"), "1", hlc=9, node=1), Decimal) == "1"


def test_the_losing_writes_are_kept() -> None:
    assert written("5", "7").writes == {Write(1, 1, "5"), Write(2, 2, "7")}
    assert value(Siblings(), Decimal) is None
