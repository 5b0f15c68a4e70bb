"""The lab cluster with a stand-in for the sidecar: processes, faults, and the judgement of convergence."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import psycopg
import pytest

from sidecar.errors import SidecarError
from sidecar.lab.cluster import LabCluster
from sidecar.lab.convergence import table_checksum, wait_converged
from sidecar.lab.embedded import FAST_SETTINGS
from sidecar.lab.process import is_alive
from sidecar.lab.waiting import DeadlineError, wait_until

# Answers /readyz and /status like a node; "init" of a node whose folder holds "refuse" fails.
STAND_IN = """
import asyncio, pathlib, sys, tomllib
path = pathlib.Path(sys.argv[3])
config = tomllib.loads(path.read_text())
if sys.argv[1] == "init":
    sys.exit("error: wal_level is replica; set it" if (path.parent / "refuse").exists() else 0)
async def serve(reader, writer):
    line = await reader.readline()
    peers = ",".join('{"state": "connected"}' for peer in config["peers"])
    writer.write(b'HTTP/1.0 200 OK\\r\\n\\r\\n{"peers": [' + peers.encode() + b"]}")
    writer.close()
async def main():
    host, _, port = config["http"]["listen"].rpartition(":")
    async with await asyncio.start_server(serve, host, int(port)) as server:
        await server.serve_forever()
asyncio.run(main())
"""
STATE = """
CREATE SCHEMA crdt_state;
CREATE TABLE crdt_state.clock (node int2 PRIMARY KEY, hlc int8 NOT NULL);
CREATE TABLE crdt_state.position (slot text NOT NULL, lsn pg_lsn NOT NULL);
"""
SCHEMA = "CREATE TABLE posts (id text PRIMARY KEY, likes int);"


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[LabCluster]:
    program = tmp_path / "stand_in.py"
    program.write_text(STAND_IN)
    made = LabCluster(
        2, tmp_path, schema_sql=SCHEMA + STATE, server_settings=FAST_SETTINGS, command=(sys.executable, str(program))
    )
    yield made
    await made.stop()


def execute(dsn: str, statement: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(statement)  # type: ignore[call-overload]


async def test_life_of_a_cluster(cluster: LabCluster) -> None:
    await cluster.start()
    await cluster.wait_linked(10)
    east, west = cluster.nodes
    assert east.sidecar_process is not None
    pid = east.sidecar_process.pid
    await cluster.kill_sidecar(0)
    assert not is_alive(pid)
    cluster.check_processes()
    await cluster.start_sidecar(0)

    execute(east.dsn, "INSERT INTO posts VALUES ('a', 1), ('B', 2)")
    execute(west.dsn, "INSERT INTO posts VALUES ('B', 2), ('a', 1)")
    sums = await cluster.checksums("posts")
    assert len(set(sums.values())) == 1, "the order of insertion does not matter"
    execute(west.dsn, "UPDATE posts SET likes = 3 WHERE id = 'B'")
    assert await cluster.table_checksum(1, "posts") != sums["eu-west"]

    await cluster.kill_server(1)
    with pytest.raises(psycopg.OperationalError):
        await cluster.table_checksum(1, "posts")
    await cluster.start_server(1)
    assert await cluster.table_checksum(1, "public.posts") != sums["eu-west"]

    assert west.sidecar_process is not None
    west.sidecar_process.terminate()
    await wait_until(lambda: west.sidecar_process and west.sidecar_process.poll() is not None, 10, "its end")
    with pytest.raises(SidecarError, match="eu-west: the sidecar ended with status"):
        cluster.check_processes()


async def test_a_failed_init_is_one_line_and_leaves_nothing(cluster: LabCluster) -> None:
    (cluster.nodes[1].folder / "refuse").touch()
    with pytest.raises(SidecarError, match="eu-west: sidecar init failed: error: wal_level is replica; set it"):
        await cluster.start()
    assert not any(node.server.running for node in cluster.nodes)


@pytest.fixture
def two_nodes(postgres_server, _empty_template):  # type: ignore[no-untyped-def]
    """Node id to (name, DSN) of two databases with state tables: captured far ahead, clocks at 10."""
    names = {1: "converge_1", 2: "converge_2"}
    for name in names.values():
        dsn = postgres_server.create_database(name, _empty_template)
        execute(dsn, STATE)
        execute(dsn, "INSERT INTO crdt_state.clock VALUES (1, 10), (2, 10)")
        execute(dsn, "INSERT INTO crdt_state.position VALUES ('s', 'FFFF/0')")
    yield {node: (name, postgres_server.dsn(name)) for node, name in names.items()}
    for name in names.values():
        postgres_server.drop_database(name)


async def test_equal_clocks_have_converged(two_nodes: dict[int, tuple[str, str]]) -> None:
    await wait_converged(two_nodes, 5)


async def test_waits_for_the_merge_of_what_a_node_has_captured(two_nodes: dict[int, tuple[str, str]]) -> None:
    execute(two_nodes[1][1], "UPDATE crdt_state.clock SET hlc = 655361 WHERE node = 1")
    with pytest.raises(DeadlineError, match=r"converge_2 has converge_1 up to 0\.10 of 10\.1"):
        await wait_converged(two_nodes, 0.3)
    polled = asyncio.Event()
    waiting = asyncio.create_task(wait_converged(two_nodes, 20, check=polled.set))
    await polled.wait()
    execute(two_nodes[2][1], "UPDATE crdt_state.clock SET hlc = 655361 WHERE node = 1")
    assert not waiting.done()
    await waiting


async def test_waits_for_capture(two_nodes: dict[int, tuple[str, str]]) -> None:
    execute(two_nodes[2][1], "UPDATE crdt_state.position SET lsn = '0/1'")
    with pytest.raises(DeadlineError, match="converge_2: capture up to"):
        await wait_converged(two_nodes, 0.3)


async def test_a_process_that_ended_is_said_at_once(two_nodes: dict[int, tuple[str, str]]) -> None:
    def check() -> None:
        raise SidecarError("us-east: the sidecar ended")

    with pytest.raises(SidecarError, match="us-east: the sidecar ended"):
        await wait_converged(two_nodes, 20, check=check)


async def test_a_table_without_an_order_has_no_checksum(database: str) -> None:
    execute(database, "CREATE TABLE heap (n int)")
    with pytest.raises(SidecarError, match="no primary key"):
        await table_checksum(database, "heap")
