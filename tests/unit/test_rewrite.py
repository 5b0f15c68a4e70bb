"""Queued rewrites while capture is behind: they wait, and merging does not stand still for them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sidecar.lab.waiting import wait_until
from sidecar.node import rewrite
from sidecar.node.rewrite import Rewriter
from sidecar.node.state import NodeState
from sidecar.settings import load

DEADLINE_S = 60.0


class Merger:
    """Stands for the database: one row is queued until it is rewritten; the log grows with every look."""

    def __init__(self) -> None:
        self.queue: list[tuple[int, int, list[str], None]] = [(1, 7, ["1"], None)]
        self.captured_lsn = 0
        self.waited_s = 0.0
        self.session = SimpleNamespace(connection=self)
        self._log_end = 0

    async def fetch(self, sql: str, limit: int) -> list[tuple[int, int, list[str], None]]:
        return self.queue[:limit]

    async def log_end(self) -> int:
        self._log_end += 100
        return self._log_end

    async def wait_for_capture(self, timeout_s: float, log_end: int | None = None) -> bool:
        assert log_end is not None
        if self.captured_lsn < log_end:
            self.waited_s += timeout_s
        return self.captured_lsn >= log_end

    async def rewrite(self, merge_set: Any, ids: list[int]) -> None:
        self.queue = [entry for entry in self.queue if entry[0] not in ids]


@pytest.fixture
def merger() -> Merger:
    return Merger()


@pytest.fixture
def rewriter(tmp_path: Path, merger: Merger) -> Rewriter:
    path = tmp_path / "node.toml"
    path.write_text('[node]\nname = "here"\nid = 9\ndsn = "postgresql://here@127.0.0.1:1/app"\n')
    state = NodeState(load(path))
    state.rewrites_due.set()
    any_merger: Any = merger
    return Rewriter(state, any_merger)


async def test_a_batch_waits_shortly_for_capture_and_merging_goes_on(rewriter: Rewriter, merger: Merger) -> None:
    assert rewriter.due
    await rewriter.batch()
    assert (merger.waited_s, len(merger.queue), rewriter.due) == (rewrite.CAPTURE_WAIT_S, 1, False)


async def test_it_waits_for_where_the_log_ended_first(
    rewriter: Rewriter, merger: Merger, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Capture that is always a second behind would never reach an end that is taken anew for every look.
    monkeypatch.setattr(rewrite, "CAPTURE_BEHIND_S", 0.0)
    await rewriter.batch()
    await rewriter.batch()
    merger.captured_lsn = 100
    assert rewriter.due
    await rewriter.batch()
    assert not merger.queue
    await rewriter.batch()
    assert not rewriter.due


async def test_it_is_due_again_after_the_pause(
    rewriter: Rewriter, merger: Merger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rewrite, "CAPTURE_BEHIND_S", 0.01)
    await rewriter.batch()
    merger.captured_lsn = 100
    await wait_until(lambda: rewriter.due, DEADLINE_S, "the pause ends")
    await rewriter.batch()
    assert not merger.queue
