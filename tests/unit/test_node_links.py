"""The node's side of the links: an older link that ends late takes nothing from the newer one of the same peer."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from sidecar.core.changes import ChangeSetHeader, ChangeSetPart
from sidecar.core.wire.messages import Hello
from sidecar.node.inbox import Inbox
from sidecar.node.links import NodeLinks
from sidecar.node.ship import Tail
from sidecar.node.state import NodeState
from sidecar.settings import NodeSettings, Settings

PEER = 2


class Link:
    """A link of the peer that sends nowhere."""

    peer_name = "b"
    peer_id = PEER
    is_open = True

    def __init__(self) -> None:
        self.acks: list[dict[int, int]] = []
        self.closed = ""

    def send_ack(self, clock: dict[int, int]) -> None:
        self.acks.append(dict(clock))

    def grant(self, size: int) -> None:
        pass

    def close(self, reason: str) -> None:
        self.closed = reason


def hello() -> Hello:
    return Hello(cluster="default", node_id=PEER, node_name="b")


def part(number: int, *, last: bool = False) -> ChangeSetPart:
    header = ChangeSetHeader(origin=PEER, from_hlc=0, to_hlc=10, context={}, part=number, last=last)
    return ChangeSetPart(header=header, body=b"x")


@pytest.fixture
def inbox() -> Inbox:
    return Inbox(queue_bytes_max=1 << 20, spool_bytes_max=1 << 20)


@pytest.fixture
def links(inbox: Inbox) -> NodeLinks:
    settings = Settings(node=NodeSettings(name="a", id=1, dsn="postgresql://a@127.0.0.1:1/app"))
    return NodeLinks(NodeState(settings), inbox, Tail(), "boot")


async def test_an_older_link_that_ends_late_leaves_the_newer_ones_unfinished_set(
    links: NodeLinks, inbox: Inbox
) -> None:
    older, newer = Link(), Link()
    link: Any
    for link in (older, newer):
        await links.connected(link, hello())
        await links.receive(link, part(0))
    links.disconnected(older, None)  # type: ignore[arg-type]
    link = newer
    await links.receive(link, part(1, last=True))
    assert len(inbox) == 1
    assert links.linked() == {"b"}
    links.disconnected(link, None)


async def test_a_newer_link_ends_the_sending_on_the_older_one(links: NodeLinks) -> None:
    older: Any = Link()
    newer: Any = Link()
    await links.connected(older, hello())
    [sending] = [task for task in asyncio.all_tasks() if task.get_name() == "ship to b"]
    await links.connected(newer, hello())
    await asyncio.wait({sending}, timeout=10)
    assert sending.cancelled()
    links.disconnected(newer, None)
