"""Child processes of the lab: own session, other account where needed, gone when this process is gone."""

from __future__ import annotations

import os
import pwd
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from sidecar.errors import ConfigurationError

LAUNCHER = Path(__file__).with_name("launch.py")
SERVER_ACCOUNTS = ("postgres", "nobody")  # initdb and postgres refuse root; the first account that exists runs them
LAST_LINES_BYTES = 16 * 1024  # how much of a log's end is read for a message


@dataclass(frozen=True, slots=True)
class Account:
    """A system account that child processes are run as."""

    name: str
    uid: int
    gid: int


@cache
def server_account() -> Account | None:
    """The account for server processes; ``None`` as an ordinary user, who runs them as themselves."""
    if os.geteuid() != 0:
        return None
    for name in SERVER_ACCOUNTS:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return Account(name, entry.pw_uid, entry.pw_gid)
    raise ConfigurationError(
        "PostgreSQL does not run as root and there is no account 'postgres' or 'nobody'",
        mend="run as an ordinary user, or create an account named postgres",
    )


def may_enter(folder: Path, account: Account | None) -> bool:
    """Whether the account may pass every folder down to ``folder``, and read it (mode bits; ACLs are not looked at)."""
    resolved = folder.resolve()
    if account is None:
        return os.access(resolved, os.R_OK | os.X_OK)
    return all(_mode_allows(part, account, 0o1) for part in (resolved, *resolved.parents)) and _mode_allows(
        resolved, account, 0o4
    )


def _mode_allows(path: Path, account: Account, bit: int) -> bool:
    try:
        status = path.stat()
    except OSError:
        return False
    if status.st_uid == account.uid:
        return bool(status.st_mode & bit << 6)
    if status.st_gid == account.gid:
        return bool(status.st_mode & bit << 3)
    return bool(status.st_mode & bit)


class _Spawner:
    """Starts children from one thread that lives as long as the process.

    Linux sends the parent-death signal when the *thread* that started the child ends (prctl(2)), so a child started
    from a worker of some pool would die with that worker.
    """

    def __init__(self) -> None:
        self._requests: queue.SimpleQueue[tuple[Callable[[], subprocess.Popen[bytes]], Future[subprocess.Popen[bytes]]]]
        self._requests = queue.SimpleQueue()
        threading.Thread(target=self._serve, name="lab-spawner", daemon=True).start()

    def _serve(self) -> None:
        while True:
            start, answer = self._requests.get()
            try:
                answer.set_result(start())
            except BaseException as error:  # noqa: BLE001  the caller gets it, whatever it is
                answer.set_exception(error)

    def run(self, start: Callable[[], subprocess.Popen[bytes]]) -> subprocess.Popen[bytes]:
        answer: Future[subprocess.Popen[bytes]] = Future()
        self._requests.put((start, answer))
        return answer.result()


@cache
def _spawner() -> _Spawner:
    return _Spawner()


def _launch_words(account: Account | None, death_signal: signal.Signals | None) -> list[str]:
    uid, gid = (account.uid, account.gid) if account else (-1, -1)
    words = (os.getpid(), int(death_signal or 0), uid, gid)
    return [sys.executable, "-I", "-S", str(LAUNCHER), *(str(word) for word in words)]


def spawn(
    argv: Sequence[str],
    *,
    log: Path,
    cwd: Path,
    env: Mapping[str, str],
    account: Account | None = None,
    death_signal: signal.Signals | None = None,
) -> subprocess.Popen[bytes]:
    """Start a program in its own session, its output appended to ``log``.

    ``death_signal`` is sent to it when this process ends, however it ends (Linux; elsewhere it outlives us).
    """
    command = [*_launch_words(account, death_signal), *argv]

    def start() -> subprocess.Popen[bytes]:
        with log.open("ab") as output:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=cwd,
                env=dict(env),
                start_new_session=True,
            )

    return _spawner().run(start)


def run_as(
    argv: Sequence[str], *, env: Mapping[str, str], account: Account | None, timeout_s: float
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end under the account; output and exit status are the caller's to judge."""
    return subprocess.run(
        [*_launch_words(account, None), *argv],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        cwd="/",
        env=dict(env),
        timeout=timeout_s,
        check=False,
    )


def last_lines(log: Path, count: int) -> list[str]:
    """The last non-empty lines of a log file; none when it does not exist."""
    try:
        with log.open("rb") as source:
            source.seek(max(0, log.stat().st_size - LAST_LINES_BYTES))
            text = source.read().decode("utf-8", "replace")
    except FileNotFoundError:
        return []
    return [line for line in text.splitlines() if line.strip()][-count:]


def children_of(pid: int) -> list[int]:
    """Process ids whose parent is ``pid`` (from /proc; empty where there is none)."""
    if not Path("/proc/self").exists():
        return []
    found = []
    # Not glob(): it looks at each path first, and raises for a process that ends just then.
    for name in filter(str.isdigit, os.listdir("/proc")):
        fields = _stat_fields(Path("/proc", name, "stat"))
        if fields and int(fields[1]) == pid:
            found.append(int(name))
    return found


def is_alive(pid: int) -> bool:
    """Whether the process exists and is more than a zombie."""
    if Path("/proc/self/stat").exists():
        fields = _stat_fields(Path(f"/proc/{pid}/stat"))
        return bool(fields) and fields[0] not in ("Z", "X")
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _stat_fields(path: Path) -> list[str]:
    """The fields after the program's name: state, parent, ... (proc(5)); empty when the process is gone."""
    try:
        return path.read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return []
