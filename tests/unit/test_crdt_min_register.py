"""Cases of ``min_register`` and of the order that it is given."""

from __future__ import annotations

from decimal import Decimal

import pytest

from sidecar.core.crdt.min_register import Siblings, assign, genesis, merge, value


def written(*values: str | None) -> Siblings:
    """Concurrent writes, the last one the latest."""
    state = genesis("-1000")
    for node, text in enumerate(values, start=1):
        state = merge(state, assign(genesis("-1000"), text, hlc=node, node=node))
    return state


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        (["10", "9"], "9"),
        (["9", "10"], "9"),
        (["-1", None], "-1"),
        ([None, None], None),
        (["1.0", "1.00"], "1.00"),  # equal: the later
        (["1.00", "1.0"], "1.0"),
    ],
)
def test_the_least_by_the_order_of_the_type(values: list[str | None], shown: str | None) -> None:
    assert value(written(*values), Decimal) == shown


def test_a_later_write_raises_it() -> None:
    assert value(assign(written("5", "7"), "9", hlc=9, node=1), Decimal) == "9"
    assert value(Siblings(), Decimal) is None
