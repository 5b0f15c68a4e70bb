"""Faults on three real nodes, one by one: what goes wrong is said in one line, and nothing is lost or counted twice.

The tests share a cluster and leave it healthy; each has a table of its own.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
import pytest_asyncio

from sidecar.lab.cluster import LabCluster
from sidecar.lab.embedded import FAST_SETTINGS
from sidecar.lab.ports import HOST, free_port
from sidecar.lab.waiting import wait_until
from tests.prepared import PreparedCluster, run

pytestmark = pytest.mark.asyncio(loop_scope="module")

DEADLINE_S = 60.0
NODES = range(3)

SCHEMA = """
CREATE TABLE tally (id int PRIMARY KEY, n bigint NOT NULL DEFAULT 0);
COMMENT ON COLUMN tally.n IS '@crdt(pn_counter)';
INSERT INTO tally VALUES (1), (2);
CREATE TABLE ledger (id uuid PRIMARY KEY, tally int NOT NULL);
COMMENT ON TABLE ledger IS '@crdt';
CREATE TABLE notes (id int PRIMARY KEY, a text, b text);
COMMENT ON TABLE notes IS '@crdt';
CREATE TABLE grown (id int PRIMARY KEY, n int NOT NULL DEFAULT 0);
COMMENT ON COLUMN grown.n IS '@crdt(g_counter)';
INSERT INTO grown VALUES (5, 7);
"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[LabCluster]:
    made = PreparedCluster(
        3,
        tmp_path_factory.mktemp("faults"),
        schema_sql=SCHEMA,
        server_settings=FAST_SETTINGS,
        # The drift: two nodes are wrong by 400 ms in opposite directions.
        sections={"timing": {"reconnect_ms_max": 500, "catalog_poll_ms": 100, "max_clock_drift_ms": 1000}},
    )
    async with made:
        await made.wait_linked()
        yield made


def execute(dsn: str, statement: str, arguments: list[Any] | None = None) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(statement, arguments)  # type: ignore[call-overload]


def rows(dsn: str, query: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(dsn, autocommit=True) as connection:
        return connection.execute(query).fetchall()  # type: ignore[call-overload, no-any-return]


def everywhere(cluster: LabCluster, statement: str) -> None:
    for node in cluster.nodes:
        execute(node.dsn, statement)


async def rewritten(cluster: LabCluster) -> None:
    """Wait until no local row waits to be brought to its merged value."""
    for node in cluster.nodes:
        await wait_until(
            lambda dsn=node.dsn: not rows(dsn, "SELECT 1 FROM crdt_state.rewrite"),  # type: ignore[misc]
            DEADLINE_S,
            f"{node.name}: rewriting",
        )


async def same_everywhere(cluster: LabCluster, query: str) -> list[tuple[Any, ...]]:
    """What the query gives on every node once all have everything."""
    await cluster.wait_converged(DEADLINE_S)
    answers = [rows(node.dsn, query) for node in cluster.nodes]
    assert answers[0] == answers[1] == answers[2]
    return answers[0]


async def new_table(cluster: LabCluster, name: str, ddl: str) -> None:
    """Make a table on every node, annotated, and wait until every node replicates it."""
    everywhere(cluster, ddl + f"; COMMENT ON TABLE {name} IS '@crdt'")
    for index in NODES:
        await replicated(cluster, index, name)


async def replicated(cluster: LabCluster, index: int, name: str) -> None:
    async def known() -> bool:
        return f"public.{name}" in [table["name"] for table in (await cluster.status(index))["tables"]]

    await wait_until(known, DEADLINE_S, f"{cluster.nodes[index].name}: table {name}")


async def status_until(
    cluster: LabCluster, index: int, condition: Callable[[dict[str, Any]], Any], what: str
) -> dict[str, Any]:
    async def seen() -> dict[str, Any] | None:
        status = await cluster.status(index)
        return status if condition(status) else None

    found = await wait_until(seen, DEADLINE_S, f"{cluster.nodes[index].name}: {what}", tolerate=(OSError,))
    assert found is not None
    return found


def log_of(cluster: LabCluster, index: int) -> str:
    return cluster.nodes[index].log_path.read_text()


class Writers:
    """Each counts up and writes a ledger row in one transaction: the ledger tells about answers that never came."""

    def __init__(self, cluster: LabCluster, tally: int, count: int) -> None:
        self.tally = tally
        self.acknowledged: set[uuid.UUID] = set()
        self._tasks = [asyncio.create_task(self._write(node.dsn, count)) for node in cluster.nodes]

    async def _write(self, dsn: str, count: int) -> None:
        connection: psycopg.AsyncConnection[Any] | None = None
        done = 0
        while done < count:
            entry = uuid.uuid4()
            try:
                if connection is None:
                    connection = await psycopg.AsyncConnection.connect(dsn, connect_timeout=10)
                await connection.execute("INSERT INTO ledger VALUES (%s, %s)", [entry, self.tally])
                await connection.execute("UPDATE tally SET n = n + 1 WHERE id = %s", [self.tally])
                await connection.commit()
            except psycopg.OperationalError:
                if connection is not None:
                    await connection.close()
                    connection = None
                await asyncio.sleep(0.02)
            else:
                done += 1
                self.acknowledged.add(entry)
        if connection is not None:
            await connection.close()

    async def until(self, count: int) -> None:
        await wait_until(lambda: len(self.acknowledged) >= count, DEADLINE_S, f"{count} increments")

    async def end(self) -> None:
        await asyncio.gather(*self._tasks)


async def judge_tally(cluster: LabCluster, writers: Writers) -> None:
    ledger = await same_everywhere(cluster, f"SELECT id FROM ledger WHERE tally = {writers.tally} ORDER BY id")
    entries = {row[0] for row in ledger}
    assert writers.acknowledged <= entries, "an acknowledged transaction is lost"
    counted = await same_everywhere(cluster, f"SELECT n FROM tally WHERE id = {writers.tally}")
    assert counted == [(len(entries),)]


async def test_a_killed_sidecar_resumes_and_counts_nothing_twice(cluster: LabCluster) -> None:
    writers = Writers(cluster, 1, 250)
    for index in (0, 1, 0):
        await writers.until(60 * (index + 1))
        await cluster.kill_sidecar(index)
        await cluster.start_sidecar(index)
    await writers.end()
    await judge_tally(cluster, writers)


async def test_a_killed_server_loses_and_doubles_nothing(cluster: LabCluster) -> None:
    writers = Writers(cluster, 2, 250)
    for index in (0, 2):
        await writers.until(120 * (index + 1))
        await cluster.kill_server(index)
        await cluster.start_server(index)
    await writers.end()
    for index in NODES:
        await status_until(cluster, index, lambda s: s["capture"]["state"] == "streaming", "capture again")
    await judge_tally(cluster, writers)


async def test_a_second_sidecar_on_the_database_is_refused_in_one_line(cluster: LabCluster, tmp_path: Path) -> None:
    node = cluster.nodes[0]
    text = node.config_path.read_text()
    for address in (node.listen, node.http_listen):
        text = text.replace(address, f"{HOST}:{free_port()}")
    path = tmp_path / "second.toml"
    path.write_text(text)

    words = ["run", "-c", str(path)]
    done = await asyncio.to_thread(run, words, cwd=tmp_path, env=os.environ, timeout_s=DEADLINE_S)
    output = done.stdout + done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode != 0, output
    assert len(errors) == 1, output
    assert "another sidecar" in errors[0]
    assert "Traceback" not in output
    cluster.check_processes()
    execute(node.dsn, "INSERT INTO notes VALUES (1, 'still', 'here')")
    assert (await same_everywhere(cluster, "SELECT a FROM notes WHERE id = 1")) == [("still",)]


async def test_sigterm_ends_cleanly_under_load(cluster: LabCluster) -> None:
    everywhere(cluster, "INSERT INTO tally VALUES (3) ON CONFLICT DO NOTHING")
    await cluster.wait_converged(DEADLINE_S)
    writers = Writers(cluster, 3, 150)
    await writers.until(100)
    began = time.monotonic()
    assert await cluster.stop_sidecar(1) == 0
    assert time.monotonic() - began < 10
    await cluster.start_sidecar(1)
    await writers.end()
    await judge_tally(cluster, writers)


async def test_a_new_table_is_taken_up_without_a_restart(cluster: LabCluster) -> None:
    ddl = "CREATE TABLE fresh (id int PRIMARY KEY, v text)"
    everywhere(cluster, ddl)
    execute(cluster.nodes[0].dsn, "COMMENT ON TABLE fresh IS '@crdt'")
    await replicated(cluster, 0, "fresh")
    execute(cluster.nodes[0].dsn, "INSERT INTO fresh VALUES (1, 'early')")
    # A node that does not replicate it yet says so, and waits.
    status = await status_until(cluster, 1, lambda s: s["merge"]["held"], "the table is said to be missing")
    assert "public.fresh" in status["merge"]["held"]
    assert "annotate it here" in status["merge"]["held"]
    for index in (1, 2):
        execute(cluster.nodes[index].dsn, "COMMENT ON TABLE fresh IS '@crdt'")
        await replicated(cluster, index, "fresh")
        execute(cluster.nodes[index].dsn, f"INSERT INTO fresh VALUES ({index + 1}, 'late')")
    found = await same_everywhere(cluster, "SELECT * FROM fresh ORDER BY id")
    assert found == [(1, "early"), (2, "late"), (3, "late")]
    await status_until(cluster, 1, lambda s: not s["merge"]["held"], "nothing is held any more")


async def test_clocks_move_on_idle_nodes(cluster: LabCluster) -> None:
    await cluster.wait_converged(DEADLINE_S)
    query = "SELECT node, hlc FROM crdt_state.clock ORDER BY node"

    def moved(dsn: str, before: list[tuple[Any, ...]]) -> bool:
        now = rows(dsn, query)
        return len(now) == 3 and all(new[1] > old[1] for new, old in zip(now, before, strict=True))

    for _ in range(2):
        for node in cluster.nodes:
            before = rows(node.dsn, query)
            await wait_until(lambda n=node, b=before: moved(n.dsn, b), DEADLINE_S, f"{node.name}: three moving clocks")  # type: ignore[misc]


async def test_a_later_write_wins_over_a_clock_that_is_ahead(cluster: LabCluster) -> None:
    for index, skew in ((0, 400), (1, -400)):
        await cluster.stop_sidecar(index)
        cluster.configure(index, {"lab": {"clock_skew_ms": skew}})
        await cluster.start_sidecar(index)
    ahead, behind, _ = cluster.nodes
    try:
        await cluster.wait_linked()
        execute(ahead.dsn, "INSERT INTO notes VALUES (2, 'first', '')")
        await wait_until(lambda: rows(behind.dsn, "SELECT 1 FROM notes WHERE id = 2"), DEADLINE_S, "the first write")
        stamp = f"SELECT clock >> 16 FROM crdt.nodes WHERE id = {ahead.id}"
        now_ms = time.time_ns() // 1_000_000
        assert rows(ahead.dsn, stamp)[0][0] > now_ms, "the wrong clock shows in the versions"
        execute(behind.dsn, "UPDATE notes SET a = 'second' WHERE id = 2")
        assert (await same_everywhere(cluster, "SELECT a FROM notes WHERE id = 2")) == [("second",)]
    finally:
        for index in (0, 1):
            await cluster.stop_sidecar(index)
            cluster.configure(index, {})
            await cluster.start_sidecar(index)


async def test_a_node_of_another_cluster_is_refused_on_both_sides(cluster: LabCluster) -> None:
    await cluster.stop_sidecar(2)
    cluster.configure(2, {"node": {"cluster": "elsewhere"}})
    await cluster.start_sidecar(2)
    try:
        for index, peer in ((0, "ap-south"), (2, "us-east")):
            status = await status_until(
                cluster,
                index,
                lambda s, peer=peer: [p for p in s["peers"] if p["name"] == peer and p["state"] == "refused"],  # type: ignore[misc]
                f"{peer} is refused",
            )
            (error,) = [p["last_error"] for p in status["peers"] if p["name"] == peer]
            assert "cluster" in error
            assert "elsewhere" in error
            assert "elsewhere" in log_of(cluster, index)
            assert "Traceback" not in log_of(cluster, index)
        linked = [p["state"] for p in (await cluster.status(0))["peers"] if p["name"] == "eu-west"]
        assert linked == ["connected"], "the others do not suffer"
    finally:
        await cluster.stop_sidecar(2)
        cluster.configure(2, {})
        await cluster.start_sidecar(2)
    execute(cluster.nodes[2].dsn, "INSERT INTO notes VALUES (3, 'back', '')")
    assert (await same_everywhere(cluster, "SELECT a FROM notes WHERE id = 3")) == [("back",)]


async def test_two_nodes_with_one_id_refuse_each_other(tmp_path: Path) -> None:
    twins = PreparedCluster(2, tmp_path, proxied=False, server_settings=FAST_SETTINGS, sections={"node": {"id": 1}})
    async with twins:
        for index in (0, 1):
            status = await status_until(twins, index, lambda s: s["peers"][0]["state"] == "refused", "refusal")
            assert "both have node id 1" in status["peers"][0]["last_error"]
            assert "give every node its own id" in status["peers"][0]["last_error"]
            assert "both have node id 1" in log_of(twins, index)
            assert "Traceback" not in log_of(twins, index)


async def test_garbage_on_the_peer_port_harms_nothing(cluster: LabCluster) -> None:
    await cluster.wait_linked()
    host, _, port = cluster.nodes[0].listen.rpartition(":")
    for garbage in (b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 4096, b"\x00" * 64, b"\x16\x03\x01\x02\x00\x01\x00", b""):
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(garbage)
        if garbage:
            # Whatever is told to a stranger, the connection ends.
            assert len(await asyncio.wait_for(reader.read(), DEADLINE_S)) < 4096
        writer.close()
    cluster.check_processes()
    states = {peer["state"] for peer in (await cluster.status(0))["peers"]}
    assert states == {"connected"}
    assert "Traceback" not in log_of(cluster, 0)
    execute(cluster.nodes[0].dsn, "INSERT INTO notes VALUES (4, 'fine', '')")
    assert (await same_everywhere(cluster, "SELECT a FROM notes WHERE id = 4")) == [("fine",)]


async def test_one_bad_row_is_quarantined_and_the_stream_goes_on(cluster: LabCluster) -> None:
    await new_table(cluster, "checked", "CREATE TABLE checked (id int PRIMARY KEY, v int)")
    strict = cluster.nodes[1].dsn
    execute(strict, "ALTER TABLE checked ADD CONSTRAINT small CHECK (v < 100)")
    execute(
        cluster.nodes[0].dsn,
        "INSERT INTO checked SELECT i, CASE i WHEN 7 THEN 700 ELSE i END FROM generate_series(1, 20) AS i",
    )
    execute(cluster.nodes[0].dsn, "UPDATE checked SET v = v + 1 WHERE id = 3")
    await cluster.wait_converged(DEADLINE_S)
    assert rows(cluster.nodes[2].dsn, "SELECT count(*), max(v) FROM checked") == [(20, 700)]
    assert rows(strict, "SELECT count(*), max(v), min(v) FILTER (WHERE id = 3) FROM checked") == [(19, 20, 4)]
    ((table, key, reason, sqlstate),) = rows(
        strict,
        "SELECT \"table\", key ->> 'id', reason, sqlstate FROM crdt.quarantine WHERE \"table\" = 'public.checked'",
    )
    assert (table, key, sqlstate) == ("public.checked", "7", "23514")
    assert "small" in reason
    assert (await cluster.status(1))["merge"]["quarantined_rows"] >= 1


async def test_a_change_of_a_row_that_is_missing_is_quarantined(cluster: LabCluster) -> None:
    everywhere(cluster, "CREATE TABLE partly (id int PRIMARY KEY, v text)")
    execute(cluster.nodes[0].dsn, "INSERT INTO partly VALUES (1, 'only here')")
    everywhere(cluster, "COMMENT ON TABLE partly IS '@crdt'")
    for index in NODES:
        await replicated(cluster, index, "partly")
    execute(cluster.nodes[0].dsn, "UPDATE partly SET v = 'changed' WHERE id = 1")
    execute(cluster.nodes[0].dsn, "INSERT INTO partly VALUES (2, 'everywhere')")
    await cluster.wait_converged(DEADLINE_S)
    for node in cluster.nodes[1:]:
        assert rows(node.dsn, "SELECT * FROM partly") == [(2, "everywhere")]
        found = rows(
            node.dsn,
            "SELECT origin, key ->> 'id', change ->> 'v', reason FROM crdt.quarantine"
            " WHERE \"table\" = 'public.partly'",
        )
        ((origin, key, value, reason),) = found
        assert (origin, key, value) == ("us-east", "1", "changed")
        assert "not in this database" in reason


async def test_a_row_that_an_application_has_locked_is_merged_afterwards(cluster: LabCluster) -> None:
    execute(cluster.nodes[0].dsn, "INSERT INTO notes VALUES (5, 'a0', 'b0')")
    await cluster.wait_converged(DEADLINE_S)

    def retries(status: dict[str, Any]) -> int:
        return int(status["merge"]["retries"].get("lock_timeout", 0))

    before = retries(await cluster.status(1))
    async with await psycopg.AsyncConnection.connect(cluster.nodes[1].dsn) as application:
        await application.execute("SELECT * FROM notes WHERE id = 5 FOR UPDATE")
        locked = time.monotonic()
        execute(cluster.nodes[0].dsn, "UPDATE notes SET a = 'a1' WHERE id = 5")
        # The merge tries and gives way, again and again, for as long as the lock is held.
        await status_until(
            cluster, 1, lambda s: retries(s) >= before + 3 and time.monotonic() - locked > 2, "it gives way"
        )
        await application.execute("UPDATE notes SET b = 'b1' WHERE id = 5")
        await application.commit()
    assert (await same_everywhere(cluster, "SELECT a, b FROM notes WHERE id = 5")) == [("a1", "b1")]


async def test_truncate_deletes_on_every_node(cluster: LabCluster) -> None:
    await new_table(cluster, "emptied", "CREATE TABLE emptied (id int PRIMARY KEY); INSERT INTO emptied VALUES (7)")
    execute(cluster.nodes[0].dsn, "INSERT INTO emptied VALUES (1)")
    await cluster.wait_converged(DEADLINE_S)
    execute(cluster.nodes[0].dsn, "TRUNCATE emptied")
    execute(cluster.nodes[0].dsn, "INSERT INTO emptied VALUES (2)")
    await cluster.wait_converged(DEADLINE_S)
    assert await same_everywhere(cluster, "SELECT id FROM emptied ORDER BY id") == [(2,)]


async def test_rows_deleted_and_inserted_anew_in_one_large_transaction(cluster: LabCluster) -> None:
    await new_table(cluster, "anew", "CREATE TABLE anew (id int PRIMARY KEY, a text, b text)")
    execute(cluster.nodes[0].dsn, "INSERT INTO anew SELECT i, 'old', 'old' FROM generate_series(1, 50) AS i")
    await cluster.wait_converged(DEADLINE_S)
    await cluster.stop_sidecar(0)
    cluster.configure(0, {"limits": {"batch_rows_max": 10}})
    await cluster.start_sidecar(0)
    try:
        # Its deletes and its inserts stand in different parts of the change set.
        execute(
            cluster.nodes[0].dsn,
            "DELETE FROM anew; INSERT INTO anew SELECT i, 'new', 'new' FROM generate_series(1, 50) AS i",
        )
        await cluster.wait_converged(DEADLINE_S)
        execute(cluster.nodes[1].dsn, "UPDATE anew SET a = 'newer'")
        found = await same_everywhere(cluster, "SELECT count(*), min(a), max(a), min(b), max(b) FROM anew")
        assert found == [(50, "newer", "newer", "new", "new")]
    finally:
        await cluster.stop_sidecar(0)
        cluster.configure(0, {})
        await cluster.start_sidecar(0)


async def test_a_row_decreased_and_deleted_in_one_batch_comes_back_with_its_new_value(cluster: LabCluster) -> None:
    # The undone decrease is no part of what the row held before it was attached.
    await cluster.stop_sidecar(0)
    execute(cluster.nodes[0].dsn, "UPDATE grown SET n = n - 2 WHERE id = 5")
    execute(cluster.nodes[0].dsn, "DELETE FROM grown WHERE id = 5")
    await cluster.start_sidecar(0)
    await cluster.wait_converged(DEADLINE_S)
    execute(cluster.nodes[0].dsn, "INSERT INTO grown VALUES (5, 10)")
    await cluster.wait_converged(DEADLINE_S)
    execute(cluster.nodes[1].dsn, "UPDATE grown SET n = n + 1 WHERE id = 5")
    await cluster.wait_converged(DEADLINE_S)
    await rewritten(cluster)
    assert (await same_everywhere(cluster, "SELECT n FROM grown WHERE id = 5")) == [(11,)]


async def test_a_row_inserted_and_deleted_unseen_does_not_spoil_a_merge(cluster: LabCluster) -> None:
    before, behind, _ = cluster.nodes
    ((walsender,),) = rows(behind.dsn, "SELECT active_pid FROM pg_replication_slots WHERE slot_type = 'logical'")
    os.kill(walsender, signal.SIGSTOP)
    try:
        # Capture knows nothing of these two, and the table shows nothing of them.
        execute(behind.dsn, "INSERT INTO notes VALUES (6, 'local', 'local')")
        execute(behind.dsn, "DELETE FROM notes WHERE id = 6")
        execute(before.dsn, "INSERT INTO notes VALUES (6, 'remote', 'remote')")
        await wait_until(lambda: rows(behind.dsn, "SELECT 1 FROM notes WHERE id = 6"), DEADLINE_S, "the merge")
    finally:
        os.kill(walsender, signal.SIGCONT)
    await same_everywhere(cluster, "SELECT * FROM notes WHERE id = 6")


async def test_an_increase_beside_an_undone_decrease_is_kept(cluster: LabCluster) -> None:
    execute(cluster.nodes[0].dsn, "INSERT INTO grown VALUES (1, 10)")
    await cluster.wait_converged(DEADLINE_S)
    # One batch of capture holds both: while its sidecar is away they wait in the log.
    await cluster.stop_sidecar(0)
    execute(cluster.nodes[0].dsn, "UPDATE grown SET n = n - 5 WHERE id = 1")
    execute(cluster.nodes[0].dsn, "UPDATE grown SET n = n + 3 WHERE id = 1")
    await cluster.start_sidecar(0)
    await cluster.wait_converged(DEADLINE_S)
    await rewritten(cluster)
    assert (await same_everywhere(cluster, "SELECT n FROM grown WHERE id = 1")) == [(13,)]
