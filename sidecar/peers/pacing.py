"""When to dial again, and how often to write the same kind of log line."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable

BACKOFF_MS = 100
"""First bound of the reconnect backoff: a restarted peer is back within a second, a dead one costs little."""

REFUSED_RETRY_MS = 10_000
"""Pause after a refusal that only an operator can mend: soon enough to notice the mend, too seldom to fill logs."""

WARNING_LINES_MAX = 5
"""Warnings about strangers written within WARNING_INTERVAL_MS; the next line says how many were left out."""

WARNING_INTERVAL_MS = 10_000


class Backoff:
    """Exponential backoff with full jitter: uniform between 0 and a bound that doubles, so that nodes which lost each
    other at the same moment do not keep meeting (Brooker 2015, "Exponential Backoff And Jitter")."""

    def __init__(self, bound_ms_max: int, uniform: Callable[[float, float], float] = random.uniform) -> None:
        self._bound_ms_max = bound_ms_max
        self._uniform = uniform
        self.attempts = 0

    def delay_s(self) -> float:
        """Seconds to wait before the next attempt; counts the attempt."""
        bound_ms = min(self._bound_ms_max, BACKOFF_MS * 2 ** min(self.attempts, 30))
        self.attempts += 1
        return self._uniform(0, bound_ms) / 1000

    def refused_s(self) -> float:
        """Seconds to wait after a refusal."""
        self.attempts += 1
        return self._uniform(REFUSED_RETRY_MS / 2, REFUSED_RETRY_MS) / 1000

    def reset(self) -> None:
        """A link stood for a while."""
        self.attempts = 0


class LineLimit:
    """Lets WARNING_LINES_MAX lines per WARNING_INTERVAL_MS pass. Time is passed in."""

    def __init__(self) -> None:
        self._passed_ms: deque[int] = deque(maxlen=WARNING_LINES_MAX)
        self.suppressed = 0

    def passes(self, now_ms: int) -> bool:
        """Whether a line may be written now; otherwise it is counted in ``suppressed``."""
        full = len(self._passed_ms) == WARNING_LINES_MAX
        if full and 0 <= now_ms - self._passed_ms[0] < WARNING_INTERVAL_MS:
            self.suppressed += 1
            return False
        self._passed_ms.append(now_ms)
        return True

    def take_suppressed(self) -> int:
        """How many were left out since the last call."""
        count, self.suppressed = self.suppressed, 0
        return count
