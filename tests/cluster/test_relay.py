"""The causal gate, and changes that reach a node through others: over slow and cut links, and from a lost origin."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from sidecar.lab.cluster import LabCluster
from sidecar.lab.embedded import FAST_SETTINGS
from sidecar.lab.topologies import chain, mesh
from sidecar.lab.waiting import wait_until
from tests.prepared import PreparedCluster

DEADLINE_S = 60.0
SLOW_MS = 1500.0

pytestmark = pytest.mark.slow

SCHEMA = """
CREATE TABLE posts (id text PRIMARY KEY, body text, likes bigint NOT NULL DEFAULT 0);
COMMENT ON TABLE posts IS '@crdt';
COMMENT ON COLUMN posts.likes IS '@crdt(pn_counter)';
"""


@asynccontextmanager
async def three(folder: Path, edges: list[tuple[int, int]], *, relay: bool) -> AsyncIterator[LabCluster]:
    cluster = PreparedCluster(
        3,
        folder,
        schema_sql=SCHEMA,
        server_settings=FAST_SETTINGS,
        sections={"node": {"relay": relay, "nice": 0}, "timing": {"reconnect_ms_max": 300}},
        edges=edges,
    )
    async with cluster:
        await cluster.wait_linked()
        yield cluster


async def run(cluster: LabCluster, index: int, query: str, *arguments: Any) -> list[tuple[Any, ...]]:
    dsn = cluster.nodes[index].dsn
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        cursor = await connection.execute(query, arguments)  # type: ignore[arg-type]
        return await cursor.fetchall() if cursor.description else []


async def write(cluster: LabCluster, index: int, key: str, body: str = "") -> None:
    await run(cluster, index, "INSERT INTO posts VALUES (%s, %s)", key, body)


async def keys(cluster: LabCluster, index: int) -> set[str]:
    return {key for (key,) in await run(cluster, index, "SELECT id FROM posts")}


async def until_has(cluster: LabCluster, index: int, *wanted: str, deadline_s: float = DEADLINE_S) -> None:
    async def there() -> bool:
        return set(wanted) <= await keys(cluster, index)

    await wait_until(there, deadline_s, f"{cluster.nodes[index].name} has {', '.join(wanted)}")


@pytest.mark.parametrize("relay", [False, True], ids=["direct links", "relay"])
async def test_an_answer_is_never_seen_without_its_post(tmp_path: Path, relay: bool) -> None:
    """A posts, B answers what it has read, C hears of A slowly. Without relay the answer waits at C's gate for the
    post; with relay the post comes with the answer, and C waits for nobody."""
    async with three(tmp_path, mesh(3), relay=relay) as cluster:
        for proxy in cluster.links(0, 2):
            proxy.delay_ms = SLOW_MS
        waited = False
        now = asyncio.get_running_loop().time
        for round_ in range(5):
            post, answer = f"post {round_}", f"answer {round_}"
            await write(cluster, 0, post)
            await until_has(cluster, 1, post)
            began = now()
            await write(cluster, 1, answer)
            while answer not in (there := await keys(cluster, 2)):
                assert now() < began + DEADLINE_S
                reasons = [peer["waiting"] or "" for peer in (await cluster.status(2))["peers"]]
                waited = waited or any("it depends on changes of node 1" in reason for reason in reasons)
            assert post in there, "the answer is there, and what it answers is not"
            if relay:
                assert now() < began + SLOW_MS / 1000, "the post came through B"
        if not relay:
            assert waited, "the gate was never asked, so this test shows nothing"


async def test_a_cut_link_is_gone_around(tmp_path: Path) -> None:
    async with three(tmp_path, mesh(3), relay=True) as cluster:
        await write(cluster, 0, "before")
        await until_has(cluster, 2, "before")
        await cluster.cut(0, 2)
        for i in range(20):
            await write(cluster, 0, f"a {i}")
            await write(cluster, 2, f"c {i}")
            await run(cluster, i % 3, "UPDATE posts SET likes = likes + 1 WHERE id = 'before'")
        await until_has(cluster, 2, "a 19")
        await until_has(cluster, 0, "c 19")
        await cluster.wait_converged(DEADLINE_S)
        assert len(set((await cluster.checksums("posts")).values())) == 1
        cluster.heal()
        await cluster.wait_linked()
        await cluster.wait_converged(DEADLINE_S)
        assert await run(cluster, 2, "SELECT likes FROM posts WHERE id = 'before'") == [(20,)], "each once"
        assert len(set((await cluster.checksums("posts")).values())) == 1


async def test_what_a_lost_origin_has_sent_comes_from_the_others(tmp_path: Path) -> None:
    async with three(tmp_path, mesh(3), relay=True) as cluster:
        await write(cluster, 0, "before")
        await until_has(cluster, 2, "before")
        await cluster.kill_sidecar(2)
        for i in range(30):
            await write(cluster, 0, f"a {i}")
        await until_has(cluster, 1, "a 29")
        await cluster.kill_sidecar(0)
        await cluster.kill_server(0)  # for good
        await write(cluster, 1, "b")
        assert "a 0" not in await keys(cluster, 2)
        # The relaying node starts anew, too: what it keeps for others is in its journal.
        await cluster.kill_sidecar(1)
        await cluster.start_sidecar(1, ready=False)
        await cluster.start_sidecar(2, ready=False)
        await until_has(cluster, 2, *(f"a {i}" for i in range(30)), "b")
        clocks = "SELECT hlc FROM crdt_state.clock WHERE node = 1"

        async def heard() -> bool:
            return await run(cluster, 1, clocks) == await run(cluster, 2, clocks)

        await wait_until(heard, DEADLINE_S, "C knows as much of A as B does")


async def test_far_nodes_are_known_by_name_and_a_large_set_passes_through(tmp_path: Path) -> None:
    async with three(tmp_path, chain(3), relay=True) as cluster:
        cluster.configure(0, {"limits": {"batch_rows_max": 100}})
        await cluster.stop_sidecar(0)
        await cluster.start_sidecar(0)
        await run(cluster, 0, "INSERT INTO posts SELECT 'row ' || i, 'x' FROM generate_series(1, 2000) AS i")
        await until_has(cluster, 2, "row 1", "row 2000")
        assert len(await keys(cluster, 2)) == 2000
        parts = "SELECT count(*) > 10, max(part) > 10 FROM crdt_state.journal WHERE origin = 1"
        assert await run(cluster, 1, parts) == [(True, True)], "in parts, as it came"

        async def named() -> bool:
            return await run(cluster, 2, "SELECT name FROM crdt.nodes WHERE id = 1") == [(cluster.nodes[0].name,)]

        await wait_until(named, DEADLINE_S, "the far node's name")
        lag = "SELECT name, unacknowledged_change_sets IS NULL FROM crdt.lag ORDER BY node"
        assert [row[1] for row in await run(cluster, 2, lag)] == [True, False, True], "only a peer acknowledges here"
        [token] = (await run(cluster, 0, "SELECT crdt.token()"))[0]
        assert await run(cluster, 2, "SELECT crdt.wait_for(%s, '10s')", token)


async def test_without_relay_a_chain_waits_and_says_for_whom(tmp_path: Path) -> None:
    """C is linked with B only: what B wrote after it had read A's changes waits at C's gate, and the status says so."""
    async with three(tmp_path, chain(3), relay=False) as cluster:
        await write(cluster, 1, "b alone")
        await until_has(cluster, 2, "b alone")
        await write(cluster, 0, "a")
        await until_has(cluster, 1, "a")
        await write(cluster, 1, "b after a")

        async def told() -> bool:
            peers = (await cluster.status(2))["peers"]
            return any("it depends on changes of node 1" in (peer["waiting"] or "") for peer in peers)

        await wait_until(told, DEADLINE_S, "the status names what is waited for")
        assert await keys(cluster, 2) == {"b alone"}
