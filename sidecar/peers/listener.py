"""The peer port: accepts connections, and keeps strangers from costing anything."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
from collections import Counter

import structlog

from sidecar.errors import ConfigurationError, LinkRefusedError, SidecarError, TransientError
from sidecar.peers.connection import READ_BYTES, Connection
from sidecar.peers.handshake import DuplicateLinkError
from sidecar.peers.link import Link
from sidecar.peers.pacing import LineLimit
from sidecar.peers.registry import HANDSHAKE_S, LinkRegistry
from sidecar.peers.status import PeerPhase
from sidecar.peers.tls import handshake, refusal
from sidecar.peers.tls_files import TlsFiles
from sidecar.settings import split_address

log = structlog.get_logger(__name__)

UNAUTHENTICATED_MAX = 32
"""Incoming connections in the handshake at once. Each may cost a TLS handshake and what a Hello may (1 MiB); half of
the most peers by default, who come back within a second when they were not let in."""

UNAUTHENTICATED_PER_HOST_MAX = 8
"""Of these from one host: several nodes may share an address, and one host alone cannot keep the others out."""

HOST_BITS_IPV6 = 64
"""Of an IPv6 address, what is one host: whoever has one address there has its whole network."""

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


class Door:
    """Counts the connections in the handshake, by host."""

    def __init__(self) -> None:
        self._inside: Counter[str] = Counter()

    def enter(self, address: str) -> str | None:
        """Let a connection in, or say why not."""
        host = _host(address)
        if self._inside.total() >= UNAUTHENTICATED_MAX:
            return f"more than {UNAUTHENTICATED_MAX} connections in the handshake"
        if self._inside[host] >= UNAUTHENTICATED_PER_HOST_MAX:
            return f"more than {UNAUTHENTICATED_PER_HOST_MAX} connections of one host in the handshake"
        self._inside[host] += 1
        return None

    def leave(self, address: str) -> None:
        """It is linked, or gone."""
        host = _host(address)
        self._inside[host] -= 1
        if not self._inside[host]:
            del self._inside[host]


def _host(address: str) -> str:
    try:
        number = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if number.version == 4:
        return address
    if number.ipv4_mapped is not None:
        return str(number.ipv4_mapped)
    return str(ipaddress.ip_network((number, HOST_BITS_IPV6), strict=False))


class Listener:
    """Serves every connection to the port in a task of the group."""

    def __init__(self, registry: LinkRegistry, port_socket: socket.socket, tls: TlsFiles | None) -> None:
        self._registry = registry
        self._socket = port_socket
        self._tls = tls
        self._lines = LineLimit()
        self._door = Door()

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
            full = self._door.enter(remote[0])
            if full is not None:
                connected.close()
                self._registry.refusals["flood"] += 1
                self._warn(full, address, None)
                continue
            group.create_task(self._welcome(connected, remote[0], address), name=f"incoming {address}")

    async def _welcome(self, connected: socket.socket, host: str, address: str) -> None:
        try:
            link = await self._establish(connected, address)
        except Exception as error:  # nothing that a stranger sends may end the node
            connected.close()
            log.error("incoming_failed", remote=address, exc_info=error)  # noqa: TRY400
            return
        finally:
            self._door.leave(host)
        if link is not None:
            await self._registry.serve(link)

    async def _establish(self, connected: socket.socket, address: str) -> Link | None:
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(limit=READ_BYTES, loop=loop)
        protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
        begun_s = loop.time()
        with handshake() as tls:
            try:
                transport, _ = await loop.connect_accepted_socket(
                    lambda: protocol,
                    connected,
                    ssl=self._tls.contexts().server if self._tls else None,
                    ssl_handshake_timeout=HANDSHAKE_S if self._tls else None,
                )
            except OSError as error:
                connected.close()
                self._note_tls(tls.failure or error, address)
                return None
        writer = asyncio.StreamWriter(transport, protocol, reader, loop)
        connection = Connection(
            reader, writer, dialled=False, frame_bytes_max=self._registry.settings.limits.frame_bytes_max
        )
        link = await self._registry.establish(connection, None, begun_s=begun_s)
        if isinstance(link, Link):
            return link
        self._note(connection, link)
        return None

    def _note_tls(self, error: OSError, address: str) -> None:
        """Count and log a failed TLS handshake; whoever connects and goes without a word is a port check."""
        if isinstance(error, ssl.SSLError):
            refused = refusal(error, "the other end")
            self._registry.refusals[refused.cause] += 1
            self._warn(refused.line(), address, None)
        elif isinstance(error, ConnectionAbortedError):
            self._registry.refusals["timeout"] += 1
            self._warn(f"no TLS handshake within {HANDSHAKE_S:.0f} s", address, None)
        elif not isinstance(error, ConnectionResetError):
            self._warn(f"TLS handshake failed: {error.strerror or error}", address, None)

    def _note(self, connection: Connection, error: Exception) -> None:
        """Log a failed handshake that a stranger or a peer began."""
        if isinstance(error, DuplicateLinkError) or (isinstance(error, TransientError) and connection.heard_nothing):
            return  # nothing is wrong; or a port check, or a peer that found itself linked meanwhile
        hello = connection.session.peer
        name = hello.node_name if hello is not None else self._certified(connection)
        line = error.line() if isinstance(error, SidecarError) else str(error)
        slot = self._registry.slot(name) if name is not None else None
        if slot is not None and slot.free and isinstance(error, LinkRefusedError):
            slot.state.last_error = line
            slot.state.state = PeerPhase.REFUSED
        self._warn(line, connection.address, name)

    def _certified(self, connection: Connection) -> str | None:
        """The peer that a certificate names, when nothing else was said."""
        return next((n for n in connection.certificate_names if self._registry.slot(n) is not None), None)

    def _warn(self, reason: str, address: str, name: str | None) -> None:
        if self._lines.passes(self._registry.now_ms()):
            log.warning(
                "incoming_closed",
                remote=address,
                peer=name,
                reason=reason,
                suppressed=self._lines.take_suppressed(),
            )
