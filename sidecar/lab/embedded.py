"""Throwaway PostgreSQL servers for the demo, the tests and the benchmarks.

A server is a data folder copied from a cached ``initdb`` result, and a ``postgres`` process that is a direct child of
this one. Authentication is ``trust`` on 127.0.0.1 and a Unix socket: never use it for data that matters.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

import psycopg
from psycopg import pq, sql

from sidecar.errors import SidecarError
from sidecar.lab.binaries import Binaries, find_binaries, readable_by
from sidecar.lab.folders import TemporaryFolder, cache_folder, cache_lock
from sidecar.lab.ports import HOST, PORT_ATTEMPTS, free_port
from sidecar.lab.process import children_of, is_alive, last_lines, may_enter, run_as, server_account, spawn

SUPERUSER = "postgres"
INITDB_TIMEOUT_S = 120.0  # two seconds on an idle machine; a loaded one with cold disks takes much longer
START_DEADLINE_S = 60.0  # crash recovery of a benchmark's WAL can take a while; a plain start takes 0.1 s
STOP_DEADLINE_S = 20.0  # a fast stop waits for walsenders, and a stuck reader would hold it for ever
POLL_S = 0.01
LOG_LINES = 5  # quoted in the message of a failed start
SOCKET_PATH_BYTES_MAX = 100  # sun_path holds 108 bytes (unix(7)), with room for the lock file's suffix
INITDB_OPTIONS = ("--encoding=UTF8", "--locale=C", "--auth=trust", "--no-sync", "--no-instructions")
SETTINGS_FILE = "lab.conf"

DEFAULT_SETTINGS: dict[str, str] = {
    "wal_level": "logical",
    "max_wal_senders": "20",
    "max_replication_slots": "20",
    "max_connections": "200",
    "track_commit_timestamp": "off",
    "listen_addresses": HOST,
    "unix_socket_permissions": "0700",
    "shared_buffers": "128MB",
    "log_line_prefix": "%m [%p] %d ",
    "logging_collector": "off",
}
FAST_SETTINGS: dict[str, str] = {
    # A killed process loses nothing without fsync, only a killed machine does; so tests of crash safety may use these.
    "fsync": "off",
    "full_page_writes": "off",
    # Their data may lie in memory; and what a killed server shared goes with its data folder.
    "dynamic_shared_memory_type": "mmap",
    "min_wal_size": "32MB",
    "max_wal_size": "256MB",
}


def stop_leftover(data_dir: Path) -> bool:
    """End a server that an earlier run left on this data folder; whether there was one.

    Goes by the folder's pid file alone, and only if that process works in the folder: a pid may have changed hands.
    """
    try:
        pid = int((data_dir / "postmaster.pid").read_text().split("\n", 1)[0])
        if not (Path(f"/proc/{pid}/cwd").readlink() == data_dir.resolve() and is_alive(pid)):
            return False
    except (OSError, ValueError):
        return False
    _kill_tree(pid)
    return True


def _kill_tree(pid: int) -> None:
    """SIGKILL to a postmaster and its children (each is a session of its own), and wait until they are gone."""
    try:
        os.kill(pid, signal.SIGSTOP)  # so that it starts no further child while the others are looked up
        doomed = [pid, *children_of(pid)]
    except ProcessLookupError:
        return
    for member in doomed:
        try:
            os.kill(member, signal.SIGKILL)
        except ProcessLookupError:
            continue
    deadline = time.monotonic() + STOP_DEADLINE_S
    while any(is_alive(member) for member in doomed):
        if time.monotonic() > deadline:
            raise SidecarError(f"processes {doomed} do not end", mend="look at them with ps")
        time.sleep(POLL_S)


class EmbeddedPostgres:
    """One PostgreSQL server.

    ``folder`` keeps data and log (a temporary one when ``None``); where the server's account may not enter it, the data
    lie in a temporary folder and ``folder/data`` points there. ``settings`` are server settings on top of
    ``DEFAULT_SETTINGS``, read at each start. ``keep``: :meth:`close` leaves the files. ``detached``: the server goes on
    when this process ends; otherwise it gets an immediate shutdown.
    """

    def __init__(
        self,
        folder: Path | None = None,
        *,
        port: int | None = None,
        bin_dir: Path | None = None,
        settings: Mapping[str, str] | None = None,
        keep: bool = False,
        detached: bool = False,
    ) -> None:
        self.account = server_account()
        self.binaries: Binaries = readable_by(find_binaries(bin_dir), self.account)
        self.settings: dict[str, str] = {**DEFAULT_SETTINGS, **(settings or {})}
        self.keep = keep
        self.detached = detached
        self._port_given = port is not None
        self.port = port if port is not None else free_port()
        self._owned: list[TemporaryFolder] = []
        self._process: subprocess.Popen[bytes] | None = None
        if folder is None:
            folder = self._temporary_folder()
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder.absolute()
        self.log_path = self.folder / "server.log"
        self.data_dir = self._place_data()
        self.socket_dir = self._place_socket()

    # -- folders ---------------------------------------------------------------------------------------------------

    def _temporary_folder(self) -> Path:
        made = TemporaryFolder("pg-", lambda path: stop_leftover(path / "data"), keep=self.keep)
        self._owned.append(made)
        return made.path

    def _place_data(self) -> Path:
        link = self.folder / "data"
        if link.exists() or may_enter(self.folder, self.account):
            return link.resolve()
        if link.is_symlink():
            link.unlink()
        data_dir = self._temporary_folder() / "data"
        link.symlink_to(data_dir)
        return data_dir

    def _place_socket(self) -> Path:
        if len(os.fsencode(self.data_dir)) <= SOCKET_PATH_BYTES_MAX - len("/.s.PGSQL.65535"):
            return self.data_dir
        path = self._temporary_folder()
        self._give(path)
        return path

    def _give(self, path: Path) -> None:
        if self.account:
            os.chown(path, self.account.uid, self.account.gid)

    def _environment(self) -> dict[str, str]:
        """The caller's environment without what steers libpq or the server (PGHOST, PGDATA, ...)."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
        return {**kept, "LC_ALL": "C", "TZ": "UTC"}

    def _template(self) -> Path:
        """The cached result of initdb for this version and account."""
        owner = self.account.name if self.account else "self"
        name = f"template-{self.binaries.version}-{self.binaries.identity}-{owner}"
        target = cache_folder() / name
        with cache_lock(name):
            if not target.exists():
                work = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=cache_folder()))
                self._give(work)
                self._initdb(work)
                with (work / "postgresql.conf").open("a") as conf:
                    conf.write(f"\ninclude_if_exists = '{SETTINGS_FILE}'\n")
                work.rename(target)
        return target

    def _initdb(self, data_dir: Path) -> None:
        argv = [self.binaries.program("initdb"), f"--pgdata={data_dir}", f"--username={SUPERUSER}", *INITDB_OPTIONS]
        done = run_as(argv, env=self._environment(), account=self.account, timeout_s=INITDB_TIMEOUT_S)
        if done.returncode != 0:
            shutil.rmtree(data_dir, ignore_errors=True)
            reason = " ".join((done.stderr or done.stdout).split())
            raise SidecarError(f"initdb failed: {reason}", mend=f"try {argv[0]} by hand")

    def _create_data(self) -> None:
        reflink = ["--reflink=auto"] if sys.platform == "linux" else []
        done = subprocess.run(
            ["cp", "-a", *reflink, str(self._template()), str(self.data_dir)],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise SidecarError(f"cannot copy a data folder to {self.data_dir}: {done.stderr.strip()}")

    def _write_settings(self) -> None:
        values = {**self.settings, "port": str(self.port), "unix_socket_directories": str(self.socket_dir)}
        lines = [f"{name} = '{value.replace(chr(39), chr(39) * 2)}'\n" for name, value in values.items()]
        path = self.data_dir / SETTINGS_FILE
        path.write_text("".join(lines))
        self._give(path)

    # -- life ------------------------------------------------------------------------------------------------------

    @property
    def version(self) -> str:
        """The server's version, ``18.1``."""
        return self.binaries.version

    @property
    def major(self) -> int:
        return self.binaries.major

    @property
    def pid(self) -> int | None:
        """The postmaster's process id; ``None`` when it does not run."""
        return self._process.pid if self.running and self._process else None

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self, deadline_s: float = START_DEADLINE_S) -> EmbeddedPostgres:
        """Start and wait until connections are accepted; a failed start raises with the log's last lines."""
        if self.running:
            return self
        if not self.data_dir.exists():
            self._create_data()
        stop_leftover(self.data_dir)
        for attempt in range(PORT_ATTEMPTS):
            self._write_settings()
            log_start = self.log_path.stat().st_size if self.log_path.exists() else 0
            self._process = spawn(
                [self.binaries.program("postgres"), "-D", str(self.data_dir)],
                log=self.log_path,
                cwd=self.data_dir,
                env=self._environment(),
                account=self.account,
                death_signal=None if self.detached else signal.SIGQUIT,
            )
            if self._wait_ready(self._process, deadline_s):
                self._port_given = True  # from now on others know it
                return self
            with self.log_path.open(errors="replace") as log:
                log.seek(log_start)
                in_use = "Address already in use" in log.read()
            if not in_use or self._port_given or attempt == PORT_ATTEMPTS - 1:
                break
            self.port = free_port()
        lines = " | ".join(last_lines(self.log_path, LOG_LINES))
        mend = f"choose another port than {self.port}" if in_use else f"read {self.log_path}"
        raise SidecarError(f"PostgreSQL {self.version} did not start: {lines}", mend=mend)

    def _wait_ready(self, process: subprocess.Popen[bytes], deadline_s: float) -> bool:
        """Whether it accepts connections; ``False`` when it ended. Raises when neither happens in time."""
        conninfo = self._conninfo()
        deadline = time.monotonic() + deadline_s
        while process.poll() is None:
            if pq.PGconn.ping(conninfo) == pq.Ping.OK and self._is_ours(process.pid):
                return True
            if time.monotonic() > deadline:
                self.kill()
                lines = " | ".join(last_lines(self.log_path, LOG_LINES))
                raise SidecarError(
                    f"PostgreSQL {self.version} accepts no connections after {deadline_s:g} s: {lines}",
                    mend=f"read {self.log_path}",
                )
            time.sleep(POLL_S)
        return False

    def _is_ours(self, pid: int) -> bool:
        """Guards against answers from a foreign server on the same port."""
        try:
            return int((self.data_dir / "postmaster.pid").read_text().split("\n", 1)[0]) == pid
        except (OSError, ValueError):
            return False

    def stop(self, mode: str = "fast") -> None:
        """Shut down: ``smart`` (wait for clients), ``fast`` or ``immediate`` (as after a crash). No-op when down.

        After ``STOP_DEADLINE_S`` it is done immediately; https://www.postgresql.org/docs/current/server-shutdown.html.
        """
        signals = {"smart": signal.SIGTERM, "fast": signal.SIGINT, "immediate": signal.SIGQUIT}
        if self._process is None:
            return
        for step in (signals[mode], signal.SIGQUIT):
            if not self.running:
                break
            self._process.send_signal(step)
            try:
                self._process.wait(STOP_DEADLINE_S)
            except subprocess.TimeoutExpired:
                continue
        self.kill()

    def kill(self) -> None:
        """A crash: SIGKILL to the server and all its children. No-op when down."""
        if self._process is not None:
            if self._process.poll() is None:
                _kill_tree(self._process.pid)
            self._process.wait()
            self._process = None

    def restart(self, mode: str = "fast") -> None:
        """Stop and start on the same port; settings are read anew."""
        self.stop(mode)
        self.start()

    def close(self) -> None:
        """Stop, and remove the files unless they are to be kept."""
        self.stop("fast" if self.keep else "immediate")
        if self.keep:
            return
        shutil.rmtree(self.data_dir, ignore_errors=True)
        link = self.folder / "data"
        for made in self._owned:
            made.remove()
        if link.is_symlink():
            link.unlink()
            if self.data_dir.parent.exists() and self.data_dir.parent != self.folder:
                self.data_dir.parent.rmdir()  # made and kept by an earlier server on this folder

    def __enter__(self) -> EmbeddedPostgres:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- use -------------------------------------------------------------------------------------------------------

    def dsn(self, dbname: str = "postgres", user: str = SUPERUSER) -> str:
        """A connection URI over TCP."""
        return f"postgresql://{user}@{HOST}:{self.port}/{dbname}"

    def _conninfo(self) -> bytes:
        return f"host={HOST} port={self.port} dbname=postgres user={SUPERUSER} connect_timeout=2".encode()

    def create_database(self, name: str, template: str | None = None) -> str:
        """Create a database and return its DSN; nobody may be connected to the template."""
        statement = sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name))
        if template is not None:
            # Copies files instead of logging every page: half the work, where checkpoints cost as little as in the lab.
            statement += sql.SQL(" TEMPLATE {} STRATEGY file_copy").format(sql.Identifier(template))
        with psycopg.connect(self.dsn(), autocommit=True) as connection:
            connection.execute(statement)
        return self.dsn(name)

    def drop_database(self, name: str) -> None:
        """Drop a database whatever is connected to it; its replication slots go with it."""
        drop_database(self.dsn(), name)

    def run_psql(self, script: str, dbname: str = "postgres", user: str = SUPERUSER) -> str:
        """Run SQL (also several statements) with psql; its unaligned output. The first error stops and raises."""
        options = ["--no-psqlrc", "--quiet", "--no-align", "--tuples-only", "--set=ON_ERROR_STOP=1", "--file=-"]
        done = subprocess.run(
            [self.binaries.program("psql"), *options, self.dsn(dbname, user)],
            input=script,
            capture_output=True,
            text=True,
            env=self._environment(),
            check=False,
        )
        if done.returncode != 0:
            raise SidecarError(f"psql failed: {' '.join(done.stderr.split())}")
        return done.stdout.rstrip("\n")


def drop_database(admin_dsn: str, name: str, deadline_s: float = STOP_DEADLINE_S) -> None:
    """Drop a database. DROP ... WITH (FORCE) refuses while a walsender uses one of its slots, so those end first."""
    deadline = time.monotonic() + deadline_s
    statement = sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name))
    with psycopg.connect(admin_dsn, autocommit=True) as connection:
        while True:
            connection.execute(
                "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE database = %s AND active",
                [name],
            )
            try:
                connection.execute(statement)
            except psycopg.errors.ObjectInUse:
                if time.monotonic() > deadline:
                    raise
                time.sleep(POLL_S)
            else:
                return
