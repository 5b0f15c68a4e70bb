"""The count of unacknowledged change sets, against a plain list of them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.node.backlog import ENTRIES_MAX, Backlog


@given(st.lists(st.integers(1, 5), max_size=60), st.integers(0, 400), st.integers(0, 40))
def test_counts_what_ends_after_the_acknowledged_hlc(gaps: list[int], acknowledged: int, before: int) -> None:
    backlog = Backlog()
    backlog.start(before, 100)
    hlcs, hlc = [], 100
    for gap in gaps:
        hlc += gap
        hlcs.append(hlc)
        backlog.published(hlc)
    expected = sum(1 for end in hlcs if end > acknowledged)
    assert backlog.behind(acknowledged) == (None if acknowledged < 100 else expected)


def test_a_peer_from_before_the_start_is_counted_from_its_place_in_the_journal() -> None:
    backlog = Backlog()
    backlog.start(50, 1000)
    backlog.published(1001)
    assert backlog.behind(900) is None
    backlog.anchor(900, 42)
    assert backlog.behind(900) == 9
    assert backlog.behind(950) == 9, "somewhere between: the worst case"
    assert backlog.behind(1000) == 1
    backlog.anchor(1000, 49)
    assert backlog.behind(1000) == 1, "what is known better stays"


def test_an_outage_may_hide_change_sets_from_the_count_only_until_the_next_start() -> None:
    backlog = Backlog()
    backlog.start(5, 100)
    backlog.published(110)
    backlog.start(7, 120)  # one whose commit was not answered
    assert backlog.behind(110) == 1
    assert backlog.behind(120) == 0


@pytest.mark.parametrize("count", [ENTRIES_MAX, ENTRIES_MAX + 1, 5 * ENTRIES_MAX])
def test_memory_is_bounded_and_a_peer_that_has_everything_is_behind_by_nothing(count: int) -> None:
    backlog = Backlog()
    backlog.start(0, 0)
    for hlc in range(1, count + 1):
        backlog.published(hlc)
    assert len(backlog._hlcs) <= ENTRIES_MAX + 1
    assert backlog.behind(count) == 0
    assert backlog.behind(count + 7) == 0
    assert backlog.behind(0) == count
    for acknowledged in range(0, count, 997):
        behind = backlog.behind(acknowledged)
        assert behind is not None
        exact = count - acknowledged
        assert exact <= behind <= exact + max(2, exact // 64), "old positions are thinned, young ones are not"
