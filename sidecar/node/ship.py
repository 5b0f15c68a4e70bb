"""Shipping: every link has its own cursor into the journal, so a slow peer delays nobody.

A link that keeps up is fed from memory (the tail); one that is behind reads the journal until it has caught up.
"""

from __future__ import annotations

import asyncio
from collections import deque
from itertools import takewhile

from sidecar.core.changes import ChangeSetPart
from sidecar.errors import TransientError
from sidecar.node.relay import Route
from sidecar.node.state import NodeState
from sidecar.peers.link import Link
from sidecar.postgres.journal_reader import JournalReader
from sidecar.postgres.relay import RelayStore

TAIL_BYTES_MAX = 16 * 1024 * 1024
"""Newest parts kept in memory for links that keep up; one link window, a link further behind reads the journal."""

TAIL_PARTS_MAX = 8192
"""The same in parts, which take half a kilobyte beside their bodies: what a busy node makes in a minute."""

READ_PARTS = 8
"""Journal rows per read of a link that is behind: at most 8 parts of batch_bytes_max each before compression."""

WHOLE = 1 << 30
"""A part number above all others: the change set was sent as a whole."""


class Tail:
    """The newest single-part change sets in memory, in order, without gaps."""

    def __init__(self, bytes_max: int = TAIL_BYTES_MAX, parts_max: int = TAIL_PARTS_MAX) -> None:
        self.newest_seq = 0
        self._bytes_max = bytes_max
        self._parts_max = parts_max
        self._bytes = 0
        self._parts: deque[tuple[int, ChangeSetPart]] = deque()
        self._before = 0
        self.moved = asyncio.Condition()

    def start(self, seq: int) -> None:
        """The journal ends at ``seq``; what comes next is kept."""
        self._parts.clear()
        self._bytes = 0
        self._before = self.newest_seq = seq

    def publish(self, seq: int, part: ChangeSetPart | None) -> None:
        """A durable change set; ``None`` when it has several parts, which are left to the journal."""
        self.newest_seq = seq
        if part is None:
            self._parts.clear()
            self._bytes = 0
            self._before = seq
        else:
            self._parts.append((seq, part))
            self._bytes += len(part.body)
            while self._bytes > self._bytes_max or len(self._parts) > self._parts_max:
                self._before, dropped = self._parts.popleft()
                self._bytes -= len(dropped.body)
        self.wake()

    def wake(self) -> None:
        """Let every link look at what there is to do."""
        asyncio.get_running_loop().create_task(self._wake())

    async def _wake(self) -> None:
        async with self.moved:
            self.moved.notify_all()

    def after(self, seq: int) -> list[tuple[int, ChangeSetPart]] | None:
        """The parts after ``seq``; None when some of them are only in the journal."""
        if seq < self._before:
            return None
        # From the newest end: a link that keeps up lacks a few of thousands.
        newer = list(takewhile(lambda kept: kept[0] > seq, reversed(self._parts)))
        newer.reverse()
        return newer


class Shipper:
    """Feeds one link from where the peer stands until the link ends."""

    def __init__(self, state: NodeState, link: Link, reader: JournalReader, tail: Tail, route: Route) -> None:
        self._state = state
        self._link = link
        self._reader = reader
        self._tail = tail
        self._route = route
        self._seq = 0
        self._part = WHOLE
        self.caught_up = False

    @property
    def sent_hlc(self) -> int:
        """Up to where the peer has this node's own change sets, or was sent them."""
        return self._route.has(self._state.node_id)

    async def run(self) -> None:
        """Returns or raises when the link ends."""
        if await self._position():
            return
        self._state.problem(f"journal {self._link.peer_name}", None)
        while self._link.is_open:
            if self._route.stale:
                # Not from further back on this link: what was sent would stand before what it depends on, and the
                # receiver's queue may be full of it.
                self._link.close("the peer can have more of other nodes from here; the next link begins there")
                return
            newest = self._tail.newest_seq
            # The rest of a change set that was begun is in the journal only; the tail knows whole ones.
            parts = self._tail.after(self._seq) if self._part == WHOLE else None
            from_journal = parts is None
            if parts is None:
                parts = await self._reader.parts_after(self._seq, self._part, READ_PARTS)
                # The bound may have been reached while this link was behind.
                if self._lost((await self._reader.position_of(self.sent_hlc))[1]):
                    return
                await self._look_at_floors()
            for seq, part in parts:
                await self._send(part)
                self._seq = seq
                self._part = WHOLE if part.header.last else part.header.part
            if from_journal and parts:
                continue
            if from_journal and not parts:
                # Sequence numbers without rows (transactions that changed nothing), up to what was there before.
                self._seq = max(self._seq, newest)
                self._part = WHOLE
            await self._wait()

    async def _position(self) -> bool:
        """Go to the first change set of the journal that the peer lacks; True when it is not there any more."""
        self.caught_up = False
        newest, own_end = self._tail.newest_seq, self._state.journal_end
        clock = self._route.lacking_from(self._state.clock)
        seq, dropped_hlc = await self._reader.position_of(self.sent_hlc)
        if self._route.relays:
            if own_end <= self.sent_hlc:
                seq = newest  # what stands behind its own last one are others' only
            first = await RelayStore(self._reader).first_lacking(clock)
            seq = seq if first is None else min(seq, first - 1)
        self._seq = seq
        await self._look_at_floors()
        return self._lost(dropped_hlc)

    async def _look_at_floors(self) -> None:
        """After every reading of the journal: what has left it meanwhile is not taken for sent."""
        if self._route.relays:
            self._route.floors.update(await RelayStore(self._reader).floors())

    async def _send(self, part: ChangeSetPart) -> None:
        admitted = self._route.admit(part)
        if admitted is None:
            return
        await self._link.send_part(admitted)
        if self._state.settings.lab.send_twice and part.header.part == 0 and part.header.last:
            await self._link.send_part(admitted)
        self._route.sent(admitted.header)

    def _lost(self, dropped_hlc: int) -> bool:
        """Whether the journal's bound took changes that the peer does not have: never passed over (invariant 3)."""
        if self.sent_hlc >= dropped_hlc:
            return False
        peer = self._link.peer_name
        line = f"{peer} needs changes that are no longer in this journal; make it anew, see docs/operations.md"
        self._state.problem(f"journal {peer}", line)
        self._link.close(line)
        return True

    async def _wait(self) -> None:
        async with self._tail.moved:
            if self._tail.newest_seq > self._seq or not self._link.is_open or self._route.stale:
                return
            self.caught_up = True
            try:
                async with asyncio.timeout(1.0):
                    await self._tail.moved.wait()
            except TimeoutError:
                return
            finally:
                self.caught_up = self._tail.newest_seq <= self._seq

    def heartbeat(self) -> None:
        """Tell the peer how far this node is closed; only what the link has been sent before may be counted on."""
        own = self._state.clock.get(self._state.node_id, 0)
        # A set may be published and this link's task not awake yet: then the interval up to the clock is not empty, and
        # a peer that took it for empty would drop the set as a duplicate.
        pending = self._tail.newest_seq > self._seq or self._part != WHOLE
        if self.caught_up and not pending and own > self.sent_hlc:
            self._link.send_heartbeat(own, self.sent_hlc)
        elif self._link.is_open:
            self._link.send_heartbeat(0, 0)
        if self._route.relays and self.caught_up and not pending and not self._route.stale:
            intervals = self._route.closed(self._state.clock)
            if intervals:
                self._link.send_closed(intervals)


async def ship(shipper: Shipper) -> None:
    """A link's sending task: a link that ends is no error here."""
    try:
        await shipper.run()
    except TransientError:
        return
