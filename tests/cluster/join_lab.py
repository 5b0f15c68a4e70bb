"""Clusters in which the last node joins while the others are written to, and the writers' book of what they did.

Each transaction also writes its number into the table ``ledger``, so that one whose answer was lost with a killed
server can be looked up. The oracle is that book alone: which rows there are, what each counter shows, which elements a
set has.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import asyncpg
import pytest

from sidecar.lab.cluster import Sections
from sidecar.lab.embedded import FAST_SETTINGS
from sidecar.lab.waiting import wait_until
from tests.prepared import Prepared, PreparedCluster, start

SCHEMA = """
CREATE TABLE goods (id bigint PRIMARY KEY, name text, stock bigint NOT NULL DEFAULT 0, likes bigint NOT NULL DEFAULT 0,
                    tags text[] NOT NULL DEFAULT '{}', note text);
COMMENT ON TABLE goods IS '@crdt';
COMMENT ON COLUMN goods.stock IS '@crdt(pn_counter)';
COMMENT ON COLUMN goods.likes IS '@crdt(g_counter)';
COMMENT ON COLUMN goods.tags IS '@crdt(or_set)';
COMMENT ON COLUMN goods.note IS '@crdt(mv_register)';
CREATE TABLE ledger (id bigint PRIMARY KEY);
COMMENT ON TABLE ledger IS '@crdt';
"""
ROWS = (
    "INSERT INTO goods (id, name, stock, tags)"
    " SELECT i, 'good ' || i, i, ARRAY['t' || i % 7] FROM generate_series(1, {}) AS i"
)
SEVERAL = pytest.mark.timeout(900)
"""Of tests with several nodes under load: minutes on a machine that does something else too."""
GENESIS = 5_000
HOT = 40
"""Rows that most writes go to, so that some of them always have commits which are not captured yet."""
WRITERS = 4
"""Connections on each node."""
CONVERGE_S = 300.0
AWAY = (
    OSError,
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
)
"""What a killed server looks like to its clients."""


@dataclass
class Books:
    """What is committed, as the writers know it."""

    stock: Counter[int] = field(default_factory=Counter)
    likes: Counter[int] = field(default_factory=Counter)
    tags: dict[int, set[str]] = field(default_factory=dict)
    inserted: set[int] = field(default_factory=set)
    deleted: set[int] = field(default_factory=set)
    ledger: set[int] = field(default_factory=set)

    @property
    def transactions(self) -> int:
        return len(self.ledger)


class Writer:
    """One connection that writes at a given rate."""

    _numbers = itertools.count(1)

    def __init__(self, dsn: str, books: Books, per_s: float) -> None:
        self._dsn = dsn
        self._books = books
        self._pause_s = 1 / per_s
        self._number = next(self._numbers)
        self._chance = random.Random(self._number)
        self._operations = itertools.count(self._number * 10_000_000)
        self._own: list[int] = []
        self._connection: asyncpg.Connection | None = None

    async def run(self, stop: asyncio.Event) -> None:
        due = time.monotonic()
        while not stop.is_set():
            await self._operate()
            due = max(due + self._pause_s, time.monotonic() - 1.0)
            await asyncio.sleep(max(0.0, due - time.monotonic()))
        if self._connection is not None:
            await self._connection.close()

    async def _operate(self) -> None:
        chance, books = self._chance, self._books
        operation = next(self._operations)
        key = chance.randint(1, HOT if chance.random() < 0.7 else GENESIS)
        kind = chance.random()
        if kind < 0.35:
            if await self._commit(operation, "UPDATE goods SET stock = stock + 3 WHERE id = $2", key):
                books.stock[key] += 3
        elif kind < 0.5:
            text = f"note {operation}"
            if await self._commit(
                operation, "UPDATE goods SET likes = likes + 1, note = $3, name = $3 WHERE id = $2", key, text
            ):
                books.likes[key] += 1
        elif kind < 0.65:
            tag = f"x{chance.randint(1, 9)}"
            if await self._commit(operation, "UPDATE goods SET tags = array_append(tags, $3) WHERE id = $2", key, tag):
                books.tags.setdefault(key, set()).add(tag)
        elif kind < 0.9 or not self._own:
            if await self._commit(operation, "INSERT INTO goods (id, name, stock) VALUES ($2, 'new', 7)", operation):
                books.inserted.add(operation)
                books.stock[operation] += 7
                self._own.append(operation)
        else:
            gone = self._own.pop(chance.randrange(len(self._own)))
            if await self._commit(operation, "DELETE FROM goods WHERE id = $2", gone):
                books.inserted.discard(gone)
                books.deleted.add(gone)

    async def _commit(self, operation: int, statement: str, *arguments: object) -> bool:
        """Whether it is committed; when the answer was lost it is looked up."""
        try:
            connection = await self._connected()
            await connection.execute(f"WITH l AS (INSERT INTO ledger VALUES ($1)) {statement}", operation, *arguments)
            done = True
        except AWAY:
            done = await wait_until(lambda: self._look_up(operation), CONVERGE_S, "the server is back", tolerate=AWAY)
            done = done == "committed"
        if done:
            self._books.ledger.add(operation)
        return done

    async def _look_up(self, operation: int) -> str:
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None
        connection = await self._connected()
        known = await connection.fetchval("SELECT 1 FROM ledger WHERE id = $1", operation)
        return "committed" if known else "not committed"

    async def _connected(self) -> asyncpg.Connection:
        if self._connection is None or self._connection.is_closed():
            self._connection = await asyncpg.connect(self._dsn)
        return self._connection


@asynccontextmanager
async def writing(cluster: PreparedCluster, regions: Iterable[int], books: Books, per_s: float) -> AsyncIterator[None]:
    """Writers on some nodes, each of which gets ``per_s`` transactions a second."""
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        for region in regions:
            for _ in range(WRITERS):
                group.create_task(Writer(cluster.nodes[region].dsn, books, per_s / WRITERS).run(stop))
        yield
        stop.set()


@asynccontextmanager
async def cluster_and_newcomer(
    folder: Path, size: int, *, newcomer_rows: int = 0, sections: Sections | None = None
) -> AsyncIterator[PreparedCluster]:
    """All nodes but the last run with the same rows; the last is initialised with the first rows of them, or none."""
    cluster = PreparedCluster(
        size, folder, schema_sql=SCHEMA, proxied=False, server_settings=FAST_SETTINGS, sections=sections
    )
    last = size - 1
    try:
        for index, node in enumerate(cluster.nodes):
            await cluster._start_database(node)
            await asyncio.to_thread(
                node.server.run_psql, ROWS.format(newcomer_rows if index == last else GENESIS), "app"
            )
        await cluster._write_configurations()
        for node in cluster.nodes:
            await cluster._init(node)
        for index in range(last):
            await cluster.start_sidecar(index)
        yield cluster
    finally:
        await cluster.stop()


def begin_join(cluster: PreparedCluster, *more: str, log: Path) -> Prepared:
    """Start ``sidecar join --from us-east`` for the last node; what it says goes to ``log``."""
    words = ("join", "--from", "us-east", "--dsn", cluster.nodes[0].dsn, "-c", str(cluster.nodes[-1].config_path))
    return start([*words, *more], cwd=Path.cwd(), env=cluster._env, output=log)


async def join(cluster: PreparedCluster, *more: str) -> tuple[int, str]:
    """``sidecar join --from us-east`` for the last node: exit status and output."""
    words = ("join", "--from", "us-east", "--dsn", cluster.nodes[0].dsn, *more)
    done = await cluster.command(cluster.nodes[-1], *words, timeout_s=CONVERGE_S)
    return done.returncode, done.stdout + done.stderr


async def cut_short(cluster: PreparedCluster, after_s: float) -> bool:
    """Kill a join soon after it has begun to write; whether its copy was not complete by then."""
    node = cluster.nodes[-1]
    connection = await asyncpg.connect(node.dsn)
    process = begin_join(cluster, log=node.folder / "join.log")
    before = await connection.fetchval("SELECT xmin::text FROM crdt_state.node")

    async def begun() -> bool:
        assert process.returncode in (None, 0), (node.folder / "join.log").read_text()
        query = "SELECT joining IS NOT NULL AND xmin::text <> $1 FROM crdt_state.node"
        return bool(await connection.fetchval(query, before))

    try:
        await wait_until(begun, CONVERGE_S, "the join writes")
        await asyncio.sleep(after_s)
    finally:
        process.kill()
        await asyncio.to_thread(process.wait)
    try:
        await let_go(connection)
        return bool(await connection.fetchval("SELECT joining IS NOT NULL FROM crdt_state.node"))
    finally:
        await connection.close()


async def let_go(connection: asyncpg.Connection) -> None:
    """The server takes a moment to notice that a killed process is not there any more."""

    async def alone() -> bool:
        query = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'sidecar%'"
        return bool(await connection.fetchval(query) == 0)

    await wait_until(alone, CONVERGE_S, "the sessions of the killed join end")


async def differences(cluster: PreparedCluster) -> list[tuple[str, ...]]:
    """The first rows that a node has otherwise than the first."""
    found = []
    for node in cluster.nodes:
        connection = await asyncpg.connect(node.dsn)
        query = """
            SELECT g.id, g::text, to_jsonb(s)::text FROM goods AS g LEFT JOIN crdt_state.row_1 AS s ON s.k_1 = g.id
        """
        found.append({row[0]: (row[1], row[2]) for row in await connection.fetch(query)})
        await connection.close()
    there = found[0]
    return [(*there[key], *here[key]) for here in found[1:] for key in there if there[key][0] != here[key][0]][:4]


async def _rewritten(dsn: str) -> bool:
    connection = await asyncpg.connect(dsn)
    try:
        return bool(await connection.fetchval("SELECT NOT EXISTS (SELECT FROM crdt_state.rewrite)"))
    finally:
        await connection.close()


async def agree(cluster: PreparedCluster, books: Books, *, newcomer_rows: int = 0) -> None:
    """Every node shows what is in the books, and all show the same."""
    await cluster.wait_converged(CONVERGE_S)
    for node in cluster.nodes:
        # A set in another order than its merged one is written again by its own node, shortly after.
        await wait_until(partial(_rewritten, node.dsn), CONVERGE_S, f"{node.name}: rewritten rows")
    keys = {*range(1, GENESIS + 1), *books.inserted}
    wanted = {
        k: (
            (k if k <= GENESIS else 0) + books.stock[k],
            books.likes[k],
            {f"t{k % 7}"} | books.tags.get(k, set()) if k <= GENESIS else set(),
        )
        for k in keys
    }
    for node in cluster.nodes:
        connection = await asyncpg.connect(node.dsn)
        try:
            rows = await connection.fetch("SELECT id, stock, likes, tags FROM goods")
            shown = {row["id"]: (row["stock"], row["likes"], set(row["tags"])) for row in rows}
            wrong = {k: (shown.get(k), w) for k, w in wanted.items() if shown.get(k) != w}
            assert not wrong, f"{node.name}: {len(wrong)} rows, such as {dict(list(wrong.items())[:5])}"
            assert set(shown) == keys, node.name
            ledger = {row[0] for row in await connection.fetch("SELECT id FROM ledger")}
            assert ledger == books.ledger, f"{node.name}: {len(books.ledger - ledger)} lost"
            assert await connection.fetchval("SELECT count(*) FROM crdt_state.quarantine") == 0
        finally:
            await connection.close()
    for table in ("goods", "ledger"):
        sums = await cluster.checksums(table)
        assert len(set(sums.values())) == 1, await differences(cluster)


def seconds(variable: str, short: float) -> float:
    """How long a load goes on: short in the suite, longer where the environment says so."""
    return float(os.environ.get(variable, short))
