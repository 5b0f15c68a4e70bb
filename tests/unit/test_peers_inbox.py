"""The inbox behind a link: a change set larger than the link's window must still arrive as a whole."""

from __future__ import annotations

import asyncio

import msgspec
import pytest
from peer_lab import Lab, make_part, until

from sidecar.core.changes import ChangeSetPart
from sidecar.node.inbox import Inbox

MIB = 1 << 20


@pytest.fixture
async def lab():
    lab = Lab()
    yield lab
    await lab.stop()


@pytest.mark.parametrize("part_bytes", [3 * MIB, 9 * MIB])
async def test_a_change_set_larger_than_the_window_does_not_wait_for_itself(lab: Lab, part_bytes: int) -> None:
    """Credit held by parts that wait for the last one would keep the last one from being sent."""
    a, b = lab.pair(limits={"link_window_bytes": 16 * MIB})
    inbox = Inbox(queue_bytes_max=64 * MIB, spool_bytes_max=1024 * MIB)

    async def receive(link, part: ChangeSetPart) -> None:
        await inbox.put(part, link.grant)

    b.receive = receive  # type: ignore[method-assign]
    await lab.linked(a, b)
    parts = []
    for number in range(12):
        part = make_part(from_hlc=0, to_hlc=9, body=bytes([number]) * part_bytes)
        header = msgspec.structs.replace(part.header, part=number, last=number == 11)
        parts.append(ChangeSetPart(header=header, body=part.body))

    async def pump() -> None:
        for part in parts:
            await a.link("b").send_part(part)

    await asyncio.wait_for(pump(), 15)
    await until(lambda: len(inbox))
    (received,) = inbox.heads()[1]
    assert list(received.read()) == [part.body for part in parts]
    inbox.done(1)
    await until(lambda: a.link("b")._session.in_flight_bytes == 0)
