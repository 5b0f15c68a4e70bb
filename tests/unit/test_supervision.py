"""A group of loops ends as a whole: nothing of it goes on when its successor starts."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg
import pytest

from sidecar.node import node as module
from sidecar.node import upkeep
from sidecar.node.node import Node
from sidecar.node.state import CaptureProgress
from sidecar.node.upkeep import supervise
from sidecar.settings import NodeSettings, Settings

DEADLINE_S = 60.0


async def failing(after: asyncio.Event) -> None:
    await after.wait()
    raise ValueError("the stream broke")


async def test_a_loop_that_overhears_its_cancellation_is_cancelled_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upkeep, "CANCEL_AGAIN_S", 0.01, raising=False)
    heard = 0
    now = asyncio.Event()

    async def deaf() -> None:
        nonlocal heard
        while heard < 3:
            try:
                now.set()
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                heard += 1

    group = asyncio.create_task(supervise(failing(now), deaf()))
    await asyncio.wait({group}, timeout=DEADLINE_S)
    assert heard == 3
    with pytest.raises(ValueError, match="broke"):
        group.result()


async def test_a_stop_while_a_group_ends_is_not_lost() -> None:
    """The database goes away, and the process is told to stop while the loops of the group are ending."""
    ending, go_on, now = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def slow() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ending.set()
            await go_on.wait()

    group = asyncio.create_task(supervise(failing(now), slow()))
    await asyncio.sleep(0)
    now.set()
    await asyncio.wait_for(ending.wait(), DEADLINE_S)
    group.cancel()
    await asyncio.sleep(0)
    go_on.set()
    await asyncio.wait({group}, timeout=DEADLINE_S)
    assert group.cancelled()


@pytest.mark.parametrize("turns", range(3))
async def test_a_wait_for_capture_that_is_cancelled_ends_although_capture_comes_by_just_then(turns: int) -> None:
    async def nudge() -> None:
        pass

    progress: Any = CaptureProgress(nudge)
    waiting = asyncio.create_task(progress.captured(10, DEADLINE_S))
    for _ in range(5):
        await asyncio.sleep(0)
    progress.reached(10)
    for _ in range(turns):
        await asyncio.sleep(0)
    done_before = waiting.done()
    waiting.cancel()
    await asyncio.wait({waiting}, timeout=DEADLINE_S)
    assert waiting.cancelled() or done_before


async def test_a_driver_that_is_out_of_step_is_told_as_a_lost_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server has said that it shuts down, and a session is used before the end of its connection is seen."""
    monkeypatch.setattr(module, "RESTART_FIRST_S", 0.0)
    node = Node(Settings(node=NodeSettings(name="a", id=1, dsn="postgresql://a@127.0.0.1:1/app")), had_database=True)
    tries = 0

    async def serve() -> None:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise asyncpg.InternalClientError("cannot switch to state 12; another operation (2) is in progress")

    monkeypatch.setattr(node, "_serve", serve)
    await asyncio.wait_for(node._database(), DEADLINE_S)
    assert tries == 2
    assert node.state.problems["database"] == "the connection to the database is lost; it is opened anew"
