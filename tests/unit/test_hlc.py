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
            value = clock.issue(number)
            assert value > known or known == -1
            assert to_ms(value) >= number
            known = value
        assert clock.last == max(known, 0)


def test_wall_clock_is_followed_when_it_is_ahead_and_not_when_it_goes_back() -> None:
    clock = HybridClock()
    assert clock.issue(1_000) == from_ms(1_000)
    assert clock.issue(1_000) == from_ms(1_000, 1)
    assert clock.issue(900) == from_ms(1_000, 2)
    assert clock.issue(1_001) == from_ms(1_001)


def test_a_counter_that_overflows_takes_the_next_millisecond() -> None:
    clock = HybridClock(from_ms(1_000, COUNTER_MASK))
    assert clock.issue(1_000) == from_ms(1_001)


def test_restart_resumes_above_what_was_stored() -> None:
    assert HybridClock(from_ms(5_000, 3)).issue(4_000) == from_ms(5_000, 4)


def test_observing_the_past_changes_nothing() -> None:
    clock = HybridClock(from_ms(10))
    clock.observe(from_ms(9))
    assert clock.last == from_ms(10)


def test_the_end_of_time_is_fatal_not_wrong() -> None:
    with pytest.raises(FatalError) as caught:
        HybridClock(HLC_MAX).issue(0)
    assert caught.value.mend
    assert HLC_MAX == 2**63 - 1  # int8
    assert hlc.COUNTER_BITS == 16
