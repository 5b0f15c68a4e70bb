"""Free TCP ports of this machine."""

from __future__ import annotations

import errno
import fcntl
import random
import socket
from typing import IO

from sidecar.errors import SidecarError
from sidecar.lab.folders import cache_folder

HOST = "127.0.0.1"
# Below the kernel's ephemeral range (32768 and up on Linux): a server that is down for a moment cannot lose its port to
# somebody's outgoing connection, and a client that dials a dead port cannot end up connected to itself.
PORT_RANGE = (20_000, 32_000)
PORT_ATTEMPTS = 20  # draws that may hit a used port: with a tenth of the range in use, all of them do once in 10^20
RESERVATIONS = "ports.lock"

_random = random.SystemRandom()  # tests seed the shared one, each process with the same number
_reserved: set[int] = set()
_reservations: list[IO[bytes]] = []


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on now, outside the ephemeral range.

    No process of this user is given it as well, nor this one a second time, as long as this process lives: between the
    look and the use there may be seconds, and a server that was killed wants its port back.
    """
    for _ in range(PORT_ATTEMPTS):
        port = _random.randrange(*PORT_RANGE)
        if _reserve(port) and _nobody_listens(port):
            return port
    raise SidecarError(f"no free TCP port in {PORT_RANGE[0]}..{PORT_RANGE[1]}", mend="end some listening processes")


def _reserve(port: int) -> bool:
    """Lock the port's byte of a file; the lock ends with the process, however it ends (fcntl(2))."""
    if port in _reserved:
        return False
    if not _reservations:
        _reservations.append((cache_folder() / RESERVATIONS).open("ab"))
    try:
        fcntl.lockf(_reservations[0], fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EAGAIN):
            raise
        return False
    _reserved.add(port)
    return True


def _nobody_listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True
