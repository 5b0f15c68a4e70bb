"""The demo: three regions on this machine, writers in all of them, a cut in the middle, and the proof at the end."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import asyncpg

from sidecar.errors import ConfigurationError, SidecarError
from sidecar.lab import demo_proof, workload
from sidecar.lab.binaries import ENVIRONMENT_BIN, ENVIRONMENT_MAJOR, find_binaries
from sidecar.lab.cluster import DATABASE, LabCluster
from sidecar.lab.demo_lag import LagMeter, Sample
from sidecar.lab.demo_proof import NodeFacts, Proof
from sidecar.lab.waiting import wait_until
from sidecar.lab.workload import Ledger, Region, Writer

REGIONS = 3
SECONDS_MIN = 3  # shorter, and nothing is in flight when the link is cut
SECONDS_MAX = 3600
CUT_FROM, CUT_TO = 0.4, 0.65  # shares of the writing time: a quarter of it, with writing before and after
CUT_BETWEEN = (0, 1)
WARM_UP_S = 2.0  # each node plans its merge statements at their first use; not measured, but part of the proof
TIMING = {"timing": {"reconnect_ms_max": 1_000}}  # the cut lasts seconds: nobody should wait seconds more for a dial
SETUP_DEADLINE_S = 30.0  # tables are taken up within a second, links within a few
CONVERGE_DEADLINE_S = 30.0  # what a default run leaves to drain takes well below a second
WINDOW_S = 2.0  # of the live table's rates and percentiles
SCHEMA = Path(__file__).with_name("sample_schema.sql")


@dataclass(frozen=True, slots=True)
class RegionView:
    """One region now. ``behind_ms`` and ``linked`` are by origin; ``None`` is not known (yet)."""

    name: str
    writes_per_s: float
    latencies_ms: list[float]
    behind_ms: dict[str, float | None]
    linked: dict[str, bool]
    conflicts: int | None


@dataclass(slots=True)
class Times:
    """Moments of the run (seconds, monotonic; 0 before they come)."""

    started: float = 0.0
    cut: float = 0.0
    healed: float = 0.0
    caught_up: float = 0.0
    stopped: float = 0.0
    converged: float = 0.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run showed. ``writes``: committed transactions by region."""

    proof: Proof
    facts: list[NodeFacts]
    latencies_ms: dict[str, list[float]]
    samples: list[Sample]
    times: Times
    errors: dict[str, Counter[str]]

    @property
    def problems(self) -> list[str]:
        """Why the demo failed, one line each."""
        refused = [
            f"{region}: {count} statements of the application were refused: {text}"
            for region, errors in self.errors.items()
            for text, count in errors.items()
        ]
        return [*self.proof.problems, *refused]

    def lags_ms(self, origin: str, seen_by: str, *, whole: bool) -> list[float]:
        """Lags while all links were up (``whole``), or from the cut until everybody had caught up."""
        return [
            sample.lag_ms
            for sample in self.samples
            if (sample.origin, sample.seen_by) == (origin, seen_by)
            and whole == (sample.visible <= self.times.cut or sample.committed >= self.times.caught_up)
        ]


@dataclass(slots=True)
class Demo:
    """``await run(...)`` once. ``cluster`` is started and stopped by the caller, so that it can outlive the run.

    With proxies on the links one link is cut; without, one region's sidecar is stopped and started instead.
    """

    cluster: LabCluster
    seconds: float
    seed: int
    population: workload.Population = field(default_factory=workload.Population)
    phase: str = "starting"
    times: Times = field(default_factory=Times)
    ledger: Ledger = field(default_factory=Ledger)
    regions: list[Region] = field(default_factory=list)
    meter: LagMeter | None = None
    _seen: dict[str, list[tuple[float, int]]] = field(default_factory=dict)

    @property
    def cut_names(self) -> tuple[str, str]:
        """The two regions between which nothing passes for a while."""
        a, b = CUT_BETWEEN
        return self.cluster.nodes[a].name, self.cluster.nodes[b].name

    @property
    def fault(self) -> str:
        """What happens in the middle, in words."""
        a, b = self.cut_names
        return f"link {a} - {b} cut" if self._has_proxies else f"sidecar of {b} stopped"

    @property
    def _has_proxies(self) -> bool:
        return bool(self.cluster.nodes[0].proxies)

    async def prepare(self) -> None:
        """The sample schema on every database, taken up by the running sidecars; links up; shared rows everywhere."""
        self.phase = "creating the sample tables"
        schema = SCHEMA.read_text()
        nodes = self.cluster.nodes
        await asyncio.gather(*(asyncio.to_thread(node.server.run_psql, schema, DATABASE) for node in nodes))
        for index, node in enumerate(nodes):
            await wait_until(
                partial(self._attached, index),
                SETUP_DEADLINE_S,
                f"{node.name}: the sample tables in sidecar status",
                tolerate=(OSError,),
            )
        await self.cluster.wait_linked(SETUP_DEADLINE_S)
        self.phase = "filling them from one region"
        shared = await workload.seed(nodes[0].dsn, nodes[0].name, self.ledger, self.population)
        self.regions = [Region(node.name, node.dsn, shared) for node in nodes]
        self.meter = LagMeter({node.name: node.dsn for node in nodes})
        await self.meter.start()
        await self.cluster.wait_converged(SETUP_DEADLINE_S)
        self.phase = "warming up"
        stop = asyncio.Event()
        asyncio.get_running_loop().call_later(WARM_UP_S, stop.set)
        async with readable_errors(), asyncio.TaskGroup() as group:
            self.start_writers(group, stop, "warm-up")
        await self.cluster.wait_converged(SETUP_DEADLINE_S)
        for region in self.regions:
            region.latencies_ms.clear()

    def start_writers(self, group: asyncio.TaskGroup, stop: asyncio.Event, purpose: str) -> None:
        """All writers of all regions; ``purpose`` gives each run random numbers of its own."""
        for region in self.regions:
            for number in range(workload.WRITERS_PER_REGION):
                source = random.Random(f"{self.seed}/{region.name}/{number}/{purpose}")  # noqa: S311
                group.create_task(Writer(region, self.ledger, source).run(stop))

    async def _attached(self, index: int) -> bool:
        self.cluster.check_processes()
        status = await self.cluster.status(index)
        return {f"public.{table}" for table in demo_proof.TABLES} <= {table["name"] for table in status["tables"]}

    async def write(self) -> None:
        """The write phase, with the cut in it; returns when all writers have stopped."""
        assert self.meter is not None
        stop = asyncio.Event()
        self.phase = "writing in all regions"
        self.times.started = time.monotonic()
        watching = [
            asyncio.create_task(self.meter.run(stop), name="lag"),
            asyncio.create_task(self._catch_up(), name="catch up"),
        ]
        try:
            async with readable_errors(), asyncio.TaskGroup() as group:
                group.create_task(self._script(stop))
                self.start_writers(group, stop, "write")
            self.times.stopped = time.monotonic()
            self.phase = "writers stopped; waiting for the last changes"
            await self.cluster.wait_converged(CONVERGE_DEADLINE_S)
            self.times.converged = time.monotonic()
            async with readable_errors(), asyncio.timeout(CONVERGE_DEADLINE_S):
                await asyncio.gather(*watching)
        finally:
            for task in watching:
                task.cancel()
            await asyncio.gather(*watching, return_exceptions=True)

    async def _script(self, stop: asyncio.Event) -> None:
        """Cut, heal, stop, at their times."""
        try:
            await asyncio.sleep(self.seconds * CUT_FROM)
            self.times.cut = time.monotonic()
            await self._cut()
            self.phase = f"{self.fault}; both sides go on writing"
            await asyncio.sleep(self.seconds * CUT_TO - (time.monotonic() - self.times.started))
            await self._heal()
            self.times.healed = time.monotonic()
            self.phase = "healed; catching up"
            await asyncio.sleep(self.seconds - (time.monotonic() - self.times.started))
        finally:
            stop.set()

    async def _cut(self) -> None:
        if self._has_proxies:
            await self.cluster.cut(*CUT_BETWEEN)
        else:
            await self.cluster.stop_sidecar(CUT_BETWEEN[1])

    async def _heal(self) -> None:
        if self._has_proxies:
            self.cluster.heal()
        else:
            await self.cluster.start_sidecar(CUT_BETWEEN[1])

    async def _catch_up(self) -> None:
        assert self.meter is not None
        meter, times = self.meter, self.times
        await wait_until(
            lambda: times.healed > 0 and meter.caught_up(times.healed),
            self.seconds + CONVERGE_DEADLINE_S,
            "catching up after the cut",
        )
        self.times.caught_up = time.monotonic()
        if not self.times.stopped:
            self.phase = "caught up"

    async def prove(self) -> Outcome:
        """Read every database and judge."""
        assert self.meter is not None
        self.phase = "comparing the databases"
        facts = list(await asyncio.gather(*(demo_proof.collect(node.name, node.dsn) for node in self.cluster.nodes)))
        return Outcome(
            proof=demo_proof.judge(self.ledger, facts),
            facts=facts,
            latencies_ms={region.name: region.latencies_ms for region in self.regions},
            samples=self.meter.samples,
            times=self.times,
            errors={region.name: region.errors for region in self.regions},
        )

    async def view(self) -> list[RegionView]:
        """The regions now; asked again and again, as rates are over the last ``WINDOW_S``."""
        return list(await asyncio.gather(*(self._view(index) for index in range(len(self.regions)))))

    async def _view(self, index: int) -> RegionView:
        assert self.meter is not None
        region = self.regions[index]
        others = [node.name for node in self.cluster.nodes if node.name != region.name]
        try:
            status = await self.cluster.status(index)
        except (OSError, ValueError):
            status = {}
        now, count = time.monotonic(), len(region.latencies_ms)
        seen = self._seen.setdefault(region.name, [(self.times.started, 0)])
        seen.append((now, count))
        while len(seen) > 2 and seen[1][0] < now - WINDOW_S:
            seen.pop(0)
        since, before = seen[0]
        states = {peer["name"]: peer["state"] for peer in status.get("peers", ())}
        return RegionView(
            name=region.name,
            writes_per_s=(count - before) / max(now - since, 0.001),
            latencies_ms=region.latencies_ms[before:count],
            behind_ms={other: self.meter.behind_ms(region.name, other) for other in others},
            linked={other: states.get(other) == "connected" for other in others},
            conflicts=status.get("merge", {}).get("conflicts"),
        )


@asynccontextmanager
async def readable_errors() -> AsyncIterator[None]:
    """The first cause of a group of errors, as an error of the project's own."""
    try:
        yield
    except (ExceptionGroup, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError) as error:
        first: BaseException = error
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        if isinstance(first, SidecarError):
            raise first from None
        if isinstance(first, TimeoutError):
            raise SidecarError(f"the readers did not see the last changes within {CONVERGE_DEADLINE_S:g} s") from None
        raise SidecarError(f"a database refused: {str(first) or type(first).__name__}") from None


def check_binaries(pg_bin: Path | None) -> str:
    """The server version that will run; :class:`ConfigurationError` when there is none, naming the ``lab`` extra."""
    try:
        return find_binaries(pg_bin).version
    except ConfigurationError as error:
        if pg_bin is not None or any(os.environ.get(name) for name in (ENVIRONMENT_BIN, ENVIRONMENT_MAJOR)):
            raise  # it says what is wrong with the one that was named
        raise ConfigurationError(
            f"the demo runs three servers, and {error.message}",
            mend="pip install 'pg-active-sidecar[lab]', or name the bin folder of a server with --pg-bin",
        ) from None
