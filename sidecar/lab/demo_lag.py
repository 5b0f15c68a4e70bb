"""Commit-to-visible lag, seen by readers: each region raises a number in a row of its own, the others look for it.

All clocks are this process's monotonic one. A sample is the time from the answer to the origin's COMMIT to the end of
the first query on another node that shows it; its resolution is the pause between two looks.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

import asyncpg

BEAT_S = 0.1  # ten samples a second per origin: over a thousand in a default run, with no load to speak of
LOOK_S_MIN = 0.002  # between looks while a beat is on its way; resolution of a short lag
LOOK_S_MAX = 0.05
LOOK_SHARE = 0.1  # a beat that is late is looked for less often: resolution is a tenth of its lag
COMMAND_TIMEOUT_S = 20.0


@dataclass(frozen=True, slots=True)
class Sample:
    """One beat as one other region saw it (seconds, monotonic)."""

    origin: str
    seen_by: str
    committed: float
    visible: float

    @property
    def lag_ms(self) -> float:
        return max(0.0, self.visible - self.committed) * 1000


@dataclass(slots=True)
class _Way:
    """From one region to another: beats that are committed and not seen yet, oldest first."""

    waiting: deque[tuple[int, float]] = field(default_factory=deque)
    last_lag_ms: float | None = None


class LagMeter:
    """``regions``: name to DSN. :meth:`run` beats and looks until ``stop``, then until all beats are seen."""

    def __init__(self, regions: Mapping[str, str]) -> None:
        self._regions = dict(regions)
        self.samples: list[Sample] = []
        self._ways = {(a, b): _Way() for a in regions for b in regions if a != b}
        self._changed = {name: asyncio.Event() for name in regions}
        self._beating = len(self._regions)

    async def start(self) -> None:
        """Insert the regions' rows, each on its own node."""
        for name, dsn in self._regions.items():
            connection = await asyncpg.connect(dsn, command_timeout=COMMAND_TIMEOUT_S)
            try:
                await connection.execute("INSERT INTO beats VALUES ($1, 0)", name)
            finally:
                await connection.close()

    async def run(self, stop: asyncio.Event) -> None:
        """Raises what the databases raise. Cancel it to end the looking when beats got lost."""
        async with asyncio.TaskGroup() as group:
            for name in self._regions:
                group.create_task(self._beat(name, stop))
                group.create_task(self._look(name))

    def behind_ms(self, region: str, origin: str) -> float | None:
        """How far a region is behind an origin now: the age of the oldest beat that is not there, else the last lag."""
        way = self._ways[origin, region]
        if way.waiting:
            age_ms = (time.monotonic() - way.waiting[0][1]) * 1000
            return max(age_ms, way.last_lag_ms or 0.0)
        return way.last_lag_ms

    def caught_up(self, since: float) -> bool:
        """Whether every beat committed before ``since`` (monotonic) is seen everywhere."""
        return all(not way.waiting or way.waiting[0][1] >= since for way in self._ways.values())

    async def _beat(self, name: str, stop: asyncio.Event) -> None:
        connection = await asyncpg.connect(self._regions[name], command_timeout=COMMAND_TIMEOUT_S)
        try:
            beat = 0
            while not stop.is_set():
                beat += 1
                await connection.execute("UPDATE beats SET beat = $2 WHERE region = $1", name, beat)
                committed = time.monotonic()
                for (origin, seen_by), way in self._ways.items():
                    if origin == name:
                        way.waiting.append((beat, committed))
                        self._changed[seen_by].set()
                await asyncio.sleep(BEAT_S)
        finally:
            self._beating -= 1
            for changed in self._changed.values():
                changed.set()
            await connection.close()

    async def _look(self, name: str) -> None:
        ways = {origin: way for (origin, seen_by), way in self._ways.items() if seen_by == name}
        connection = await asyncpg.connect(self._regions[name], command_timeout=COMMAND_TIMEOUT_S)
        try:
            query = await connection.prepare("SELECT region, beat FROM beats")
            while self._beating or any(way.waiting for way in ways.values()):
                if not any(way.waiting for way in ways.values()):
                    self._changed[name].clear()
                    await self._changed[name].wait()
                    continue
                seen = {str(row[0]): int(row[1]) for row in await query.fetch()}
                now = time.monotonic()
                for origin, way in ways.items():
                    while way.waiting and way.waiting[0][0] <= seen.get(origin, 0):
                        sample = Sample(origin, name, way.waiting.popleft()[1], now)
                        way.last_lag_ms = sample.lag_ms
                        self.samples.append(sample)
                ages = [now - way.waiting[0][1] for way in ways.values() if way.waiting]
                # The youngest beat on its way sets the pace: one region that is cut off does not blur the others.
                await asyncio.sleep(min(max(min(ages, default=0.0) * LOOK_SHARE, LOOK_S_MIN), LOOK_S_MAX))
        finally:
            await connection.close()


def percentile(values: list[float], share: float) -> float | None:
    """The nearest-rank percentile, ``share`` in 0..1; ``None`` of nothing."""
    if not values:
        return None
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, -(-int(share * 1_000_000) * len(ordered) // 1_000_000) - 1))]
