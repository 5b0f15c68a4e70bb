"""Hybrid logical clocks: packing, strict growth, never behind what was seen, bounds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.core import hlc
from sidecar.core.hlc import COUNTER_MASK, HLC_MAX, HybridClock, from_ms, show, to_ms
from sidecar.errors import FatalError

milliseconds = st.integers(0, 2**47 - 1)
counters = st.integers(0, COUNTER_MASK)


@given(milliseconds, counters)
def test_packing(ms: int, counter: int) -> None:
    value = from_ms(ms, counter)
    assert 0 <= value <= HLC_MAX
    assert to_ms(value) == ms
    assert show(value) == f"{ms}.{counter}"


@given(milliseconds, counters, milliseconds, counters)
def test_values_compare_like_time_then_counter(ms: int, counter: int, other_ms: int, other: int) -> None:
    assert (from_ms(ms, counter) < from_ms(other_ms, other)) == ((ms, counter) < (other_ms, other))


@pytest.mark.parametrize(("ms", "counter"), [(-1, 0), (2**47, 0), (0, -1), (0, COUNTER_MASK + 1)])
def test_out_of_range(ms: int, counter: int) -> None:
    with pytest.raises(ValueError, match="hlc out of range"):
        from_ms(ms, counter)


@given(st.lists(st.tuples(st.sampled_from(["issue", "observe"]), st.integers(0, 5)), max_size=40))
def test_issued_values_grow_past_everything_issued_or_observed(steps: list[tuple[str, int]]) -> None:
    clock = HybridClock()
    known = -1
    for step, number in steps:
        if step == "observe":
            clock.observe(from_ms(number, 7))
            known = max(known, from_ms(number, 7))
        else:
            value = clock.issue(number, 0)
            assert value > known or known == -1
            assert to_ms(value) >= number
            known = value
        assert clock.last == max(known, 0)


def test_wall_clock_is_followed_when_it_is_ahead_and_not_when_it_goes_back() -> None:
    clock = HybridClock()
    assert clock.issue(1_000, 0) == from_ms(1_000)
    assert clock.issue(1_000, 0) == from_ms(1_000, 1)
    assert clock.issue(900, 0) == from_ms(1_000, 2)
    assert clock.issue(1_001, 0) == from_ms(1_001)


def test_a_counter_that_overflows_takes_the_next_millisecond() -> None:
    clock = HybridClock(from_ms(1_000, COUNTER_MASK))
    assert clock.issue(1_000, 0) == from_ms(1_001)


def test_restart_resumes_above_what_was_stored() -> None:
    assert HybridClock(from_ms(5_000, 3)).issue(4_000, 0) == from_ms(5_000, 4)


def test_observing_the_past_changes_nothing() -> None:
    clock = HybridClock(from_ms(10))
    clock.observe(from_ms(9))
    assert clock.last == from_ms(10)


@given(st.lists(st.tuples(st.sampled_from(["commit", "observe", "look"]), st.integers(0, 50)), max_size=60))
def test_what_was_committed_before_a_merge_keeps_its_time_however_late_it_is_captured(
    steps: list[tuple[str, int]],
) -> None:
    """The whole history happens first, and the log is read after it. A version is the commit's time, raised above the
    version before it and above what was observed before the log was last seen to end in front of the commit."""
    clock = HybridClock()
    log: list[tuple[int, int]] = []
    observed: list[tuple[int, int]] = []
    looked = 0
    for end, (step, number) in enumerate(steps, 1):
        if step == "observe":
            observed.append((looked, from_ms(number, 9)))
            clock.observe(from_ms(number, 9), looked)
        elif step == "look":
            looked = end
        else:
            log.append((number, end))
    last = max((value for place, value in observed if place == 0), default=0)
    for ms, lsn in log:
        last = max([from_ms(ms), last + 1, *(value + 1 for place, value in observed if place <= lsn)])
        assert clock.issue(ms, lsn) == last


def test_an_older_write_that_is_captured_late_does_not_win_by_being_late() -> None:
    clock = HybridClock()
    clock.observe(from_ms(1_000), 100)  # merged when the log ended at 100
    assert clock.issue(400, 60) == from_ms(400)
    assert clock.issue(500, 99) == from_ms(500)
    assert clock.issue(600, 100) == from_ms(1_000, 1)
    assert clock.issue(700, 130) == from_ms(1_000, 2)


def test_values_that_wait_for_their_place_are_bounded() -> None:
    clock = HybridClock()
    for i in range(1, 2 * hlc.OBSERVED_MAX):
        clock.observe(from_ms(i), 10 * i)
    assert len(clock._observed) == hlc.OBSERVED_MAX
    first_ms = hlc.OBSERVED_MAX
    assert clock.issue(1, 9) == from_ms(1)
    assert clock.issue(1, 10) == from_ms(first_ms, 1), "the oldest are one, at the place of the first"
    assert clock.issue(1, 10 * first_ms + 10) == from_ms(first_ms + 1, 1)


def test_an_earlier_end_of_the_log_counts_as_the_latest() -> None:
    clock = HybridClock()
    clock.observe(from_ms(5), 100)
    clock.observe(from_ms(9), 50)
    assert clock.issue(1, 99) == from_ms(1)
    assert clock.issue(1, 100) == from_ms(9, 1)


def test_the_end_of_time_is_fatal_not_wrong() -> None:
    with pytest.raises(FatalError) as caught:
        HybridClock(HLC_MAX).issue(0, 0)
    assert caught.value.mend
    assert HLC_MAX == 2**63 - 1  # int8
    assert hlc.COUNTER_BITS == 16
