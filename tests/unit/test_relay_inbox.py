"""Change sets of one origin from several links: the first to come whole is queued, the others are dropped at once."""

from __future__ import annotations

import asyncio

import pytest

from sidecar.core.changes import ChangeSetHeader, ChangeSetPart
from sidecar.core.wire.messages import part_bytes
from sidecar.errors import ProtocolError
from sidecar.node.inbox import Inbox

ORIGIN = 9
A, B = 1, 2


def make_part(to_hlc: int, number: int = 0, *, last: bool = True, from_hlc: int | None = None) -> ChangeSetPart:
    start = to_hlc - 10 if from_hlc is None else from_hlc
    header = ChangeSetHeader(
        origin=ORIGIN, from_hlc=start, to_hlc=to_hlc, context={7: 3}, part=number, last=last, rows=number + 1
    )
    return ChangeSetPart(header=header, body=b"%d.%d" % (to_hlc, number))


class Links:
    """An inbox, and the credit that each link has got back."""

    def __init__(self, queue_bytes_max: int = 1 << 20) -> None:
        self.inbox = Inbox(queue_bytes_max=queue_bytes_max, spool_bytes_max=1 << 20)
        self.granted = {A: 0, B: 0}

    async def put(self, source: int, part: ChangeSetPart) -> None:
        def grant(size: int) -> None:
            self.granted[source] += size

        await self.inbox.put(part, grant, source)

    def queued(self) -> list[tuple[int, int]]:
        return [(r.header.from_hlc, r.header.to_hlc) for r in self.inbox.heads().get(ORIGIN, ())]


@pytest.fixture
def links() -> Links:
    return Links()


async def test_a_duplicate_gives_its_credit_back_at_once(links: Links) -> None:
    await links.put(A, make_part(10))
    await links.put(B, make_part(10))
    await links.put(B, make_part(20))
    await links.put(A, make_part(20, from_hlc=5))
    assert links.queued() == [(0, 10), (10, 20)]
    assert links.granted == {A: part_bytes(make_part(20)), B: part_bytes(make_part(10))}
    links.inbox.done(ORIGIN)
    await links.put(A, make_part(10))
    assert links.queued() == [(10, 20)], "merged"


async def test_sets_of_several_parts_from_two_links_do_not_mix(links: Links) -> None:
    await links.put(A, make_part(10, 0, last=False))
    await links.put(B, make_part(10, 0, last=False))
    await links.put(A, make_part(10, 1, last=False))
    await links.put(B, make_part(10, 1, last=False))
    await links.put(B, make_part(10, 2))
    assert links.queued() == [(0, 10)]
    await links.put(A, make_part(10, 2))
    assert links.queued() == [(0, 10)]
    assert not links.inbox.is_receiving(ORIGIN)
    sizes = [part_bytes(make_part(10, n)) for n in range(3)]
    assert links.granted == {A: sum(sizes), B: sum(sizes[:2])}, "the queued one keeps the credit of its last part"
    (received,) = links.inbox.heads()[ORIGIN]
    parts = list(received.parts())
    assert [p.body for p in parts] == [b"10.0", b"10.1", b"10.2"]
    headers = [(p.header.part, p.header.last, p.header.rows) for p in parts]
    assert headers == [(0, False, 1), (1, False, 2), (2, True, 3)]
    assert all(p.header.context == {7: 3} for p in parts)


async def test_a_link_that_ends_takes_its_own_part_of_it_only(links: Links) -> None:
    await links.put(A, make_part(10, 0, last=False))
    await links.put(B, make_part(10, 0, last=False))
    links.inbox.forget(A)
    assert links.inbox.is_receiving(ORIGIN)
    await links.put(B, make_part(10, 1))
    assert links.queued() == [(0, 10)]
    await links.put(A, make_part(20))
    assert links.queued() == [(0, 10), (10, 20)]


async def test_a_duplicate_does_not_wait_for_room() -> None:
    """It may stand before what the full queue waits for."""
    links = Links(queue_bytes_max=1)
    await links.put(A, make_part(10))
    await asyncio.wait_for(links.put(B, make_part(10)), 5)
    waiting = asyncio.create_task(links.put(B, make_part(20)))
    await asyncio.sleep(0)
    assert not waiting.done()
    links.inbox.done(ORIGIN)
    await asyncio.wait_for(waiting, 60)
    assert links.queued() == [(10, 20)]


async def test_what_was_given_up_is_taken_again(links: Links) -> None:
    await links.put(A, make_part(10))
    await links.put(B, make_part(20, 0, last=False))
    links.inbox.clear(ORIGIN)
    with pytest.raises(ProtocolError):
        await links.put(B, make_part(20, 1))
    await links.put(B, make_part(10))
    assert links.queued() == [(0, 10)]


async def test_intervals_told_by_another_node_follow_what_is_here(links: Links) -> None:
    inbox = links.inbox
    inbox.close_relayed(ORIGIN, 5, 20, merged_hlc=4)
    assert inbox.closed == {}, "something before it was given up, and comes again"
    inbox.close_relayed(ORIGIN, 5, 20, merged_hlc=5)
    assert inbox.closed == {ORIGIN: (5, 20)}
    inbox.close_relayed(ORIGIN, 5, 15, merged_hlc=5)
    assert inbox.closed == {ORIGIN: (5, 20)}, "one that says less"
    await links.put(A, make_part(30, from_hlc=20))
    inbox.close_relayed(ORIGIN, 30, 40, merged_hlc=5)
    assert inbox.closed == {ORIGIN: (30, 40)}, "behind what is queued"
