"""Whether this node's wall clock can be believed, and those of its peers.

A version that is years ahead can never be taken back: its node would count on from there, and whoever merged it too.
So a node asks before it issues versions whenever its clock is in doubt: at the start after a long pause, and after the
clock has jumped ahead. It believes its peers: while it is ahead of most of them, it issues nothing. Local commits go
on; they are captured, with right versions, once the clock is corrected. (A node that hears from nobody believes
itself.)

The bound on what peers may send is kept by :mod:`sidecar.node.gate`, whatever their clocks say.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import structlog

from sidecar.core.wire.roundtrip import SAMPLES
from sidecar.settings import TimingSettings

CLOCK = "clock "
"""Beginning of the problems of peers' clocks; the rest is the peer's name."""

OWN_CLOCK = "own clock"
OWN_VERSIONS = "own versions"

DOUBT_AFTER_MS = 3_600_000
"""A node whose newest version is older than this at the start has its clock confirmed first. A clock that is wrong by
less does no harm that does not pass within that time."""

ANSWER_S = 5.0
"""How long a doubtful clock waits for a peer's: a link takes some 100 ms, a round trip a heartbeat or two. A node that
is alone is believed then."""

SETTLED = SAMPLES
"""Heartbeats in a row on which a peer's clock is off before that is a problem, and as many before the measurement is
rid of what was before a jump: one full filter."""


class Problem(Protocol):
    """Raise or clear a line for the operator."""

    def __call__(self, key: str, line: str | None, *, restate: bool = False) -> None: ...


@dataclass(slots=True)
class _Measured:
    """A peer's clock minus this one's, and by how much the way may deceive. ``off``: heartbeats for which it has been
    off. ``skip``: not to be believed before so many more."""

    offset_ms: float
    error_ms: float
    off: int = 0
    skip: int = 0


class ClockWatch:
    """``now_ms``: wall clock, Unix milliseconds. ``steady_s``: a clock that nobody sets."""

    def __init__(
        self,
        timing: TimingSettings,
        now_ms: Callable[[], int],
        problem: Problem,
        *,
        steady_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limit_ms = timing.max_clock_drift_ms
        self._alarm_ms = timing.clock_alarm_ms
        self._now_ms = now_ms
        self._problem = problem
        self._steady_s = steady_s
        self._peers: dict[str, _Measured] = {}
        self._doubted_at_s: float | None = None
        self._started = False
        self._base = (now_ms(), steady_s())

    # -- what the peers say --------------------------------------------------------------------------------------------

    def observe(self, name: str, offset_ms: float | None, round_trip_ms: float | None) -> None:
        """A heartbeat of a linked peer: its clock minus this one's, and the way there and back."""
        if offset_ms is None or round_trip_ms is None:
            return
        peer = self._peers.setdefault(name, _Measured(offset_ms, round_trip_ms / 2))
        if peer.skip > 1:
            peer.skip -= 1
            return
        peer.skip = 0
        same_side = peer.offset_ms * offset_ms > 0
        peer.offset_ms, peer.error_ms = offset_ms, round_trip_ms / 2
        peer.off = peer.off + 1 if abs(offset_ms) > self._alarm_ms and same_side else 0
        if peer.off >= SETTLED or (abs(offset_ms) - peer.error_ms > self._limit_ms):
            self._problem(f"{CLOCK}{name}", self._line(name, peer), restate=True)
        elif abs(offset_ms) < self._alarm_ms / 2:
            self._problem(f"{CLOCK}{name}", None)

    def _line(self, name: str, peer: _Measured) -> str:
        side = "ahead of" if peer.offset_ms > 0 else "behind"
        line = f"the clock of {name} is {_span(abs(peer.offset_ms))} {side} this node's; check NTP on both"
        return f"{line}; its changes wait" if self.is_beyond(name) else line

    def forget(self, name: str) -> None:
        """The link is gone: what its clock does now is not known."""
        if self._peers.pop(name, None) is not None:
            self._problem(f"{CLOCK}{name}", None)

    def is_beyond(self, name: str) -> bool:
        """Whether a peer's clock is certainly further ahead than max_clock_drift_ms."""
        peer = self._peers.get(name)
        return peer is not None and peer.offset_ms - peer.error_ms > self._limit_ms

    # -- this node's clock ---------------------------------------------------------------------------------------------

    def start(self, newest_ms: int, *, has_peers: bool) -> None:
        """Versions up to ``newest_ms`` (0: none) were issued before; of the first call in a process."""
        if self._started:
            return
        self._started = True
        self._base = (self._now_ms(), self._steady_s())
        if has_peers and self._now_ms() - newest_ms > DOUBT_AFTER_MS:
            self._doubted_at_s = self._steady_s()

    def check(self, newest_ms: int) -> None:
        """Now and then, before versions are issued: has the clock jumped; are the versions issued up to ``newest_ms``
        ahead of it?"""
        now_ms, steady_s = self._now_ms(), self._steady_s()
        jump_ms = now_ms - self._expected_ms(steady_s)
        if jump_ms > self._limit_ms and self._doubted_at_s is None:
            structlog.get_logger("sidecar").warning("clock_jumped", ahead_ms=int(jump_ms))
            self._doubted_at_s = steady_s
            for peer in self._peers.values():
                peer.skip = SETTLED + 1
        if self._doubted_at_s is not None and (self._answered() or steady_s - self._doubted_at_s > ANSWER_S):
            self._doubted_at_s = None
            self._base = (now_ms, steady_s)
        elif self._doubted_at_s is None and not self.held:
            self._base = (now_ms, steady_s)
        self._judge_own()
        ahead_ms = newest_ms - now_ms
        self._problem(OWN_VERSIONS, self._versions_line(ahead_ms) if ahead_ms > self._limit_ms else None, restate=True)

    def latest_ms(self) -> int:
        """The latest time that a commit which is known now can have happened at: the wall clock, without a jump ahead
        that nobody has confirmed."""
        return min(self._now_ms(), int(self._expected_ms(self._steady_s())) + self._limit_ms)

    @property
    def held(self) -> bool:
        """Whether this node issues no versions at present."""
        doubted = self._doubted_at_s is not None and not self._answered()
        return doubted or self._side(-1) > 0

    def _expected_ms(self, steady_s: float) -> float:
        return self._base[0] + (steady_s - self._base[1]) * 1000

    def _answered(self) -> bool:
        return any(not peer.skip for peer in self._peers.values())

    def _side(self, sign: int) -> float:
        """By how many ms this node is certainly behind (1) or ahead of (-1) more than half of its peers, beyond the
        limit; else 0."""
        known = [sign * peer.offset_ms - peer.error_ms for peer in self._peers.values() if not peer.skip]
        off = sorted(ms for ms in known if ms > self._limit_ms)
        return off[0] if 2 * len(off) > len(known) else 0.0

    def _judge_own(self) -> None:
        ahead_ms, behind_ms = self._side(-1), self._side(1)
        line = None
        if ahead_ms:
            line = (
                f"this node's clock is {_span(ahead_ms)} ahead of most of its peers': its changes are not captured"
                " until the clock is right; check NTP here"
            )
        elif behind_ms:
            line = f"this node's clock is {_span(behind_ms)} behind most of its peers'; check NTP here"
        self._problem(OWN_CLOCK, line, restate=True)

    def _versions_line(self, ahead_ms: float) -> str:
        return (
            f"this node has issued versions {_span(ahead_ms)} ahead of its clock, which was wrong or is wrong now:"
            " other nodes take its changes when their clocks get there; correct the clock, then wait, or make the node"
            " anew: see docs/operations.md, A clock that was ahead"
        )


def _span(ms: float) -> str:
    """A time for people; coarse, so that a problem does not read differently at every look."""
    for unit, length in (("days", 86_400_000), ("hours", 3_600_000), ("s", 1000)):
        if ms >= 2 * length:
            return f"{ms / length:.0f} {unit}"
    return f"{ms:.0f} ms"
