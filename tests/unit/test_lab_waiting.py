"""Waiting for conditions."""

from __future__ import annotations

import itertools

import pytest

from sidecar.lab.waiting import DeadlineError, wait_until


async def test_returns_what_the_condition_returned() -> None:
    numbers = itertools.count()
    assert await wait_until(lambda: next(numbers) // 3, 5, "three polls") == 1


async def test_takes_async_conditions_and_tolerates_what_it_is_told() -> None:
    polls = itertools.count()

    async def condition() -> str:
        if next(polls) < 2:
            raise ConnectionRefusedError
        return "up"

    assert await wait_until(condition, 5, "a server", tolerate=(OSError,)) == "up"


async def test_other_errors_pass_through() -> None:
    def condition() -> bool:
        raise KeyError("x")

    with pytest.raises(KeyError):
        await wait_until(condition, 5, "nothing", tolerate=(OSError,))


async def test_says_what_was_awaited_and_seen() -> None:
    with pytest.raises(DeadlineError, match=r"all rows did not happen within 0.02 s; seen last: \[\]"):
        await wait_until(list, 0.02, "all rows")
