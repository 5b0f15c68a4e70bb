"""All links of a node: listens, dials every configured peer, keeps exactly one link per peer."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

from sidecar.peers.dialler import Dialler
from sidecar.peers.handler import PeerHandler
from sidecar.peers.link import Link
from sidecar.peers.listener import Listener, open_port
from sidecar.peers.registry import LinkRegistry
from sidecar.peers.status import PeerState
from sidecar.peers.tls_files import LOOK_S, TlsFiles
from sidecar.settings import Settings


class PeerMesh:
    """``links``: the established links by peer name. ``states``: one record per peer, also for those that are down.

    ``now_ms`` is the wall clock in Unix milliseconds. Raises :class:`~sidecar.errors.ConfigurationError` for unusable
    TLS files.
    """

    def __init__(self, settings: Settings, handler: PeerHandler, *, now_ms: Callable[[], int]) -> None:
        self._settings = settings
        self._tls = TlsFiles(settings.tls, settings.node.name, now_ms=now_ms) if settings.tls is not None else None
        self._registry = LinkRegistry(settings, handler, now_ms=now_ms)
        self._socket: socket.socket | None = None
        self.links: dict[str, Link] = self._registry.links
        self.states: dict[str, PeerState] = self._registry.states

    @property
    def refusals(self) -> dict[str, int]:
        """Connections that did not become links, by cause."""
        return dict(self._registry.refusals)

    @property
    def certificate_ends_ms(self) -> int | None:
        """End of this node's certificate, Unix milliseconds; None without TLS."""
        return self._tls.ends_ms if self._tls is not None else None

    def problems(self) -> list[str]:
        """What somebody should mend about this node's certificate."""
        problem = self._tls.problem() if self._tls is not None else None
        return [] if problem is None else [problem]

    def dismiss(self, name: str, line: str) -> None:
        """Stop dialling the node of a name, which is no longer a member."""
        self._registry.dismiss(name, line)

    def listen(self) -> None:
        """Open the port; :meth:`run` does it when it was not done. Call it early to fail early.

        Raises :class:`~sidecar.errors.ConfigurationError` when the address cannot be used.
        """
        if self._socket is None:
            self._socket = open_port(self._settings.node.listen)

    async def run(self) -> None:
        """Listen and dial until cancelled; every link gets a farewell and ``disconnected`` before this returns."""
        self.listen()
        assert self._socket is not None
        try:
            async with asyncio.TaskGroup() as group:
                listener = Listener(self._registry, self._socket, self._tls)
                group.create_task(listener.run(group), name="peer port")
                if self._tls is not None:
                    group.create_task(_look_at(self._tls), name="certificate files")
                for peer in self._settings.peers:
                    slot = self._registry.slot(peer.name)
                    assert slot is not None
                    dialler = Dialler(self._registry, peer, slot, self._tls)
                    group.create_task(dialler.run(), name=f"dial {peer.name}")
        finally:
            self.close()

    def close(self) -> None:
        """Close the port of a mesh that does not run."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None


async def _look_at(files: TlsFiles) -> None:
    """Take up new files also while no connection is made."""
    while True:
        files.contexts()
        await asyncio.sleep(LOOK_S)
