"""A third node joins two that are written to all the time: nothing lost, nothing counted twice."""

from __future__ import annotations

import asyncio
import random
import subprocess
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg
import pytest

from sidecar.errors import SidecarError
from sidecar.lab.cluster import COMMAND, LabCluster
from sidecar.lab.embedded import FAST_SETTINGS
from sidecar.lab.waiting import wait_until

SCHEMA = """
CREATE TABLE goods (id bigint PRIMARY KEY, name text, stock bigint NOT NULL DEFAULT 0, likes bigint NOT NULL DEFAULT 0,
                    tags text[] NOT NULL DEFAULT '{}', note text);
COMMENT ON TABLE goods IS '@crdt';
COMMENT ON COLUMN goods.stock IS '@crdt(pn_counter)';
COMMENT ON COLUMN goods.likes IS '@crdt(g_counter)';
COMMENT ON COLUMN goods.tags IS '@crdt(or_set)';
COMMENT ON COLUMN goods.note IS '@crdt(mv_register)';
"""
ROWS = (
    "INSERT INTO goods (id, name, stock, tags)"
    " SELECT i, 'good ' || i, i, ARRAY['t' || i % 7] FROM generate_series(1, {}) AS i"
)
GENESIS = 5_000
HOT = 40
"""Rows that most writes go to, so that some of them always have commits which are not captured yet."""
PER_S = 250
"""Transactions a second on each of two nodes."""
WRITERS = 4
CONVERGE_S = 120.0


@dataclass
class Books:
    """What the writers were told is committed."""

    stock: Counter[int] = field(default_factory=Counter)
    likes: Counter[int] = field(default_factory=Counter)
    inserted: set[int] = field(default_factory=set)
    transactions: int = 0


async def write(dsn: str, region: int, writer: int, books: Books, stop: asyncio.Event) -> None:
    chance = random.Random(region * 100 + writer)
    connection = await asyncpg.connect(dsn)
    due = time.monotonic()
    try:
        while not stop.is_set():
            key = chance.randint(1, HOT if chance.random() < 0.7 else GENESIS)
            kind = chance.random()
            if kind < 0.4:
                await connection.execute("UPDATE goods SET stock = stock + 3 WHERE id = $1", key)
                books.stock[key] += 3
            elif kind < 0.6:
                await connection.execute("UPDATE goods SET likes = likes + 1, note = $2 WHERE id = $1", key, f"n{kind}")
                books.likes[key] += 1
            elif kind < 0.75:
                tag = f"x{chance.randint(1, 9)}"
                await connection.execute("UPDATE goods SET tags = array_append(tags, $2) WHERE id = $1", key, tag)
            elif kind < 0.95:
                new = 10_000_000 + region * 1_000_000 + writer * 200_000 + books.transactions
                await connection.execute("INSERT INTO goods (id, name, stock) VALUES ($1, 'new', 7)", new)
                books.inserted.add(new)
                books.stock[new] += 7
            else:
                gone = 50_000_000 + region * 1_000_000 + writer * 200_000 + books.transactions
                await connection.execute("INSERT INTO goods (id, name) VALUES ($1, 'short')", gone)
                await connection.execute("DELETE FROM goods WHERE id = $1", gone)
            books.transactions += 1
            due += WRITERS / PER_S
            await asyncio.sleep(max(0.0, due - time.monotonic()))
    finally:
        await connection.close()


@asynccontextmanager
async def writing(cluster: LabCluster, regions: tuple[int, ...], books: Books) -> AsyncIterator[None]:
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        for region in regions:
            for writer in range(WRITERS):
                group.create_task(write(cluster.nodes[region].dsn, region, writer, books, stop))
        yield
        stop.set()


@asynccontextmanager
async def two_of_three(folder: Path, *, third_rows: int = 0) -> AsyncIterator[LabCluster]:
    """Nodes 0 and 1 run with the same rows; node 2 is initialised with the first rows of them, or none."""
    cluster = LabCluster(3, folder, schema_sql=SCHEMA, proxied=False, server_settings=FAST_SETTINGS)
    try:
        for node in cluster.nodes:
            await cluster._start_database(node)
        for node, rows in zip(cluster.nodes, (GENESIS, GENESIS, third_rows), strict=True):
            await asyncio.to_thread(node.server.run_psql, ROWS.format(rows), "app")
        await cluster._write_configurations()
        for node in cluster.nodes:
            await cluster._init(node)
        for index in (0, 1):
            await cluster.start_sidecar(index)
        yield cluster
    finally:
        await cluster.stop()


async def join(cluster: LabCluster, *more: str) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        *COMMAND,
        *("join", "--from", "us-east", "--dsn", cluster.nodes[0].dsn, "-c", str(cluster.nodes[2].config_path), *more),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=cluster._env,
    )
    output, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, output.decode()


async def cut_short(cluster: LabCluster, after_s: float) -> bool:
    """Kill a join soon after it has begun to write; whether it was not done by then."""
    third = cluster.nodes[2]
    connection = await asyncpg.connect(third.dsn)
    process = await asyncio.create_subprocess_exec(
        *COMMAND,
        *("join", "--from", "us-east", "--dsn", cluster.nodes[0].dsn, "-c", str(third.config_path)),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=cluster._env,
    )
    before = await connection.fetchval("SELECT xmin::text FROM crdt_state.node")

    async def begun() -> bool:
        assert process.returncode in (None, 0)
        query = "SELECT joining IS NOT NULL AND xmin::text <> $1 FROM crdt_state.node"
        return bool(await connection.fetchval(query, before))

    try:
        await wait_until(begun, CONVERGE_S, "the join writes")
        await asyncio.sleep(after_s)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()

    async def let_go() -> bool:
        """The server takes a moment to notice that nobody is there any more."""
        query = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'sidecar%'"
        return await connection.fetchval(query) == 0

    try:
        await wait_until(let_go, CONVERGE_S, "the sessions of the killed join end")
        return bool(await connection.fetchval("SELECT joining IS NOT NULL FROM crdt_state.node"))
    finally:
        await connection.close()


async def differences(cluster: LabCluster) -> list[tuple[str, ...]]:
    """The first rows that the third node has otherwise than the first."""
    found = []
    for index in (0, 2):
        connection = await asyncpg.connect(cluster.nodes[index].dsn)
        query = """
            SELECT g.id, g::text, to_jsonb(s)::text FROM goods AS g LEFT JOIN crdt_state.row_1 AS s ON s.k_1 = g.id
        """
        found.append({row[0]: (row[1], row[2]) for row in await connection.fetch(query)})
        await connection.close()
    there, here = found
    return [(*there[key], *here[key]) for key in there if there[key][0] != here[key][0]][:4]


async def agree(cluster: LabCluster, books: Books) -> None:
    await cluster.wait_converged(CONVERGE_S)
    sums = await cluster.checksums("goods")
    shown = {}
    for node in cluster.nodes:
        connection = await asyncpg.connect(node.dsn)
        try:
            shown[node.name] = {
                r[0]: (r[1], r[2]) for r in await connection.fetch("SELECT id, stock, likes FROM goods")
            }
            assert await connection.fetchval("SELECT count(*) FROM crdt_state.quarantine") == 0
        finally:
            await connection.close()
    base = {key: key for key in range(1, GENESIS + 1)}
    wanted = {k: (base.get(k, 0) + books.stock[k], books.likes[k]) for k in {*base, *books.inserted}}
    for name, rows in shown.items():
        wrong = {k: (rows.get(k), w) for k, w in wanted.items() if rows.get(k) != w}
        assert not wrong, f"{name}: {len(wrong)} rows, such as {dict(list(wrong.items())[:5])}"
        assert set(rows) - set(wanted) == set(), name
    assert len(set(sums.values())) == 1, await differences(cluster)


@pytest.mark.parametrize("third_rows", [0, GENESIS // 2], ids=["empty", "rows"])
async def test_a_node_joins_under_load(tmp_path: Path, third_rows: int) -> None:
    async with two_of_three(tmp_path, third_rows=third_rows) as cluster:
        books = Books()
        async with writing(cluster, (0, 1), books):
            await asyncio.sleep(2)  # row states of many rows
            started = time.monotonic()
            status, output = await join(cluster)
            assert status == 0, output
            assert "joined from us-east" in output
            await cluster.start_sidecar(2)
            await asyncio.sleep(1)
            assert books.transactions > PER_S * (time.monotonic() - started) / 2, "the writers were held up"
        await agree(cluster, books)


async def test_a_join_that_was_cut_short_goes_on(tmp_path: Path) -> None:
    """Killed at several moments, then brought to its end; meanwhile ``sidecar run`` refuses to start."""
    async with two_of_three(tmp_path) as cluster:
        books = Books()
        async with writing(cluster, (0, 1), books):
            await asyncio.sleep(1)
            assert await cut_short(cluster, 0.0), "the join was done before it could be cut short"
            with pytest.raises(SidecarError, match="has begun to join from us-east"):
                await cluster.start_sidecar(2)
            # A fast machine may be done before it can be cut short again.
            if await cut_short(cluster, 0.1) and await cut_short(cluster, 0.3):
                status, output = await join(cluster)
                assert status == 0, output
            await cluster.start_sidecar(2)
        await agree(cluster, books)


async def test_tables_that_differ_are_listed_and_nothing_is_written(tmp_path: Path) -> None:
    async with two_of_three(tmp_path) as cluster:
        third = cluster.nodes[2]
        await asyncio.to_thread(third.server.run_psql, "ALTER TABLE goods ADD COLUMN more int", "app")
        status, output = await join(cluster)
        assert status == 2
        assert "table public.goods differs: column more is missing there, integer lww_register here" in output
        assert await asyncio.to_thread(third.server.run_psql, "SELECT count(*) FROM goods", "app") in ("0", "0\n")


async def test_a_node_is_made_anew_under_its_old_name_and_id(tmp_path: Path) -> None:
    """Its own earlier changes come back to it, and its new ones follow them."""
    async with two_of_three(tmp_path, third_rows=GENESIS) as cluster:
        await cluster.start_sidecar(2)
        books = Books()
        async with writing(cluster, (0, 1, 2), books):
            await asyncio.sleep(2)
        await agree(cluster, books)
        await cluster.stop_sidecar(2)
        third = cluster.nodes[2]
        await asyncio.to_thread(third.server.run_psql, "SELECT pg_drop_replication_slot('sidecar_3')", "app")
        await asyncio.to_thread(third.server.run_psql, "DROP DATABASE app")
        await cluster._start_database(third)
        await cluster._init(third)
        async with writing(cluster, (0, 1), books):
            status, output = await join(cluster)
            assert status == 0, output
            await cluster.start_sidecar(2)
            async with writing(cluster, (2,), books):
                await asyncio.sleep(2)
        await agree(cluster, books)
