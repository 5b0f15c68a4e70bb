"""The embedded server itself: starts, crashes, comes back, leaves nothing behind."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from sidecar.errors import ConfigurationError, SidecarError
from sidecar.lab.embedded import FAST_SETTINGS, EmbeddedPostgres, stop_leftover
from sidecar.lab.process import children_of, is_alive
from sidecar.lab.waiting import wait_until


@pytest.fixture
def server() -> Iterator[EmbeddedPostgres]:
    with EmbeddedPostgres(settings=FAST_SETTINGS) as running:
        yield running


def one(dsn: str, query: str) -> str:
    with psycopg.connect(dsn, autocommit=True) as connection:
        row = connection.execute(query).fetchone()
    assert row is not None
    return str(row[0])


def test_is_ready_for_logical_replication(server: EmbeddedPostgres) -> None:
    assert one(server.dsn(), "SHOW wal_level") == "logical"
    assert one(server.dsn(), "SHOW server_version").split()[0] == server.version
    assert one(server.dsn(), "SHOW fsync") == "off"
    assert server.run_psql("SELECT 1; SELECT 'zwei'") == "1\nzwei"


def test_fsync_is_on_unless_asked_otherwise() -> None:
    with EmbeddedPostgres() as server:
        assert one(server.dsn(), "SHOW fsync") == "on"


def test_a_crash_loses_no_committed_row_and_keeps_the_port(server: EmbeddedPostgres) -> None:
    dsn = server.create_database("kept")
    server.run_psql("CREATE TABLE t (n int); INSERT INTO t VALUES (7)", "kept")
    postmaster = server.pid
    assert postmaster is not None
    doomed = [postmaster, *children_of(postmaster)]
    server.kill()
    assert not any(is_alive(pid) for pid in doomed)
    server.start()
    assert one(dsn, "SELECT n FROM t") == "7"


def test_settings_changed_between_starts_take_effect(server: EmbeddedPostgres) -> None:
    server.settings["wal_level"] = "replica"
    server.restart()
    assert one(server.dsn(), "SHOW wal_level") == "replica"


def test_a_wrong_setting_is_one_line_with_the_log_and_the_mend() -> None:
    server = EmbeddedPostgres(settings={"shared_buffers": "lots"})
    with pytest.raises(SidecarError) as caught:
        server.start()
    assert "shared_buffers" in caught.value.line()
    assert str(server.log_path) in caught.value.mend
    server.close()


def test_a_taken_port_is_said() -> None:
    with socket.socket() as squatter:
        squatter.bind(("127.0.0.1", 0))
        squatter.listen()
        port = squatter.getsockname()[1]
        server = EmbeddedPostgres(port=port, settings=FAST_SETTINGS)
        with pytest.raises(SidecarError) as caught:
            server.start()
        assert f"another port than {port}" in caught.value.mend
        server.close()


def test_close_removes_everything_it_made(tmp_path: Path) -> None:
    with EmbeddedPostgres(tmp_path / "node", settings=FAST_SETTINGS) as server:
        data_dir, pid = server.data_dir, server.pid
        assert data_dir.exists()
        assert (tmp_path / "node" / "data").resolve() == data_dir
    assert not data_dir.exists()
    assert pid is not None
    assert not is_alive(pid)


def test_kept_files_can_be_started_again(tmp_path: Path) -> None:
    with EmbeddedPostgres(tmp_path / "node", settings=FAST_SETTINGS, keep=True) as server:
        server.run_psql("CREATE TABLE t AS SELECT 42 AS n")
    with EmbeddedPostgres(tmp_path / "node", settings=FAST_SETTINGS) as again:
        assert one(again.dsn(), "SELECT n FROM t") == "42"
    assert not again.data_dir.exists()
    assert again.data_dir.parent == tmp_path / "node" or not again.data_dir.parent.exists()


def orphaned_server(folder: Path) -> tuple[int, Path]:
    """Process id and data folder of a server whose owner was killed."""
    program = (
        "import sys; from pathlib import Path; from sidecar.lab.embedded import EmbeddedPostgres\n"
        "server = EmbeddedPostgres(Path(sys.argv[1]), settings={'fsync': 'off'}).start()\n"
        "print(server.pid, server.data_dir, flush=True); sys.stdin.read()"
    )
    owner = subprocess.Popen(
        [sys.executable, "-c", program, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert owner.stdout is not None
    pid, data_dir = owner.stdout.readline().split()
    assert is_alive(int(pid))
    owner.kill()
    owner.communicate()
    return int(pid), Path(data_dir)


async def test_the_server_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    pid, data_dir = orphaned_server(tmp_path)
    await wait_until(lambda: not is_alive(pid), 20, "the end of the orphaned server")
    EmbeddedPostgres().close()
    assert data_dir.parent == tmp_path or not data_dir.exists(), "the next server sweeps what dead owners left"


def test_leftovers_are_ended_by_their_pid_file_only(tmp_path: Path) -> None:
    with EmbeddedPostgres(tmp_path, settings=FAST_SETTINGS, detached=True) as server:
        pid = server.pid
        assert pid is not None
        assert stop_leftover(server.data_dir)
        assert not is_alive(pid)
    other = subprocess.Popen(["sleep", "60"])
    (tmp_path / "postmaster.pid").write_text(f"{other.pid}\n")
    assert stop_leftover(tmp_path) is False, "a process that does not work in the folder is not ours"
    assert other.poll() is None
    other.send_signal(signal.SIGKILL)
    other.wait()


def test_a_folder_without_programs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="holds no initdb"):
        EmbeddedPostgres(bin_dir=tmp_path)


def test_databases_are_fresh_and_apart(database: str, restricted_dsn: str) -> None:
    with psycopg.connect(database) as connection:
        connection.execute("CREATE TABLE t (n int)")
    assert one(restricted_dsn, "SELECT current_user || rolreplication FROM pg_roles WHERE rolname = current_user") == (
        "restrictedtrue"
    )
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        one(restricted_dsn, "SELECT count(*) FROM t")


def test_a_database_with_a_used_slot_can_be_dropped(server: EmbeddedPostgres) -> None:
    dsn = server.create_database("busy")
    one(dsn, "SELECT pg_create_logical_replication_slot('s', 'pgoutput')")
    stream = psycopg.connect(dsn + "?replication=database", autocommit=True)
    stream.pgconn.send_query(b"START_REPLICATION SLOT s LOGICAL 0/0 (proto_version '1', publication_names 'p')")
    assert stream.pgconn.get_result() is not None
    assert one(dsn, "SELECT active FROM pg_replication_slots") == "True"
    server.drop_database("busy")
    stream.pgconn.finish()
    assert one(server.dsn(), "SELECT count(*) FROM pg_database WHERE datname = 'busy'") == "0"
