"""Waiting in memory for the clock, and the sidecar's side of sessions that wait: what is stored when."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from sidecar.core.wire.messages import BarrierAnswer
from sidecar.errors import UsageError
from sidecar.lab.waiting import wait_until
from sidecar.node.barriers import BarrierMail
from sidecar.node.waits import ClockWaits, Waits
from sidecar.postgres.wait_board import Reason

DEADLINE_S = 60.0
OWN, EU, AP = 1, 2, 3


class State:
    """Of NodeState what the waiting loops use."""

    def __init__(self, clock: dict[int, int]) -> None:
        self.node_id = OWN
        self.clock = clock
        self.clock_moved = asyncio.Event()

    def advance(self, node: int, hlc: int) -> None:
        self.clock[node] = hlc
        self.clock_moved.set()

    def ends(self) -> dict[int, int]:
        return dict(self.clock)


class Links:
    def __init__(self) -> None:
        self.names = {EU: "eu-west", AP: "ap-south"}
        self.far_names: dict[int, str] = {}
        self.acknowledged_hlc: dict[int, int] = {}
        self.acknowledged_moved = asyncio.Event()
        self.barriers = BarrierMail()
        self.asked: list[int] = []

    def acknowledged(self, peer: int, hlc: int) -> None:
        self.acknowledged_hlc[peer] = hlc
        self.acknowledged_moved.set()

    def ask_barrier(self, number: int) -> None:
        self.asked.append(number)


class Board:
    """A WaitBoard whose waiters the test names; ``log`` is what was written, in order."""

    def __init__(self) -> None:
        self.log: list[tuple[Any, ...]] = []
        self.reasons: set[Reason] = set()
        self.end = 100
        self.pauses: list[float] = []

    async def start(self) -> None:
        self.log.append(("start",))

    async def waiters(self, known: set[Reason], seconds: float, pause_s: float) -> set[Reason]:
        self.pauses.append(pause_s)
        await asyncio.sleep(0.001)
        return set(self.reasons)

    async def log_end(self) -> int:
        self.end += 1
        return self.end

    async def captured(self, lsn: int) -> None:
        self.log.append(("captured", lsn))
        self.reasons.discard(Reason.CAPTURE)

    async def asked(self) -> int:
        self.reasons.discard(Reason.BARRIER)
        return 77

    async def store_acknowledged(self, peer: int, name: str, hlc: int) -> None:
        self.log.append(("acknowledged", name, hlc))

    async def store_answer(self, peer: int, number: int, token: str) -> None:
        self.log.append(("answer", peer, number, token))


class Progress:
    def __init__(self) -> None:
        self.lsn = 1000
        self.wanted: list[int] = []

    async def captured(self, lsn: int, timeout_s: float) -> bool:
        self.wanted.append(lsn)
        await asyncio.sleep(0)
        return self.lsn >= lsn


class Lab:
    def __init__(self) -> None:
        self.state, self.links, self.board, self.progress = State({OWN: 5, EU: 7}), Links(), Board(), Progress()
        self.waits = Waits(*cast(Any, (self.state, self.progress, self.board, self.board, self.links)))


async def until(condition: Any) -> None:
    await wait_until(condition, DEADLINE_S, "the loop")


@pytest.fixture
async def lab() -> Any:
    made = Lab()
    loops = (made.waits.attend, made.waits.store_acknowledgements, made.waits.answer_barriers, made.waits.store_answers)
    tasks = [asyncio.create_task(loop()) for loop in loops]
    yield made
    for task in tasks:
        task.cancel()
    assert all(isinstance(r, asyncio.CancelledError) for r in await asyncio.gather(*tasks, return_exceptions=True))


async def test_capture_is_told_for_the_position_that_was_the_end_when_somebody_came(lab: Lab) -> None:
    lab.progress.lsn = 50
    lab.board.reasons = {Reason.CAPTURE}
    await until(lambda: len(lab.progress.wanted) > 3)
    assert set(lab.progress.wanted) == {101}, "a node that is behind is not sent further away each time"
    assert lab.board.log == [("start",)]
    lab.progress.lsn = 101
    await until(lambda: ("captured", 101) in lab.board.log)


async def test_acknowledgements_are_stored_while_somebody_waits_and_the_first_in_any_case(lab: Lab) -> None:
    lab.links.acknowledged(EU, 10)
    await until(lambda: ("acknowledged", "eu-west", 10) in lab.board.log)
    lab.links.acknowledged(EU, 20)
    await until(lambda: not lab.links.acknowledged_moved.is_set())
    assert ("acknowledged", "eu-west", 20) not in lab.board.log
    lab.board.reasons = {Reason.ACKNOWLEDGEMENT}
    await until(lambda: ("acknowledged", "eu-west", 20) in lab.board.log)
    lab.links.acknowledged(EU, 30)
    await until(lambda: ("acknowledged", "eu-west", 30) in lab.board.log)
    assert len(lab.board.log) == 4, "each once"


async def test_barriers_are_asked_stored_and_answered(lab: Lab) -> None:
    lab.board.reasons = {Reason.BARRIER}
    await until(lambda: lab.links.asked == [77])
    lab.links.barriers.answer(EU, BarrierAnswer(number=77, clock={EU: 16}))
    lab.links.barriers.answer(EU, BarrierAnswer(number=76, clock={EU: 15}))
    await until(lambda: ("answer", EU, 77, "v1.2-10") in lab.board.log)
    sent: list[tuple[int, dict[int, int]]] = []
    link = SimpleNamespace(peer_id=AP, answer_barrier=lambda number, clock: sent.append((number, clock)))
    lab.progress.lsn = 0
    lab.links.barriers.request(cast(Any, link), 5)
    await until(lambda: len(lab.progress.wanted) > 2)
    assert not sent, "what was committed before the question is not captured yet"
    lab.state.clock[OWN] = 6
    lab.progress.lsn = 1000
    await until(lambda: sent == [(5, {OWN: 6, EU: 7})])


async def test_looks_are_frequent_only_where_somebody_waited(lab: Lab) -> None:
    await until(lambda: len(lab.board.pauses) > 3)
    slow = set(lab.board.pauses)
    assert len(slow) == 1
    lab.board.reasons = {Reason.CAPTURE}
    await until(lambda: min(lab.board.pauses) < min(slow))


async def test_the_clock_is_waited_for() -> None:
    state, links = State({OWN: 5}), Links()
    waits = ClockWaits(*cast(Any, (state, links)))
    assert await waits.until_covered({OWN: 5}, 0)
    assert not await waits.until_covered({EU: 1}, 0.01)
    waiting = [asyncio.create_task(waits.until_covered({EU: hlc}, DEADLINE_S)) for hlc in (1, 2)]
    await asyncio.sleep(0)
    state.advance(EU, 1)
    assert await waiting[0]
    assert not waiting[1].done()
    state.advance(EU, 2)
    assert await waiting[1]
    with pytest.raises(UsageError, match="node 9") as caught:
        await waits.until_covered({9: 1}, 0.01)
    assert caught.value.mend
    state.clock = {}
    assert not await waits.until_covered({9: 1}, 0.01), "before the state is read nobody is unknown"
