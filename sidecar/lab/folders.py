"""The lab's folders: a cache that outlives the process, and temporary folders that do not.

Both lie below ``/var/tmp``, because the server's account must be able to enter them (``/tmp/pytest-of-root`` or a
home folder are closed to it). Temporary folders may be moved to memory with ``SIDECAR_LAB_DATA``; the cache may not,
as it can hold programs, and memory file systems are often mounted ``noexec``.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from sidecar.errors import ConfigurationError

ENVIRONMENT_CACHE = "SIDECAR_LAB_CACHE"
ENVIRONMENT_DATA = "SIDECAR_LAB_DATA"
MEMORY_FILE_SYSTEM = Path("/dev/shm")  # noqa: S108  the folder made in it is checked
MEMORY_ROOM_BYTES = 4 * 1024**3  # three servers with a large transaction in their WAL, and room to spare
OWNER_LOCK = "owner.lock"


def cache_folder() -> Path:
    """Where templates and copies of programs are kept between runs."""
    named = os.environ.get(ENVIRONMENT_CACHE)
    return _own_folder(Path(named) if named else Path("/var/tmp") / f"pg-active-sidecar-{os.geteuid()}")  # noqa: S108


def data_folder() -> Path:
    """Where temporary folders are made."""
    named = os.environ.get(ENVIRONMENT_DATA)
    return _own_folder(Path(named)) if named else cache_folder()


def memory_folder() -> Path | None:
    """A folder in memory to name in ``SIDECAR_LAB_DATA``; ``None`` where memory is short.

    A server starts and a database is created ten times faster there, which is what most tests consist of.
    """
    try:
        file_system = os.statvfs(MEMORY_FILE_SYSTEM)
        memory = Path("/proc/meminfo").read_text()
    except OSError:
        return None
    available_kib = next((int(line.split()[1]) for line in memory.splitlines() if line.startswith("MemAvailable")), 0)
    if file_system.f_bavail * file_system.f_frsize < MEMORY_ROOM_BYTES or available_kib * 1024 < 2 * MEMORY_ROOM_BYTES:
        return None
    return MEMORY_FILE_SYSTEM / f"pg-active-sidecar-{os.geteuid()}"


def _own_folder(folder: Path) -> Path:
    """Make it if need be; it must belong to this user and not be writable by others."""
    if not folder.exists():
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o755)  # whatever the umask is: the server's account must pass
    status = folder.lstat()
    if status.st_uid != os.geteuid() or status.st_mode & 0o022:
        raise ConfigurationError(
            f"folder {folder} belongs to somebody else or is writable by others",
            mend=f"remove it, or name others with {ENVIRONMENT_CACHE} and {ENVIRONMENT_DATA}",
        )
    return folder


@contextmanager
def cache_lock(name: str) -> Iterator[None]:
    """One process at a time builds a cache entry; the lock ends with the process, however it ends."""
    with (cache_folder() / f"{name}.lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


class TemporaryFolder:
    """A folder that goes with :meth:`remove`, or, when its process dies first, with the next folder that is made.

    The process holds a lock on a file in it; a folder whose lock is free has lost its owner. ``keep`` takes no lock,
    so the folder stays.
    """

    def __init__(self, prefix: str, before_removal: Callable[[Path], object], *, keep: bool = False) -> None:
        self._before_removal = before_removal
        self._lock: IO[str] | None = None
        with cache_lock("temporary"):
            for lock_path in data_folder().glob(f"{prefix}*/{OWNER_LOCK}"):
                self._remove_if_orphaned(lock_path)
            self.path = Path(tempfile.mkdtemp(prefix=prefix, dir=data_folder()))
            self.path.chmod(0o755)
            if not keep:
                self._lock = (self.path / OWNER_LOCK).open("w")
                fcntl.flock(self._lock, fcntl.LOCK_EX)

    def _remove_if_orphaned(self, lock_path: Path) -> None:
        with lock_path.open("w") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return
            self._before_removal(lock_path.parent)
            shutil.rmtree(lock_path.parent, ignore_errors=True)

    def remove(self) -> None:
        """Remove it with all that is in it."""
        shutil.rmtree(self.path, ignore_errors=True)
        if self._lock is not None:
            self._lock.close()
            self._lock = None
