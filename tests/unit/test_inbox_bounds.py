"""The inbox's bounds: a full queue holds the link, a large set goes to a file, one beyond the spool is refused."""

from __future__ import annotations

import asyncio

import pytest

from sidecar.core.changes import ChangeSetHeader, ChangeSetPart
from sidecar.errors import ProtocolError, TransientError
from sidecar.node import inbox as inbox_module
from sidecar.node.inbox import Inbox

KIB = 1024


def make_part(
    number: int = 0, *, last: bool = True, size: int = KIB, from_hlc: int = 0, fill: bytes = b"x"
) -> ChangeSetPart:
    header = ChangeSetHeader(origin=2, from_hlc=from_hlc, to_hlc=from_hlc + 10, context={}, part=number, last=last)
    return ChangeSetPart(header=header, body=fill * size)


class Credit:
    def __init__(self) -> None:
        self.granted = 0

    def __call__(self, size: int) -> None:
        self.granted += size


async def test_a_full_queue_holds_the_link_until_something_is_merged() -> None:
    inbox = Inbox(queue_bytes_max=3 * KIB, spool_bytes_max=100 * KIB)
    for i in range(3):
        await inbox.put(make_part(from_hlc=10 * i), Credit())
    waiting = asyncio.create_task(inbox.put(make_part(from_hlc=30), Credit()))
    for _ in range(10):
        await asyncio.sleep(0)
    assert not waiting.done()
    inbox.done(2)
    await asyncio.wait_for(waiting, 60)
    assert len(inbox) == 3


async def test_another_origin_is_not_held_by_a_full_queue() -> None:
    inbox = Inbox(queue_bytes_max=KIB, spool_bytes_max=100 * KIB)
    await inbox.put(make_part(), Credit())
    other = make_part()
    header = ChangeSetHeader(origin=3, from_hlc=0, to_hlc=5, context={})
    await asyncio.wait_for(inbox.put(ChangeSetPart(header=header, body=other.body), Credit()), 10)
    assert sorted(inbox.heads()) == [2, 3]


async def test_a_large_set_goes_to_a_file_and_can_be_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inbox_module, "SPOOL_MEMORY_BYTES", 4 * KIB)
    inbox, credit = Inbox(queue_bytes_max=100 * KIB, spool_bytes_max=100 * KIB), Credit()
    for i in range(10):
        await inbox.put(make_part(i, last=i == 9, fill=b"%d" % i), credit)
    received = inbox.heads()[2][0]
    assert received.file is not None
    assert received.bodies == [], "nothing of it is in memory"
    for _ in range(2):
        assert list(received.read()) == [b"%d" % i * KIB for i in range(10)]
    inbox.done(2)
    assert credit.granted >= 10 * KIB, "all credit was given back"
    assert received.file is None


async def test_a_set_beyond_the_spool_is_refused_and_forgotten_with_its_link() -> None:
    inbox, credit = Inbox(queue_bytes_max=100 * KIB, spool_bytes_max=3 * KIB), Credit()
    for i in range(3):
        await inbox.put(make_part(i, last=False), credit)
    with pytest.raises(TransientError, match="spool_bytes_max"):
        await inbox.put(make_part(3, last=False), credit)
    inbox.forget(2)
    assert len(inbox) == 0
    await inbox.put(make_part(), credit)
    assert len(inbox) == 1


def part_of(origin: int, number: int, *, last: bool = False, size: int = KIB) -> ChangeSetPart:
    header = ChangeSetHeader(origin=origin, from_hlc=0, to_hlc=10, context={}, part=number, last=last, rows=100)
    return ChangeSetPart(header=header, body=b"x" * size)


async def test_the_files_of_all_sets_are_bounded_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inbox_module, "SPOOL_MEMORY_BYTES", 2 * KIB)
    inbox = Inbox(queue_bytes_max=100 * KIB, spool_bytes_max=6 * KIB)
    for i in range(4):
        await inbox.put(part_of(2, i, last=i == 3), Credit())
    for i in range(2):
        await inbox.put(part_of(3, i), Credit())
    waiting = asyncio.create_task(inbox.put(part_of(3, 2), Credit()))
    for _ in range(10):
        await asyncio.sleep(0)
    assert not waiting.done()
    inbox.done(2)
    await asyncio.wait_for(waiting, 60)
    await inbox.put(part_of(3, 3, last=True), Credit())
    inbox.done(3)
    assert inbox._spooled_bytes == 0


async def test_a_set_that_others_in_the_spool_wait_for_is_sent_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inbox_module, "SPOOL_MEMORY_BYTES", 2 * KIB)
    monkeypatch.setattr(inbox_module, "SPOOL_WAIT_S", 0.01, raising=False)
    inbox = Inbox(queue_bytes_max=100 * KIB, spool_bytes_max=6 * KIB)
    for i in range(4):
        await inbox.put(part_of(2, i, last=i == 3), Credit())
    for i in range(2):
        await inbox.put(part_of(3, i), Credit())
    with pytest.raises(TransientError, match="fill spool_bytes_max"):
        await inbox.put(part_of(3, 2), Credit())
    inbox.forget(3)
    assert inbox._spooled_bytes == 4 * KIB


async def test_the_rows_of_a_set_are_those_of_all_its_parts() -> None:
    inbox = Inbox(queue_bytes_max=100 * KIB, spool_bytes_max=100 * KIB)
    for i in range(3):
        await inbox.put(part_of(2, i, last=i == 2), Credit())
    [received] = inbox.heads()[2]
    assert received.rows == 300
    assert received.is_large
    assert received.file is None, "small enough for memory, and merged part by part all the same"


async def test_parts_out_of_order_are_refused() -> None:
    inbox = Inbox(queue_bytes_max=100 * KIB, spool_bytes_max=100 * KIB)
    with pytest.raises(ProtocolError):
        await inbox.put(make_part(1), Credit())
    await inbox.put(make_part(0, last=False), Credit())
    with pytest.raises(ProtocolError):
        await inbox.put(make_part(2), Credit())
    with pytest.raises(ProtocolError):
        await inbox.put(make_part(1, from_hlc=99), Credit())


async def test_a_set_that_starts_again_replaces_the_unfinished_one() -> None:
    inbox = Inbox(queue_bytes_max=100 * KIB, spool_bytes_max=100 * KIB)
    await inbox.put(make_part(0, last=False, fill=b"a"), Credit())
    await inbox.put(make_part(0, last=False, fill=b"b"), Credit())
    await inbox.put(make_part(1, fill=b"c"), Credit())
    [received] = inbox.heads()[2]
    assert list(received.read()) == [b"b" * KIB, b"c" * KIB]
