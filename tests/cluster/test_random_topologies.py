"""Random applications on five real nodes with relay, under random cuts and kills: what comes by any way counts once.

Each seed takes another topology. ``SIDECAR_TOPOLOGY_SEEDS=5`` runs seeds 1 to 5: every topology once (default 1);
``SIDECAR_TOPOLOGY_SEED=4`` that one alone; ``SIDECAR_TOPOLOGY_S=120`` for so many seconds each (default 8);
``SIDECAR_TOPOLOGY_THINK=10`` lets the clients pause ten times longer, so that several runs share a machine.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from sidecar.lab.embedded import FAST_SETTINGS
from sidecar.lab.topologies import TOPOLOGIES
from tests.cluster.faults import SKEWS_MS, Faults
from tests.cluster.test_random_workload import drained, judge, told_by
from tests.cluster.workload import Workload, schema_sql
from tests.prepared import PreparedCluster

NODES = 5
WORKLOAD_S = float(os.environ.get("SIDECAR_TOPOLOGY_S", "8"))
SEEDS = int(os.environ.get("SIDECAR_TOPOLOGY_SEEDS", "1"))
THINK = float(os.environ.get("SIDECAR_TOPOLOGY_THINK", "1"))
ONE_SEED = int(os.environ.get("SIDECAR_TOPOLOGY_SEED", "0"))
DRAIN_DEADLINE_S = 240.0  # five servers and five sidecars may share two cores with others
ORDER = ("ring", "chain", "star", "tree", "mesh")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.mark.parametrize("seed", [ONE_SEED] if ONE_SEED else range(1, SEEDS + 1))
async def test_every_topology_agrees_with_the_oracle(tmp_path: Path, seed: int) -> None:
    topology = ORDER[(seed - 1) % len(ORDER)]
    cluster = PreparedCluster(
        NODES,
        tmp_path,
        schema_sql=schema_sql(seed),
        server_settings=FAST_SETTINGS,
        sections={
            "node": {"relay": True, "nice": 0},  # ten processes on what the machine has
            # The test reads the whole journal at the end, so none of it may be trimmed before.
            "limits": {"journal_partition_rows": 1_000_000},
            "timing": {"reconnect_ms_max": 500, "max_clock_drift_ms": 2 * max(SKEWS_MS) + 200},
        },
        edges=TOPOLOGIES[topology](NODES),
    )
    async with cluster:
        try:
            workload = Workload(seed, {node.id: node.dsn for node in cluster.nodes}, 1, THINK)
            faults = Faults(cluster, seed)
            await asyncio.sleep(WORKLOAD_S)
            await workload.ran()
            await workload.stop()
            await faults.mend()
            await drained(cluster, DRAIN_DEADLINE_S)
            committed = sum(t.acknowledged for t in workload.transactions)
            print(f"{topology}, seed {seed}: {committed} transactions; {dict(faults.happened)}")
            await judge(cluster, workload)
        except BaseException:
            await told_by(cluster)
            raise
