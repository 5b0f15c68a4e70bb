"""Dials one configured peer whenever it is not linked."""

from __future__ import annotations

import asyncio
import ssl

import structlog

from sidecar.errors import LinkRefusedError, SidecarError, TransientError
from sidecar.peers.connection import READ_BYTES, Connection
from sidecar.peers.handshake import Slot
from sidecar.peers.link import Link
from sidecar.peers.pacing import Backoff
from sidecar.peers.registry import LinkRegistry
from sidecar.peers.status import PeerPhase
from sidecar.peers.tls import handshake, refusal
from sidecar.peers.tls_files import TlsFiles
from sidecar.settings import PeerSettings, split_address

log = structlog.get_logger(__name__)

CONNECT_S = 5.0
"""A TCP connection that takes longer is given up; the longest round trip on earth needs a tenth of that."""


class Dialler:
    """One per configured peer."""

    def __init__(self, registry: LinkRegistry, peer: PeerSettings, slot: Slot, tls: TlsFiles | None) -> None:
        self._registry = registry
        self._peer = peer
        self._slot = slot
        self._tls = tls

    async def run(self) -> None:
        """Dial, serve the link, wait, again; until cancelled."""
        timing = self._registry.settings.timing
        backoff = Backoff(timing.reconnect_ms_max)
        loop = asyncio.get_running_loop()
        while True:
            await self._slot.until(lambda: self._slot.free and not self._slot.dismissed)
            begun_s = loop.time()
            error = await self._attempt()
            if error is None and loop.time() - begun_s > timing.link_silent_ms / 1000:
                backoff.reset()
            refused = isinstance(error, LinkRefusedError)
            delay_s = backoff.refused_s() if refused else backoff.delay_s()
            self._slot.state.retries = backoff.attempts
            await asyncio.sleep(max(delay_s, self._slot.shunned_until_s - loop.time()))

    async def _attempt(self) -> Exception | None:
        """Dial once and serve the link to its end. The reason when there was no link; None when there was one, be it
        from another connection."""
        slot = self._slot
        if slot.state.state is PeerPhase.DOWN:
            slot.state.state = PeerPhase.CONNECTING
        try:
            connection = await self._connect()
        except (TransientError, LinkRefusedError) as failure:
            return self._note(failure)
        if not slot.free:
            connection.abort()  # unsaid: the peer dialled meanwhile
            return None
        slot.holder = connection
        link = await self._registry.establish(connection, self._peer.name)
        if isinstance(link, Link):
            await self._registry.serve(link)
            return None
        return self._note(link)

    async def _connect(self) -> Connection:
        host, port = split_address(self._peer.address)
        with handshake() as tls:
            try:
                async with asyncio.timeout(CONNECT_S):
                    reader, writer = await asyncio.open_connection(
                        host,
                        port,
                        limit=READ_BYTES,
                        ssl=self._tls.contexts().client if self._tls else None,
                        server_hostname=self._peer.name if self._tls else None,
                    )
            except (TimeoutError, OSError) as error:
                failure = tls.failure or error
                if isinstance(failure, ssl.SSLError):
                    refused = refusal(failure, self._peer.name)
                    self._registry.refusals[refused.cause] += 1
                    raise refused from None
                if isinstance(error, TimeoutError):
                    raise self._unreachable(f"no answer within {CONNECT_S:.0f} s") from None
                raise self._unreachable(error.strerror or str(error)) from None
        frame_bytes_max = self._registry.settings.limits.frame_bytes_max
        return Connection(reader, writer, dialled=True, frame_bytes_max=frame_bytes_max)

    def _unreachable(self, reason: str) -> TransientError:
        return TransientError(
            f"cannot reach {self._peer.name} at {self._peer.address}: {reason}",
            mend="check that its sidecar runs and that the address in [[peers]] is right",
        )

    def _note(self, error: Exception) -> Exception | None:
        """Remember why a dial failed, and log it when it is news; None when the peer was linked meanwhile."""
        slot = self._slot
        if slot.link is not None:
            return None
        line = error.line() if isinstance(error, SidecarError) else str(error)
        slot.state.state = PeerPhase.REFUSED if isinstance(error, LinkRefusedError) else PeerPhase.DOWN
        slot.state.disowned = isinstance(error, LinkRefusedError) and error.peer_cause == "removed"
        if slot.state.last_error != line:
            slot.state.last_error = line
            log.warning("no_link", peer=slot.state.name, address=slot.state.address, reason=line)
        return error
