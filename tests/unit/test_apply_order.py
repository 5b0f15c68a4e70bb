"""Which received change sets the merge loop takes together: in causal order, each once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sidecar.core.changes import ChangeSetHeader, ChangeSetPart
from sidecar.node.apply import Applier
from sidecar.node.inbox import Inbox
from sidecar.node.pulse import Pulse
from sidecar.node.state import NodeState
from sidecar.settings import load

OWN = 3


class Received:
    """A node that was sent change sets and has merged none of them."""

    def __init__(self, folder: Path) -> None:
        path = folder / "node.toml"
        path.write_text(f'[node]\nname = "here"\nid = {OWN}\ndsn = "postgresql://here@127.0.0.1:1/app"\n')
        self.state = NodeState(load(path))
        self.inbox = Inbox(queue_bytes_max=1 << 20, spool_bytes_max=1 << 20)
        merger: Any = None  # taking change sets together asks nothing of the database
        self.applier = Applier(self.state, self.inbox, merger, lambda: None, Pulse())

    async def put(self, origin: int, from_hlc: int, to_hlc: int, context: dict[int, int] | None = None) -> None:
        header = ChangeSetHeader(origin=origin, from_hlc=from_hlc, to_hlc=to_hlc, context=context or {}, rows=1)
        await self.inbox.put(ChangeSetPart(header=header, body=b"x"), lambda size: None)

    def ready(self) -> list[tuple[int, int, int]]:
        return [(r.header.origin, r.header.from_hlc, r.header.to_hlc) for r in self.applier._gate.ready(1000)]


@pytest.fixture
def received(tmp_path: Path) -> Received:
    return Received(tmp_path)


async def test_one_sent_again_right_behind_its_first_copy_is_not_merged_twice(received: Received) -> None:
    # The link broke before the acknowledgement: both copies wait when the database comes back. Merging both in one
    # transaction is refused by the clock, again and again.
    await received.put(1, 0, 10)
    await received.put(1, 0, 10)
    await received.put(1, 10, 20)
    assert received.ready() == [(1, 0, 10)]
    received.state.advance(1, 10)
    await received.applier._gate.drop_duplicates()
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
    await received.put(1, 0, 10, {OWN: 99})
    assert received.ready() == [(1, 0, 10)]


async def test_a_gap_waits(received: Received) -> None:
    await received.put(1, 5, 10)
    assert received.ready() == []
