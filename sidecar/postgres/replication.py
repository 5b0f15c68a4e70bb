"""The replication stream: one walsender connection in COPY BOTH mode, read through psycopg's ``pq`` layer.

Everything happens in the event loop's thread: libpq is called from plain functions that never wait, so no call can
meet another one halfway. Nothing is read unless the consumer asks; feedback is written by a task of its own, so a
consumer that is busy for long neither loses the connection nor buffers without bound (the socket fills, the walsender
waits).

Source: https://www.postgresql.org/docs/current/protocol-replication.html
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Any, Self

import psycopg
from psycopg import pq

from sidecar.core.pgoutput import (
    INVALID_LSN,
    XLOG_DATA,
    XLOG_HEADER_BYTES,
    Keepalive,
    decode_stream,
    record_end,
    status_update,
)
from sidecar.errors import SidecarError, TransientError
from sidecar.postgres.walsender import (
    by_tcp,
    open_connection,
    result_error,
    start_replication,
    stream_error,
    wal_sender_timeout_ms,
)

BATCH_MESSAGES_MAX = 3_000
"""Messages of one batch: some 1,000 single-row transactions, which take the consumer about 10 ms to decode; other
tasks of the event loop wait for that long."""

BATCH_BYTES_MAX = 4 * 1024 * 1024
"""Bytes of one batch (one message more at most). Half of ``batch_bytes_max``, so a batch never fills two parts."""

READ_FULL_BYTES = 4 * 1024
"""libpq reads into a buffer of at least 8 KiB. A read that brought less than this found the socket empty, and asking
again would be a wasted system call."""

PAUSE_S = 0.002
"""Pause before a read under load. The walsender writes each message by itself, and a reader that wakes for each pays
5 microseconds of system calls where a batch pays one, and slows the walsender by a third. Two milliseconds collect
hundreds of messages at such rates and still fit into any socket buffer."""

BACKLOG_PAUSE_S = 0.02
"""The pause while a backlog is read, which ends sooner the fewer pauses it has. As long as the reader sleeps, nothing
is acknowledged; so TCP soon puts hundreds of messages into one segment, where it sends one for each message to a reader
who is awake, and the walsender needs half of the processor. What comes in 20 ms, about a megabyte, fits into the
sending socket's buffer. A Unix-domain socket has no segments and holds a few hundred messages: it is not read so."""

PAUSE_RATE_PER_S = 6_000.0
"""Messages per second from which a reader pauses: below it, waking for every message costs less than 3 % of a core,
and a quiet stream is answered at once."""

PAUSE_BATCH_MESSAGES = 200
"""A batch below this counts as nearly empty: the consumer is faster than the walsender."""

RATE_WINDOW_S = 0.02
"""The rate is measured over this long: ten pauses, so that a burst is seen soon and forgotten soon."""

PING_INTERVAL_S = 0.001
"""Distance of the pings of a waiter whose position the walsender has not reached yet."""


class ReplicationStream:
    """An open stream. Make it with :meth:`connect`, consume :meth:`batches` in one task.

    ``server_lsn``: highest WAL position seen in the messages handed out so far. Once the consumer is done with them,
    every transaction that committed at or before it has passed: a walsender decodes in commit order, so a message from
    position X comes after all transactions that committed before X; and a keepalive carries the walsender's
    ``sentPtr``, the end of the last WAL record it decoded, whose output, if any, it has written before the keepalive.
    It moves on an idle system, too: a walsender that has caught up sends a keepalive when it is ahead of what was
    reported to it.
    """

    def __init__(
        self,
        connection: psycopg.AsyncConnection[Any],
        *,
        start_lsn: int,
        status_interval_s: float,
        batch_messages_max: int,
        batch_bytes_max: int,
    ) -> None:
        self.server_lsn = start_lsn
        self.confirmed_lsn = start_lsn
        self._connection = connection
        self._pgconn = connection.pgconn
        self._fd = connection.pgconn.socket
        self._by_tcp = by_tcp(self._fd)
        self._status_interval_s = status_interval_s
        self._batch_messages_max = batch_messages_max
        self._batch_bytes_max = batch_bytes_max
        self._loop = asyncio.get_running_loop()
        self._feedback: asyncio.Task[None] | None = None
        self._readable: asyncio.Future[None] | None = None
        self._resting: asyncio.Future[None] | None = None
        self._writer_waits = False
        self._more = False
        self._news = False
        self._pings_open = 0
        self._closed = False
        self._failure: SidecarError | None = None
        self._last_batch_messages = 0
        self._window_start = self._loop.time()
        self._window_messages = 0
        self._rate_per_s = 0.0

    @classmethod
    async def connect(
        cls,
        dsn: str,
        *,
        slot: str,
        publication: str = "crdt",
        start_lsn: int = INVALID_LSN,
        status_interval_ms: int = 10_000,
        batch_messages_max: int = BATCH_MESSAGES_MAX,
        batch_bytes_max: int = BATCH_BYTES_MAX,
    ) -> Self:
        """Connect and start streaming from ``start_lsn`` (or the slot's confirmed position, if that is later).

        :class:`ConfigurationError` for authentication and privileges, :class:`FatalError` when the slot is missing or
        lost, :class:`TransientError` when the server is away or another process uses the slot.
        """
        connection = await open_connection(dsn)
        try:
            timeout_ms = await wal_sender_timeout_ms(connection.pgconn)
            interval_ms = min(status_interval_ms, timeout_ms // 3) if timeout_ms else status_interval_ms
            await start_replication(connection.pgconn, slot, publication, start_lsn)
        except BaseException:
            await connection.close()
            raise
        stream = cls(
            connection,
            start_lsn=start_lsn,
            status_interval_s=interval_ms / 1000,
            batch_messages_max=batch_messages_max,
            batch_bytes_max=batch_bytes_max,
        )
        stream._feedback = asyncio.create_task(stream._feedback_loop(), name="replication feedback")
        return stream

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def batches(self) -> AsyncIterator[list[bytes]]:
        """:meth:`read` for ever."""
        while True:
            yield await self.read()

    async def read(self, *, backlog: bool = False) -> list[bytes]:
        """Raw XLogData messages (payload from ``XLOG_HEADER_BYTES`` on), all that are there, up to the bounds.

        ``backlog``: the consumer is far behind, so that speed counts and not delay. An empty list says that
        ``server_lsn`` moved or a ping was answered. Waits while there is nothing; may be cancelled without losing
        anything. Raises what :meth:`connect` raises.
        """
        backlog = backlog and self._by_tcp
        nearly_empty = backlog or self._last_batch_messages < PAUSE_BATCH_MESSAGES
        if not self._more and nearly_empty and self._rate() > PAUSE_RATE_PER_S:
            await asyncio.sleep(BACKLOG_PAUSE_S if backlog else PAUSE_S)
        while True:
            self._check()
            batch = self._take_available()
            self._last_batch_messages = len(batch)
            self._window_messages += len(batch)
            if batch or self._news:
                self._news = False
                return batch
            await self._wait_readable()

    @property
    def busy(self) -> bool:
        """Whether so much comes that reading it is the bottleneck."""
        return self._more or self._last_batch_messages >= PAUSE_BATCH_MESSAGES or self._rate() > PAUSE_RATE_PER_S

    async def rest(self, seconds: float) -> None:
        """Leave what comes to the socket for so long. Ends when a :meth:`ping` asks for the position; returns at once
        while one is open, or while the stream is :attr:`busy`."""
        if self.busy or self._pings_open:
            return
        self._resting = self._loop.create_future()
        timer = self._loop.call_later(seconds, self._end_rest)
        try:
            await self._resting
        finally:
            timer.cancel()
            self._resting = None

    def confirm(self, lsn: int) -> None:
        """Everything up to ``lsn`` is durably captured; the next feedback tells the server, which then drops its WAL.

        On a system whose published tables are idle, confirm ``server_lsn`` once all messages are dealt with.
        """
        if lsn > self.confirmed_lsn:
            self.confirmed_lsn = lsn

    async def report(self) -> None:
        """Send the confirmed position now instead of with the next interval."""
        self._check()
        self._send_status(reply_requested=False)

    async def ping(self, until_lsn: int = INVALID_LSN) -> None:
        """Ask the walsender where it is; the answer ends a waiting :meth:`read` (a fraction of a millisecond later).

        With ``until_lsn``, e.g. ``pg_current_wal_insert_lsn()``, asks again every millisecond until ``server_lsn`` has
        reached it, and returns then. Whether it can be reached is up to the caller: somebody must read, and WAL that is
        not flushed is not decoded.
        """
        self._check()
        until_lsn = record_end(until_lsn)
        self._pings_open += 1
        self._end_rest()
        self._send_status(reply_requested=True)
        while self.server_lsn < until_lsn:
            await asyncio.sleep(PING_INTERVAL_S)
            self._check()
            if self.server_lsn < until_lsn and not self._pings_open:
                self._pings_open += 1
                self._send_status(reply_requested=True)

    async def aclose(self) -> None:
        """Report the confirmed position, end the stream and the connection. May be called twice."""
        if self._closed:
            return
        self._closed = True
        if self._feedback is not None:
            self._feedback.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._feedback
        with contextlib.suppress(psycopg.Error, SidecarError):
            self._send_status(reply_requested=False)
            self._pgconn.put_copy_end(None)
            self._pgconn.flush()
        self._loop.remove_reader(self._fd)
        self._loop.remove_writer(self._fd)
        self._wake()
        await self._connection.close()

    # Reading ----------------------------------------------------------------------------------------------------------

    def _take_available(self) -> list[bytes]:
        """What libpq holds and the socket has, up to the bounds; never waits."""
        batch: list[bytes] = []
        append = batch.append
        get = self._pgconn.get_copy_data
        room = self._batch_messages_max
        size = 0
        highest = self.server_lsn
        self._more = False
        try:
            while True:
                self._pgconn.consume_input()
                before = size
                while True:
                    length, view = get(1)
                    if length <= 0:
                        break
                    raw = bytes(view)
                    size += length
                    if raw[0] == XLOG_DATA and length >= XLOG_HEADER_BYTES:
                        append(raw)
                        room -= 1
                        if room <= 0 or size >= self._batch_bytes_max:
                            self._more = True
                            break
                    else:
                        highest = self._keepalive(raw, highest)
                if length < 0:
                    self._ended(batch)
                    break
                if self._more or size - before < READ_FULL_BYTES:
                    break
        except psycopg.Error as error:
            self._fail(stream_error(error), batch)
        # A commit carries its end, a begin its transaction's first record, which may be below the commit before it.
        for raw in batch[-3:]:
            highest = max(highest, int.from_bytes(raw[1:9], "big"))
        self.server_lsn = highest
        return batch

    def _keepalive(self, raw: bytes, highest: int) -> int:
        message = decode_stream(raw)
        if not isinstance(message, Keepalive):
            return highest
        self._pings_open = 0
        self._news = True
        if message.reply_requested:
            # What arrived up to here counts as written; the server asks again and again while it is ahead of that.
            self.server_lsn = max(highest, message.end_lsn)
            self._send_status(reply_requested=False)
        return max(highest, message.end_lsn)

    def _ended(self, batch: list[bytes]) -> None:
        """The server ended the stream: with an error, or because it shuts down."""
        result = self._pgconn.get_result()
        if result is not None and result.status == pq.ExecStatus.FATAL_ERROR:
            self._fail(result_error(result, self._pgconn), batch)
        else:
            self._fail(TransientError("the server ended the replication stream", mend="it is opened again"), batch)

    def _fail(self, error: SidecarError, batch: list[bytes]) -> None:
        """Raise now, or after the messages that came before the error."""
        self._failure = error
        if not batch:
            raise error

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure
        if self._closed:
            raise TransientError("the replication stream is closed")

    async def _wait_readable(self) -> None:
        loop = self._loop
        self._readable = loop.create_future()
        loop.add_reader(self._fd, self._wake)
        try:
            await self._readable
        finally:
            loop.remove_reader(self._fd)
            self._readable = None

    def _wake(self) -> None:
        self._end_rest()
        if self._readable is not None and not self._readable.done():
            self._readable.set_result(None)

    def _end_rest(self) -> None:
        if self._resting is not None and not self._resting.done():
            self._resting.set_result(None)

    def _rate(self) -> float:
        """Messages per second, over the last window."""
        now = self._loop.time()
        elapsed = now - self._window_start
        if elapsed >= RATE_WINDOW_S:
            self._rate_per_s = self._window_messages / elapsed
            self._window_start = now
            self._window_messages = 0
        return self._rate_per_s

    # Feedback ---------------------------------------------------------------------------------------------------------

    async def _feedback_loop(self) -> None:
        while self._failure is None:
            self._send_status(reply_requested=False)
            await asyncio.sleep(self._status_interval_s)

    def _send_status(self, *, reply_requested: bool) -> None:
        """Put one standby status update on its way; what the socket does not take now follows when it can."""
        status = status_update(
            written_lsn=max(self.server_lsn, self.confirmed_lsn),
            flushed_lsn=self.confirmed_lsn,
            applied_lsn=self.confirmed_lsn,
            unix_us=time.time_ns() // 1000,
            reply_requested=reply_requested,
        )
        try:
            self._pgconn.put_copy_data(status)
            self._flush()
        except psycopg.Error as error:
            self._failure = stream_error(error)
            self._wake()

    def _flush(self) -> None:
        unsent = self._pgconn.flush() == 1
        if unsent and not self._writer_waits:
            self._loop.add_writer(self._fd, self._flush_later)
        elif self._writer_waits and not unsent:
            self._loop.remove_writer(self._fd)
        self._writer_waits = unsent

    def _flush_later(self) -> None:
        try:
            self._flush()
        except psycopg.Error as error:
            self._loop.remove_writer(self._fd)
            self._writer_waits = False
            self._failure = stream_error(error)
            self._wake()
