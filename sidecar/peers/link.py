"""One established link: full duplex, whoever dialled it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sidecar.core.changes import ChangeSetPart
from sidecar.core.wire.messages import (
    SINCE,
    Ack,
    BarrierAnswer,
    BarrierRequest,
    Closed,
    Departure,
    Goodbye,
    Heartbeat,
    Hello,
    Members,
    Relay,
    Tables,
)
from sidecar.core.wire.roundtrip import RoundTrip
from sidecar.errors import ProtocolError, SidecarError, TransientError
from sidecar.peers.connection import Connection
from sidecar.peers.handler import PeerHandler
from sidecar.peers.status import PeerState

KEEPALIVES = 4
"""Checks for silence per ``link_silent_ms``, and heartbeats without news sent when the node has none to send: one late
timer does not cut a link."""

ASK_AFTER_S = 0.003
"""An answer is known by the millisecond of the question: no heartbeat that was sent before it has the same."""


class Link:
    """``hello`` is the peer's Hello, ``state`` its status record; ``ended`` is set when the link is gone.

    Received parts wait in a queue of their own, bounded by the credit granted to the peer, so acknowledgements and
    heartbeats are read however long the handler holds a part: two nodes with full queues never block each other.
    """

    def __init__(
        self,
        connection: Connection,
        handler: PeerHandler,
        state: PeerState,
        *,
        silent_ms: int,
        now_ms: Callable[[], int],
    ) -> None:
        hello = connection.session.peer
        assert hello is not None
        self.hello: Hello = hello
        self.peer_name: str = hello.node_name
        self.peer_id: int = hello.node_id
        self.dialled = connection.dialled
        self.state = state
        self.ended = asyncio.Event()
        self._connection = connection
        self._session = connection.session
        self._handler = handler
        self._silent_s = silent_ms / 1000
        self._now_ms = now_ms
        self._round_trip = RoundTrip()
        self._parts: asyncio.Queue[ChangeSetPart] = asyncio.Queue()
        self._parts_read = self._parts_delivered = 0
        # Intervals, and how many parts were read before them. One waits at a time; what comes meanwhile comes again.
        self._closed: tuple[int, Closed] | None = None
        self._sending = asyncio.Lock()
        self._credit = asyncio.Event()
        self._granted_bytes = 0
        self._clock: dict[int, int] = {}
        self._clock_is_news = False
        self._flush_due = False
        self._loop = asyncio.get_running_loop()
        self._answered = asyncio.Event()
        self._asked_ms = 0
        self._closing: asyncio.Future[str] = self._loop.create_future()
        connection.count_for(state)

    @property
    def is_open(self) -> bool:
        """Whether something may still be sent."""
        return self._session.established and not self._closing.done() and not self.ended.is_set()

    @property
    def farewell(self) -> str:
        """Why this side ended the link; empty while it is open."""
        return self._closing.result() if self._closing.done() else ""

    async def send_part(self, part: ChangeSetPart) -> None:
        """Send one part, in the order of the calls; waits for credit, and for the socket to take it.

        Raises :class:`TransientError` when the link is closed, :class:`ProtocolError` when the peer takes no frame of
        this size. Returning does not mean that the peer has it: that is what ``acknowledged`` tells.
        """
        async with self._sending:
            while self.is_open and not self._session.can_send(part):
                self._credit.clear()
                await self._credit.wait()
            self._check_open()
            self._connection.write(part)
            self.state.change_sets_out += part.header.last
            await self._connection.drain()
            self._check_open()

    def send_ack(self, clock: Mapping[int, int]) -> None:
        """Tell the peer this node's durable clock (whole, or the part that rose); only what rose is sent."""
        self._clock.update(clock)
        self._clock_is_news = True
        self._flush_soon()

    def grant(self, size: int) -> None:
        """Give back credit: ``part_bytes(part)`` of a part received on this link that is merged or dropped."""
        if not self.is_open:
            return
        if size < 0 or self._granted_bytes + size > self._session.held_bytes:
            raise ValueError(f"grant of {size} bytes, only {self._session.held_bytes - self._granted_bytes} are held")
        self._granted_bytes += size
        self._flush_soon()

    def send_heartbeat(self, hlc: int, from_hlc: int) -> None:
        """Tell the peer that this node committed nothing in ``(from_hlc, hlc]``; ``from_hlc`` is the journal's end."""
        if self.is_open:
            self._connection.write(self._round_trip.heartbeat(hlc, from_hlc, self._now_ms()))

    def ask_barrier(self, number: int) -> bool:
        """Ask what the peer has committed or merged by now; False when it speaks a version that does not know this, or
        the link is closed. ``number`` rises from request to request."""
        if not self.is_open or self._session.protocol < SINCE[BarrierRequest]:
            return False
        self._connection.write(BarrierRequest(number))
        return True

    def answer_barrier(self, number: int, clock: Mapping[int, int]) -> None:
        """Answer the peer's request ``number``."""
        if self.is_open:
            self._connection.write(BarrierAnswer(number=number, clock=dict(clock)))

    def ask_relay(self, names: Mapping[int, str], origins: Sequence[str] | None) -> None:
        """Tell the peer that change sets of other nodes are taken on this link; a peer that speaks a version without
        them sends its own only."""
        if self.is_open and self._session.protocol >= SINCE[Relay]:
            self._connection.write(Relay(names=dict(names), origins=None if origins is None else list(origins)))

    def send_closed(self, intervals: Mapping[int, tuple[int, int]]) -> None:
        """Tell the peer, which has asked for relay, in which intervals other nodes committed nothing."""
        if self.is_open:
            self._connection.write(Closed(dict(intervals)))

    async def answers(self) -> bool:
        """Wait until the peer has said something that it wrote after this call (True), or the link has ended."""
        self._answered.clear()
        self._asked_ms = self._now_ms() + 1
        await asyncio.sleep(ASK_AFTER_S)
        self.send_heartbeat(0, 0)
        waits = [asyncio.ensure_future(self._answered.wait()), asyncio.ensure_future(self.ended.wait())]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        return not self.ended.is_set()

    def send_members(self, departed: Sequence[Departure]) -> None:
        """Tell the peer which nodes are no longer members; one that speaks a version without it is not told."""
        if self.is_open and self._session.protocol >= SINCE[Members]:
            self._connection.write(Members(list(departed)))

    def send_tables(self, fingerprints: dict[str, str]) -> None:
        """Tell the peer what the tables are now; one that speaks a version without it learns it with the next link."""
        if self.is_open and self._session.protocol >= SINCE[Tables]:
            self._connection.write(Tables(fingerprints))

    def close(self, reason: str) -> None:
        """End the link with a farewell; ``ended`` is set when that is done."""
        if not self._closing.done():
            self._closing.set_result(reason)
            self._credit.set()

    async def run(self) -> Exception | None:
        """Serve the link until it ends; the error that ended it, None when one side closed it in order."""
        conversation = asyncio.create_task(self._converse())
        error: Exception | None = None
        reason = "the node stops"
        try:
            ends: set[asyncio.Future[Any]] = {conversation, self._closing}
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            error, reason = self._outcome(conversation)
        finally:
            conversation.cancel()
            self.close(reason)
            await asyncio.wait({conversation})
            self._connection.say_goodbye(reason)
            await self._connection.close()
        return error

    def _outcome(self, conversation: asyncio.Task[None]) -> tuple[Exception | None, str]:
        if not conversation.done():
            return None, self._closing.result()
        error = conversation.exception()
        if isinstance(error, SidecarError):
            return error, error.line()
        if isinstance(error, Exception):
            return error, "internal error"
        return None, "goodbye"

    async def _converse(self) -> None:
        try:
            async with asyncio.timeout(self._silent_s):
                await self._handler.connected(self, self.hello)
        except TimeoutError:
            raise TransientError("this node was too busy to take up the link") from None
        reading = asyncio.create_task(self._read())
        tasks = {reading, asyncio.create_task(self._deliver()), asyncio.create_task(self._watch())}
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
        for task in done:
            task.result()

    async def _read(self) -> None:
        """Until the peer says goodbye."""
        while True:
            message = await self._connection.read()
            self.state.last_seen_ms = self._now_ms()
            match message:
                case ChangeSetPart():
                    self._parts_read += 1
                    self._parts.put_nowait(message)
                case Ack():
                    self._credit.set()
                    self._handler.acknowledged(self, message.clock)
                case Heartbeat():
                    self._take_heartbeat(message)
                case BarrierRequest():
                    self._handler.barrier_requested(self, message.number)
                case BarrierAnswer():
                    self._handler.barrier_answered(self, message)
                case Relay():
                    self._handler.relay_asked(self, message)
                case Closed():
                    self._closed = self._closed or (self._parts_read, message)
                    self._tell_closed()
                case Members():
                    self._handler.members_told(self, message)
                case Tables():
                    self._handler.tables_told(self, message)
                case Goodbye():
                    self.state.last_error = f"{self.peer_name} closed the link: {message.reason}"
                    return
                case _:
                    raise ProtocolError(f"unexpected {type(message).__name__}")

    def _take_heartbeat(self, heartbeat: Heartbeat) -> None:
        self._round_trip.observe(heartbeat, self._now_ms())
        if heartbeat.echo_ms >= self._asked_ms > 0:
            self._answered.set()
        self.state.round_trip_ms = self._round_trip.round_trip_ms
        self.state.clock_offset_ms = self._round_trip.clock_offset_ms
        self._handler.heartbeat(self, heartbeat)

    async def _deliver(self) -> None:
        while True:
            part = await self._parts.get()
            self.state.change_sets_in += part.header.last
            await self._handler.receive(self, part)
            self._parts_delivered += 1
            self._tell_closed()

    def _tell_closed(self) -> None:
        """Intervals are told behind the parts that were read before them: they begin where those end."""
        if self._closed is not None and self._parts_delivered >= self._closed[0]:
            (_, closed), self._closed = self._closed, None
            self._handler.closed(self, closed)

    async def _watch(self) -> None:
        interval_s = self._silent_s / KEEPALIVES
        while True:
            await asyncio.sleep(interval_s)
            if self._connection.silent_s() > self._silent_s:
                raise TransientError(f"{self.peer_name} was silent for {self._connection.silent_s():.1f} s")
            if self._connection.quiet_s() >= interval_s:
                self.send_heartbeat(0, 0)

    def _flush_soon(self) -> None:
        """One Ack for everything granted and acknowledged within one turn of the event loop."""
        if not self._flush_due and self.is_open:
            self._flush_due = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_due = False
        if not self.is_open:
            return
        granted, self._granted_bytes = self._granted_bytes, 0
        if granted or self._clock_is_news:
            self._clock_is_news = False
            self._connection.write(Ack(clock=self._clock, credit_bytes=granted))

    def _check_open(self) -> None:
        if not self.is_open:
            raise TransientError(f"the link to {self.peer_name} is closed")
