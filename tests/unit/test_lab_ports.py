"""A port is given once: to one process, one time."""

from __future__ import annotations

import random
import socket
import subprocess
import sys

import pytest

from sidecar.errors import SidecarError
from sidecar.lab import ports
from sidecar.lab.ports import HOST, PORT_RANGE, free_port

OTHER_PROCESS = "from sidecar.lab.ports import free_port; print(*(free_port() for _ in range(40)), flush=True); input()"


def test_a_port_is_given_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "PORT_RANGE", (PORT_RANGE[0], PORT_RANGE[0] + 1000))
    given = [free_port() for _ in range(100)]
    assert len(set(given)) == 100


def test_two_processes_share_none(monkeypatch: pytest.MonkeyPatch) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", OTHER_PROCESS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdin is not None
        assert other.stdout is not None
        theirs = [int(port) for port in other.stdout.readline().split()]
        assert len(set(theirs)) == 40
        for port in theirs:
            monkeypatch.setattr(ports, "PORT_RANGE", (port, port + 1))
            with pytest.raises(SidecarError, match="no free TCP port"):
                free_port()
        other.stdin.write("\n")
        other.stdin.flush()
        other.wait()
        free = ports._reserve(theirs[0])
        assert free, "a reservation ends with its process"


def test_a_port_in_use_is_not_given(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        listener.listen()
        port = listener.getsockname()[1]
        monkeypatch.setattr(ports, "PORT_RANGE", (port, port + 1))
        with pytest.raises(SidecarError, match="no free TCP port"):
            free_port()


def test_the_seed_of_a_test_decides_no_port() -> None:
    drawn = []
    for _ in range(2):
        random.seed(7)
        drawn.append([free_port() for _ in range(4)])
    assert drawn[0] != drawn[1]
