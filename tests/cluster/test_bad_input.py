"""What a user can get wrong: one readable line that says how to mend it, and nothing is changed.

Each case is a process of its own, forked from one that has imported the commands (``tests/prepared.py``); the first
cases of each command, and of wrong usage, start from nothing as a user's do.

What reaches a node from its peers (other clusters, twins, garbage, a second sidecar) is in ``test_faults.py``.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from sidecar.lab.cluster import COMMAND
from sidecar.lab.embedded import FAST_SETTINGS, EmbeddedPostgres
from sidecar.lab.ports import HOST, free_port
from tests import prepared

DEADLINE_S = 120.0
PASSWORD = "open-sesame"  # trusted connections ignore it; no message may show it

GOOD = """
CREATE TABLE posts (id int PRIMARY KEY, likes bigint NOT NULL DEFAULT 0);
COMMENT ON COLUMN posts.likes IS '@crdt(pn_counter)';
INSERT INTO posts VALUES (1, 5);
"""

# Everything that a sidecar could have left behind.
TRACES = """
SELECT 'schema ' || nspname FROM pg_namespace WHERE nspname LIKE 'crdt%'
UNION ALL SELECT 'publication ' || pubname FROM pg_publication
UNION ALL SELECT 'slot ' || slot_name FROM pg_replication_slots WHERE database = current_database()
UNION ALL SELECT 'identity of ' || relname FROM pg_class WHERE relreplident = 'f'
"""

SAID_BY_INIT = (
    "error: ",
    "warning: ",
    "advice: ",
    "nothing was done: ",
    "migration ",
    "publication ",
    "table ",
    "creating ",
)

Refused = Callable[..., str]


def query(dsn: str, text: str, *parameters: object) -> list[tuple[Any, ...]]:
    with psycopg.connect(dsn, autocommit=True) as connection:
        cursor = connection.execute(text.encode(), parameters or None)
        return cursor.fetchall() if cursor.description else []


def node_toml(dsn: str, node_id: int, *, more: str = "", listen: str = "", name: str = "us-east") -> str:
    listen = listen or f"{HOST}:{free_port()}"
    return f'[node]\nname = "{name}"\nid = {node_id}\ndsn = "{dsn}"\nlisten = "{listen}"\n{more}'


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPostgres]:
    """A server of this module's own: roles, and a password for one of them."""
    with EmbeddedPostgres(tmp_path_factory.mktemp("server"), settings=FAST_SETTINGS) as made:
        hba = made.data_dir / "pg_hba.conf"
        hba.write_text(f"host all locked {HOST}/32 scram-sha-256\n" + hba.read_text())
        query(made.dsn(), "CREATE ROLE locked LOGIN REPLICATION PASSWORD 'right'")
        query(made.dsn(), "CREATE ROLE plain LOGIN")
        query(made.dsn(), "CREATE ROLE deputy LOGIN REPLICATION")
        query(made.dsn(), "SELECT pg_reload_conf()")
        yield made


@pytest.fixture
def dsn(server: EmbeddedPostgres, request: pytest.FixtureRequest) -> Iterator[str]:
    """A database with one good table, and a password in its DSN."""
    name = f"bad_{abs(hash(request.node.name)) % 10**9}"
    yield server.create_database(name).replace("postgres@", f"postgres:{PASSWORD}@")
    server.drop_database(name)


@pytest.fixture
def good(dsn: str) -> str:
    query(dsn, GOOD)
    return dsn


def start(arguments: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    return prepared.run(arguments, cwd=folder, env=environment(), timeout_s=DEADLINE_S)


def start_anew(arguments: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """The same by a process that imports everything itself, as a user's does."""
    return subprocess.run(
        [*COMMAND, *arguments],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
        cwd=folder,
        env=environment(),
    )


def environment() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if not k.startswith(("SIDECAR_", "PG"))}


@pytest.fixture
def refused(tmp_path: Path) -> Refused:
    """Run a command that must be refused: exit status 2, one error line, which is returned; only ``run`` may log."""

    def _refused(
        command: str,
        toml: str | bytes | None,
        *arguments: str,
        words: tuple[str, ...] = (),
        start: Callable[..., subprocess.CompletedProcess[str]] = start,
    ) -> str:
        if toml is not None:
            (tmp_path / "node.toml").write_bytes(toml if isinstance(toml, bytes) else toml.encode())
        done = start([command, *arguments], tmp_path)
        output = done.stdout + done.stderr
        assert done.returncode == 2, output
        assert "Traceback" not in output
        assert PASSWORD not in output
        errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1, output
        for line in done.stderr.splitlines():
            if command == "run" and not line.startswith("error: "):
                assert json.loads(line)["level"] in ("info", "warning"), line
            elif command == "init":
                assert line.startswith(SAID_BY_INIT), line
            else:
                assert line == errors[0], "nothing else is said"
        for word in words:
            assert word in errors[0], errors[0]
        assert "; " in errors[0], f"no mend: {errors[0]}"
        return errors[0]

    return _refused


# -- the configuration file ----------------------------------------------------------------------------------------

ANY_DSN = "postgresql://u@127.0.0.1:1/app"
FINE = node_toml(ANY_DSN, 1, listen="127.0.0.1:7101")

FILES: dict[str, tuple[str | bytes | None, tuple[str, ...]]] = {
    "missing": (None, ("node.toml does not exist", "-c")),
    "no TOML": ("[node\nname = 1", ("node.toml is not valid TOML", "line 1")),
    "not text": (b"\xff\xfe\x00", ("node.toml is not UTF-8 text",)),
    "empty": ("", ("node.toml: node: is missing",)),
    "unknown key": (FINE + "colour = 3\n", ("node.toml: node.colour: is not a known key",)),
    "unknown section": (FINE + "[nodes]\n", ("unknown section or key 'nodes'", "known: node, peers")),
    "wrong type": (FINE.replace("id = 1", 'id = "one"'), ("node.toml: node.id: must be a whole number",)),
    "out of range": (FINE.replace("id = 1", "id = 1024"), ("node.toml: node.id: must be less than or equal to 1023",)),
    "missing key": (FINE.replace('name = "us-east"\n', ""), ("node.toml: node.name: is missing",)),
    "no address": (FINE.replace("127.0.0.1:7101", "here"), ("node.toml: node.listen:",)),
    "no DSN": (FINE.replace(ANY_DSN, f"mysql://u:{PASSWORD}@h/app"), ("node.toml: node.dsn:", "postgresql://")),
    "peers in plaintext": (
        FINE + '[[peers]]\nname = "b"\naddress = "127.0.0.1:7102"\n',
        ("node.toml: tls: section is missing", "insecure = true"),
    ),
    "plaintext over the network": (
        FINE + 'insecure = true\n[[peers]]\nname = "b"\naddress = "10.0.0.1:7102"\n',
        ("node.toml: peers.0.address: 10.0.0.1:7102 is not a loopback address",),
    ),
    "no certificate": (
        FINE + '[tls]\nca = "ca.pem"\ncert = "a.pem"\nkey = "a.key"\n',
        ("node.toml: tls.ca:", "does not exist", "PEM"),
    ),
}


@pytest.mark.parametrize("case", FILES)
def test_a_wrong_configuration_is_refused_by_file_and_key(refused: Refused, case: str) -> None:
    toml, words = FILES[case]
    refused("run", toml, words=words)


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        ("check", ()),
        ("init", ()),
        ("join", ("--from", "eu-west")),
        ("run", ()),
        ("status", ()),
        ("leave", ()),
        ("remove", ("eu-west",)),
        ("conflicts", ()),
    ],
)
def test_every_command_refuses_a_wrong_configuration(
    refused: Refused, command: str, arguments: tuple[str, ...]
) -> None:
    refused(command, "[node", *arguments, words=("node.toml is not valid TOML",), start=start_anew)


@pytest.mark.parametrize("arguments", [["nonsense"], ["run", "--colour"], ["conflicts", "--limit", "0"], []], ids=str)
def test_wrong_usage_is_refused(tmp_path: Path, arguments: list[str]) -> None:
    done = start_anew(arguments, tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1


# -- the DSN -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["check", "init", "run", "status", "conflicts"])
def test_a_wrong_database_is_refused(refused: Refused, server: EmbeddedPostgres, command: str) -> None:
    toml = node_toml(server.dsn("nowhere"), 1)
    refused(command, toml, words=("database 'nowhere' does not exist", f"{HOST}:{server.port}", "create it"))


@pytest.mark.parametrize("command", ["init", "run"])
def test_a_wrong_role_or_password_is_refused(refused: Refused, server: EmbeddedPostgres, command: str) -> None:
    toml = node_toml(server.dsn(user="nobody-here"), 1)
    refused(command, toml, words=("role 'nobody-here' does not exist", "CREATE ROLE"))
    for user in (f"locked:{PASSWORD}", "locked"):
        toml = node_toml(server.dsn(user=user), 1)
        refused(command, toml, words=("role 'locked' was refused", "password"))


@pytest.mark.parametrize("command", ["check", "init", "status", "conflicts"])
def test_a_server_that_does_not_answer_is_refused(refused: Refused, command: str) -> None:
    port = free_port()
    toml = node_toml(f"postgresql://postgres:{PASSWORD}@{HOST}:{port}/app", 1)
    refused(command, toml, words=("cannot connect to PostgreSQL", str(port), "correct host and port"))


def test_run_waits_for_a_server_that_does_not_answer_and_says_so_once(tmp_path: Path) -> None:
    port = free_port()
    toml = node_toml(f"postgresql://postgres:{PASSWORD}@{HOST}:{port}/app", 1)
    (tmp_path / "node.toml").write_text(toml)
    process = subprocess.Popen([*COMMAND, "run"], cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        lines = [json.loads(process.stderr.readline()) for _ in range(2)]
        assert [line["event"] for line in lines] == ["starting", "problem"]
        for word in ("cannot connect to PostgreSQL", str(port), "start the server, or correct host and port"):
            assert word in lines[1]["reason"]
        process.terminate()
        rest = process.stderr.read()
        assert process.wait(DEADLINE_S) == 0
        assert [json.loads(line)["event"] for line in rest.splitlines()] == ["stopping", "stopped"]
    finally:
        process.kill()
        process.wait()


# -- annotations ---------------------------------------------------------------------------------------------------

WRONG_TABLES = {
    "unknown annotation": (
        "CREATE TABLE t (id int PRIMARY KEY, n int); COMMENT ON COLUMN t.n IS 'Sum. @crdt(sum)'",
        ("public.t.n", "@crdt(sum)", "known words: lww_register"),
    ),
    "unknown row rule": (
        "CREATE TABLE t (id int PRIMARY KEY, n int); COMMENT ON TABLE t IS '@crdt(row=first)'",
        ("public.t", "row=first", "known words: lww"),
    ),
    "not closed": (
        "CREATE TABLE t (id int PRIMARY KEY, n int); COMMENT ON COLUMN t.n IS '@crdt(pn_counter'",
        ("public.t.n", ")"),
    ),
    "missing primary key": ("CREATE TABLE t (n int); COMMENT ON TABLE t IS '@crdt'", ("public.t", "PRIMARY KEY")),
    "type that does not fit": (
        "CREATE TABLE t (id int PRIMARY KEY, n text); COMMENT ON COLUMN t.n IS '@crdt(pn_counter)'",
        ("public.t.n", "pn_counter", "text", "bigint"),
    ),
    "blanks that get lost": (
        "CREATE TABLE t (id int PRIMARY KEY, n bpchar); COMMENT ON TABLE t IS '@crdt'",
        ("public.t.n", "bpchar", "text"),
    ),
    "set that is no array": (
        "CREATE TABLE t (id int PRIMARY KEY, n text); COMMENT ON COLUMN t.n IS '@crdt(or_set)'",
        ("public.t.n", "or_set", "array"),
    ),
    "unlogged table": (
        "CREATE UNLOGGED TABLE t (id int PRIMARY KEY); COMMENT ON TABLE t IS '@crdt'",
        ("public.t", "SET LOGGED"),
    ),
}


@pytest.mark.parametrize("case", WRONG_TABLES)
def test_a_wrong_table_is_refused_and_the_others_go_on(refused: Refused, good: str, case: str) -> None:
    ddl, words = WRONG_TABLES[case]
    query(good, ddl)
    refused("init", node_toml(good, 1), words=words)
    assert query(good, "SELECT tablename FROM pg_publication_tables") == [("posts",)]
    assert query(good, "SELECT * FROM posts") == [(1, 5)]
    assert query(good, "SELECT relreplident FROM pg_class WHERE oid = 't'::regclass") == [("d",)], "it is not touched"


def test_check_shows_a_wrong_table_and_changes_nothing(good: str, tmp_path: Path) -> None:
    query(good, WRONG_TABLES["missing primary key"][0])
    (tmp_path / "node.toml").write_text(node_toml(good, 1))
    done = start(["check"], tmp_path)
    assert (done.returncode, done.stderr) == (2, "")
    assert "public.t" in done.stdout
    assert "ADD PRIMARY KEY" in done.stdout
    assert query(good, TRACES) == []


def test_a_wrong_annotation_in_a_file_is_refused_by_line(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "schema.sql").write_text("CREATE TABLE t (\n    id int PRIMARY KEY,\n    n int -- @crdt(sum)\n);")
    refused("annotate", None, "schema.sql", words=("schema.sql:3:20", "@crdt(sum)", "known words: lww_register"))
    refused("annotate", None, "missing.sql", words=("missing.sql", "no such file"))


# -- the server and the role ---------------------------------------------------------------------------------------


@pytest.fixture
def odd_server(tmp_path: Path) -> Iterator[Callable[..., str]]:
    """A server with settings of the test's own; called: the DSN of a database with a good table."""
    servers: list[EmbeddedPostgres] = []

    def make(**settings: str) -> str:
        servers.append(EmbeddedPostgres(tmp_path / "odd", settings={**FAST_SETTINGS, **settings}).start())
        made = servers[-1].create_database("app")
        query(made, GOOD)
        return made

    yield make
    for server in servers:
        server.close()


def test_a_wrong_wal_level_is_refused(refused: Refused, odd_server: Callable[..., str]) -> None:
    dsn = odd_server(wal_level="replica")
    line = refused(
        "init", node_toml(dsn, 1), words=("wal_level is 'replica'", "ALTER SYSTEM SET wal_level = 'logical'")
    )
    assert "restart" in line
    refused("run", None, words=("not attached to a node", "sidecar init"))
    assert query(dsn, TRACES) == []


def test_too_few_slots_are_refused(refused: Refused, odd_server: Callable[..., str]) -> None:
    dsn = odd_server(max_replication_slots="1")
    query(dsn, "SELECT pg_create_physical_replication_slot('taken')")
    words = ("max_replication_slots is 1 and 1 are in use", "ALTER SYSTEM SET max_replication_slots")
    refused("init", node_toml(dsn, 1), words=words)
    assert query(dsn, TRACES) == []


def test_a_role_without_replication_is_refused(refused: Refused, good: str, server: EmbeddedPostgres) -> None:
    name = good.rpartition("/")[2]
    query(good, f'GRANT CREATE ON DATABASE "{name}" TO plain; ALTER TABLE posts OWNER TO plain')
    toml = node_toml(server.dsn(name, "plain"), 1)
    refused("init", toml, words=("'plain' lacks REPLICATION", "ALTER ROLE"))
    assert query(good, TRACES) == []


def test_a_role_that_may_not_create_is_refused(refused: Refused, good: str, server: EmbeddedPostgres) -> None:
    name = good.rpartition("/")[2]
    query(good, "ALTER TABLE posts OWNER TO deputy")
    refused("init", node_toml(server.dsn(name, "deputy"), 1), words=("GRANT CREATE ON DATABASE", "deputy"))
    assert query(good, TRACES) == []


def test_a_table_of_another_owner_is_refused(refused: Refused, good: str, server: EmbeddedPostgres) -> None:
    name = good.rpartition("/")[2]
    query(good, f'GRANT CREATE ON DATABASE "{name}" TO deputy')
    refused(
        "init",
        node_toml(server.dsn(name, "deputy"), 1),
        words=("public.posts: belongs to role 'postgres'", "make deputy the owner"),
    )
    assert query(good, "SELECT count(*) FROM pg_publication_tables") == [(0,)]


@pytest.fixture
def attached(good: str, tmp_path: Path) -> str:
    """A database of node 1."""
    (tmp_path / "node.toml").write_text(node_toml(good, 1))
    done = start(["init"], tmp_path)
    assert done.returncode == 0, done.stderr
    return good


def test_run_before_init_is_refused_and_changes_nothing(refused: Refused, good: str) -> None:
    refused("run", node_toml(good, 1), words=("not attached to a node", "sidecar init"))
    assert query(good, TRACES) == []


def test_run_as_another_node_than_the_databases_is_refused(refused: Refused, attached: str) -> None:
    refused("run", node_toml(attached, 2), words=("belongs to node 1", "says 2", "[node]"))
    refused("init", node_toml(attached, 2), words=("belongs to node 'us-east' (id 1)", "[node]"))
    refused("init", node_toml(attached, 1, name="eu-west"), words=("belongs to node 'us-east' (id 1)", "[node]"))
    assert query(attached, "SELECT id, name FROM crdt_state.node") == [(1, "us-east")]


def test_running_as_another_role_than_inits_is_refused(
    refused: Refused, attached: str, server: EmbeddedPostgres
) -> None:
    name = attached.rpartition("/")[2]
    for user in ("plain", "deputy"):
        words = ("may not use the sidecar's state", "use the role that ran sidecar init")
        refused("run", node_toml(server.dsn(name, user), 1), words=words)
    # Everything but the attribute, which may have been taken away since.
    query(attached, "GRANT postgres TO plain")
    try:
        words = ("may not open a replication connection", "ALTER ROLE ... REPLICATION")
        refused("run", node_toml(server.dsn(name, "plain"), 1), words=words)
    finally:
        query(attached, "REVOKE postgres FROM plain")


@pytest.mark.parametrize("which", ["peers", "http"])
def test_a_taken_port_is_refused_and_nothing_is_lost(refused: Refused, attached: str, which: str) -> None:
    before = query(attached, "SELECT lsn FROM crdt_state.position")
    with socket.create_server((HOST, 0)) as other:
        taken = f"{HOST}:{other.getsockname()[1]}"
        if which == "peers":
            toml, mend = node_toml(attached, 1, listen=taken), "change listen in [node]"
        else:
            toml, mend = node_toml(attached, 1, more=f'[http]\nlisten = "{taken}"\n'), "choose another address"
        refused("run", toml, words=(f"cannot listen on {taken}", "address already in use", mend))
        with socket.create_connection(other.getsockname()):
            pass  # whoever has it goes on
    assert query(attached, "SELECT lsn FROM crdt_state.position") == before
