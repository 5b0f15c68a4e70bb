"""Free TCP ports of this machine."""

from __future__ import annotations

import random
import socket

from sidecar.errors import SidecarError

HOST = "127.0.0.1"
# Below the kernel's ephemeral range (32768 and up on Linux): a server that is down for a moment cannot lose its port to
# somebody's outgoing connection, and a client that dials a dead port cannot end up connected to itself.
PORT_RANGE = (20_000, 32_000)
PORT_ATTEMPTS = 20  # a free port can be taken between the look and the use; twenty times in a row it is something else


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on now, outside the ephemeral range."""
    for _ in range(PORT_ATTEMPTS):
        port = random.randrange(*PORT_RANGE)  # noqa: S311
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return port
    raise SidecarError(f"no free TCP port in {PORT_RANGE[0]}..{PORT_RANGE[1]}", mend="end some listening processes")
