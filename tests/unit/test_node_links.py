"""The node's side of the links: an older link that ends late takes nothing from the newer one of the same peer."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Any

import msgspec
import pytest

from sidecar.core.catalog import ColumnSpec, TableSpec
from sidecar.core.changes import ChangeSetHeader, ChangeSetPart
from sidecar.core.wire.messages import Hello, Tables
from sidecar.errors import ProtocolError
from sidecar.lab.waiting import wait_until
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
        self.tables: list[dict[str, str]] = []
        self.closed = ""

    async def send_part(self, part: ChangeSetPart) -> None:
        raise ProtocolError("a change set part has 9 bytes, b takes at most 8", mend="raise frame_bytes_max of b")

    def send_ack(self, clock: dict[int, int]) -> None:
        self.acks.append(dict(clock))

    def send_heartbeat(self, hlc: int, from_hlc: int) -> None:
        pass

    def send_tables(self, fingerprints: dict[str, str]) -> None:
        self.tables.append(fingerprints)

    def grant(self, size: int) -> None:
        pass

    def close(self, reason: str) -> None:
        self.closed = reason


def hello() -> Hello:
    return Hello(cluster="default", node_id=PEER, node_name="b")


def make_part(number: int, *, last: bool = False) -> ChangeSetPart:
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
        await links.receive(link, make_part(0))
    links.disconnected(older, None)  # type: ignore[arg-type]
    link = newer
    await links.receive(link, make_part(1, last=True))
    assert len(inbox) == 1
    assert links.linked() == {"b"}
    links.disconnected(link, None)


async def test_a_newer_link_ends_the_sending_on_the_older_one(links: NodeLinks) -> None:
    older: Any = Link()
    newer: Any = Link()
    await links.connected(older, hello())
    [sending] = [task for task in asyncio.all_tasks() if task.get_name() == "ship to b"]
    await links.connected(newer, hello())
    await asyncio.wait({sending}, timeout=60)
    assert sending.cancelled()
    links.disconnected(newer, None)


async def test_tables_that_change_one_node_after_the_other_are_equal_in_the_end(links: NodeLinks) -> None:
    """As long as the link stands, not only at its beginning."""
    link: Any = Link()
    state, doc = links._state, TableSpec(1, "public", "doc", (ColumnSpec("id", 1, "bigint", "bigint"),), ())
    wide = dataclasses.replace(doc, columns=(ColumnSpec("note", 2, "text", "text"),))
    state.set_tables([doc])
    await links.connected(link, msgspec.structs.replace(hello(), fingerprints={"public.doc": doc.fingerprint()}))
    assert "tables b" not in state.problems
    state.set_tables([wide])
    links.tables_changed()
    assert "public.doc differs" in state.problems["tables b"]
    assert link.tables == [{"public.doc": wide.fingerprint()}]
    links.tables_told(link, Tables({"public.doc": wide.fingerprint()}))
    assert "tables b" not in state.problems
    links.tables_told(link, Tables({"public.doc": wide.fingerprint(), "public.more": "x"}))
    assert "public.more of b is not replicated here" in state.problems["tables b"]
    links.disconnected(link, None)


class Journal:
    """A journal that holds one change set."""

    async def position_of(self, acknowledged: int) -> tuple[int, int]:
        return 0, 0

    async def sets_after(self, seq: int) -> int:
        return 1

    async def parts_after(self, seq: int, part: int, limit: int) -> list[tuple[int, ChangeSetPart]]:
        header = ChangeSetHeader(origin=1, from_hlc=0, to_hlc=10, context={})
        return [(1, ChangeSetPart(header=header, body=b"x"))]


async def test_what_cannot_be_sent_is_a_problem_until_the_peer_has_it(links: NodeLinks) -> None:
    journal: Any = Journal()
    link: Any = Link()
    links.reader = journal
    links._tail.start(1)
    links.backlog.start(1, 10)
    links.ready.set()
    await links.connected(link, hello())
    await wait_until(lambda: bool(link.closed), 10, "the link was closed")
    problems = links._state.problems
    assert "b takes at most 8; raise frame_bytes_max of b" in problems["ship b"]
    links.acknowledged(link, {1: 0})
    assert "ship b" in problems
    links.acknowledged(link, {1: 10})
    assert "ship b" not in problems
    links.disconnected(link, None)


async def test_a_peer_made_anew_under_its_name_is_one_peer(links: NodeLinks) -> None:
    former: Any = Link()
    await links.connected(former, hello())
    links.disconnected(former, None)
    again: Any = Link()
    again.peer_id = 7
    await links.connected(again, hello())
    assert links.names == {7: "b"}
    assert list(links.acknowledged_hlc) == [7], "the journal keeps nothing for what it was"
    links.disconnected(again, None)


async def test_for_a_peer_that_joins_everything_is_kept_and_nothing_is_sent(links: NodeLinks) -> None:
    """Also when it was here before: then what it has acknowledged falls to what it has now."""
    link: Any = Link()
    links.ready.set()
    links.acknowledged_hlc[PEER], links.names[PEER] = 9, "b"
    links.peer_clocks[PEER] = {1: 9, 3: 7}
    await links.connected(link, Hello(cluster="default", node_id=PEER, node_name="b", joining=True))
    assert not [task for task in asyncio.all_tasks() if task.get_name() == "ship to b"]
    links.disconnected(link, None)
    assert links.acknowledged_hlc[PEER] == 0
    assert links.peer_clocks[PEER] == {1: 0, 3: 0}
    assert links.names[PEER] == "b"
