"""A copy of a node's files starts as a second "us-east", and an old copy in the place of the first: told before they do
damage, on both sides, and the genuine node goes on."""

from __future__ import annotations

import asyncio
import itertools
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from sidecar.lab.cluster import LabNode, http_get
from sidecar.lab.embedded import FAST_SETTINGS, EmbeddedPostgres
from sidecar.lab.ports import HOST, free_port
from sidecar.lab.waiting import wait_until
from tests.prepared import PreparedCluster

DEADLINE_S = 40.0
SCHEMA = """
CREATE TABLE notes (id int PRIMARY KEY, text text, n bigint NOT NULL DEFAULT 0);
COMMENT ON COLUMN notes.n IS '@crdt(pn_counter)';
"""
GENUINE, OTHER, COPY = 0, 1, 2

_keys = itertools.count(1)


def query(node: LabNode, text: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(node.dsn, autocommit=True) as connection:
        cursor = connection.execute(text.encode())
        return cursor.fetchall() if cursor.description else []


def write(node: LabNode, text: str) -> int:
    key = next(_keys)
    query(node, f"INSERT INTO notes VALUES ({key}, '{text}', {key})")
    return key


async def arrives(node: LabNode, key: int) -> None:
    await wait_until(
        lambda: query(node, f"SELECT 1 FROM notes WHERE id = {key} AND n = {key}"), DEADLINE_S, f"row {key} arrives"
    )


async def goes_on(cluster: PreparedCluster) -> None:
    """The genuine node and the other one replicate, both ways."""
    for here, there in ((GENUINE, OTHER), (OTHER, GENUINE)):
        await arrives(cluster.nodes[there], write(cluster.nodes[here], "after"))


@asynccontextmanager
async def cluster_of_two(folder: Path) -> AsyncIterator[PreparedCluster]:
    sections = {"timing": {"reconnect_ms_max": 300, "link_silent_ms": 2000}}
    made = PreparedCluster(
        2, folder, schema_sql=SCHEMA, proxied=False, server_settings=FAST_SETTINGS, sections=sections
    )
    async with made:
        await made.wait_linked()
        await goes_on(made)
        yield made


async def copy_files(cluster: PreparedCluster, folder: Path) -> EmbeddedPostgres:
    """A server that will run on a copy of the genuine node's files, as they are now; the sidecar is stopped for it."""
    genuine = cluster.nodes[GENUINE]
    await cluster.stop_sidecar(GENUINE)
    await asyncio.to_thread(genuine.server.stop)
    server = EmbeddedPostgres(folder, settings=FAST_SETTINGS)
    await asyncio.to_thread(
        subprocess.run, ["cp", "-a", str(genuine.server.data_dir), str(server.data_dir)], check=True
    )
    await cluster.start_server(GENUINE)
    return server


async def add_copy(cluster: PreparedCluster, server: EmbeddedPostgres, *, in_place: bool) -> LabNode:
    """The copy as a third node of the cluster, with the name and the id of the first; ``in_place``: at its address."""
    genuine = cluster.nodes[GENUINE]
    await asyncio.to_thread(server.start)
    server.folder.parent.mkdir(exist_ok=True)
    node = LabNode(
        name=genuine.name,
        id=genuine.id,
        folder=server.folder,
        server=server,
        dsn=server.dsn("app"),
        listen=genuine.listen if in_place else f"{HOST}:{free_port()}",
        http_listen=f"{HOST}:{free_port()}",
    )
    cluster.nodes.append(node)
    cluster.edges.append((OTHER, COPY))
    cluster.configure(COPY, {})
    await cluster.start_sidecar(COPY, ready=False)
    return node


async def says(cluster: PreparedCluster, index: int, *words: str) -> str:
    """A problem of the node with these words, which also stand on one line of its log."""
    node = cluster.nodes[index]
    found: list[str] = []

    async def there() -> bool:
        status = await cluster.status(index)
        found[:] = [line for line in status["problems"] if all(word in line for word in words)]
        return bool(found)

    await wait_until(there, DEADLINE_S, f"{node.name} says {words}", tolerate=(OSError,))
    assert any(all(word in line for word in words) for line in node.log_path.read_text().splitlines())
    return found[0]


async def states(cluster: PreparedCluster, index: int) -> dict[str, str]:
    return {peer["name"]: peer["state"] for peer in (await cluster.status(index))["peers"]}


def merged(node: LabNode) -> list[tuple[Any, ...]]:
    """What a node has, and up to where."""
    return [
        *query(node, "SELECT id, text, n FROM notes WHERE text <> 'after' ORDER BY id"),
        *query(node, "SELECT change_hlc FROM crdt_state.clock WHERE node = 1"),
    ]


async def test_a_copy_that_runs_beside_the_genuine_node_is_refused_and_the_link_stays(tmp_path: Path) -> None:
    async with cluster_of_two(tmp_path / "lab") as cluster:
        server = await copy_files(cluster, tmp_path / "copy")
        await cluster.start_sidecar(GENUINE)
        await cluster.wait_linked()
        links = (await cluster.status(GENUINE))["peers"][0]
        copy = await add_copy(cluster, server, in_place=False)
        await says(cluster, COPY, "'us-east' (node 1)", "is a copy")
        await says(cluster, OTHER, "two databases run as 'us-east' (node 1)", "is a copy")
        assert await states(cluster, COPY) == {"eu-west": "refused"}
        assert await states(cluster, OTHER) == {"us-east": "connected"}
        before = merged(cluster.nodes[OTHER])
        lost = write(copy, "of the copy")
        await goes_on(cluster)
        assert query(cluster.nodes[OTHER], f"SELECT 1 FROM notes WHERE id = {lost}") == []
        assert merged(cluster.nodes[OTHER])[:-1] == before[:-1]
        assert (await cluster.status(GENUINE))["peers"][0]["bytes_in"] >= links["bytes_in"], "the same link"

        # Started again, with more starts than the genuine one, while that is linked, and while it is away.
        await cluster.stop_sidecar(COPY)
        await cluster.start_sidecar(COPY, ready=False)
        await says(cluster, COPY, "'us-east' (node 1)", "is a copy")
        await cluster.stop_sidecar(GENUINE)
        await cluster.stop_sidecar(COPY)
        await cluster.start_sidecar(COPY, ready=False)
        await says(cluster, COPY, "'us-east' (node 1)", "is a copy")
        assert "us-east" not in [name for name, state in (await states(cluster, OTHER)).items() if state == "connected"]
        await cluster.start_sidecar(GENUINE)
        await goes_on(cluster)
        assert query(cluster.nodes[OTHER], "SELECT 1 FROM notes WHERE text = 'of the copy'") == []
        await cluster.kill_sidecar(COPY)
        cluster.nodes.pop()
        server.close()


@pytest.mark.parametrize("alone", [False, True])
async def test_an_old_copy_in_the_place_of_the_node_is_refused_before_any_damage(tmp_path: Path, alone: bool) -> None:
    """``alone``: it has run and written for a while before it meets anybody, so that its clock is ahead of what the
    others have."""
    async with cluster_of_two(tmp_path / "lab") as cluster:
        server = await copy_files(cluster, tmp_path / "copy")
        await cluster.start_sidecar(GENUINE)
        await goes_on(cluster)
        await arrives(cluster.nodes[OTHER], write(cluster.nodes[GENUINE], "after the copy was made"))
        await cluster.stop_sidecar(GENUINE)
        if alone:
            await cluster.stop_sidecar(OTHER)
        before = merged(cluster.nodes[OTHER])
        copy = await add_copy(cluster, server, in_place=True)
        if alone:
            await wait_until(lambda: http_ready(copy), DEADLINE_S, "the old state serves", tolerate=(OSError,))
            for _ in range(2):
                lost = write(copy, "of the old state")
                await wait_until(
                    lambda: query(
                        copy, "SELECT 1 FROM crdt_state.journal WHERE to_hlc > (SELECT max(hlc) FROM crdt_state.start)"
                    ),
                    DEADLINE_S,
                    "it is captured",
                )
                await cluster.stop_sidecar(COPY)
                await cluster.start_sidecar(COPY)
            await cluster.start_sidecar(OTHER)
        await says(cluster, COPY, "'us-east' (node 1)", "restored, or is a copy", "make it anew")
        await says(cluster, OTHER, "'us-east' (node 1)", "restored, or is a copy", "make it anew")
        lost = write(copy, "of the old state")
        await arrives(copy, lost)
        assert await states(cluster, COPY) == {"eu-west": "refused"}
        assert (await states(cluster, OTHER))["us-east"] != "connected"
        assert merged(cluster.nodes[OTHER]) == before
        await cluster.kill_sidecar(COPY)
        cluster.nodes.pop()
        server.close()
        await cluster.start_sidecar(GENUINE)
        await goes_on(cluster)
        assert merged(cluster.nodes[OTHER])[:-1] == before[:-1]


async def http_ready(node: LabNode) -> bool:
    code, _ = await http_get(node.http_listen, "/readyz")
    return code == 200


async def run_join(cluster: PreparedCluster, index: int, source: int) -> str:
    words = ("join", "--from", cluster.nodes[source].name, "--dsn", cluster.nodes[source].dsn)
    done = await cluster.command(cluster.nodes[index], *words)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


async def test_another_database_takes_the_place_of_a_node_by_a_join_only(tmp_path: Path) -> None:
    """Attached under the name and id alone it is refused."""
    async with cluster_of_two(tmp_path / "lab") as cluster:
        genuine, other = cluster.nodes[GENUINE], cluster.nodes[OTHER]
        await cluster.stop_sidecar(GENUINE)
        await asyncio.to_thread(genuine.server.run_psql, "ALTER DATABASE app RENAME TO former")
        await cluster._start_database(genuine)
        await asyncio.to_thread(genuine.server.run_psql, "SELECT pg_drop_replication_slot('sidecar_1')", "former")
        await cluster._init(genuine)
        await cluster.start_sidecar(GENUINE, ready=False)
        await says(cluster, OTHER, "'us-east' (node 1)", "sidecar join --from eu-west")
        assert (await states(cluster, OTHER))["us-east"] != "connected"
        await cluster.stop_sidecar(GENUINE)
        await run_join(cluster, GENUINE, OTHER)
        await cluster.start_sidecar(GENUINE)
        await goes_on(cluster)
        rows = "SELECT id, text, n FROM notes ORDER BY id"
        assert query(genuine, rows) == query(other, rows)
        identity = "SELECT incarnation::text, generation > 1 FROM crdt_state.node"
        [(incarnation, later)] = query(genuine, identity)
        assert later
        assert query(other, "SELECT incarnation FROM crdt_state.peer WHERE id = 1") == [(incarnation,)]
