"""Wait for a condition, never for time."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, overload

from sidecar.errors import SidecarError

T = TypeVar("T")

POLL_MS_MIN = 5  # the first polls come fast: most conditions hold after a few milliseconds
POLL_MS_MAX = 100  # later ones do not load the machine that is being waited for


class DeadlineError(SidecarError, AssertionError):
    """A condition did not hold in time; a failed assertion to a test."""


@overload
async def wait_until(
    condition: Callable[[], Awaitable[T]],
    deadline_s: float,
    what: str,
    *,
    tolerate: tuple[type[Exception], ...] = ...,
) -> T: ...


@overload
async def wait_until(
    condition: Callable[[], T],
    deadline_s: float,
    what: str,
    *,
    tolerate: tuple[type[Exception], ...] = ...,
) -> T: ...


async def wait_until(
    condition: Callable[[], Any],
    deadline_s: float,
    what: str,
    *,
    tolerate: tuple[type[Exception], ...] = (),
) -> Any:
    """Poll ``condition`` (plain or async) until it returns something true, and return that.

    Raises :class:`DeadlineError`, which names ``what`` was awaited and what was seen last. Exceptions of the condition
    pass through, except those to ``tolerate`` (a server that is restarting), which count as "not yet".
    """
    deadline = time.monotonic() + deadline_s
    pause_ms = POLL_MS_MIN
    while True:
        try:
            answer = condition()
            seen = await answer if inspect.isawaitable(answer) else answer
        except tolerate as error:
            seen = error
        else:
            if seen:
                return seen
        if time.monotonic() > deadline:
            raise DeadlineError(f"{what} did not happen within {deadline_s:g} s; seen last: {seen!r}")
        await asyncio.sleep(pause_ms / 1000)
        pause_ms = min(pause_ms * 2, POLL_MS_MAX)
