"""Faults during a workload: a seeded plan, carried out on a :class:`LabCluster`, and mended at the end."""

from __future__ import annotations

import asyncio
import random
import signal
from collections import Counter

from sidecar.lab.cluster import LabCluster

SKEWS_MS = (-400, 0, 400)
"""Within max_clock_drift (500 ms) of true time; a node gets another one with every start of its sidecar."""

PART_ROWS = (3, 10_000)
"""Rows of a part of a change set: with few, most transactions come in several parts."""


class Faults:
    """Runs one fault after the other, several nodes and links independently, until :meth:`mend`."""

    def __init__(self, cluster: LabCluster, seed: int) -> None:
        self.happened: Counter[str] = Counter()
        self._cluster = cluster
        self._random = random.Random(f"faults {seed}")
        self._ending = asyncio.Event()
        self._tasks = [asyncio.create_task(work) for work in (self._processes(), self._links())]

    async def mend(self) -> None:
        """Let the fault at work end, then heal everything; errors of the plan are raised."""
        self._ending.set()
        await asyncio.gather(*self._tasks)
        for node in self._cluster.nodes:
            for proxy in node.proxies.values():
                proxy.delay_ms = proxy.jitter_ms = 0.0
                proxy.bytes_per_s = None
        self._cluster.heal()
        for index, node in enumerate(self._cluster.nodes):
            if not node.server.running:
                await self._cluster.start_server(index)
            if node.sidecar_process is None:
                await self._cluster.start_sidecar(index, ready=False)

    async def _pause(self, least_s: float, most_s: float) -> bool:
        """Wait a while; False when it is time to end."""
        try:
            await asyncio.wait_for(self._ending.wait(), self._random.uniform(least_s, most_s))
        except TimeoutError:
            return True
        return False

    async def _processes(self) -> None:
        cluster, rng = self._cluster, self._random
        while await self._pause(0.3, 1.5):
            index = rng.randrange(len(cluster.nodes))
            what = rng.choice(("kill sidecar", "kill sidecar", "stop sidecar", "kill server", "kill both"))
            self.happened[what] += 1
            if what in ("kill sidecar", "kill both"):
                await cluster.kill_sidecar(index)
            elif what == "stop sidecar":
                status = await cluster.stop_sidecar(index)
                # The signal may come before the program is loaded.
                assert status in (0, -signal.SIGTERM), f"SIGTERM ended with status {status}"
            if what in ("kill server", "kill both"):
                await cluster.kill_server(index)
                await self._pause(0.0, 0.4)
                await cluster.start_server(index)
            if what != "kill server":
                await self._pause(0.0, 0.8)
                cluster.configure(
                    index,
                    {
                        "lab": {"clock_skew_ms": rng.choice(SKEWS_MS)},
                        "limits": {"batch_rows_max": rng.choice(PART_ROWS)},
                    },
                )
                await cluster.start_sidecar(index, ready=False)

    async def _links(self) -> None:
        cluster, rng = self._cluster, random.Random(self._random.random())
        while await self._pause(0.1, 0.8):
            a, b = rng.choice(cluster.edges)
            what = rng.choice(("cut", "reset", "slow", "narrow", "black hole"))
            self.happened[what] += 1
            proxies = cluster.links(a, b)
            for proxy in proxies:
                match what:
                    case "cut":
                        await proxy.cut()
                    case "reset":
                        await proxy.drop_connections()
                    case "slow":
                        proxy.delay_ms, proxy.jitter_ms = rng.uniform(5, 150), rng.uniform(0, 50)
                    case "narrow":
                        proxy.bytes_per_s = rng.uniform(20_000, 200_000)
                    case "black hole":
                        proxy.black_hole()
            await self._pause(0.1, 1.2)
            for proxy in proxies:
                proxy.heal()
                proxy.delay_ms = proxy.jitter_ms = 0.0
                proxy.bytes_per_s = None
