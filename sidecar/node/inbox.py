"""What was received and not merged yet: whole change sets per origin, in order, with bounded memory.

The parts of a large change set go to a temporary file beyond SPOOL_MEMORY_BYTES, so that a transaction of any size
arrives as a whole without being held in memory.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import IO

import msgspec

from sidecar.core.changes import ChangeSetHeader, ChangeSetPart
from sidecar.core.wire.messages import part_bytes
from sidecar.errors import ProtocolError, TransientError

SPOOL_MEMORY_BYTES = 16 * 1024 * 1024
"""Compressed bytes of one unfinished change set kept in memory; beyond that its parts are in a temporary file."""

SPOOL_WAIT_S = 30.0
"""How long a part waits for room in the spool: as long as a large set takes to merge, at most."""

Grant = Callable[[int], None]


@dataclass(slots=True)
class ReceivedSet:
    """A change set as received. Bodies stay compressed until they are merged."""

    first: ChangeSetHeader
    header: ChangeSetHeader
    spool_bytes_max: int
    size_bytes: int = 0
    credits: list[tuple[Grant, int]] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    file: IO[bytes] | None = None
    sizes: list[int] = field(default_factory=list)
    part_rows: list[int] = field(default_factory=list)
    rows: int = 0

    def add(self, part: ChangeSetPart, grant: Grant) -> None:
        """Append a part; it must be the next one."""
        if part.header.part != len(self.sizes):
            raise ProtocolError(f"part {part.header.part} of a change set came instead of part {len(self.sizes)}")
        self.header = part.header
        self.rows += part.header.rows
        self.sizes.append(len(part.body))
        self.part_rows.append(part.header.rows)
        self.size_bytes += len(part.body)
        if self.size_bytes > self.spool_bytes_max:
            raise TransientError(
                f"a change set of node {part.header.origin} is larger than spool_bytes_max ({self.spool_bytes_max})",
                mend="raise [limits] spool_bytes_max",
            )
        if self.file is None and self.size_bytes > SPOOL_MEMORY_BYTES:
            self.file = tempfile.TemporaryFile(prefix="sidecar-spool-")  # noqa: SIM115 - lives until close()
            for body in self.bodies:
                self.file.write(body)
            self.bodies.clear()
        if self.file is None:
            self.bodies.append(part.body)
        else:
            self.file.write(part.body)
        if self.file is None and part.header.last:
            self.credits.append((grant, part_bytes(part)))
        else:
            # A part that waits for later ones must not hold the credit they need: a set larger than the link's window
            # would wait for itself. SPOOL_MEMORY_BYTES bounds its memory instead.
            grant(part_bytes(part))

    @property
    def is_large(self) -> bool:
        """Whether it is merged by itself, part by part: what is merged together is read as a whole."""
        return len(self.sizes) > 1

    @property
    def spooled_bytes(self) -> int:
        """Bytes in its file."""
        return 0 if self.file is None else self.size_bytes

    def read(self) -> Iterator[bytes]:
        """The bodies in order; may be read again for another try."""
        if self.file is None:
            yield from self.bodies
            return
        self.file.seek(0)
        for size in self.sizes:
            yield self.file.read(size)

    def parts(self) -> Iterator[ChangeSetPart]:
        """The parts as received, in order; may be read again."""
        last = len(self.sizes) - 1
        for number, body in enumerate(self.read()):
            header = self.header
            if last:
                header = msgspec.structs.replace(header, part=number, last=number == last, rows=self.part_rows[number])
            yield ChangeSetPart(header=header, body=body)

    def close(self) -> None:
        """Give back the credit and the file."""
        for grant, size in self.credits:
            grant(size)
        self.credits.clear()
        if self.file is not None:
            self.file.close()
            self.file = None


class Inbox:
    """Queues per origin, fed by one link or, with relay, by several: the first to bring a change set whole wins.
    ``put`` waits while an origin's queue is full, which stops the reading of its link.

    What takes something out does it at once, without waiting: the merge loop may be cancelled at any wait, and the room
    and the credit of a set must not be lost with it.
    """

    def __init__(self, *, queue_bytes_max: int, spool_bytes_max: int) -> None:
        self._queue_bytes_max = queue_bytes_max
        self._spool_bytes_max = spool_bytes_max
        self._queues: dict[int, deque[ReceivedSet]] = {}
        # Unfinished change sets by link (the peer's id) and origin.
        self._open: dict[tuple[int, int], ReceivedSet] = {}
        # The end of the newest change set queued of each origin, since the queue was last given up.
        self._newest: dict[int, int] = {}
        self._spooled_bytes = 0
        self._bytes: dict[int, int] = {}
        self._room = asyncio.Event()
        self._putting = 0
        self.closed: dict[int, tuple[int, int]] = {}
        self.arrived = asyncio.Event()

    def __len__(self) -> int:
        return sum(len(queue) for queue in self._queues.values())

    def heads(self) -> dict[int, deque[ReceivedSet]]:
        """The queues that hold something; :meth:`done` takes from the left."""
        return {origin: queue for origin, queue in self._queues.items() if queue}

    async def put(self, part: ChangeSetPart, grant: Grant, source: int | None = None) -> None:
        """Add a part that came on the link of the peer ``source``, by default its origin. ``grant`` gives its credit
        back once it is merged or dropped."""
        self._putting += 1
        try:
            await self._put(part, grant, source)
        finally:
            self._putting -= 1

    async def _put(self, part: ChangeSetPart, grant: Grant, source: int | None) -> None:
        origin = part.header.origin
        key = (origin if source is None else source, origin)
        # What is queued already must not wait for room that only the merge of something behind it would make.
        while not self._is_duplicate(part.header) and self._bytes.get(origin, 0) >= self._queue_bytes_max:
            self._room.clear()
            await self._room.wait()
        if self._is_duplicate(part.header):
            self._drop(key)
            grant(part_bytes(part))
            return
        received = self._open.get(key)
        if part.header.part == 0:
            self._drop(key)
            received = self._open[key] = ReceivedSet(part.header, part.header, self._spool_bytes_max)
        if received is None or received.first.from_hlc != part.header.from_hlc:
            raise ProtocolError(f"part {part.header.part} of a change set came without the parts before it")
        await self._spool_room(received, len(part.body))
        before = received.spooled_bytes
        try:
            received.add(part, grant)
        finally:
            self._spooled_bytes += received.spooled_bytes - before
        if part.header.last and self._is_duplicate(part.header):
            self._drop(key)  # another link was faster while this one waited for room in the spool
        elif part.header.last:
            del self._open[key]
            self._newest[origin] = part.header.to_hlc
            self._queues.setdefault(origin, deque()).append(received)
            self._bytes[origin] = self._bytes.get(origin, 0) + received.size_bytes - received.spooled_bytes
            self.arrived.set()

    def _is_duplicate(self, header: ChangeSetHeader) -> bool:
        return header.to_hlc <= self._newest.get(header.origin, 0)

    def _drop(self, key: tuple[int, int]) -> None:
        received = self._open.pop(key, None)
        if received is not None:
            self._close(received)

    async def _spool_room(self, received: ReceivedSet, size: int) -> None:
        """Wait until the files of all sets together leave room for a part. Sets that wait are merged meanwhile, unless
        they wait for this one: then the link is cut, which gives its room back, and the set is sent again."""
        if received.size_bytes + size <= SPOOL_MEMORY_BYTES:
            return
        try:
            async with asyncio.timeout(SPOOL_WAIT_S):
                while self._spooled_bytes - received.spooled_bytes + received.size_bytes + size > self._spool_bytes_max:
                    if self._spooled_bytes == received.spooled_bytes:
                        return  # it alone is too large, which is told where it is added
                    self._room.clear()
                    await self._room.wait()
        except TimeoutError:
            raise TransientError(
                f"the large change sets that wait fill spool_bytes_max ({self._spool_bytes_max})",
                mend="raise [limits] spool_bytes_max, or see in sidecar status what the merge waits for",
            ) from None

    def _close(self, received: ReceivedSet) -> None:
        self._spooled_bytes -= received.spooled_bytes
        received.close()
        self._room.set()

    def done(self, origin: int) -> None:
        """The oldest set of an origin was merged or is dropped."""
        received = self._queues[origin].popleft()
        self._bytes[origin] -= received.size_bytes - received.spooled_bytes
        self._close(received)

    def clear(self, origin: int) -> None:
        """Drop everything of an origin; it is sent again."""
        while self._queues.get(origin):
            self.done(origin)
        self.closed.pop(origin, None)
        self._newest.pop(origin, None)
        for key in [key for key in self._open if key[1] == origin]:
            self._drop(key)

    def is_receiving(self, origin: int) -> bool:
        """Whether a change set of an origin has come in part, or may be among those that a link could not bring in yet
        for want of room, which its heartbeats overtake."""
        return self._putting > 0 or any(key[1] == origin for key in self._open)

    def forget(self, source: int) -> None:
        """The link is gone: what is queued stays, an unfinished change set comes again."""
        for key in [key for key in self._open if key[0] == source]:
            self._drop(key)

    def close_interval(self, origin: int, from_hlc: int, hlc: int) -> None:
        """A heartbeat: nothing was committed at the origin in ``(from_hlc, hlc]``."""
        self.closed[origin] = (from_hlc, hlc)
        self.arrived.set()

    def close_relayed(self, origin: int, from_hlc: int, hlc: int, merged_hlc: int) -> None:
        """The same as told by another node, behind what that one has sent; ``merged_hlc`` is this node's clock for the
        origin. It is no sign of a gap: what is not here was queued and given up, and is sent again."""
        if from_hlc <= max(merged_hlc, self._newest.get(origin, 0)) and hlc > self.closed.get(origin, (0, 0))[1]:
            self.close_interval(origin, from_hlc, hlc)
