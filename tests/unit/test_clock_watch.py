"""Whose clock is believed: alarms, doubt at the start and after jumps, and what a node does that is ahead of all."""

from __future__ import annotations

import pytest

from sidecar.node.clock_watch import ANSWER_S, CLOCK, DOUBT_AFTER_MS, OWN_CLOCK, OWN_VERSIONS, SETTLED, ClockWatch
from sidecar.settings import TimingSettings

NOW = 1_800_000_000_000
TIMING = TimingSettings()
FAR_MS = TIMING.max_clock_drift_ms + 100


class Desk:
    """A watch whose clocks the test sets, and the problems it raised."""

    def __init__(self) -> None:
        self.wall_ms = NOW
        self.steady_s = 50.0
        self.problems: dict[str, str] = {}
        self.watch = ClockWatch(TIMING, lambda: self.wall_ms, self.note, steady_s=lambda: self.steady_s)

    def note(self, key: str, line: str | None, *, restate: bool = False) -> None:
        if line is None:
            self.problems.pop(key, None)
        else:
            self.problems[key] = line

    def passes(self, seconds: float) -> None:
        self.wall_ms += int(seconds * 1000)
        self.steady_s += seconds

    def hears(self, name: str, offset_ms: float, round_trip_ms: float = 2.0, times: int = 1) -> None:
        for _ in range(times):
            self.watch.observe(name, offset_ms, round_trip_ms)


@pytest.fixture
def desk() -> Desk:
    return Desk()


def test_an_alarm_above_ten_ms_that_lasts(desk: Desk) -> None:
    assert TIMING.clock_alarm_ms == 10
    desk.hears("b", 10.0, times=3 * SETTLED)
    desk.hears("b", 11.0, times=SETTLED - 1)
    assert desk.problems == {}
    desk.hears("b", 11.0)
    assert desk.problems == {f"{CLOCK}b": "the clock of b is 11 ms ahead of this node's; check NTP on both"}
    desk.hears("b", 7.0, times=3 * SETTLED)
    assert desk.problems, "no flapping around the limit"
    desk.hears("b", 4.0)
    assert desk.problems == {}


def test_noise_of_both_signs_is_no_alarm(desk: Desk) -> None:
    for _ in range(10 * SETTLED):
        desk.hears("b", 30.0)
        desk.hears("b", -30.0)
    assert desk.problems == {}


def test_a_clock_behind_is_an_alarm_too_and_a_lost_link_ends_it(desk: Desk) -> None:
    desk.hears("b", -2500.0, times=SETTLED)
    assert desk.problems[f"{CLOCK}b"] == "the clock of b is 2 s behind this node's; check NTP on both"
    desk.watch.forget("b")
    assert desk.problems == {}
    desk.watch.forget("b")


def test_a_clock_beyond_the_drift_is_said_at_once_and_a_long_way_excuses(desk: Desk) -> None:
    desk.hears("b", FAR_MS, round_trip_ms=400)
    assert not desk.watch.is_beyond("b"), "half the way may be all of it"
    desk.hears("b", FAR_MS)
    assert desk.watch.is_beyond("b")
    assert desk.problems[f"{CLOCK}b"].endswith("its changes wait")
    assert not desk.watch.held, "it is the peer that is ahead"


def test_who_is_ahead_of_most_issues_nothing_until_it_is_not(desk: Desk) -> None:
    desk.hears("b", -FAR_MS)
    desk.watch.check(NOW)
    assert desk.watch.held, "the only peer is most of them"
    assert "ahead of most of its peers'" in desk.problems[OWN_CLOCK]
    desk.hears("c", 0.0)
    desk.watch.check(NOW)
    assert not desk.watch.held, "one of two: b may be the wrong one"
    assert OWN_CLOCK not in desk.problems
    desk.hears("d", -FAR_MS)
    assert desk.watch.held
    for name in "bd":
        desk.hears(name, 0.0)
    assert not desk.watch.held


def test_who_is_behind_most_is_told(desk: Desk) -> None:
    desk.hears("b", FAR_MS)
    desk.watch.check(NOW)
    assert not desk.watch.held
    assert desk.problems[OWN_CLOCK].endswith("behind most of its peers'; check NTP here")


@pytest.mark.parametrize("newest_ms", [0, NOW - DOUBT_AFTER_MS - 1])
def test_a_clock_is_confirmed_after_a_long_pause(desk: Desk, newest_ms: int) -> None:
    desk.watch.start(newest_ms, has_peers=True)
    assert desk.watch.held
    desk.hears("b", 1.0)
    assert not desk.watch.held
    desk.watch.check(NOW)
    desk.watch.forget("b")
    assert not desk.watch.held, "once is enough"


def test_who_hears_from_nobody_believes_itself_after_a_while(desk: Desk) -> None:
    desk.watch.start(0, has_peers=True)
    desk.passes(ANSWER_S - 0.1)
    desk.watch.check(desk.wall_ms)
    assert desk.watch.held
    desk.passes(0.2)
    desk.watch.check(desk.wall_ms)
    assert not desk.watch.held
    desk.watch.start(0, has_peers=True)
    assert not desk.watch.held, "a restart of the loops is not a start of the process"


@pytest.mark.parametrize(("newest_ms", "has_peers"), [(NOW - 1000, True), (NOW + 1000, True), (0, False)])
def test_a_short_pause_and_a_node_without_peers_are_not_doubted(desk: Desk, newest_ms: int, has_peers: bool) -> None:
    desk.watch.start(newest_ms, has_peers=has_peers)
    assert not desk.watch.held


def test_a_jump_ahead_is_not_believed_before_a_peer_confirms_it(desk: Desk) -> None:
    desk.watch.start(NOW, has_peers=True)
    desk.hears("b", 0.0)
    for _ in range(100):
        desk.passes(0.25)
        desk.watch.check(desk.wall_ms)
    right_ms = desk.wall_ms
    desk.wall_ms += 10 * 366 * 86_400_000
    assert desk.watch.latest_ms() <= right_ms + TIMING.max_clock_drift_ms, "also before anybody has looked"
    desk.watch.check(right_ms)
    assert desk.watch.held
    desk.hears("b", 0.0, times=SETTLED)  # what was measured before the jump
    assert desk.watch.held
    desk.hears("b", -10 * 366 * 86_400_000.0)
    desk.watch.check(right_ms)
    assert desk.watch.held
    desk.wall_ms = right_ms
    desk.hears("b", 0.0)
    desk.watch.check(right_ms)
    assert not desk.watch.held
    assert desk.watch.latest_ms() == right_ms


def test_a_jump_that_a_peer_confirms_is_a_clock_put_right(desk: Desk) -> None:
    desk.watch.start(NOW, has_peers=True)
    desk.hears("b", 86_400_000.0)
    desk.wall_ms += 86_400_000
    desk.watch.check(NOW)
    assert desk.watch.held
    desk.hears("b", 1.0, times=SETTLED + 1)
    assert not desk.watch.held
    desk.watch.check(NOW)
    assert desk.watch.latest_ms() == desk.wall_ms


def test_a_clock_that_is_slewed_is_believed(desk: Desk) -> None:
    desk.watch.start(NOW, has_peers=True)
    for _ in range(400):
        desk.passes(0.25)
        desk.wall_ms += 100
        desk.watch.check(desk.wall_ms)
        assert desk.watch.latest_ms() == desk.wall_ms
    desk.wall_ms -= 5_000_000
    desk.watch.check(desk.wall_ms)
    assert not desk.watch.held
    assert desk.watch.latest_ms() == desk.wall_ms


def test_versions_ahead_of_the_clock_are_a_problem_until_it_gets_there(desk: Desk) -> None:
    desk.watch.check(NOW + 3_600_000 * 48)
    assert "issued versions 2 days ahead of its clock" in desk.problems[OWN_VERSIONS]
    assert "docs/operations.md" in desk.problems[OWN_VERSIONS]
    desk.wall_ms += 3_600_000 * 48
    desk.steady_s += 3600 * 48
    desk.watch.check(NOW + 3_600_000 * 48)
    assert OWN_VERSIONS not in desk.problems
