"""Hybrid logical clock values (Kulkarni et al. 2014, "Logical Physical Clocks").

One ``int``: 48 bits of Unix milliseconds, 16 bits of counter, so that values compare as integers and fit ``int8``.
"""

from __future__ import annotations

from collections import deque

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


OBSERVED_MAX = 1024
"""Remote values that wait for their place in the log: the oldest two become one beyond this. While capture is behind, a
node looks at the end of its log every five seconds, so this is enough for more than an hour; what was committed earlier
then gets higher values than need be."""


class HybridClock:
    """Issues strictly increasing values; time is always passed in.

    Invariant: every value returned is above every value issued before, and above every remote value that was observed
    from the transaction's place in the log on. So a transaction that saw a remote dot is ordered after it, whatever the
    wall clocks say; and one that was committed before it was merged here keeps its time, however late it is captured.
    """

    __slots__ = ("_observed", "last")

    def __init__(self, last: int = 0) -> None:
        self.last = last
        self._observed: deque[tuple[int, int]] = deque()

    def issue(self, commit_ms: int, lsn: int) -> int:
        """The version of a local transaction committed at ``commit_ms`` with its commit record at ``lsn``:
        ``max(commit time, last + 1)``. Call it in the order of the log."""
        while self._observed and self._observed[0][0] <= lsn:
            self.last = max(self.last, self._observed.popleft()[1])
        value = commit_ms << COUNTER_BITS
        if value <= self.last:
            value = self.last + 1
        if value > HLC_MAX:
            raise FatalError("hybrid logical clock overflow", mend="check this machine's clock")
        self.last = value
        return value

    def observe(self, hlc: int, from_lsn: int = 0) -> None:
        """Advance past a remote value. Call it before the merge that shows the value commits, with a position where the
        log has ended before: nothing that stands before it has seen the value."""
        if not from_lsn:
            self.last = max(self.last, hlc)
            return
        observed = self._observed
        if observed and observed[-1][0] >= from_lsn:
            from_lsn, hlc = observed[-1][0], max(hlc, observed.pop()[1])
        observed.append((from_lsn, hlc))
        if len(observed) > OBSERVED_MAX:
            (lsn, one), (_, other) = observed.popleft(), observed.popleft()
            observed.appendleft((lsn, max(one, other)))
