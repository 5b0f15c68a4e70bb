"""One socket and its protocol session: the small adapter between asyncio streams and the sans-IO state machine."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator

from sidecar.core.wire.messages import Goodbye, Message, one_line
from sidecar.core.wire.session import Session, Side
from sidecar.errors import TransientError
from sidecar.peers.status import PeerState
from sidecar.peers.tls import certificate_names, told

READ_BYTES = 256 * 1024
"""Bytes taken from the socket at once: a few dozen reads for the largest usual part."""

WRITE_BUFFER_BYTES = 1024 * 1024
"""Unsent bytes above which a sender waits. Small, so that acknowledgements do not queue behind many parts."""

CLOSE_S = 1.0
"""How long a closing connection may flush its farewell before it is cut."""


class Connection:
    """``dialled``: this node opened it. Remembers when it last heard and said something (event loop time, seconds)."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, dialled: bool, frame_bytes_max: int
    ) -> None:
        self.writer = writer
        self.dialled = dialled
        self.session = Session(frame_bytes_max)
        self.address = _address(writer)
        self.certificate_names = certificate_names(writer)
        self._state = PeerState(name=self.address)
        self._reader = reader
        self._messages: Iterator[Message] = iter(())
        self._loop = asyncio.get_running_loop()
        self.heard_s = self.said_s = self._loop.time()
        transport_socket = writer.get_extra_info("socket")
        if transport_socket is not None:
            transport_socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        writer.transport.set_write_buffer_limits(high=WRITE_BUFFER_BYTES)

    def count_for(self, state: PeerState) -> None:
        """Bytes of this connection, also those before now, belong to this peer."""
        state.bytes_in += self._state.bytes_in
        state.bytes_out += self._state.bytes_out
        self._state = state

    @property
    def heard_nothing(self) -> bool:
        """Whether not a single byte came."""
        return self._state.bytes_in == 0

    async def read(self) -> Message:
        """The next message. Raises :class:`~sidecar.errors.ProtocolError`; :class:`TransientError` at the end."""
        while True:
            for message in self._messages:
                return message
            try:
                data = await self._reader.read(READ_BYTES)
            except OSError as error:
                # With TLS 1.3 the dialler is through with its handshake before the listener looks at its certificate.
                refused = told(error, "the peer")
                if refused is not None:
                    raise refused from None
                raise TransientError(f"connection to {self.address} lost: {error}") from None
            if not data:
                self.session.receive_end()
                raise TransientError(f"{self.address} closed the connection")
            self._state.bytes_in += len(data)
            self.heard_s = self._loop.time()
            self._messages = self.session.receive(data)

    def write(self, message: Message) -> None:
        """Hand a message to the socket without waiting; raises :class:`~sidecar.errors.ProtocolError` out of order."""
        data = self.session.send(message)
        self._state.bytes_out += len(data)
        self.said_s = self._loop.time()
        self.writer.write(data)

    async def drain(self) -> None:
        """Wait until fewer than WRITE_BUFFER_BYTES are unsent; raises :class:`TransientError` when the link is lost."""
        try:
            await self.writer.drain()
        except OSError as error:
            raise TransientError(f"connection to {self.address} lost: {error}") from None

    def silent_s(self) -> float:
        """Seconds since the peer was last heard."""
        return self._loop.time() - self.heard_s

    def quiet_s(self) -> float:
        """Seconds since something was last sent."""
        return self._loop.time() - self.said_s

    def say_goodbye(self, reason: str) -> None:
        """Send the farewell if the protocol allows one now."""
        if self.session.ours in (Side.GREETED, Side.OPEN) and not self.writer.is_closing():
            self.write(Goodbye(one_line(reason)))

    async def close(self) -> None:
        """Flush and close, within CLOSE_S; then cut."""
        self.writer.close()
        try:
            async with asyncio.timeout(CLOSE_S):
                await self.writer.wait_closed()
        except (OSError, TimeoutError):
            self.writer.transport.abort()

    def abort(self) -> None:
        """Cut at once."""
        self.writer.transport.abort()


def _address(writer: asyncio.StreamWriter) -> str:
    name = writer.get_extra_info("peername")
    return f"{name[0]}:{name[1]}" if isinstance(name, tuple) and len(name) >= 2 else "unknown address"
