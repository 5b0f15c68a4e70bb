"""Hybrid logical clock values (Kulkarni et al. 2014, "Logical Physical Clocks").

One ``int``: 48 bits of Unix milliseconds, 16 bits of counter, so that values compare as integers and fit ``int8``.
"""

from __future__ import annotations

from sidecar.errors import FatalError

COUNTER_BITS = 16
COUNTER_MASK = (1 << COUNTER_BITS) - 1
HLC_MAX = (1 << 63) - 1


def from_ms(ms: int, counter: int = 0) -> int:
    """The value of ``ms`` Unix milliseconds and ``counter`` (0..65535)."""
    if not (0 <= ms < 1 << 47 and 0 <= counter <= COUNTER_MASK):
        raise ValueError(f"hlc out of range: {ms} ms, counter {counter}")
    return ms << COUNTER_BITS | counter


def to_ms(hlc: int) -> int:
    """Unix milliseconds of a value."""
    return hlc >> COUNTER_BITS


def show(hlc: int) -> str:
    """``<ms>.<counter>``, the form shown to people."""
    return f"{hlc >> COUNTER_BITS}.{hlc & COUNTER_MASK}"


class HybridClock:
    """Issues strictly increasing values; time is always passed in.

    Invariant: every value returned is above every value issued or observed before, so a transaction that saw a
    remote dot is ordered after it, whatever the wall clocks say.
    """

    __slots__ = ("last",)

    def __init__(self, last: int = 0) -> None:
        self.last = last

    def issue(self, commit_ms: int) -> int:
        """The version of a local transaction committed at ``commit_ms``: ``max(commit time, last + 1)``."""
        value = commit_ms << COUNTER_BITS
        if value <= self.last:
            value = self.last + 1
        if value > HLC_MAX:
            raise FatalError("hybrid logical clock overflow", mend="check this machine's clock")
        self.last = value
        return value

    def observe(self, hlc: int) -> None:
        """Advance past a remote value. Call it before the merge that shows the value commits."""
        if hlc > self.last:
            self.last = hlc
