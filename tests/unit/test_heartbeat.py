"""What a heartbeat closes: the past that capture has passed, without pushing up what is captured meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

import pytest

from sidecar.core.hlc import to_ms
from sidecar.errors import TransientError
from sidecar.lab.waiting import wait_until
from sidecar.node import upkeep
from sidecar.node.state import CaptureProgress, NodeState
from sidecar.node.upkeep import heartbeat_loop
from sidecar.settings import Settings

LOG_END = 100
DELAY_MS = 40
"""How far capture is behind: what was committed so long ago is captured after the heartbeat took its position."""


class Database:
    """Journal and reader in one: the end of its log, and the intervals that were closed."""

    def __init__(self, state: NodeState, at_log_end: Callable[[], None]) -> None:
        self.closed: list[int] = []
        self._state = state
        self._at_log_end = at_log_end

    async def log_end(self) -> int:
        self._at_log_end()
        return LOG_END

    async def close_interval(self, lsn: int, to_hlc: int) -> None:
        assert lsn == LOG_END
        self.closed.append(to_hlc)


class Beats:
    """Counts the heartbeats sent."""

    def __init__(self) -> None:
        self.sent = 0

    def beat(self) -> None:
        self.sent += 1


async def nudge() -> None:
    """Nothing to flush."""


class Node:
    """The parts that the loop works on; ``at_log_end`` is what capture does after the position was taken."""

    def __init__(self, at_log_end: Callable[[Node], None]) -> None:
        section = {"name": "us-east", "id": 1, "dsn": "postgresql://u@127.0.0.1/app", "insecure": True}
        settings = Settings(node=section, timing={"heartbeat_ms": 10})  # type: ignore[arg-type]
        self.state = NodeState(settings)
        self.state.watch.start(0, has_peers=False)
        self.progress = CaptureProgress(nudge)
        self.database = Database(self.state, lambda: at_log_end(self))
        self.links: Any = Beats()

    async def until(self, condition: Callable[[], bool]) -> None:
        database: Any = self.database
        loop = asyncio.create_task(heartbeat_loop(self.state, self.progress, database, database, self.links))
        try:
            await wait_until(condition, 10.0, "the heartbeat")
        finally:
            loop.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await loop


async def test_what_was_committed_before_it_and_captured_after_it_keeps_its_time() -> None:
    """It used to get an hlc above the heartbeat's, and so won against later writes of other nodes."""
    versions: list[tuple[int, int]] = []

    def capture(node: Node) -> None:
        committed_ms = node.state.now_ms() - DELAY_MS
        versions.append((committed_ms, node.state.hlc.issue(committed_ms)))
        node.progress.reached(LOG_END)

    node = Node(capture)
    await node.until(lambda: bool(node.database.closed))
    committed_ms, version = versions[0]
    assert to_ms(version) == committed_ms
    assert node.database.closed[0] > version
    assert node.state.clock[1] >= node.database.closed[0]


async def test_the_clock_does_not_pass_what_has_its_hlc_and_is_not_durable() -> None:
    def decode(node: Node) -> None:
        node.state.pending_since_ms = node.state.now_ms()
        node.state.hlc.issue(node.state.now_ms())
        node.progress.reached(LOG_END)

    node = Node(decode)
    await node.until(lambda: node.links.sent >= 3)
    assert node.database.closed == []
    assert node.state.clock.get(1, 0) == 0
    node.state.pending_since_ms = None


async def test_what_is_committed_later_is_above_what_was_closed() -> None:
    node = Node(lambda node: node.progress.reached(LOG_END))
    await node.until(lambda: len(node.database.closed) >= 2)
    assert node.database.closed == sorted(set(node.database.closed))
    assert node.state.hlc.issue(node.state.now_ms() - DELAY_MS) > node.database.closed[-1]


async def test_nothing_is_closed_before_capture_has_passed_the_position() -> None:
    asked: list[int] = []

    def behind(node: Node) -> None:
        asked.append(node.progress.lsn)
        node.progress.reached(LOG_END - 1)
        asyncio.get_running_loop().call_later(0.05, reach, node)

    def reach(node: Node) -> None:
        assert node.database.closed == []
        node.progress.reached(LOG_END)

    node = Node(behind)
    await node.until(lambda: bool(node.database.closed))
    assert asked[0] < LOG_END


async def test_what_is_told_is_written_down_before() -> None:
    """A peer takes it for a proof that the database went back when it begins below what was told."""
    node = Node(lambda node: node.progress.reached(LOG_END))
    written = asyncio.Event()
    seen: list[int] = []

    async def close_interval(lsn: int, to_hlc: int) -> None:
        await written.wait()
        node.database.closed.append(to_hlc)

    def beat() -> None:
        seen.append(node.state.clock.get(1, 0))
        assert seen[-1] <= max(node.database.closed, default=0)

    node.database.close_interval = close_interval  # type: ignore[method-assign]
    node.links.beat = beat
    asyncio.get_running_loop().call_later(0.05, written.set)
    await node.until(lambda: bool(seen))
    assert seen[0] == node.database.closed[0] > 0


async def test_a_database_that_does_not_answer_ends_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that a firewall forgot hangs for ever: the node stood still, and said that all was well."""
    monkeypatch.setattr(upkeep, "ANSWER_S", 0.02)
    node = Node(lambda _: None)

    async def never() -> int:
        await asyncio.Event().wait()
        return 0

    monkeypatch.setattr(node.database, "log_end", never)
    database: Any = node.database
    with pytest.raises(TransientError, match="has not answered"):
        await heartbeat_loop(node.state, node.progress, database, database, node.links)
