"""Links that damage what they carry, or carry one way only: dropped and dialled again, and nothing else happens."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import AsyncIterator

import asyncpg
import pytest
import pytest_asyncio

from sidecar.lab.cluster import LabCluster
from sidecar.lab.damage import ChunkFaults
from sidecar.lab.embedded import FAST_SETTINGS
from sidecar.lab.waiting import wait_until
from tests.prepared import PreparedCluster

pytestmark = pytest.mark.asyncio(loop_scope="module")

NODES = range(3)
DEADLINE_S = 60.0
DAMAGES_MIN = {"corrupted": 30, "duplicated": 30, "reordered": 10}
"""Fewer where a chunk is held back: a handshake that waits for it takes its 5 s."""

SCHEMA = """
CREATE TABLE tally (id int PRIMARY KEY, n bigint NOT NULL DEFAULT 0, note text);
COMMENT ON COLUMN tally.n IS '@crdt(pn_counter)';
INSERT INTO tally SELECT generate_series(1, 20);
"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[LabCluster]:
    made = PreparedCluster(
        3,
        tmp_path_factory.mktemp("damage"),
        schema_sql=SCHEMA,
        server_settings=FAST_SETTINGS,
        sections={"timing": {"reconnect_ms_max": 200, "heartbeat_ms": 100, "link_silent_ms": 1000}},
    )
    async with made:
        await made.wait_linked()
        yield made


async def count_up(cluster: LabCluster, index: int, stop: asyncio.Event) -> int:
    """Increments of one node, spread over the rows, until told to stop; how many were committed."""
    connection = await asyncpg.connect(cluster.nodes[index].dsn)
    for done in itertools.count():
        if stop.is_set():
            await connection.close()
            return done
        note = f"{index} {done} " + "x" * (done % 500)
        await connection.execute("UPDATE tally SET n = n + 1, note = $2 WHERE id = $1", 1 + done % 20, note)
        await asyncio.sleep(0.005)
    raise AssertionError("counting never ends")


def damaged(cluster: LabCluster) -> Counter[str]:
    return sum((proxy.damaged for node in cluster.nodes for proxy in node.proxies.values()), Counter())


def reasons(cluster: LabCluster) -> str:
    """Why links ended, as the logs say it."""
    return "\n".join(node.log_path.read_text() for node in cluster.nodes)


@pytest.mark.parametrize("kind", list(DAMAGES_MIN))
async def test_a_damaged_link_is_dropped_and_dialled_again(cluster: LabCluster, kind: str) -> None:
    before = await total(cluster, 0)
    lines = reasons(cluster).count("link_up")
    stop = asyncio.Event()
    writers = [asyncio.create_task(count_up(cluster, index, stop)) for index in NODES]
    for node in cluster.nodes:
        for proxy in node.proxies.values():
            proxy.faults = ChunkFaults(**{kind: 0.05})
    start = damaged(cluster)[kind]
    await wait_until(lambda: damaged(cluster)[kind] > start + DAMAGES_MIN[kind], DEADLINE_S, "damage")
    cluster.heal()
    stop.set()
    committed = sum(await asyncio.gather(*writers))
    await cluster.wait_linked()
    await cluster.wait_converged(DEADLINE_S)
    assert len(set((await cluster.checksums("tally")).values())) == 1
    assert await total(cluster, 0) == before + committed, "nothing was lost, nothing counted twice"
    assert reasons(cluster).count("link_up") > lines + 5, "damage costs the link"
    assert "checksum differs" in reasons(cluster)


async def total(cluster: LabCluster, index: int) -> int:
    connection = await asyncpg.connect(cluster.nodes[index].dsn)
    try:
        return int(await connection.fetchval("SELECT sum(n) FROM tally"))
    finally:
        await connection.close()


async def test_a_link_that_carries_one_way_only_is_cut_by_who_hears_nothing(cluster: LabCluster) -> None:
    cluster.cut_one_way(0, 1)

    async def down() -> bool:
        peers = {
            (index, peer["name"]): peer["state"] for index in (0, 1) for peer in (await cluster.status(index))["peers"]
        }
        return "connected" not in (peers[0, "eu-west"], peers[1, "us-east"])

    await wait_until(down, DEADLINE_S, "the end of the link, on both sides")
    stop = asyncio.Event()
    writers = [asyncio.create_task(count_up(cluster, index, stop)) for index in NODES]
    before = await total(cluster, 2)
    await wait_until(lambda: _rose(cluster, before), DEADLINE_S, "changes on the node that both reach")
    stop.set()
    await asyncio.gather(*writers)
    cluster.heal()
    await cluster.wait_linked()
    await cluster.wait_converged(DEADLINE_S)
    assert len(set((await cluster.checksums("tally")).values())) == 1


async def _rose(cluster: LabCluster, before: int) -> bool:
    return await total(cluster, 2) > before + 20
