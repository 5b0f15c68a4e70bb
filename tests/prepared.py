"""Processes of the command line that do not import it anew: forked from one that has imported it and done nothing else.

A ``sidecar`` spends most of its first second of processor time on imports, and the tests start hundreds of them. Each
is a process of its own all the same: with its own session, environment, folder and output; killed, stopped and waited
for as any other. That the commands start as users start them is shown by ``tests/cluster/test_bad_input.py`` (every
command), ``test_demo.py`` and ``tests/database/test_run.py``, which do not use this.
"""

from __future__ import annotations

import asyncio
import ctypes
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from multiprocessing.connection import wait as wait_for_any
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import BinaryIO

from sidecar.errors import SidecarError
from sidecar.lab.cluster import LabCluster, LabNode
from sidecar.lab.launch import EXIT_CANNOT_EXECUTE, PR_SET_PDEATHSIG

_PRELOADED = [
    "tests.prepared",
    "uvloop",
    "sidecar.app",
    *(f"sidecar.cli.{name}" for name in ("annotate", "check", "conflicts", "init", "join", "leave", "main")),
    *(f"sidecar.cli.{name}" for name in ("remove", "run", "status")),
]
_forks = multiprocessing.get_context("forkserver")
_forks.set_forkserver_preload(_PRELOADED)


class Prepared:
    """A running command; what the lab and the tests use of :class:`subprocess.Popen`, with the same meaning."""

    def __init__(self, process: ForkServerProcess) -> None:
        self._process = process
        self._looking = threading.Lock()  # two threads that look at once would share out the bytes of the status
        assert process.pid is not None
        self.pid = process.pid

    @property
    def returncode(self) -> int | None:
        return self.poll()

    def poll(self) -> int | None:
        with self._looking:
            return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        wait_for_any([self._process.sentinel], timeout)
        status = self.poll()
        if status is None:
            raise subprocess.TimeoutExpired(self._process.name, timeout or 0.0)
        return status

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def start(
    arguments: Sequence[str], *, cwd: Path, env: Mapping[str, str], output: Path, errors: Path | None = None
) -> Prepared:
    """``sidecar <arguments>``; what it prints is appended to ``output``, its standard error perhaps to ``errors``."""
    process = _forks.Process(
        target=_become,
        args=(list(arguments), str(cwd), dict(env), str(output), str(errors or output)),
        name=f"sidecar {' '.join(arguments)}",
        daemon=True,  # so that it ends with the tests
    )
    process.start()
    return Prepared(process)


def run(
    arguments: Sequence[str], *, cwd: Path, env: Mapping[str, str], timeout_s: float
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, as ``subprocess.run`` does with captured text."""
    with tempfile.TemporaryDirectory() as folder:
        output, errors = Path(folder) / "stdout", Path(folder) / "stderr"
        process = start(arguments, cwd=cwd, env=env, output=output, errors=errors)
        try:
            status = process.wait(timeout_s)
        finally:
            process.kill()
        return subprocess.CompletedProcess(list(arguments), status, output.read_text(), errors.read_text())


def _become(arguments: list[str], cwd: str, env: dict[str, str], output: str, errors: str) -> None:
    """In the child: be what ``python -m sidecar.cli.main`` is."""
    parent = os.getppid()
    os.setsid()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        sys.exit(EXIT_CANNOT_EXECUTE)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    sys.stdout = _redirected(1, output, "strict")
    sys.stderr = _redirected(2, errors, "backslashreplace")
    sys.argv = ["sidecar", *arguments]
    from sidecar.cli.main import main

    sys.exit(main())


def _redirected(number: int, path: str, unencodable: str) -> BinaryIO:
    """The standard stream with this number, appended to a file line by line."""
    target = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(target, number)
    os.close(target)
    return open(number, "w", buffering=1, encoding="utf-8", errors=unencodable, closefd=False)  # type: ignore[return-value]


class PreparedCluster(LabCluster):
    """A cluster whose sidecars are prepared processes."""

    def _spawn_sidecar(self, node: LabNode) -> subprocess.Popen[bytes]:
        return start(  # type: ignore[return-value]
            ["run", "-c", str(node.config_path)], cwd=node.folder, env=self._env, output=node.log_path
        )

    async def _init(self, node: LabNode) -> None:
        done = await self.command(node, "init")
        if done.returncode != 0:
            raise SidecarError(f"{node.name}: sidecar init failed: {done.stdout}{done.stderr}")

    async def command(self, node: LabNode, *words: str, timeout_s: float = 150.0) -> subprocess.CompletedProcess[str]:
        """Run a command with the node's configuration to its end."""
        arguments = [*words, "-c", str(node.config_path)]
        return await asyncio.to_thread(run, arguments, cwd=Path.cwd(), env=self._env, timeout_s=timeout_s)
