"""Nodes that are gone: removed by others, spread to all, refused when they come back."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from sidecar.lab.embedded import FAST_SETTINGS
from sidecar.lab.topologies import chain, mesh
from sidecar.lab.waiting import wait_until
from tests.prepared import PreparedCluster

DEADLINE_S = 60.0

pytestmark = pytest.mark.slow

SCHEMA = """
CREATE TABLE posts (id text PRIMARY KEY, body text, likes bigint NOT NULL DEFAULT 0);
COMMENT ON TABLE posts IS '@crdt';
COMMENT ON COLUMN posts.likes IS '@crdt(pn_counter)';
"""
SMALL = {"journal_partition_rows": 16}
"""So that the journal is trimmed within a test."""


@asynccontextmanager
async def nodes(
    size: int, folder: Path, *, edges: list[tuple[int, int]] | None = None, relay: bool = False
) -> AsyncIterator[PreparedCluster]:
    cluster = PreparedCluster(
        size,
        folder,
        schema_sql=SCHEMA,
        proxied=False,
        server_settings=FAST_SETTINGS,
        sections={"node": {"relay": relay, "nice": 0}, "timing": {"reconnect_ms_max": 300}, "limits": SMALL},
        edges=mesh(size) if edges is None else edges,
    )
    async with cluster:
        await cluster.wait_linked()
        yield cluster


async def run(cluster: PreparedCluster, index: int, query: str, *arguments: Any) -> list[tuple[Any, ...]]:
    async with await psycopg.AsyncConnection.connect(cluster.nodes[index].dsn, autocommit=True) as connection:
        cursor = await connection.execute(query, arguments)  # type: ignore[arg-type]
        return await cursor.fetchall() if cursor.description else []


async def write(cluster: PreparedCluster, index: int, *keys: str) -> None:
    for key in keys:
        await run(cluster, index, "INSERT INTO posts VALUES (%s, 'x')", key)


async def until_has(cluster: PreparedCluster, index: int, *wanted: str) -> None:
    async def there() -> bool:
        return set(wanted) <= {key for (key,) in await run(cluster, index, "SELECT id FROM posts")}

    await wait_until(there, DEADLINE_S, f"{cluster.nodes[index].name} has {', '.join(wanted)}")


async def command(cluster: PreparedCluster, index: int, *words: str) -> tuple[int, str]:
    """A command of the command line on a node: exit status, and what it said."""
    done = await cluster.command(cluster.nodes[index], *words)
    return done.returncode, done.stdout + done.stderr


async def state_of(cluster: PreparedCluster, index: int, name: str) -> str:
    [(state,)] = await run(cluster, index, "SELECT state FROM crdt.nodes WHERE name = %s", name)
    return str(state)


async def until_state(cluster: PreparedCluster, index: int, name: str, wanted: str) -> None:
    async def so() -> bool:
        return await state_of(cluster, index, name) == wanted

    what = f"{cluster.nodes[index].name} knows that {name} is {wanted}"
    await wait_until(so, DEADLINE_S, what, tolerate=(ValueError,))  # it does not know the name yet


async def peer(cluster: PreparedCluster, index: int, name: str) -> dict[str, Any]:
    return next(p for p in (await cluster.status(index))["peers"] if p["name"] == name)


async def journal_rows(cluster: PreparedCluster, index: int) -> int:
    return int((await run(cluster, index, "SELECT count(*) FROM crdt_state.journal"))[0][0])


async def until_grown(cluster: PreparedCluster, index: int, size: int) -> None:
    """Writes until the journal is so long: a busy node makes one change set of several writes."""
    numbers = itertools.count()

    async def long() -> bool:
        await write(cluster, index, f"more {next(numbers)}")
        return await journal_rows(cluster, index) >= size

    await wait_until(long, DEADLINE_S, f"the journal of {cluster.nodes[index].name} has {size} rows")


async def until_trimmed(cluster: PreparedCluster, index: int, below: int) -> None:
    async def small() -> bool:
        return await journal_rows(cluster, index) < below

    await wait_until(small, DEADLINE_S, f"the journal of {cluster.nodes[index].name} is trimmed")


async def test_a_dead_node_is_removed_and_refused_when_it_comes_back(tmp_path: Path) -> None:
    async with nodes(3, tmp_path) as cluster:
        await write(cluster, 2, "from the dead")
        await until_has(cluster, 0, "from the dead")
        await until_has(cluster, 1, "from the dead")
        status, said = await command(cluster, 0, "remove", "eu-west", "--timeout", "3")
        assert status == 1, said
        assert "eu-west is linked with this node" in said
        await cluster.kill_sidecar(2)
        for i in range(60):
            await write(cluster, 0, f"row {i}")
        await until_has(cluster, 1, "row 59")
        await until_grown(cluster, 0, 30)  # kept for the one that is away
        status, said = await command(cluster, 0, "remove", "ap-south", "--yes")
        assert status == 0, said
        assert "ap-south (node 3) was removed by us-east at" in said
        assert "told eu-west" in said
        await until_state(cluster, 1, "ap-south", "removed")
        assert await state_of(cluster, 0, "ap-south") == "removed"
        await until_trimmed(cluster, 0, 20)
        # Quorums count members.
        [(complete, reached, missing)] = await run(cluster, 0, "SELECT * FROM crdt.sync(1, '10s')")
        assert (complete, reached, missing) == (True, ["eu-west"], [])
        [(complete, reached, missing)] = await run(cluster, 1, "SELECT * FROM crdt.barrier(1, '10s')")
        assert (complete, reached, missing) == (True, ["us-east"], [])
        with pytest.raises(psycopg.errors.InvalidParameterValue):
            await run(cluster, 0, "SELECT * FROM crdt.sync(2, '1s')")
        clocks = "SELECT hlc FROM crdt_state.clock WHERE node = 3"

        async def equal() -> bool:
            return await run(cluster, 0, clocks) == await run(cluster, 1, clocks)

        await wait_until(equal, DEADLINE_S, "equal clocks for the dead node")
        again, said = await command(cluster, 1, "remove", "ap-south")
        assert again == 0, said
        assert "nothing to do" in said
        await cluster.start_sidecar(2)

        async def told() -> bool:
            there = await peer(cluster, 2, "us-east")
            return there["state"] == "refused" and "removed by us-east" in there["last_error"]

        await wait_until(told, DEADLINE_S, "the removed node knows")

        async def listed() -> bool:
            return any("was removed by us-east" in line for line in (await cluster.status(2))["problems"])

        await wait_until(listed, DEADLINE_S, "and says so among its problems")
        assert "sidecar init" in (await peer(cluster, 2, "us-east"))["last_error"]
        here = await peer(cluster, 0, "ap-south")
        assert (here["state"], here["lag_ms"]) == ("removed", None)
        assert "was removed by us-east" in here["last_error"]
        await write(cluster, 2, "too late")
        await write(cluster, 0, "alive")
        await until_has(cluster, 1, "alive")
        assert (await run(cluster, 0, "SELECT count(*) FROM posts WHERE id = 'too late'")) == [(0,)]
        names = "SELECT e.writer FROM crdt.explain('posts', 'from the dead') AS e LIMIT 1"
        assert await run(cluster, 0, names) == [("ap-south",)]


@pytest.mark.parametrize("relay", [False, True], ids=["direct links", "relay"])
async def test_a_node_leaves_and_nothing_is_kept_for_it(tmp_path: Path, relay: bool) -> None:
    async with nodes(3, tmp_path, relay=relay) as cluster:
        await write(cluster, 2, *(f"mine {i}" for i in range(30)))
        status, said = await command(cluster, 2, "leave")
        assert status == 0, said
        assert "ap-south (node 3) left at" in said
        assert "eu-west, us-east know it" in said
        leaver = cluster.nodes[2]
        assert leaver.sidecar_process is not None
        assert await asyncio.to_thread(leaver.sidecar_process.wait, 60) == 0, "its process ended in order"
        leaver.sidecar_process = None
        for index in (0, 1):
            assert await state_of(cluster, index, "ap-south") == "left"
            found = {key for (key,) in await run(cluster, index, "SELECT id FROM posts")}
            assert found == {f"mine {i}" for i in range(30)}
        assert await run(cluster, 2, "SELECT count(*) FROM pg_replication_slots") == [(0,)]
        assert await run(cluster, 2, "SELECT count(*) FROM pg_publication") == [(0,)]
        assert await run(cluster, 2, "SELECT to_regnamespace('crdt_state') IS NULL") == [(True,)]
        assert await run(cluster, 2, "SELECT relreplident::text FROM pg_class WHERE relname = 'posts'") == [("d",)]
        assert await run(cluster, 2, "SELECT count(*), crdt.uuidv7() IS NOT NULL FROM posts") == [(30, True)]
        [(comment,)] = await run(cluster, 2, "SELECT obj_description('posts'::regclass)")
        assert comment == "@crdt"
        for i in range(60):
            await write(cluster, 0, f"row {i}")
        await until_trimmed(cluster, 0, 20)
        again, said = await command(cluster, 2, "leave")
        assert again == 0, said
        assert "nothing to do" in said
        ran, said = await command(cluster, 2, "run")
        assert ran == 2, said
        assert "has left" in said
        inited, said = await command(cluster, 2, "init")
        assert inited == 2, said
        assert "another id" in said
        names = "SELECT DISTINCT e.writer FROM crdt.explain('posts', 'mine 1') AS e WHERE e.\"column\" = 'body'"
        assert await run(cluster, 0, names) == [("ap-south",)]


async def increments(cluster: PreparedCluster, index: int, stop: asyncio.Event) -> int:
    """Counts one row up, as fast as a client would; how often it was committed."""
    done = 0
    async with await psycopg.AsyncConnection.connect(cluster.nodes[index].dsn, autocommit=True) as connection:
        while not stop.is_set():
            await connection.execute("UPDATE posts SET likes = likes + 1, body = %s WHERE id = 'hot'", (f"{index}",))
            done += 1
            await asyncio.sleep(0.01)
    return done


async def test_a_node_leaves_while_the_others_write_and_a_new_one_takes_its_name(tmp_path: Path) -> None:
    async with nodes(3, tmp_path) as cluster:
        await write(cluster, 0, "hot")
        for index in (1, 2):
            await until_has(cluster, index, "hot")
        stop, quiet = asyncio.Event(), asyncio.Event()
        writers = [asyncio.create_task(increments(cluster, index, stop)) for index in (0, 1)]
        leaver = asyncio.create_task(increments(cluster, 2, quiet))
        await asyncio.sleep(3)
        quiet.set()
        mine = await leaver
        status, said = await command(cluster, 2, "leave", "--json")
        assert status == 0, said
        process = cluster.nodes[2].sidecar_process
        assert process is not None
        await asyncio.to_thread(process.wait, 60)
        cluster.nodes[2].sidecar_process = None
        # The same database, as a new node with the old name.
        cluster.nodes[2].id = 9
        cluster.configure(2, {})
        status, said = await command(cluster, 2, "init")
        assert status == 0, said
        status, said = await command(cluster, 2, "join", "--from", "us-east", "--dsn", cluster.nodes[0].dsn)
        assert status == 0, said
        await cluster.start_sidecar(2)
        stop.set()
        written = mine + sum(await asyncio.gather(*writers))
        assert mine > 10
        await cluster.wait_converged(DEADLINE_S)
        for index in range(3):
            assert await run(cluster, index, "SELECT likes FROM posts WHERE id = 'hot'") == [(written,)], index
        assert len(set((await cluster.checksums("posts")).values())) == 1
        for index in (0, 1):
            query = "SELECT id, state FROM crdt.nodes WHERE name = 'ap-south' ORDER BY id"
            assert await run(cluster, index, query) == [(3, "left"), (9, "member")]
        assert (await peer(cluster, 0, "ap-south"))["state"] == "connected"
        assert await run(cluster, 2, "SELECT departed FROM crdt_state.member WHERE id = 3") == [("left",)]


async def test_leaving_is_not_done_by_halves(tmp_path: Path) -> None:
    """A peer that is away: the node stays one of the cluster. Later it leaves without a running sidecar."""
    async with nodes(3, tmp_path) as cluster:
        await cluster.kill_sidecar(1)
        await write(cluster, 2, "mine")
        status, said = await command(cluster, 2, "leave", "--timeout", "3")
        assert status == 1, said
        assert "eu-west is not linked and lacks 1 change sets: this node has not left and goes on as before" in said
        await write(cluster, 2, "still here")
        await until_has(cluster, 0, "mine", "still here")
        assert await state_of(cluster, 0, "ap-south") == "member"
        await cluster.stop_sidecar(2)
        await write(cluster, 2, "not captured yet")
        await cluster.start_sidecar(1)
        status, said = await command(cluster, 2, "leave", "--keep-state")
        assert status == 0, said
        for index in (0, 1):
            await until_has(cluster, index, "mine", "still here", "not captured yet")
            assert await state_of(cluster, index, "ap-south") == "left"
        assert await run(cluster, 2, "SELECT count(*) FROM pg_replication_slots") == [(0,)]
        assert await run(cluster, 2, "SELECT state FROM crdt.nodes WHERE is_local") == [("left",)]
        ran, said = await command(cluster, 2, "run")
        assert (ran, "ap-south (node 3) left at" in said) == (2, True), said
        status, said = await command(cluster, 2, "leave")
        assert (status, "has left before" in said) == (0, True), said
        assert await run(cluster, 2, "SELECT to_regnamespace('crdt_state') IS NULL") == [(True,)]
        await cluster.kill_sidecar(0)
        status, said = await command(cluster, 1, "leave", "--force", "--timeout", "20")
        assert status == 0, said
        assert "nobody could be told: run sidecar remove eu-west on one of us-east" in said


async def test_a_leave_that_was_cut_short_is_brought_to_its_end(tmp_path: Path) -> None:
    """It had been written down, perhaps told, and not confirmed: nothing more may be captured."""
    async with nodes(2, tmp_path) as cluster:
        await write(cluster, 1, "mine")
        await until_has(cluster, 0, "mine")
        await cluster.stop_sidecar(1)
        begun = """
            INSERT INTO crdt_state.member (id, name, departed, departed_ms, departed_by, holder, change_hlc, hlc)
            SELECT n.id, n.name, 'leaving', 1000, n.name, 1, c.change_hlc, c.hlc
            FROM crdt_state.node AS n JOIN crdt_state.clock AS c ON c.node = n.id
        """
        await run(cluster, 1, begun)
        await write(cluster, 1, "stays here")
        status, said = await command(cluster, 1, "run")
        assert (status, "this node is leaving the cluster" in said) == (2, True), said
        status, said = await command(cluster, 1, "leave")
        assert status == 0, said
        assert "eu-west (node 2) left at 1970-01-01 00:00:01 UTC; us-east know" in said
        await until_state(cluster, 0, "eu-west", "left")
        assert await run(cluster, 0, "SELECT id FROM posts") == [("mine",)]
        for i in range(60):
            await write(cluster, 0, f"row {i}")
        await until_trimmed(cluster, 0, 20)  # though there is nobody left who could acknowledge
        await run(cluster, 0, "DELETE FROM posts WHERE starts_with(id, 'row')")
        assert await run(cluster, 1, "SELECT id FROM posts ORDER BY id") == [("mine",), ("stays here",)]


async def test_one_that_is_removed_by_force_is_cut_off_and_can_be_taken_out(tmp_path: Path) -> None:
    async with nodes(3, tmp_path) as cluster:
        await write(cluster, 2, "mine")
        await until_has(cluster, 0, "mine")
        status, said = await command(cluster, 0, "remove", "ap-south", "--force", "--json")
        assert status == 0, said
        assert '"removed": true' in said
        await until_state(cluster, 1, "ap-south", "removed")

        async def alone() -> bool:
            return all(p["state"] == "refused" for p in (await cluster.status(2))["peers"])

        await wait_until(alone, DEADLINE_S, "nobody links with it")
        status, said = await command(cluster, 2, "leave")
        assert status == 1, said
        assert "takes this node for departed" in said
        assert "sidecar leave --force" in said
        status, said = await command(cluster, 2, "leave", "--force")
        assert status == 0, said
        assert await run(cluster, 2, "SELECT count(*) FROM posts") == [(1,)]
        assert await run(cluster, 2, "SELECT count(*) FROM pg_replication_slots") == [(0,)]


async def test_a_removal_goes_through_relays_and_reaches_who_was_down(tmp_path: Path) -> None:
    async with nodes(4, tmp_path, edges=chain(4), relay=True) as cluster:
        await write(cluster, 3, "last words")
        await until_has(cluster, 0, "last words")
        await until_state(cluster, 1, "sa-east", "member")
        await cluster.kill_sidecar(0)
        await cluster.kill_sidecar(3)
        # Node 1 has no link to it: what its neighbour hears counts.
        status, said = await command(cluster, 1, "remove", "sa-east")
        assert status == 0, said
        await until_state(cluster, 2, "sa-east", "removed")
        await cluster.start_sidecar(0)
        await until_state(cluster, 0, "sa-east", "removed")
        await cluster.kill_sidecar(0)
        await cluster.start_sidecar(0)
        assert await state_of(cluster, 0, "sa-east") == "removed"
        for i in range(60):
            await write(cluster, 0, f"row {i}")
        await until_has(cluster, 2, "row 59")
        for index in (0, 1, 2):
            await until_trimmed(cluster, index, 25)


async def test_survivors_that_have_not_the_same_say_who_has_it(tmp_path: Path) -> None:
    async with nodes(3, tmp_path) as cluster:
        await cluster.kill_sidecar(0)
        await write(cluster, 2, "last will")
        await until_has(cluster, 1, "last will")
        await cluster.kill_sidecar(2)
        await cluster.start_sidecar(0)
        status, said = await command(cluster, 0, "remove", "ap-south", "--timeout", "12")
        assert status == 1, said
        assert "eu-west has its changes up to" in said
        assert "sidecar join --from eu-west" in said
        assert await state_of(cluster, 1, "ap-south") == "member"
        await cluster.stop_sidecar(0)
        # As the message says; the node that is gone is not waited for.
        config = cluster.nodes[0].config_path
        whole = config.read_text()
        config.write_text(without_peer(whole, "ap-south"))
        status, said = await command(cluster, 0, "join", "--from", "eu-west", "--dsn", cluster.nodes[1].dsn)
        assert status == 0, said
        config.write_text(whole)
        await cluster.start_sidecar(0)
        status, said = await command(cluster, 0, "remove", "ap-south")
        assert status == 0, said
        await until_has(cluster, 0, "last will")


def without_peer(config: str, name: str) -> str:
    sections = config.split("[[peers]]")
    return "[[peers]]".join(part for part in sections if f'"{name}"' not in part or "[node]" in part)
