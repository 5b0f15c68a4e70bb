"""A TCP proxy for one link: delay, jitter, bandwidth, cuts, damage. Runs in the event loop of whoever tests or shows.

A chunk first takes its time on the link (size / bandwidth, after the chunks before it, whatever connection they
belong to), then ``delay + jitter``; it never overtakes another chunk of its connection, as TCP does not either. With
:class:`~sidecar.lab.damage.ChunkFaults` the proxy is a broken box on the way, which both ends must notice.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import random
from collections import Counter, deque
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from sidecar.errors import SidecarError
from sidecar.lab.damage import NO_FAULTS, DamagedStream
from sidecar.lab.ports import HOST

CHUNK_BYTES = 64 * 1024  # as much as a socket usually hands over at once; also the grain of the bandwidth limit
IN_FLIGHT_BYTES_MAX = (
    4 * 1024 * 1024
)  # on a slow link: what a long fat pipe holds (100 Mbit/s x 300 ms); then stop reading


class Direction(enum.Enum):
    """Seen from whoever dials."""

    TO_TARGET = "to target"
    TO_CLIENT = "to client"


BOTH = (Direction.TO_TARGET, Direction.TO_CLIENT)


class _Gate:
    """Open or shut; waiting for it costs nothing while it is open."""

    def __init__(self) -> None:
        self._open = asyncio.Event()
        self._open.set()

    @property
    def is_open(self) -> bool:
        return self._open.is_set()

    def set(self, is_open: bool) -> None:
        if is_open:
            self._open.set()
        else:
            self._open.clear()

    async def wait(self) -> None:
        await self._open.wait()


@dataclass(slots=True)
class _Pipe:
    """One direction of one connection: chunks with their departure times (event loop seconds)."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    direction: Direction
    chunks: deque[tuple[float, bytes]] = field(default_factory=deque)
    bytes_waiting: int = 0
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)
    ended: bool = False


class LinkProxy:
    """Listens on ``port`` (0: chosen by the system) and forwards each connection to ``target``.

    ``delay_ms`` and ``jitter_ms`` (uniform, added) apply to each direction; ``bytes_per_s`` likewise, ``None`` is
    unlimited, and so do ``faults``. They may be set at any time and hold for what is read from then on. ``seed`` makes
    jitter and faults repeatable; ``damaged`` counts the faults that happened.
    """

    def __init__(
        self,
        target: tuple[str, int],
        *,
        port: int = 0,
        delay_ms: float = 0.0,
        jitter_ms: float = 0.0,
        bytes_per_s: float | None = None,
        seed: int = 0,
    ) -> None:
        self.target = target
        self.delay_ms = delay_ms
        self.jitter_ms = jitter_ms
        self.bytes_per_s = bytes_per_s
        self.faults = NO_FAULTS
        self.damaged: Counter[str] = Counter()
        self.bytes_forwarded = dict.fromkeys(BOTH, 0)
        self.connections_total = 0
        self._port = port
        self._random = random.Random(seed)  # noqa: S311
        self._link_free = dict.fromkeys(BOTH, 0.0)
        self._gates = {direction: _Gate() for direction in BOTH}
        self._refusing = False
        self._server: asyncio.Server | None = None
        self._connections: dict[asyncio.Task[None], list[asyncio.StreamWriter]] = {}

    async def start(self) -> None:
        """Listen. Raises :class:`SidecarError` when the port is taken."""
        try:
            self._server = await asyncio.start_server(self._serve, HOST, self._port)
        except OSError as error:
            raise SidecarError(f"the proxy cannot listen on {HOST}:{self._port}: {error.strerror}") from None
        self._port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Stop listening and drop all connections."""
        if self._server is not None:
            self._server.close()
            await self._drop()
            await self._server.wait_closed()
            self._server = None

    @property
    def port(self) -> int:
        return self._port

    @property
    def address(self) -> str:
        """``host:port`` to dial instead of the target."""
        return f"{HOST}:{self._port}"

    @property
    def connections(self) -> int:
        """Connections that are open now."""
        return len(self._connections)

    # -- faults ----------------------------------------------------------------------------------------------------

    async def cut(self) -> None:
        """Reset every connection and every new one, until :meth:`heal`."""
        self._refusing = True
        await self._drop()

    async def drop_connections(self) -> None:
        """Reset every connection; new ones are served."""
        await self._drop()

    def black_hole(self, *directions: Direction) -> None:
        """Stop forwarding without closing anything: in one direction (a one-way cut), or in both when none is named.
        Whoever hears nothing any more cuts the link by itself."""
        for direction in directions or BOTH:
            self._gates[direction].set(False)

    def heal(self) -> None:
        """End a cut, a black hole and faults; what waited in a black hole is delivered, as TCP would retransmit it."""
        self._refusing = False
        self.faults = NO_FAULTS
        for gate in self._gates.values():
            gate.set(True)

    @property
    def healthy(self) -> bool:
        whole = not self._refusing and self.faults == NO_FAULTS
        return whole and all(gate.is_open for gate in self._gates.values())

    # -- forwarding ------------------------------------------------------------------------------------------------

    async def _drop(self) -> None:
        tasks = list(self._connections)
        for task, writers in list(self._connections.items()):
            for writer in writers:
                writer.transport.abort()
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections[task] = [writer]
        self.connections_total += 1
        try:
            await self._forward(reader, writer, self._connections[task])
        except OSError:
            writer.transport.abort()  # either end is gone; the other is told so
        except asyncio.CancelledError:
            writer.transport.abort()  # by cut() or stop(): this task ends here and nobody awaits its result
        finally:
            del self._connections[task]

    async def _forward(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, writers: list[asyncio.StreamWriter]
    ) -> None:
        if self._refusing:
            writer.transport.abort()
            return
        await self._gates[Direction.TO_TARGET].wait()
        out_reader, out_writer = await asyncio.open_connection(*self.target)
        writers.append(out_writer)
        pipes = (
            _Pipe(reader, out_writer, Direction.TO_TARGET),
            _Pipe(out_reader, writer, Direction.TO_CLIENT),
        )
        try:
            async with asyncio.TaskGroup() as group:
                for pipe in pipes:
                    group.create_task(self._read(pipe))
                    group.create_task(self._write(pipe))
        except* OSError:
            pass
        finally:
            for one in writers:
                one.transport.abort() if self._refusing else one.close()

    async def _chunks(self, reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
        """What is to be forwarded."""
        stream = DamagedStream(self._random, self.damaged)
        while data := await reader.read(CHUNK_BYTES):
            for chunk in stream.take(data, self.faults):
                yield chunk
        for chunk in stream.end():
            yield chunk

    async def _read(self, pipe: _Pipe) -> None:
        loop = asyncio.get_running_loop()
        departure = 0.0
        async for data in self._chunks(pipe.reader):
            sent = max(loop.time(), self._link_free[pipe.direction])
            if self.bytes_per_s is not None:
                sent += len(data) / self.bytes_per_s
                self._link_free[pipe.direction] = sent
            departure = max(departure, sent + (self.delay_ms + self._random.uniform(0, self.jitter_ms)) / 1000)
            async with pipe.changed:
                pipe.chunks.append((departure, data))
                pipe.bytes_waiting += len(data)
                pipe.changed.notify_all()
                await pipe.changed.wait_for(lambda: pipe.bytes_waiting < IN_FLIGHT_BYTES_MAX)
        async with pipe.changed:
            pipe.ended = True
            pipe.changed.notify_all()

    async def _write(self, pipe: _Pipe) -> None:
        loop = asyncio.get_running_loop()
        while True:
            async with pipe.changed:
                await pipe.changed.wait_for(lambda: bool(pipe.chunks) or pipe.ended)
                if not pipe.chunks:
                    break
                departure, data = pipe.chunks.popleft()
            if (wait_s := departure - loop.time()) > 0:
                await asyncio.sleep(wait_s)
            await self._gates[pipe.direction].wait()
            pipe.writer.write(data)
            await pipe.writer.drain()
            self.bytes_forwarded[pipe.direction] += len(data)
            async with pipe.changed:
                pipe.bytes_waiting -= len(data)
                pipe.changed.notify_all()
        await self._gates[pipe.direction].wait()
        with contextlib.suppress(OSError):
            pipe.writer.write_eof()
