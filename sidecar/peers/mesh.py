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
from sidecar.peers.tls import load_contexts
from sidecar.settings import Settings


class PeerMesh:
    """``links``: the established links by peer name. ``states``: one record per peer, also for those that are down.

    ``now_ms`` is the wall clock in Unix milliseconds. Raises :class:`~sidecar.errors.ConfigurationError` for unusable
    TLS files.
    """

    def __init__(self, settings: Settings, handler: PeerHandler, *, now_ms: Callable[[], int]) -> None:
        self._settings = settings
        self._tls = load_contexts(settings.tls)
        self._registry = LinkRegistry(settings, handler, now_ms=now_ms)
        self._socket: socket.socket | None = None
        self.links: dict[str, Link] = self._registry.links
        self.states: dict[str, PeerState] = self._registry.states

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
