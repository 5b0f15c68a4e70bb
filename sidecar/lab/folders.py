"""The lab's folders: a cache that outlives the process, and temporary folders that do not.

Both lie below ``/var/tmp``, because the server's account must be able to enter them (``/tmp/pytest-of-root`` or a
home folder are closed to it).
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
OWNER_LOCK = "owner.lock"


def cache_folder() -> Path:
    """Where templates and copies are kept between runs: one folder per user, not writable by others."""
    named = os.environ.get(ENVIRONMENT_CACHE)
    folder = Path(named) if named else Path("/var/tmp") / f"pg-active-sidecar-{os.geteuid()}"  # noqa: S108  checked below
    if not folder.exists():
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o755)  # whatever the umask is: the server's account must pass
    status = folder.lstat()
    if status.st_uid != os.geteuid() or status.st_mode & 0o022:
        raise ConfigurationError(
            f"cache folder {folder} belongs to somebody else or is writable by others",
            mend=f"remove it, or name another with {ENVIRONMENT_CACHE}",
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
            for lock_path in cache_folder().glob(f"{prefix}*/{OWNER_LOCK}"):
                self._remove_if_orphaned(lock_path)
            self.path = Path(tempfile.mkdtemp(prefix=prefix, dir=cache_folder()))
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
