"""The benchmark over long distances: three regions 80, 150 and 200 ms apart, the sample application in all of them.

First the regions are idle, then all write, then one of them is cut off from the others while all go on writing. At the
end the databases are compared with each other and with the writers' books, as the demo does it.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg

from sidecar.lab.bench import machine_facts, stop_leftovers
from sidecar.lab.bench_pairs import SERVER_SETTINGS
from sidecar.lab.bench_results import Target, percentile
from sidecar.lab.bench_tokens import TokenMeter, TokenSample
from sidecar.lab.binaries import find_binaries
from sidecar.lab.cluster import LabCluster
from sidecar.lab.demo import Demo, Outcome, readable_errors
from sidecar.lab.demo_lag import Sample
from sidecar.lab.folders import TemporaryFolder
from sidecar.lab.waiting import wait_until
from sidecar.lab.wan import JITTER_MS, ROUND_TRIP_MS, one_way_ms, spread
from sidecar.lab.workload import WRITERS_PER_REGION, WRITES_PER_S, Population

REGIONS = 3
CUT_OFF = 2  # the region that is farthest from both others
IDLE_S, BUSY_S, CUT_S = 10.0, 30.0, 15.0  # at scale 1: some 7,000 transactions with all links up
PHASE_S_MIN = 1.0
SEED = 1
DRAIN_DEADLINE_S = 60.0
RECONNECT_MS = 1_000
POPULATION = Population(profiles=2_000, skus=200, carts=2_000)
"""A small shop. Writers choose among all rows alike, wherever they are: no region keeps to rows of its own."""

COMMIT_P99_MS = Target(10, at_most=True, absolute=True)
TOKEN_P99_MS = Target(150, at_most=True, absolute=True)
CONFLICTS_PERCENT = Target(1, at_most=True, absolute=True)
ACCEPTED_PERCENT = Target(100, at_most=False, absolute=True)
VISIBLE_MS = 1_000  # beyond the one-way delay


@dataclass(frozen=True, slots=True)
class WanMeasure:
    """One line: percentiles, judged by the 99th, or one ``value``."""

    section: str
    what: str
    unit: str
    p50: float | None = None
    p95: float | None = None
    p99: float | None = None
    value: float | None = None
    target: Target | None = None

    @property
    def verdict(self) -> str | None:
        """``met`` or ``missed``; ``None`` without a target or a number."""
        judged = self.p99 if self.value is None else self.value
        if self.target is None or judged is None:
            return None
        return "met" if self.target.met(judged) else "missed"

    @classmethod
    def of(cls, section: str, what: str, values_ms: Sequence[float], target: Target | None) -> WanMeasure:
        """The percentiles of times."""
        p50, p95, p99 = (percentile(values_ms, percent) for percent in (50, 95, 99))
        return cls(section, what, "ms", p50, p95, p99, target=target)


@dataclass(frozen=True, slots=True)
class WanReport:
    """Everything found. ``diverged`` is empty when all databases were equal and the books right at the end."""

    at: datetime
    postgres: str
    machine: dict[str, Any]
    settings: dict[str, str]
    plan: dict[str, Any]
    measures: list[WanMeasure]
    facts: dict[str, Any]
    diverged: list[str]

    def document(self) -> dict[str, Any]:
        """For JSON; each measure with its verdict."""
        lines = [
            asdict(m) | {"target": None if m.target is None else str(m.target), "verdict": m.verdict}
            for m in self.measures
        ]
        return {name: getattr(self, name) for name in self.__slots__} | {"measures": lines}


@dataclass(slots=True)
class _Phase:
    """What the writers of each region did in one phase: latencies in milliseconds, and refused transactions."""

    latencies_ms: dict[str, list[float]] = field(default_factory=dict)
    refused: dict[str, int] = field(default_factory=dict)

    def accepted_percent(self, region: str) -> float | None:
        """The share of the region's transactions that were committed."""
        tried = len(self.latencies_ms[region]) + self.refused[region]
        return 100 * len(self.latencies_ms[region]) / tried if tried else None

    def all_ms(self) -> list[float]:
        """The latencies of all regions."""
        return [value for values in self.latencies_ms.values() for value in values]


@dataclass(slots=True)
class _Found:
    idle: list[TokenSample] = field(default_factory=list)
    busy: list[TokenSample] = field(default_factory=list)
    lags: list[Sample] = field(default_factory=list)
    open: _Phase = field(default_factory=_Phase)
    cut: _Phase = field(default_factory=_Phase)
    conflicts_open: int = 0
    conflicts_cut: int = 0


class _Run:
    """The phases on a cluster that has started."""

    def __init__(self, cluster: LabCluster, scale: float, say: Callable[[str], None]) -> None:
        self._cluster = cluster
        self._scale = scale
        self._say = say
        self._demo = Demo(cluster, seconds=0, seed=SEED, population=POPULATION)
        self._tokens = TokenMeter({node.name: node.dsn for node in cluster.nodes})
        self._known: set[str] = set()
        self.found = _Found()

    def _seconds(self, whole_s: float) -> float:
        return max(PHASE_S_MIN, whole_s * self._scale)

    async def run(self) -> Outcome:
        """All phases; what the databases hold at the end."""
        self._say("sample tables and shared rows")
        await self._demo.prepare()
        spread(self._cluster)
        await self._new_conflicts()
        async with readable_errors():
            await self._idle()
        writers_stop = asyncio.Event()
        try:
            async with readable_errors(), asyncio.TaskGroup() as group:
                self._demo.start_writers(group, writers_stop, "wan")
                group.create_task(self._busy(writers_stop))
        finally:
            self._cluster.heal()
        self._say("draining")
        await self._cluster.wait_converged(DRAIN_DEADLINE_S)
        self.found.conflicts_cut = await self._new_conflicts()
        return await self._demo.prove()

    async def _idle(self) -> None:
        seconds = self._seconds(IDLE_S)
        self._say(f"idle regions, {seconds:.0f} s")
        stop = asyncio.Event()
        asyncio.get_running_loop().call_later(seconds, stop.set)
        self.found.idle = await self._tokens.run(stop)

    async def _busy(self, writers_stop: asyncio.Event) -> None:
        """Links up, then one region cut off; the writers go on all the time."""
        meter = self._demo.meter
        assert meter is not None
        try:
            seconds = self._seconds(BUSY_S)
            self._say(f"all regions write, {seconds:.0f} s")
            stop = asyncio.Event()
            asyncio.get_running_loop().call_later(seconds, stop.set)
            async with asyncio.TaskGroup() as group:
                group.create_task(meter.run(stop))
                tokens = group.create_task(self._tokens.run(stop))
            self.found.busy, self.found.lags = tokens.result(), meter.samples
            self.found.open = self._take_phase()
            self.found.conflicts_open = await self._new_conflicts()
            seconds = self._seconds(CUT_S)
            self._say(f"{self._cluster.nodes[CUT_OFF].name} cut off from the others, all write, {seconds:.0f} s")
            await self._cluster.isolate(CUT_OFF)
            await wait_until(self._alone, DRAIN_DEADLINE_S, "the end of the links", tolerate=(OSError,))
            await asyncio.sleep(seconds)
            self.found.cut = self._take_phase()
            self._cluster.heal()
        finally:
            writers_stop.set()

    async def _alone(self) -> bool:
        return all(peer["state"] != "connected" for peer in (await self._cluster.status(CUT_OFF))["peers"])

    def _take_phase(self) -> _Phase:
        """What was done since the last call."""
        phase = _Phase()
        for region in self._demo.regions:
            phase.latencies_ms[region.name] = list(region.latencies_ms)
            phase.refused[region.name] = region.errors.total()
            region.latencies_ms.clear()
            region.errors.clear()
        return phase

    async def _new_conflicts(self) -> int:
        """Conflicts recorded anywhere since the last call; one has the same id on every node."""
        before = len(self._known)
        for node in self._cluster.nodes:
            connection = await asyncpg.connect(node.dsn)
            try:
                self._known |= {str(row[0]) for row in await connection.fetch("SELECT id FROM crdt.conflicts")}
            finally:
                await connection.close()
        return len(self._known) - before


async def run(scale: float, pg_bin: Path | None, say: Callable[[str], None]) -> WanReport:
    """Measure; ``say`` is told what is being done. Raises :class:`SidecarError`."""
    binaries = find_binaries(pg_bin)
    began, load_before = datetime.now(UTC), os.getloadavg()
    place = TemporaryFolder("bench-", stop_leftovers)
    try:
        cluster = LabCluster(
            REGIONS,
            place.path,
            pg_bin=pg_bin,
            server_settings=SERVER_SETTINGS,
            sections={"timing": {"reconnect_ms_max": RECONNECT_MS}},
        )
        async with cluster:
            measuring = _Run(cluster, scale, say)
            outcome = await measuring.run()
            names = [node.name for node in cluster.nodes]
    finally:
        place.remove()
    return WanReport(
        at=began,
        postgres=binaries.version,
        machine=machine_facts(load_before),
        settings=SERVER_SETTINGS,
        plan=_plan(scale),
        measures=_measures(measuring.found, names),
        facts=_facts(measuring.found),
        diverged=outcome.problems,
    )


def _plan(scale: float) -> dict[str, Any]:
    return {
        "scale": scale,
        "round_trip_ms": {" - ".join(sorted(pair)): delay for pair, delay in ROUND_TRIP_MS.items()},
        "jitter_ms": JITTER_MS,
        "transactions_per_s_and_region": WRITERS_PER_REGION * WRITES_PER_S,
        "shared_rows": asdict(POPULATION),
    }


def _measures(found: _Found, names: list[str]) -> list[WanMeasure]:
    cut_off = names[CUT_OFF]
    measures = [
        WanMeasure.of("local commit", "all regions, links up", found.open.all_ms(), COMMIT_P99_MS),
        WanMeasure.of("local commit", f"{cut_off}, cut off", found.cut.latencies_ms[cut_off], COMMIT_P99_MS),
    ]
    for origin in names:
        for reader in names:
            if origin != reader:
                lags = [s.lag_ms for s in found.lags if (s.origin, s.seen_by) == (origin, reader)]
                target = Target(VISIBLE_MS + one_way_ms(origin, reader), at_most=True, absolute=True)
                measures.append(WanMeasure.of("commit to visible", f"{origin} to {reader}", lags, target))
    for what, samples in (("idle", found.idle), ("busy", found.busy)):
        measures.append(WanMeasure.of("crdt.token", what, [s.token_ms for s in samples], None))
        excess = [s.wait_excess_ms for s in samples]
        measures.append(WanMeasure.of("crdt.wait_for", f"{what}, beyond the one-way delay", excess, TOKEN_P99_MS))
    share = 100 * found.conflicts_open / max(1, len(found.open.all_ms()))
    measures.append(WanMeasure("conflicts", "per transaction, links up", "%", value=share, target=CONFLICTS_PERCENT))
    share = 100 * found.conflicts_cut / max(1, len(found.cut.all_ms()))
    measures.append(WanMeasure("conflicts", f"per transaction, {cut_off} cut off", "%", value=share))
    for name in names:
        share_accepted = found.cut.accepted_percent(name)
        what = f"{name}, {'cut off' if name == cut_off else f'{cut_off} away'}"
        measures.append(WanMeasure("accepted writes", what, "%", value=share_accepted, target=ACCEPTED_PERCENT))
    return measures


def _facts(found: _Found) -> dict[str, Any]:
    return {
        "transactions": {"links up": len(found.open.all_ms()), "cut off": len(found.cut.all_ms())},
        "refused": {"links up": sum(found.open.refused.values()), "cut off": sum(found.cut.refused.values())},
        "conflicts": {"links up": found.conflicts_open, "cut off": found.conflicts_cut},
        "samples": {"lag": len(found.lags), "token idle": len(found.idle), "token busy": len(found.busy)},
        "token_samples": [asdict(sample) for sample in (*found.idle, *found.busy)],
    }
