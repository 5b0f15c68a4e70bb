"""The peer port: accepts connections, and keeps strangers from costing anything."""

from __future__ import annotations

import asyncio
import socket

import structlog

from sidecar.errors import ConfigurationError, LinkRefusedError, SidecarError, TransientError
from sidecar.peers.connection import READ_BYTES, Connection
from sidecar.peers.handshake import DuplicateLinkError
from sidecar.peers.link import Link
from sidecar.peers.pacing import LineLimit
from sidecar.peers.registry import HANDSHAKE_S, LinkRegistry
from sidecar.peers.status import PeerPhase
from sidecar.peers.tls import TlsContexts
from sidecar.settings import split_address

log = structlog.get_logger(__name__)

UNAUTHENTICATED_MAX = 16
"""Incoming connections in the handshake at once. A restarted mesh of three needs two; more is a flood."""

BACKLOG = 64
"""Connections the kernel holds while the event loop is busy: every peer of a full mesh at once."""

ACCEPT_RETRY_S = 1.0
"""Pause when the system has no file descriptor for another connection."""


def open_port(listen: str) -> socket.socket:
    """The listening socket; raises :class:`ConfigurationError` when the address cannot be used."""
    host, port = split_address(listen)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        port_socket = socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        reason = error.strerror or str(error)
        raise ConfigurationError(
            f"cannot listen on {listen} for peers: {reason.lower()}",
            mend="stop the process that uses the address, or change listen in [node]",
        ) from None
    port_socket.setblocking(False)
    return port_socket


class Listener:
    """Serves every connection to the port in a task of the group."""

    def __init__(self, registry: LinkRegistry, port_socket: socket.socket, tls: TlsContexts | None) -> None:
        self._registry = registry
        self._socket = port_socket
        self._tls = tls
        self._lines = LineLimit()
        self._unauthenticated = 0

    async def run(self, group: asyncio.TaskGroup) -> None:
        """Accept until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                connected, remote = await loop.sock_accept(self._socket)
            except OSError as error:
                log.warning("accept_failed", reason=str(error))
                await asyncio.sleep(ACCEPT_RETRY_S)
                continue
            address = f"{remote[0]}:{remote[1]}"
            if self._unauthenticated >= UNAUTHENTICATED_MAX:
                connected.close()
                self._warn(f"more than {UNAUTHENTICATED_MAX} connections in the handshake", address, None)
                continue
            self._unauthenticated += 1
            group.create_task(self._welcome(connected, address), name=f"incoming {address}")

    async def _welcome(self, connected: socket.socket, address: str) -> None:
        try:
            link = await self._establish(connected, address)
        finally:
            self._unauthenticated -= 1
        if link is not None:
            await self._registry.serve(link)

    async def _establish(self, connected: socket.socket, address: str) -> Link | None:
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(limit=READ_BYTES, loop=loop)
        protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
        try:
            transport, _ = await loop.connect_accepted_socket(
                lambda: protocol,
                connected,
                ssl=self._tls.server if self._tls else None,
                ssl_handshake_timeout=HANDSHAKE_S if self._tls else None,
            )
        except OSError as error:
            connected.close()
            self._warn(f"TLS handshake failed: {error.strerror or error}", address, None)
            return None
        writer = asyncio.StreamWriter(transport, protocol, reader, loop)
        connection = Connection(
            reader, writer, dialled=False, frame_bytes_max=self._registry.settings.limits.frame_bytes_max
        )
        link = await self._registry.establish(connection, None)
        if isinstance(link, Link):
            return link
        self._note(connection, link)
        return None

    def _note(self, connection: Connection, error: Exception) -> None:
        """Log a failed handshake that a stranger or a peer began."""
        if isinstance(error, DuplicateLinkError) or (isinstance(error, TransientError) and connection.heard_nothing):
            return  # nothing is wrong; or a port check, or a peer that found itself linked meanwhile
        hello = connection.session.peer
        name = hello.node_name if hello is not None else None
        line = error.line() if isinstance(error, SidecarError) else str(error)
        slot = self._registry.slot(name) if name is not None else None
        if slot is not None and slot.free and isinstance(error, LinkRefusedError):
            slot.state.last_error = line
            slot.state.state = PeerPhase.REFUSED
        self._warn(line, connection.address, name)

    def _warn(self, reason: str, address: str, name: str | None) -> None:
        if self._lines.passes(self._registry.now_ms()):
            log.warning(
                "incoming_closed",
                remote=address,
                peer=name,
                reason=reason,
                suppressed=self._lines.take_suppressed(),
            )
