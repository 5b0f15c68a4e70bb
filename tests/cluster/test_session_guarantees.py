"""Session guarantees and quorums between three real nodes: slow links, cut links, dead nodes, idle and busy systems.

The tests share a cluster and leave it healthy; each writes rows of its own.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import psycopg
import pytest
import pytest_asyncio

from sidecar.lab.cluster import LabCluster, http_get
from sidecar.lab.embedded import FAST_SETTINGS
from tests.prepared import PreparedCluster

pytestmark = pytest.mark.asyncio(loop_scope="module")

US, EU, AP = range(3)
DEADLINE_S = 60.0
SLOW_MS = 3000.0  # far above what anything else takes
HEARTBEAT_MS = 60_000  # so that nothing here can be owed to a heartbeat

SCHEMA = """
CREATE TABLE notes (id bigint PRIMARY KEY, likes bigint NOT NULL DEFAULT 0);
COMMENT ON COLUMN notes.likes IS '@crdt(pn_counter)';
"""

_ids = itertools.count(1)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[LabCluster]:
    timing = {"reconnect_ms_max": 300, "heartbeat_ms": HEARTBEAT_MS, "link_silent_ms": 2 * HEARTBEAT_MS}
    made = PreparedCluster(
        3,
        tmp_path_factory.mktemp("sessions"),
        schema_sql=SCHEMA,
        server_settings=FAST_SETTINGS,
        sections={"timing": timing},
    )
    async with made:
        await made.wait_linked()
        yield made


@asynccontextmanager
async def clients(cluster: LabCluster) -> AsyncIterator[list[asyncpg.Connection]]:
    """One session per node; every link is healthy and fast again at the end."""
    connections = [await asyncpg.connect(node.dsn, command_timeout=DEADLINE_S) for node in cluster.nodes]
    try:
        yield connections
    finally:
        for connection in connections:
            connection.terminate()
        for node in cluster.nodes:
            for proxy in node.proxies.values():
                proxy.delay_ms = 0.0
        cluster.heal()
        await cluster.wait_linked()


def slow_down(cluster: LabCluster, a: int, b: int, delay_ms: float) -> None:
    """Each direction of the link."""
    for proxy in cluster.links(a, b):
        proxy.delay_ms = delay_ms


async def write(connection: asyncpg.Connection) -> int:
    """A new note; its id."""
    number = next(_ids)
    await connection.execute("INSERT INTO notes (id) VALUES ($1)", number)
    return number


async def sees(connection: asyncpg.Connection, note: int) -> bool:
    return bool(await connection.fetchval("SELECT EXISTS (SELECT FROM notes WHERE id = $1)", note))


async def wait_on(connection: asyncpg.Connection, what: str, peers: int, within: str = "20 s") -> dict[str, Any]:
    row = await connection.fetchrow(f"SELECT * FROM crdt.{what}($1, $2::text)", peers, within)
    assert row is not None
    return {"complete": row["complete"], "reached": set(row["reached"]), "missing": set(row["missing"])}


# -- tokens --


async def test_a_write_is_read_everywhere_on_an_idle_cluster(cluster: LabCluster) -> None:
    async with clients(cluster) as (us, eu, ap):
        for pair in (cluster.links(US, EU), cluster.links(US, AP)):
            for proxy in pair:
                proxy.delay_ms = 40.0
        for _ in range(5):
            note = await write(us)
            token = await us.fetchval("SELECT crdt.token()")
            for other in (eu, ap):
                assert await other.fetchval("SELECT crdt.wait_for($1)", token) is True
                assert await sees(other, note)


async def test_reads_never_go_back_over_three_nodes(cluster: LabCluster) -> None:
    """What eu-west has merged of us-east is in its token too."""
    async with clients(cluster) as (us, eu, ap):
        slow_down(cluster, US, AP, SLOW_MS)
        note = await write(us)
        assert await eu.fetchval("SELECT crdt.wait_for($1)", await us.fetchval("SELECT crdt.token()"))
        token = await eu.fetchval("SELECT crdt.token()")
        assert await ap.fetchval("SELECT crdt.wait_for($1, '100 ms')", token) is False
        assert not await sees(ap, note)
        assert await ap.fetchval("SELECT crdt.wait_for($1)", token) is True
        assert await sees(ap, note)


async def test_tokens_on_busy_nodes(cluster: LabCluster) -> None:
    async with clients(cluster) as (us, eu, _):
        stop = asyncio.Event()
        done = [0, 0, 0]

        async def work(index: int) -> None:
            connection = await asyncpg.connect(cluster.nodes[index].dsn)
            while not stop.is_set():
                await write(connection)
                done[index] += 1
                await asyncio.sleep(0.005)
            await connection.close()

        workers = [asyncio.create_task(work(index)) for index in (US, EU, AP)]
        rounds = 0
        while rounds < 20 or (min(done) <= 20 and not any(worker.done() for worker in workers)):
            note = await write(us)
            token = await us.fetchval("SELECT crdt.token()")
            assert await eu.fetchval("SELECT crdt.wait_for($1)", token) is True
            assert await sees(eu, note)
            rounds += 1
        stop.set()
        await asyncio.gather(*workers)


async def test_any_driver_inside_a_transaction(cluster: LabCluster) -> None:
    async with clients(cluster) as (us, _, _):
        note = await write(us)
        token = await us.fetchval("SELECT crdt.token()")
    async with await psycopg.AsyncConnection.connect(cluster.nodes[EU].dsn) as connection:
        assert await (await connection.execute("SELECT crdt.wait_for(%s)", [token])).fetchone() == (True,)
        found = await (await connection.execute("SELECT count(*) FROM notes WHERE id = %s", [note])).fetchone()
        assert found == (1,), "a statement after it in the same transaction sees it"


async def test_the_page_waits_and_ends(cluster: LabCluster) -> None:
    async with clients(cluster) as (us, eu, _):
        slow_down(cluster, US, EU, 200.0)
        note = await write(us)
        token = await us.fetchval("SELECT crdt.token()")
        address = cluster.nodes[EU].http_listen
        code, body = await http_get(address, f"/wait?token={token}&timeout_ms=4000")
        assert (code, json.loads(body)) == (200, {"covered": True})
        assert await sees(eu, note)
        assert (await http_get(address, f"/wait?token=v1.1-{(1 << 62):x}&timeout_ms=30"))[0] == 504
        code, body = await http_get(address, "/wait?token=v1.9-1&timeout_ms=30")
        assert code == 400
        assert b"node 9" in body


# -- quorums --


async def test_a_write_on_two_and_a_read_of_two_meet(cluster: LabCluster) -> None:
    """N = 3, W = 2, R = 2: the read's node is the one that the write did not reach."""
    async with clients(cluster) as (us, _, ap):
        slow_down(cluster, US, AP, SLOW_MS)
        for _ in range(3):
            note = await write(us)
            began = time.monotonic()
            synced = await wait_on(us, "sync", 1)
            assert time.monotonic() - began < SLOW_MS / 1000, "eu-west is near, and no heartbeat was due"
            assert synced == {"complete": True, "reached": {"eu-west"}, "missing": {"ap-south"}}
            assert not await sees(ap, note), "or this shows nothing"
            assert (await wait_on(ap, "barrier", 1))["complete"]
            assert await sees(ap, note)


async def test_every_acknowledged_write_of_a_busy_cluster_is_seen(cluster: LabCluster) -> None:
    async with clients(cluster) as (us, eu, ap):
        slow_down(cluster, US, AP, 150.0)
        slow_down(cluster, EU, AP, 30.0)
        acknowledged: list[int] = []
        stop = asyncio.Event()

        async def writer(connection: asyncpg.Connection) -> None:
            while not stop.is_set():
                note = await write(connection)
                if (await wait_on(connection, "sync", 1))["complete"]:
                    acknowledged.append(note)

        writers = [asyncio.create_task(writer(connection)) for connection in (us, eu)]
        barriers = 0
        while barriers < 12 or (len(acknowledged) <= 20 and not any(task.done() for task in writers)):
            before = list(acknowledged)
            assert (await wait_on(ap, "barrier", 1))["complete"]
            seen = {row["id"] for row in await ap.fetch("SELECT id FROM notes")}
            assert set(before) <= seen
            barriers += 1
        stop.set()
        await asyncio.gather(*writers)


async def test_all_peers_are_waited_for(cluster: LabCluster) -> None:
    async with clients(cluster) as (us, eu, ap):
        note = await write(us)
        synced = await wait_on(us, "sync", 2)
        assert synced == {"complete": True, "reached": {"eu-west", "ap-south"}, "missing": set()}
        assert await sees(eu, note)
        assert await sees(ap, note)
        assert (await wait_on(ap, "barrier", 2))["reached"] == {"us-east", "eu-west"}


async def test_a_peer_that_is_cut_off_is_named(cluster: LabCluster) -> None:
    async with clients(cluster) as (us, _, ap):
        await cluster.isolate(AP)
        note = await write(us)
        synced = await wait_on(us, "sync", 2, "2 s")
        assert synced == {"complete": False, "reached": {"eu-west"}, "missing": {"ap-south"}}
        assert await wait_on(ap, "barrier", 1, "300 ms") == {
            "complete": False, "reached": set(), "missing": {"us-east", "eu-west"},
        }  # fmt: skip
        waiting = asyncio.create_task(wait_on(ap, "barrier", 1))
        await asyncio.sleep(0.1)  # the first question is lost; it is asked again once there is a link
        cluster.heal()
        assert (await waiting)["complete"]
        assert (await wait_on(us, "sync", 2))["complete"]
        assert await sees(ap, note)


async def test_a_peer_whose_database_is_dead_is_named(cluster: LabCluster) -> None:
    async with clients(cluster) as (us, _, _):
        await cluster.kill_server(AP)
        await write(us)
        assert (await wait_on(us, "sync", 2, "2 s"))["missing"] == {"ap-south"}
        answered = await wait_on(us, "barrier", 2, "2 s")
        assert answered == {"complete": False, "reached": {"eu-west"}, "missing": {"ap-south"}}
        await cluster.start_server(AP)
        assert (await wait_on(us, "sync", 2))["complete"]
        assert (await wait_on(us, "barrier", 2))["complete"]


async def test_a_killed_sidecar_lets_its_clients_wait_until_it_is_back(cluster: LabCluster) -> None:
    async with clients(cluster) as (us, eu, _):
        await cluster.kill_sidecar(US)
        note = await write(us)
        with pytest.raises(asyncpg.ObjectNotInPrerequisiteStateError, match="has not captured"):
            await us.fetchval("SELECT crdt.token('200 ms')")
        asking = asyncio.create_task(us.fetchval("SELECT crdt.token('20 s')"))
        await cluster.start_sidecar(US)
        token = await asking
        assert await eu.fetchval("SELECT crdt.wait_for($1, '20 s')", token) is True
        assert await sees(eu, note)
