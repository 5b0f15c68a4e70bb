"""Round trip and clock offset from heartbeats, as in NTP (RFC 5905, section 8); times are passed in."""

from __future__ import annotations

from collections import deque

from sidecar.core.wire.messages import Heartbeat

SAMPLES = 8
"""Samples among which the one with the shortest round trip gives the offset (NTP's clock filter keeps eight)."""


class RoundTrip:
    """One direction's bookkeeping. All times are Unix milliseconds of the own wall clock unless said otherwise."""

    __slots__ = ("_echo_ms", "_heard_ms", "_samples")

    def __init__(self) -> None:
        self._echo_ms = 0
        self._heard_ms = 0
        self._samples: deque[tuple[float, float]] = deque(maxlen=SAMPLES)

    def heartbeat(self, hlc: int, from_hlc: int, now_ms: int) -> Heartbeat:
        """The heartbeat to send now."""
        delay_ms = max(0, now_ms - self._heard_ms) if self._echo_ms else 0
        return Heartbeat(
            hlc=hlc, from_hlc=from_hlc, sent_ms=max(0, now_ms), echo_ms=self._echo_ms, echo_delay_ms=delay_ms
        )

    def observe(self, heartbeat: Heartbeat, now_ms: int) -> None:
        """A heartbeat arrived."""
        self._echo_ms = heartbeat.sent_ms
        self._heard_ms = now_ms
        if heartbeat.echo_ms:
            round_trip_ms = max(0, now_ms - heartbeat.echo_ms - heartbeat.echo_delay_ms)
            self._samples.append((round_trip_ms, heartbeat.sent_ms + round_trip_ms / 2 - now_ms))

    @property
    def round_trip_ms(self) -> float | None:
        """The latest sample; None before the first."""
        return self._samples[-1][0] if self._samples else None

    @property
    def clock_offset_ms(self) -> float | None:
        """How far the peer's clock is ahead of the own one; None before the first sample."""
        return min(self._samples)[1] if self._samples else None
