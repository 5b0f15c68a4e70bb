"""A link gets every part of every change set once, in order, whatever races with its reading of the journal."""

from __future__ import annotations

import asyncio
import random

import pytest

from sidecar.core.changes import ChangeSetHeader, ChangeSetPart
from sidecar.lab.waiting import wait_until
from sidecar.node.relay import Route
from sidecar.node.ship import READ_PARTS, Shipper, Tail
from sidecar.node.state import NodeState
from sidecar.settings import NodeSettings, Settings

DEADLINE_S = 60.0


def make_part(seq: int, number: int = 0, *, last: bool = True, size: int = 10) -> ChangeSetPart:
    header = ChangeSetHeader(origin=1, from_hlc=(seq - 1) * 10, to_hlc=seq * 10, context={}, part=number, last=last)
    return ChangeSetPart(header=header, body=b"x" * size)


class Journal:
    """The durable journal: parts by (seq, part). ``before_read`` may let something happen while a read is under way."""

    def __init__(self) -> None:
        self.parts: list[tuple[int, ChangeSetPart]] = []
        self.reads = 0

    def append(self, seq: int, parts: int = 1, size: int = 10) -> list[ChangeSetPart]:
        made = [make_part(seq, n, last=n == parts - 1, size=size) for n in range(parts)]
        self.parts += [(seq, part) for part in made]
        return made

    async def position_of(self, acknowledged: int) -> tuple[int, int]:
        await asyncio.sleep(0)
        done = [seq for seq, part in self.parts if part.header.last and part.header.to_hlc <= acknowledged]
        return max(done, default=0), 0

    async def parts_after(self, seq: int, part: int, limit: int) -> list[tuple[int, ChangeSetPart]]:
        self.reads += 1
        await asyncio.sleep(0)
        found = [(s, p) for s, p in self.parts if (s, p.header.part) > (seq, part)][:limit]
        await asyncio.sleep(0)
        return found


class Link:
    """Takes what is sent; each part takes a turn of the event loop."""

    peer_name = "b"

    def __init__(self) -> None:
        self.sent: list[ChangeSetPart] = []
        self.heartbeats: list[tuple[int, int]] = []
        self.is_open = True
        self.arrived = asyncio.Event()

    async def send_part(self, part: ChangeSetPart) -> None:
        await asyncio.sleep(0)
        self.sent.append(part)
        self.arrived.set()

    def send_heartbeat(self, hlc: int, from_hlc: int) -> None:
        self.heartbeats.append((hlc, from_hlc))

    def close(self, reason: str) -> None:
        self.is_open = False

    async def has(self, count: int) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while len(self.sent) < count:
                self.arrived.clear()
                await self.arrived.wait()

    def order(self) -> list[tuple[int, int]]:
        return [(part.header.to_hlc // 10, part.header.part) for part in self.sent]


class Lab:
    def __init__(self, tail_bytes: int = 1000) -> None:
        self.state = NodeState(Settings(node=NodeSettings(name="a", id=1, dsn="postgresql://x/y")))
        self.journal = Journal()
        self.tail = Tail(tail_bytes)
        self.link = Link()
        self.seq = 0

    def ship(self, acknowledged: int = 0) -> asyncio.Task[None]:
        """Begin to send to a peer that has this node's changes up to an hlc."""
        route = Route(1, 2, {1: acknowledged})
        self.shipper = Shipper(self.state, self.link, self.journal, self.tail, route)  # type: ignore[arg-type]
        return asyncio.create_task(self.shipper.run())

    def write(self, parts: int = 1, size: int = 10) -> None:
        """Durable, then published, as capture does it; a set of several parts is published without them."""
        self.seq += 1
        made = self.journal.append(self.seq, parts, size)
        self.tail.publish(self.seq, made[0] if parts == 1 else None)

    def expected(self) -> list[tuple[int, int]]:
        return [(seq, part.header.part) for seq, part in self.journal.parts]


@pytest.fixture
async def lab():
    lab = Lab()
    tasks: list[asyncio.Task[None]] = []
    lab.start = lambda acknowledged=0: tasks.append(lab.ship(acknowledged))  # type: ignore[attr-defined]
    yield lab
    for task in tasks:
        task.cancel()
        await asyncio.wait({task})


async def test_a_change_set_of_many_parts_is_sent_as_a_whole(lab: Lab) -> None:
    """More parts than one read of the journal brings: the rest must not be taken for sent."""
    lab.start()
    lab.write()
    await lab.link.has(1)
    lab.write(parts=3 * READ_PARTS + 1)
    await lab.link.has(2 + 3 * READ_PARTS)
    lab.write()
    await lab.link.has(3 + 3 * READ_PARTS)
    assert lab.link.order() == lab.expected()


async def test_what_is_published_while_a_large_set_is_sent_comes_after_it(lab: Lab) -> None:
    lab.start()
    lab.write(parts=2 * READ_PARTS)
    lab.write()
    await lab.link.has(3)
    lab.write()
    lab.write(parts=2)
    await lab.link.has(2 * READ_PARTS + 4)
    assert lab.link.order() == lab.expected()


class Looked(int):
    """A sequence number that counts how often one was compared."""

    times = 0

    def __gt__(self, other: int) -> bool:
        Looked.times += 1
        return int(self) > int(other)


async def test_a_link_that_keeps_up_looks_at_what_is_new_only() -> None:
    """Many change sets are kept, and each new one is handed to every link: no look through all of them."""
    tail = Tail()
    for seq in range(1, 5001):
        tail.publish(Looked(seq), make_part(seq))
    Looked.times = 0
    assert [(seq, part.header.to_hlc) for seq, part in tail.after(4998) or []] == [(4999, 49990), (5000, 50000)]
    assert Looked.times == 3
    assert tail.after(5000) == []


async def test_the_tail_is_bounded_in_parts_and_in_bytes() -> None:
    for tail in (Tail(bytes_max=30), Tail(parts_max=3)):
        for seq in range(1, 11):
            tail.publish(seq, make_part(seq, size=10))
        assert [seq for seq, _ in tail.after(7) or []] == [8, 9, 10]
        assert tail.after(6) is None, "what was let go is in the journal only"


async def test_a_link_far_behind_reads_the_journal_and_then_the_tail(lab: Lab) -> None:
    for _ in range(50):
        lab.write(size=100)  # the tail holds ten of them
    lab.start()
    await lab.link.has(50)
    reads = lab.journal.reads
    for _ in range(5):
        lab.write()
        await lab.link.has(len(lab.journal.parts))
    assert lab.link.order() == lab.expected()
    assert lab.journal.reads == reads, "a link that keeps up is fed from memory"


async def test_a_link_resumes_after_what_the_peer_acknowledged(lab: Lab) -> None:
    for _ in range(5):
        lab.write()
    lab.start(acknowledged=30)
    await lab.link.has(2)
    assert lab.link.order() == [(4, 0), (5, 0)]


@pytest.mark.parametrize("seed", range(30))
async def test_no_gap_and_no_duplicate_under_random_races(seed: int) -> None:
    lab = Lab(tail_bytes=200)
    random_ = random.Random(seed)
    task = lab.ship()
    try:
        for _ in range(200):
            lab.write(parts=random_.choice([1, 1, 1, 1, 2, READ_PARTS + 3]), size=random_.choice([1, 10, 150]))
            for _ in range(random_.randrange(6)):
                await asyncio.sleep(0)
        await lab.link.has(len(lab.journal.parts))
        assert lab.link.order() == lab.expected()
        assert lab.shipper.sent_hlc == lab.seq * 10
    finally:
        task.cancel()
        await asyncio.wait({task})


async def test_a_heartbeat_never_calls_an_interval_empty_that_holds_a_set(lab: Lab) -> None:
    """The peer would raise its clock over the set and drop it as a duplicate when it comes."""
    lab.start()
    lab.write()
    await lab.link.has(1)
    await wait_until(lambda: lab.shipper.caught_up, DEADLINE_S, "the link has caught up")
    lab.state.advance(1, 15)
    lab.shipper.heartbeat()
    assert lab.link.heartbeats == [(15, 10)]
    lab.state.advance(1, 20)
    lab.write()  # the link's task has not run since
    for _ in range(10):
        before = len(lab.link.sent)
        lab.shipper.heartbeat()
        assert before == 2 or lab.link.heartbeats[-1] == (0, 0)
        await asyncio.sleep(0)
    await lab.link.has(2)
