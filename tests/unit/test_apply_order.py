"""Which received change sets the merge loop takes together: in causal order, each once."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from sidecar.core.changes import ChangeSetHeader, ChangeSetPart
from sidecar.node.apply import SETS_MAX, Applier
from sidecar.node.gate import Retry
from sidecar.node.inbox import Inbox
from sidecar.node.pulse import Pulse
from sidecar.node.state import NodeState
from sidecar.settings import load

OWN = 3


class Captured:
    """Stands for the merge session: everything is captured, and taking change sets together asks nothing more of it."""

    async def log_end(self) -> int:
        return 1

    async def wait_for_capture(self, timeout_s: float, log_end: int | None = None) -> bool:
        return True


class Received:
    """A node that was sent change sets and has merged none of them."""

    def __init__(self, folder: Path) -> None:
        path = folder / "node.toml"
        path.write_text(f'[node]\nname = "here"\nid = {OWN}\ndsn = "postgresql://here@127.0.0.1:1/app"\n')
        self.state = NodeState(load(path))
        self.inbox = Inbox(queue_bytes_max=1 << 20, spool_bytes_max=1 << 20)
        merger: Any = Captured()
        self.resynced: list[int] = []
        self.applier = Applier(
            self.state, self.inbox, merger, Pulse(), acknowledge=lambda: None, resync=self.resynced.append
        )

    async def put(self, origin: int, from_hlc: int, to_hlc: int, context: dict[int, int] | None = None) -> None:
        header = ChangeSetHeader(origin=origin, from_hlc=from_hlc, to_hlc=to_hlc, context=context or {}, rows=1)
        await self.inbox.put(ChangeSetPart(header=header, body=b"x"), lambda size: None)

    def ready(self) -> list[tuple[int, int, int]]:
        return [(r.header.origin, r.header.from_hlc, r.header.to_hlc) for r in self.applier._gate.ready(1000, SETS_MAX)]


@pytest.fixture
def received(tmp_path: Path) -> Received:
    return Received(tmp_path)


async def test_one_sent_again_right_behind_its_first_copy_is_not_merged_twice(received: Received) -> None:
    # The link broke before the acknowledgement: both copies come while the database is away. Merging both in one
    # transaction is refused by the clock, again and again.
    await received.put(1, 0, 10)
    await received.put(1, 0, 10)
    await received.put(1, 10, 20)
    assert received.ready() == [(1, 0, 10), (1, 10, 20)]


async def test_what_was_merged_before_this_process_began_is_dropped(received: Received) -> None:
    received.state.advance(1, 10)
    await received.put(1, 0, 10)
    await received.put(1, 10, 20)
    received.applier._gate.drop_duplicates()
    assert received.ready() == [(1, 10, 20)]


async def test_one_that_reaches_back_behind_what_is_merged_is_taken(received: Received) -> None:
    await received.put(1, 0, 10)
    await received.put(1, 5, 20)
    assert received.ready() == [(1, 0, 10), (1, 5, 20)]


async def test_a_context_waits_for_the_other_origin(received: Received) -> None:
    await received.put(1, 0, 10, {2: 7})
    assert received.ready() == []
    await received.put(2, 0, 7)
    assert received.ready() == [(2, 0, 7), (1, 0, 10)]


async def test_what_the_origin_saw_of_this_node_is_here(received: Received) -> None:
    received.state.clock[OWN] = 99
    await received.put(1, 0, 10, {OWN: 99})
    assert received.ready() == [(1, 0, 10)]


async def test_who_has_seen_what_this_node_never_made_waits(received: Received) -> None:
    """It would supersede local writes to come, on this node alone."""
    received.state.clock[OWN] = 99
    await received.put(1, 0, 10, {OWN: 100})
    await received.put(2, 0, 10, {OWN: 99})
    assert received.ready() == [(2, 0, 10)]
    assert "this node made none after 0.99" in received.state.problems["seen 1"]
    received.state.clock[OWN] = 100
    assert (1, 0, 10) in received.ready()
    assert "seen 1" not in received.state.problems


async def test_a_gap_waits(received: Received) -> None:
    await received.put(1, 5, 10)
    assert received.ready() == []


async def test_a_gap_is_sent_again_and_never_skipped(received: Received, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sidecar.node.gate.GAP_S", 0.0)
    await received.put(1, 50, 60)
    assert received.ready() == []
    assert received.applier._gate.gap() is None, "noticed, and given time"
    while not received.resynced:
        received.applier._ask_for_missing()
    assert received.resynced == [1]
    assert len(received.inbox) == 0
    await received.put(1, 0, 60)
    assert received.ready() == [(1, 0, 60)]


@pytest.mark.parametrize("sets", [[], [(0, 10), (30, 40)]], ids=["between heartbeats alone", "behind one that waits"])
async def test_a_gap_behind_the_head_is_found(
    received: Received, monkeypatch: pytest.MonkeyPatch, sets: list[tuple[int, int]]
) -> None:
    """An origin that is idle after a set was lost says nothing but heartbeats; one whose head waits for its context
    shows the gap behind it only."""
    monkeypatch.setattr("sidecar.node.gate.GAP_S", 0.0)
    for from_hlc, to_hlc in sets:
        await received.put(1, from_hlc, to_hlc, {2: 99})
    received.inbox.close_interval(1, 20, 30)
    gate = received.applier._gate
    assert gate.gap() is None, "noticed, and given time"
    for _ in range(100):
        received.applier._ask_for_missing()
    assert received.resynced == [1]
    assert not received.inbox.closed
    assert gate.gap() is None


async def test_a_heartbeat_that_overtakes_an_unfinished_set_is_no_gap(
    received: Received, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sidecar.node.gate.GAP_S", 0.0)
    header = ChangeSetHeader(origin=1, from_hlc=0, to_hlc=20, context={}, rows=1, last=False)
    await received.inbox.put(ChangeSetPart(header=header, body=b"x"), lambda size: None)
    received.inbox.close_interval(1, 20, 30)
    for _ in range(3):
        assert received.applier._gate.gap() is None


async def test_a_heartbeat_that_overtakes_a_set_for_which_there_is_no_room_is_no_gap(
    received: Received, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All that waited was thrown away and sent again for it, as long as merging was slower than receiving."""
    monkeypatch.setattr("sidecar.node.gate.GAP_S", 0.0)
    received.inbox._queue_bytes_max = 1
    await received.put(1, 0, 10)
    waiting = asyncio.create_task(received.put(1, 10, 20))
    await asyncio.sleep(0)
    received.inbox.close_interval(1, 20, 30)
    for _ in range(100):
        received.applier._ask_for_missing()
    assert received.resynced == []
    received.inbox.done(1)
    received.state.advance(1, 10)
    await waiting
    assert received.ready() == [(1, 10, 20)]
    received.inbox.done(1)
    received.inbox.close_interval(1, 40, 50)
    while not received.resynced:
        received.applier._ask_for_missing()  # and now it is one


async def test_a_gap_is_looked_for_while_others_keep_the_loop_busy(
    received: Received, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sidecar.node.gate.GAP_S", 0.0)
    monkeypatch.setattr("sidecar.node.gate.GAP_LOOK_S", 0.0, raising=False)
    await received.put(1, 50, 60)
    merged = 0

    async def merge(ready: Any) -> None:
        nonlocal merged
        merged += 1
        await asyncio.sleep(0)

    monkeypatch.setattr(received.applier, "_merge", merge)
    await received.put(2, 0, 10)  # is ready again and again
    running = asyncio.create_task(received.applier.run())
    for _ in range(1000):
        await asyncio.sleep(0)
        if received.resynced:
            break
    running.cancel()
    await asyncio.wait({running})
    assert received.resynced[:1] == [1]
    assert merged


async def test_a_change_set_from_the_future_waits_for_the_clock(received: Received) -> None:
    limit = received.state.settings.timing.max_clock_drift_ms
    far = (received.state.now_ms() + limit + 60_000) << 16
    await received.put(1, 0, far)
    await received.put(2, 0, 10)
    assert received.ready() == [(2, 0, 10)], "the others go on"
    assert "clock of node 1" in received.state.problems["drift 1"]
    received.state.clock_skew_ms = 60_000
    assert (1, 0, far) in received.ready()
    assert not received.state.problems


async def test_a_set_of_several_parts_is_merged_by_itself(received: Received) -> None:
    """Part by part, in bounded memory; what is merged together is read as a whole."""
    await received.put(1, 0, 10)
    for number in range(2):
        header = ChangeSetHeader(origin=1, from_hlc=10, to_hlc=20, context={}, part=number, last=number == 1, rows=1)
        await received.inbox.put(ChangeSetPart(header=header, body=b"x"), lambda size: None)
    await received.put(1, 20, 30)
    for expected in ([(1, 0, 10)], [(1, 10, 20)], [(1, 20, 30)]):
        assert received.ready() == expected
        received.inbox.done(1)
        received.state.advance(1, expected[0][2])


async def test_an_origin_that_must_wait_holds_nobody_else_up(received: Received) -> None:
    await received.put(1, 0, 10)
    await received.put(2, 0, 10)
    received.applier._gate.retries[1] = Retry(not_before=float("inf"))
    assert received.ready() == [(2, 0, 10)]
    received.applier._gate.retries[1].not_before = 0.0
    assert received.ready() == [(1, 0, 10)], "one that failed comes alone"
