"""Every merge vector on three nodes as processes: links cut while B and C write, healed in either order, change sets
sent twice, the reader killed in between, and one writer reached only through the other."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest

from sidecar.lab import convergence
from sidecar.lab.cluster import LabCluster
from sidecar.lab.embedded import FAST_SETTINGS
from sidecar.lab.waiting import wait_until
from tests.merge_vectors import ABSENT, MergeVector, literal
from tests.merge_vectors.placed import PLACED, Placed, initial_rows, schema_sql
from tests.prepared import PreparedCluster

A, B, C = range(3)
DEADLINE_S = 60.0

pytestmark = pytest.mark.slow


def write(dsn: str, transactions: Iterable[list[str]]) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        for statements in transactions:
            with connection.transaction():
                for statement in statements:
                    connection.execute(statement)  # type: ignore[call-overload]


def of(vectors: Iterable[Placed], index: int) -> list[list[str]]:
    return [p.statements(t) for p in vectors for t in (p.vector.at_b if index == B else p.vector.at_c)]


async def writes(cluster: LabCluster, transactions: dict[int, list[list[str]]]) -> None:
    """One node after the other, so that the clocks order them."""
    for index, listed in transactions.items():
        await asyncio.to_thread(write, cluster.nodes[index].dsn, listed)


async def exchanged(cluster: LabCluster, *indexes: int) -> None:
    """These nodes have everything of each other, rewrites included."""
    nodes = [cluster.nodes[index] for index in indexes]
    found = {node.id: (node.name, node.dsn) for node in nodes}
    await convergence.wait_converged(found, DEADLINE_S, check=cluster.check_processes)

    async def rewritten(dsn: str) -> bool:
        async with await psycopg.AsyncConnection.connect(dsn) as connection:
            cursor = await connection.execute("SELECT count(*) FROM crdt_state.rewrite")
            return bool((await cursor.fetchall())[0][0] == 0)

    for node in nodes:
        await wait_until(partial(rewritten, node.dsn), DEADLINE_S, f"{node.name}: rewriting")
    await convergence.wait_converged(found, DEADLINE_S, check=cluster.check_processes)


def shown(dsn: str) -> dict[int, Any]:
    """What every vector's row shows, and the siblings of those that keep them."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        out: dict[int, Any] = {p.key: ABSENT for p in PLACED}
        for table in {p.table for p in PLACED}:
            out.update(connection.execute(f"SELECT id, v::text FROM {table}").fetchall())  # type: ignore[call-overload]
        return out


def kept(dsn: str, place: Placed) -> list[str | None]:
    with psycopg.connect(dsn, autocommit=True) as connection:
        cursor = connection.execute("SELECT value FROM crdt.siblings(%s, %s, 'v')", [place.table, str(place.key)])
        return [row[0] for row in cursor.fetchall()]


def expected(dsn: str) -> dict[int, Any]:
    with psycopg.connect(dsn, autocommit=True) as connection:

        def text(vector: MergeVector) -> Any:
            if vector.expected is ABSENT:
                return ABSENT
            query = f"SELECT ({literal(vector.expected, vector.type_name)})::text"
            return connection.execute(query).fetchall()[0][0]  # type: ignore[call-overload]

        return {p.key: text(p.vector) for p in PLACED}


def judge(cluster: LabCluster) -> None:
    wanted = expected(cluster.nodes[A].dsn)
    wrong = []
    for node in cluster.nodes:
        found = shown(node.dsn)
        for place in PLACED:
            if found[place.key] != wanted[place.key]:
                wrong.append((str(place.vector), node.name, found[place.key], wanted[place.key]))
            several = [v if v is None else str(v) for v in place.vector.siblings or ()]
            if several and (there := kept(node.dsn, place)) != several:
                wrong.append((str(place.vector), node.name, there, several))
    assert wrong == []


async def delivered(cluster: LabCluster, way: str) -> None:
    """Bring what B and C wrote to A and to each other, this way."""
    if way == "through C":
        cluster.heal_between(A, C)
        cluster.heal_between(B, C)
        await exchanged(cluster, A, B, C)
        return
    first, second = (C, B) if way == "C first" else (B, C)
    cluster.heal_between(A, first)
    await exchanged(cluster, A, first)
    if way == "restart":
        await cluster.kill_sidecar(A)
        await cluster.kill_server(A)
        await cluster.start_server(A)
        await cluster.start_sidecar(A)
    cluster.heal_between(A, second)
    cluster.heal_between(B, C)
    await exchanged(cluster, A, B, C)


@pytest.mark.parametrize("way", ["B first", "C first", "twice", "restart", "through C"])
async def test_all_vectors(tmp_path: Path, way: str) -> None:
    as_genesis = way in ("B first", "twice")
    sections: dict[str, dict[str, Any]] = {"timing": {"reconnect_ms_max": 200}}
    if way == "twice":
        sections["lab"] = {"send_twice": True}
    if way == "through C":
        sections["node"] = {"relay": True}
    async with PreparedCluster(
        3,
        tmp_path,
        schema_sql=schema_sql(as_genesis=as_genesis),
        server_settings=FAST_SETTINGS,
        sections=sections,
    ) as cluster:
        if not as_genesis:
            await writes(cluster, {A: [initial_rows()]})
        await writes(cluster, {A: [p.statements(t) for p in PLACED for t in p.vector.at_a]})
        await exchanged(cluster, A, B, C)
        for index in (A, B, C):
            await cluster.isolate(index)
        for order, later in (((B, C), "C"), ((C, B), "B")):
            vectors = [p for p in PLACED if p.vector.later == later]
            await writes(cluster, {index: of(vectors, index) for index in order})
        await delivered(cluster, way)
        await writes(cluster, {A: [p.statements(t) for p in PLACED for t in p.vector.after]})
        await exchanged(cluster, A, B, C)
        judge(cluster)
