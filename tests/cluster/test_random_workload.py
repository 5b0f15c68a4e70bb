"""Random applications on three real nodes under faults: nothing lost, nothing doubled, all nodes equal to the oracle.

``SIDECAR_SEEDS=20`` runs seeds 1 to 20 (default 3), ``SIDECAR_SEED=7`` that one alone. Operating system and network
decide how transactions interleave, so a seed repeats the plan, not the run. Seeds share a cluster: each has rows
of its own, and the end of one is the beginning of the next (clocks, journals, wrong wall clocks).
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import pytest_asyncio
from psycopg import sql

from sidecar.lab.cluster import LabCluster
from sidecar.lab.embedded import FAST_SETTINGS
from sidecar.lab.waiting import wait_until
from tests.cluster.faults import SKEWS_MS, Faults
from tests.cluster.history import Journal, Rows, by_row, dots_of, expected_rows, lost, operations, told
from tests.cluster.workload import KEYS_PER_SEED, SCHEMA, Workload, schema_sql, text
from tests.oracle import Operation
from tests.prepared import PreparedCluster

SEEDS_DEFAULT = 3
WORKLOAD_S = float(os.environ.get("SIDECAR_WORKLOAD_S", "8"))
DRAIN_DEADLINE_S = 120.0  # seconds on an idle machine; a frozen backlog never drains
DIFFERENCES_SHOWN = 4

SEEDS = int(os.environ.get("SIDECAR_SEEDS", SEEDS_DEFAULT))
ONE_SEED = int(os.environ.get("SIDECAR_SEED", 0))

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.slow, pytest.mark.timeout(600)]


class Lab:
    """A cluster that is made when it is needed, and anew after a failure."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._number = 0
        self._cluster: LabCluster | None = None

    async def cluster(self) -> LabCluster:
        if self._cluster is None:
            self._number += 1
            self._cluster = PreparedCluster(
                3,
                self._folder / str(self._number),
                schema_sql=schema_sql(max(SEEDS, ONE_SEED)),
                server_settings=FAST_SETTINGS,
                # The test reads the whole journal at the end, so none of it may be trimmed before.
                sections={
                    "limits": {"journal_partition_rows": 1_000_000},
                    # Two nodes may be wrong in opposite directions; that is not to hold their changes.
                    "timing": {"reconnect_ms_max": 500, "max_clock_drift_ms": 2 * max(SKEWS_MS) + 200},
                },
            )
            await self._cluster.start()
        return self._cluster

    async def discard(self) -> None:
        cluster, self._cluster = self._cluster, None
        if cluster is not None:
            await cluster.stop()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def lab(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Lab]:
    made = Lab(tmp_path_factory.mktemp("workload"))
    yield made
    await made.discard()


async def rows_of(dsn: str, seed: int) -> Rows:
    """The rows of a seed as text images."""
    out: Rows = {}
    async with await psycopg.AsyncConnection.connect(dsn) as connection:
        for table, columns in SCHEMA.items():
            query = sql.SQL("SELECT id, {} FROM {} WHERE id >= %s AND id < %s").format(
                sql.SQL(", ").join(map(sql.Identifier, columns)), sql.Identifier(table)
            )
            bounds = [seed * KEYS_PER_SEED, (seed + 1) * KEYS_PER_SEED]
            for key, *values in await (await connection.execute(query, bounds)).fetchall():
                out[table, key] = {name: text(value) for name, value in zip(columns, values, strict=True)}
    return out


async def scalar(dsn: str, query: str) -> Any:
    async with await psycopg.AsyncConnection.connect(dsn) as connection:
        return (await (await connection.execute(query)).fetchall())[0][0]  # type: ignore[arg-type]


async def drained(cluster: LabCluster, deadline_s: float = DRAIN_DEADLINE_S) -> None:
    """Every node has everything, without any further write by an application; local rewrites included."""
    await cluster.wait_linked(deadline_s)
    await cluster.wait_converged(deadline_s)

    async def rewritten(dsn: str) -> bool:
        return bool(await scalar(dsn, "SELECT count(*) = 0 FROM crdt_state.rewrite"))

    for node in cluster.nodes:
        await wait_until(lambda dsn=node.dsn: rewritten(dsn), deadline_s, f"{node.name}: rewriting")  # type: ignore[misc]


def _difference(there: dict[str, str | None] | None, wanted: dict[str, str | None] | None) -> str:
    if there is None or wanted is None:
        return f"is {there}, must be {wanted}"
    return ", ".join(
        f"{name} is {there[name]!r}, must be {wanted[name]!r}" for name in wanted if there[name] != wanted[name]
    )


def differences(there: Rows, wanted: Rows, history: dict[tuple[str, int], list[Operation]], name: str) -> list[str]:
    """Rows that are not as wanted, with their history."""
    return [
        f"{name} {table} {key}: {_difference(there.get((table, key)), wanted.get((table, key)))}\n"
        + told(history.get((table, key), []))
        for table, key in sorted(set(there) | set(wanted))
        if there.get((table, key)) != wanted.get((table, key))
    ]


async def judge(cluster: LabCluster, workload: Workload) -> None:
    """Nothing lost, nothing quarantined, all nodes equal to each other and to the oracle."""
    dots = [await dots_of(node.dsn) for node in cluster.nodes]
    own = {t.marker for t in workload.transactions}
    dots = [{marker: dot for marker, dot in found.items() if marker in own} for found in dots]
    assert all(found == dots[0] for found in dots), "every node knows every transaction by the same dot"
    missing = lost(workload.transactions, dots[0])
    assert not missing, f"{len(missing)} acknowledged transactions are lost: {missing[:3]}"
    for node in cluster.nodes:
        reasons = await scalar(node.dsn, "SELECT array_agg(reason) FROM crdt_state.quarantine")
        assert reasons is None, f"{node.name} has quarantined {len(reasons)} rows: {reasons[:3]}"
    journals = {node.id: await Journal.read(node.dsn) for node in cluster.nodes}
    history = by_row(operations(workload.transactions, dots[0], journals))
    wanted, impossible = expected_rows(workload.seed, history)
    problems = [f"{table} {key}: {reason}\n{told(history[table, key])}" for (table, key), reason in impossible.items()]
    for node in cluster.nodes:
        there = await rows_of(node.dsn, workload.seed)
        problems += differences({k: v for k, v in there.items() if k not in impossible}, wanted, history, node.name)
    lines = "\n".join(problem.partition("\n")[0] for problem in problems)
    report = "\n".join(problems[:DIFFERENCES_SHOWN])
    assert not problems, f"seed {workload.seed}: {len(problems)} differences\n{report}\n{lines}"


async def told_by(cluster: LabCluster) -> None:
    """Print what every node says of itself, for the report of a failure."""
    for index, node in enumerate(cluster.nodes):
        try:
            print(f"{node.name}: {json.dumps(await cluster.status(index))}")
        except (OSError, TimeoutError) as error:
            print(f"{node.name}: {error!r}")


@pytest.mark.parametrize("seed", [ONE_SEED] if ONE_SEED else range(1, SEEDS + 1))
async def test_all_nodes_agree_with_the_oracle(lab: Lab, seed: int) -> None:
    cluster = await lab.cluster()
    try:
        workload = Workload(seed, {node.id: node.dsn for node in cluster.nodes})
        faults = Faults(cluster, seed)
        await asyncio.sleep(WORKLOAD_S)
        await workload.ran()
        await workload.stop()
        await faults.mend()
        await drained(cluster)
        committed = sum(t.acknowledged for t in workload.transactions)
        print(f"seed {seed}: {committed} transactions; {dict(workload.refused)}; {dict(faults.happened)}")
        await judge(cluster, workload)
    except BaseException:
        await told_by(cluster)
        await lab.discard()
        raise
