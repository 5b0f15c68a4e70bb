"""The commands against a real server: what they print, what they change, and their exit statuses."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest
import structlog

from sidecar.cli.logs import LogFormat, LogLevel, configure
from sidecar.cli.main import main
from sidecar.cli.run import until_stopped
from sidecar.core.status import CaptureStatus, MergeStatus, NodeStatus, PeerStatus, StatusSnapshot, TableStatus
from sidecar.errors import FatalError, TransientError
from sidecar.http.server import StatusServer
from sidecar.lab.ports import free_port
from sidecar.settings import Settings

SCHEMA = """
CREATE TABLE posts (id uuid PRIMARY KEY, title text, likes bigint NOT NULL DEFAULT 0);
COMMENT ON TABLE posts IS '@crdt';
COMMENT ON COLUMN posts.likes IS 'Number of likes. @crdt(pn_counter)';
"""

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("SIDECAR_") and "TEST" not in name]:
        monkeypatch.delenv(name)
    # Wide enough that no cell of a table is folded.
    monkeypatch.setenv("COLUMNS", "250")


@pytest.fixture
def config(tmp_path: Path, database: str) -> Path:
    """A node's file for the test's database, without HTTP."""
    return write_config(tmp_path / "node.toml", database)


def write_config(path: Path, dsn: str, more: str = "", node_id: int | None = None) -> Path:
    # Slot names are unique in the server, which tests share: each database gets a node id of its own.
    number = node_id or int(dsn.rpartition("_")[2]) % 1000 + 1
    path.write_text(f'[node]\nname = "us-east"\nid = {number}\ndsn = "{dsn}"\n{more}')
    return path


@pytest.fixture
def run(config: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command in this process: exit status, stdout, stderr."""

    def _run(command: str, *arguments: str, config: Path = config) -> tuple[int, str, str]:
        capsys.readouterr()
        status = main([command, *arguments, "-c", str(config)])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return _run


def query(dsn: str, text: str, *parameters: object) -> list[tuple[Any, ...]]:
    with psycopg.connect(dsn, autocommit=True) as connection:
        cursor = connection.execute(text.encode(), parameters)
        return cursor.fetchall() if cursor.description else []


def assert_one_error(err: str, *words: str) -> None:
    lines = [line for line in err.splitlines() if line.startswith("error:")]
    assert len(lines) == 1
    assert "Traceback" not in err
    for word in words:
        assert word in lines[0]


# -- check ---------------------------------------------------------------------------------------------------------


def test_check_reports_everything_at_once(run: Run, database: str) -> None:
    query(database, SCHEMA)
    query(database, "CREATE TABLE keyless (a int); COMMENT ON TABLE keyless IS '@crdt'")
    query(database, "CREATE TABLE wrong (id int PRIMARY KEY, t text)")
    query(database, "COMMENT ON COLUMN wrong.t IS '@crdt(pn_counter)'")
    status, out, _ = run("check")
    assert status == 2
    assert "public.keyless" in out
    assert "public.wrong" in out
    assert "1 tables can be replicated; 2 errors" in out
    status, out, _ = run("check", "--json")
    assert status == 2
    found = json.loads(out)
    assert found["tables"] == ["public.posts"]
    assert {p["table"] for p in found["problems"] if p["severity"] == "error"} == {"public.keyless", "public.wrong"}
    assert all(p["mend"] for p in found["problems"] if p["severity"] == "error")


def test_check_is_content_with_a_good_schema_and_changes_nothing(run: Run, database: str) -> None:
    query(database, SCHEMA)
    status, out, err = run("check")
    assert (status, err) == (0, "")
    assert "0 errors" in out
    assert query(database, "SELECT to_regnamespace('crdt_state')") == [(None,)]


@pytest.mark.parametrize(
    ("loss", "words"),
    [
        ("SELECT pg_drop_replication_slot(slot) FROM crdt_state.position", "slot lost: replication slot"),
        ("DROP PUBLICATION crdt", "publication crdt does not exist"),
        ("ALTER PUBLICATION crdt SET (publish = 'insert')", "does not publish every kind of change"),
    ],
)
def test_check_tells_what_an_attached_database_has_lost(run: Run, database: str, loss: str, words: str) -> None:
    query(database, SCHEMA)
    assert run("init")[0] == 0
    assert run("check")[0] == 0
    query(database, loss)
    status, out, _ = run("check", "--json")
    assert status == 2
    (problem,) = (p for p in json.loads(out)["problems"] if p["severity"] == "error")
    assert words in problem["message"]
    assert problem["mend"]


def test_check_and_init_advise_on_types_without_refusing_anything(run: Run, database: str) -> None:
    query(database, "CREATE TABLE post (id int PRIMARY KEY, likes int, tags text[], views int)")
    query(database, "COMMENT ON TABLE post IS '@crdt'; COMMENT ON COLUMN post.views IS '@crdt(lww_register)'")
    status, out, _ = run("check", "--json")
    advised = {p["column"]: p for p in json.loads(out)["problems"] if "choosing-types" in p["mend"]}
    assert (status, set(advised)) == (0, {"likes", "tags"})
    assert {p["severity"] for p in advised.values()} == {"warning"}
    for _ in range(2):
        status, _, err = run("init")
        assert status == 0
        assert "public.post.likes: looks like a counter" in err


def test_check_looks_at_the_named_schemas_alone(run: Run, database: str) -> None:
    query(database, "CREATE SCHEMA other; CREATE TABLE other.keyless (a int)")
    query(database, "COMMENT ON TABLE other.keyless IS '@crdt'")
    assert run("check", "public")[0] == 0
    assert run("check", "public", "other")[0] == 2
    status, _, err = run("check", "nowhere")
    assert status == 2
    assert_one_error(err, "'nowhere' does not exist")


@pytest.mark.parametrize("command", ["check", "init", "status", "conflicts"])
def test_a_wrong_dsn_is_one_line_and_status_2(run: Run, tmp_path: Path, database: str, command: str) -> None:
    port = free_port()
    for dsn, words in (
        (f"postgresql://postgres:open-sesame@127.0.0.1:{port}/app", str(port)),
        (database.rpartition("/")[0] + "/nonexistent", "nonexistent"),
    ):
        status, out, err = run(command, config=write_config(tmp_path / "wrong.toml", dsn, node_id=1))
        assert (status, out) == (2, "")
        assert_one_error(err, words)
        assert "open-sesame" not in err


# -- init ----------------------------------------------------------------------------------------------------------


def test_init_attaches_and_may_be_repeated(run: Run, database: str) -> None:
    query(database, SCHEMA)
    status, out, _ = run("init")
    assert status == 0
    assert "1 tables replicated, 1 of them newly attached" in out
    assert query(database, "SELECT name FROM crdt_state.node") == [("us-east",)]
    status, out, _ = run("init", "--json")
    assert status == 0
    facts = json.loads(out)
    assert (facts["attached"], facts["slot_created"], facts["migrations"]) == ([], False, [])
    assert facts["tables"] == ["public.posts"]


def test_init_attaches_the_good_tables_and_says_what_is_wrong_with_the_others(run: Run, database: str) -> None:
    query(database, SCHEMA)
    query(database, "CREATE TABLE keyless (a int); COMMENT ON TABLE keyless IS '@crdt'")
    query(database, "CREATE TABLE odd (id int PRIMARY KEY, t text); COMMENT ON COLUMN odd.t IS '@crdt(pn_counter)'")
    for attached in (1, 0):  # and again: the same problems, nothing new
        status, out, err = run("init")
        assert status == 2
        assert f"1 tables replicated, {attached} of them newly attached; 2 refused" in out
        errors = [line for line in err.splitlines() if line.startswith("error:")]
        assert len(errors) == 2
        assert "public.keyless" in errors[0]
        assert "public.odd.t" in errors[1]
    assert query(database, "SELECT tablename FROM pg_publication_tables") == [("posts",)]
    query(database, "ALTER TABLE keyless ADD PRIMARY KEY (a); COMMENT ON COLUMN odd.t IS '@crdt(lww_register)'")
    status, out, err = run("init")
    assert status == 0
    assert "3 tables replicated, 2 of them newly attached; next: sidecar run" in out


def test_init_of_another_node_is_refused(run: Run, tmp_path: Path, database: str) -> None:
    assert run("init")[0] == 0
    other = write_config(tmp_path / "other.toml", database, node_id=1001)
    status, _, err = run("init", config=other)
    assert status == 2
    assert_one_error(err)


def test_init_without_privileges_is_one_error(run: Run, tmp_path: Path, restricted_dsn: str) -> None:
    status, _, err = run("init", config=write_config(tmp_path / "restricted.toml", restricted_dsn, node_id=1002))
    assert status == 2
    assert "Traceback" not in err
    assert "restricted" in err


@pytest.mark.parametrize("command", ["check", "init", "remove", "status", "conflicts"])
def test_a_role_that_may_not_use_the_state_is_told_which_may(
    run: Run, tmp_path: Path, database: str, command: str
) -> None:
    assert run("init")[0] == 0
    name, role = database.rsplit("/", 1)[1], f"reader_{uuid.uuid4().hex}"
    query(database, f"CREATE ROLE {role} LOGIN REPLICATION; GRANT ALL ON DATABASE {name} TO {role}")
    other = write_config(tmp_path / "other.toml", database.replace("//postgres@", f"//{role}@"))
    try:
        status, _, err = run(command, *(["eu-west"] if command == "remove" else []), config=other)
    finally:
        query(database, f"DROP OWNED BY {role}; DROP ROLE {role}")
    assert status == 2
    assert "use the role that ran sidecar init" in err
    assert_one_error(err)


# -- annotate ------------------------------------------------------------------------------------------------------

DDL = """
CREATE TABLE posts ( -- @crdt
    id uuid PRIMARY KEY,
    title text, -- The headline. @crdt(lww_register)
    likes bigint -- @crdt(pn_counter)
);
"""


@pytest.fixture
def ddl(tmp_path: Path) -> Path:
    path = tmp_path / "schema.sql"
    path.write_text(DDL)
    return path


def comments(dsn: str) -> dict[str, str | None]:
    rows = query(
        dsn,
        "SELECT attname, col_description(attrelid, attnum) FROM pg_attribute WHERE attrelid = 'posts'::regclass"
        " AND attnum > 0 UNION ALL SELECT '', obj_description('posts'::regclass, 'pg_class')",
    )
    return dict(rows)


def test_annotate_prints_what_psql_takes(run: Run, ddl: Path, database: str) -> None:
    status, out, err = run("annotate", str(ddl))
    assert (status, err) == (0, "")
    query(database, DDL)
    query(database, out)
    assert comments(database) == {
        "": "@crdt",
        "id": None,
        "title": "The headline. @crdt(lww_register)",
        "likes": "@crdt(pn_counter)",
    }


def test_annotate_applies_and_keeps_the_words_of_people(run: Run, ddl: Path, database: str) -> None:
    query(database, DDL)
    query(database, "COMMENT ON COLUMN posts.likes IS 'How many. @crdt(g_counter) Do not reset.'")
    status, out, err = run("annotate", str(ddl), "--apply")
    assert status == 0
    assert "3 comments set" in err
    assert comments(database)["likes"] == "How many. @crdt(pn_counter) Do not reset."
    assert comments(database)[""] == "@crdt"
    assert "How many." in out
    assert len(json.loads(run("annotate", str(ddl), "--apply", "--json")[1])) == 3


def test_annotate_sets_all_or_none(run: Run, ddl: Path, database: str) -> None:
    query(database, "CREATE TABLE posts (id uuid PRIMARY KEY, likes bigint)")
    status, out, err = run("annotate", str(ddl), "--apply")
    assert (status, out) == (2, "")
    assert_one_error(err, '"posts"."title"')
    assert set(comments(database).values()) == {None}


def test_annotate_by_somebody_else_than_the_owner(run: Run, ddl: Path, tmp_path: Path, restricted_dsn: str) -> None:
    query(restricted_dsn.replace("restricted@", "postgres@"), DDL)
    status, _, err = run(
        "annotate", str(ddl), "--apply", config=write_config(tmp_path / "restricted.toml", restricted_dsn, node_id=1)
    )
    assert status == 2
    assert_one_error(err, "must be owner of table posts")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"CREATE TABLE t (a int);", "no @crdt annotation"),
        (b"CREATE TABLE t (a int -- @crdt(sum)\n);", "schema.sql:1:"),
        (b"\xff\xfe", "UTF-8"),
    ],
)
def test_annotate_refuses_what_it_cannot_read(run: Run, ddl: Path, content: bytes, words: str) -> None:
    ddl.write_bytes(content)
    status, out, err = run("annotate", str(ddl))
    assert (status, out) == (2, "")
    assert_one_error(err, words)


# -- status --------------------------------------------------------------------------------------------------------

SNAPSHOT = StatusSnapshot(
    node=NodeStatus("us-east", 1, "default", "0.1.0", 0.0),
    capture=CaptureStatus("streaming", 100, 1.0, "0/1"),
    merge=MergeStatus(rows=12, retries={"dirty_rows": 3}),
    peers=(PeerStatus("eu-west", 2, "down", "connection \x1b[31mrefused", bytes_in=2048),),
    tables=(TableStatus("public.posts", "lww", {"likes": "pn_counter"}),),
)


@contextmanager
def answering(snapshot: StatusSnapshot) -> Iterator[str]:
    """A status listener in a thread of its own; its address."""

    class Source:
        def snapshot(self) -> StatusSnapshot:
            return snapshot

    class Covered:
        async def until_covered(self, clock: dict[int, int], timeout_s: float) -> bool:
            return True

    ready = threading.Event()
    address: list[str] = []
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()

    async def serve() -> None:
        server = StatusServer("127.0.0.1:0", Source(), Covered())
        await server.start()
        address.append(server.address)
        ready.set()
        await stop.wait()
        await server.stop()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),), daemon=True)
    thread.start()
    assert ready.wait(10)
    try:
        yield address[0]
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)


def test_status_asks_the_running_sidecar(run: Run, tmp_path: Path, database: str) -> None:
    with answering(SNAPSHOT) as address:
        path = write_config(tmp_path / "http.toml", database, f'[http]\nlisten = "{address}"\n', node_id=1)
        status, out, err = run("status", config=path)
        assert (status, err) == (0, "")
        for word in ("us-east", "eu-west", "2.0 KiB", "dirty_rows 3", "public.posts", "likes pn_counter"):
            assert word in out
        # A terminal obeys escape sequences; a peer's error text must not reach it as such.
        assert "\x1b[31m" not in out
        status, out, _ = run("status", "--json", config=path)
        assert status == 0
        assert json.loads(out)["running"] is True
        assert json.loads(out)["status"]["peers"][0]["bytes_in"] == 2048


def test_status_of_a_stranger_on_the_port_is_not_believed(run: Run, tmp_path: Path, database: str) -> None:
    assert run("init")[0] == 0
    with answering(replace(SNAPSHOT, node=replace(SNAPSHOT.node, id=77, name="ap-south"))) as address:
        path = write_config(tmp_path / "http.toml", database, f'[http]\nlisten = "{address}"\n')
        status, out, err = run("status", config=path)
    assert status == 1
    assert "ap-south" in err
    assert "us-east" in out


def test_status_without_a_sidecar_shows_what_the_database_knows(run: Run, tmp_path: Path, database: str) -> None:
    query(database, SCHEMA)
    assert run("init")[0] == 0
    query(database, "INSERT INTO crdt_state.peer (id, name, last_error) VALUES (1011, 'eu-west', 'no route')")
    for more in ("", f'[http]\nlisten = "127.0.0.1:{free_port()}"\n'):
        path = write_config(tmp_path / "down.toml", database, more)
        status, out, err = run("status", config=path)
        assert status == 1
        assert err.startswith("warning: the sidecar is not running")
        assert err.count("\n") == 1
        for word in ("us-east", "not in use", "eu-west", "no route", "public.posts", "likes pn_counter"):
            assert word in out
        status, out, _ = run("status", "--json", config=path)
        facts = json.loads(out)
        assert (status, facts["running"]) == (1, False)
        assert facts["database"]["tables"][0]["columns"] == {"title": "lww_register", "likes": "pn_counter"}


def test_status_before_init_says_so(run: Run) -> None:
    status, _, err = run("status")
    assert status == 2
    assert_one_error(err, "not attached", "sidecar init")


# -- conflicts -----------------------------------------------------------------------------------------------------


def add_conflict(dsn: str, minutes_ago: float, key: int, value: str = "new", table: str = "posts") -> None:
    query(
        dsn,
        "INSERT INTO crdt_state.conflict (id, table_id, row_key, column_name, rule, winner_node, winner_hlc,"
        " winner_value, loser_node, loser_hlc, loser_value, detected)"
        " SELECT %s, table_id, jsonb_build_object('id', %s::text), 'title', 'lww', 2, 131072, %s, 3, 65536, NULL,"
        " now() - make_interval(secs => 60 * %s) FROM crdt_state.replicated_table WHERE table_name = %s",
        uuid.uuid4(),
        key,
        value,
        minutes_ago,
        table,
    )


@pytest.fixture
def with_conflicts(run: Run, database: str) -> str:
    query(database, SCHEMA)
    query(database, "CREATE TABLE drafts (id int PRIMARY KEY, title text); COMMENT ON TABLE drafts IS '@crdt'")
    assert run("init")[0] == 0
    for minutes, key in ((180, 1), (30, 2), (5, 3)):
        add_conflict(database, minutes, key)
    add_conflict(database, 10, 4, table="drafts")
    return database


@pytest.mark.parametrize(
    ("arguments", "keys"),
    [
        ([], ["1", "2", "4", "3"]),
        (["--limit", "2"], ["4", "3"]),
        (["--since", "1h"], ["2", "4", "3"]),
        (["--since", "2000-01-01"], ["1", "2", "4", "3"]),
        (["--table", "drafts"], ["4"]),
        (["--table", "public.posts", "--since", "7m"], ["3"]),
        (["--since", "1ms"], []),
    ],
)
def test_conflicts_are_filtered(run: Run, with_conflicts: str, arguments: list[str], keys: list[str]) -> None:
    status, out, err = run("conflicts", "--json", *arguments)
    assert (status, err) == (0, "")
    assert [conflict["key"]["id"] for conflict in json.loads(out)] == keys


def test_conflicts_as_a_table_shows_both_sides(run: Run, with_conflicts: str) -> None:
    add_conflict(with_conflicts, 0, 5, value="bad \x1b[2J " + "long " * 100)
    status, out, _ = run("conflicts")
    assert status == 0
    assert "5 conflicts" in out
    for word in ("public.posts", "title", "node 2: 'new'", "node 3: NULL", "lww"):
        assert word in out
    assert "\x1b[2J" not in out
    assert "…" in out


def test_conflicts_of_an_unknown_table_are_refused(run: Run, with_conflicts: str) -> None:
    status, out, err = run("conflicts", "--table", "nope")
    assert (status, out) == (2, "")
    assert_one_error(err, "'nope' is not replicated")


def test_conflicts_of_a_name_that_stands_in_two_schemas_are_refused(run: Run, with_conflicts: str) -> None:
    query(with_conflicts, "CREATE SCHEMA other; CREATE TABLE other.posts (id int PRIMARY KEY)")
    query(with_conflicts, "COMMENT ON TABLE other.posts IS '@crdt'")
    assert run("init")[0] == 0
    status, _, err = run("conflicts", "--table", "posts")
    assert status == 2
    assert_one_error(err, "other.posts or public.posts")
    assert run("conflicts", "--table", "public.posts")[0] == 0


def interruptible() -> None:
    """Whoever runs the tests in the background may have them ignore SIGINT, which children inherit."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_conflicts_follow_prints_new_ones_and_ends_quietly(with_conflicts: str, config: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "sidecar.cli.main", "conflicts", "--follow", "--json", "--limit", "1", "-c", config],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=interruptible,
    )
    try:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["key"] == {"id": "3"}
        # Stamped before the last one that was shown: it committed later.
        add_conflict(with_conflicts, 5.2, 6)
        assert json.loads(process.stdout.readline())["key"] == {"id": "6"}
        add_conflict(with_conflicts, 0, 7)
        assert json.loads(process.stdout.readline())["key"] == {"id": "7"}
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
        assert (process.returncode, out, err) == (130, "", "")
    finally:
        process.kill()
        process.wait()


# -- run -----------------------------------------------------------------------------------------------------------


def settings_with(shutdown_ms_max: int = 5000) -> Settings:
    node = {"name": "us-east", "id": 1, "dsn": "postgresql://u@127.0.0.1/app"}
    return Settings(node=node, timing={"shutdown_ms_max": shutdown_ms_max})  # type: ignore[arg-type]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_stops_the_node_cleanly(number: signal.Signals) -> None:
    ended = asyncio.Event()

    async def node(settings: Settings, *, stop: asyncio.Event) -> None:
        os.kill(os.getpid(), number)
        await stop.wait()
        ended.set()

    await asyncio.wait_for(until_stopped(settings_with(), node), 10)
    assert ended.is_set()


async def test_a_node_that_fails_is_the_commands_failure() -> None:
    async def node(settings: Settings, *, stop: asyncio.Event) -> None:
        raise TransientError("gone")

    with pytest.raises(TransientError, match="gone"):
        await asyncio.wait_for(until_stopped(settings_with(), node), 10)


async def test_a_node_that_does_not_stop_is_cancelled_in_time() -> None:
    cancelled = asyncio.Event()

    async def node(settings: Settings, *, stop: asyncio.Event) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    with pytest.raises(FatalError, match="did not stop within 100 ms"):
        await asyncio.wait_for(until_stopped(settings_with(100), node), 10)
    assert cancelled.is_set()


STUBBORN = """
import asyncio, os, signal, sys
from sidecar.cli.run import until_stopped
from sidecar.settings import Settings

async def node(settings, *, stop):
    os.kill(os.getpid(), signal.SIGTERM)
    await stop.wait()
    {then}
    while True:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            pass

node_settings = {{"name": "a", "id": 1, "dsn": "postgresql://u@h/d"}}
asyncio.run(until_stopped(Settings(node=node_settings, timing={{"shutdown_ms_max": {bound}}}), node))
"""


@pytest.mark.parametrize(
    ("then", "bound", "words"),
    [("", 100, "ignores its cancellation"), ("os.kill(os.getpid(), signal.SIGTERM)", 60_000, "a second signal")],
)
def test_the_process_ends_whatever_the_node_does(then: str, bound: int, words: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", STUBBORN.format(then=then, bound=bound)], capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 1
    assert words in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture
def _logging_restored() -> Iterator[None]:
    import logging

    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


@pytest.mark.usefixtures("_logging_restored")
def test_logs_are_json_lines_without_passwords(capsys: pytest.CaptureFixture[str]) -> None:
    import logging

    configure(LogLevel.INFO, LogFormat.AUTO, node="us-east")
    structlog.get_logger().info("dialling", dsn="postgresql://u:open-sesame@host/db", peer="eu-west")
    structlog.get_logger().debug("not shown")
    logging.getLogger("asyncio").warning("slow %s", "callback")
    logging.getLogger("uvicorn.error").info("not shown")
    captured = capsys.readouterr()
    assert captured.out == ""
    first, second = map(json.loads, captured.err.splitlines())
    assert first["dsn"] == "postgresql://u:***@host/db"
    assert (first["event"], first["peer"], first["node"], first["level"]) == ("dialling", "eu-west", "us-east", "info")
    assert (second["event"], second["level"], second["node"]) == ("slow callback", "warning", "us-east")
