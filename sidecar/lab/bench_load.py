"""An open-loop writer and a reader that notes when its rows become visible elsewhere, in one process on one clock."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

import asyncpg

from sidecar.errors import SidecarError
from sidecar.lab.bench_pairs import session

CONNECTIONS = 8  # 500 transactions/s of up to 16 ms each keep them busy; a commit takes some 1 ms
READER_POLL_S = 0.001
WARM_UP_S = 0.25
"""The first statements of a connection read the catalogue and are planned, which takes some ms: sixteen of them are
most of the slowest hundredth of 2,000 transactions, whatever is measured. An application keeps its connections."""
ARRIVAL_DEADLINE_S = 60.0


@dataclass(frozen=True, slots=True)
class Transaction:
    """One statement, committed by itself. ``probe_id``: the row by which the reader recognises it."""

    statement: str
    arguments: tuple[Any, ...]
    probe_id: int | None = None


@dataclass(slots=True)
class Load:
    """What was measured. Times are monotonic seconds; ``commit_s``: those of commits after the first ``WARM_UP_S``;
    ``late``: transactions that had to wait for a connection; ``began_at``, ``ended_at``: the first statement's time and
    the last commit."""

    transactions: int = 0
    commit_s: list[float] = field(default_factory=list)
    committed_at: dict[int, float] = field(default_factory=dict)
    seen_at: dict[int, float] = field(default_factory=dict)
    late: int = 0
    began_at: float = 0.0
    ended_at: float = 0.0

    @property
    def lag_s(self) -> list[float]:
        """Commit (as the writer learned of it) to visible; 0 when the reader was told first."""
        return [max(0.0, seen - self.committed_at[probe]) for probe, seen in self.seen_at.items()]


async def write(
    dsn: str, rate: float, seconds: float, transaction_of: Callable[[int], Transaction], load: Load
) -> None:
    """Send ``rate`` transactions per second, each at its time whether or not earlier ones are done."""
    due: asyncio.Queue[Transaction | None] = asyncio.Queue()
    async with AsyncExitStack() as stack:
        connections = [await stack.enter_async_context(session(dsn)) for _ in range(CONNECTIONS)]
        async with asyncio.TaskGroup() as group:
            for connection in connections:
                group.create_task(_send(connection, due, load))
            began = load.began_at = time.monotonic()
            for index in range(round(rate * seconds)):
                wait_s = began + index / rate - time.monotonic()
                if wait_s > 0:
                    await asyncio.sleep(wait_s)
                load.late += not due.empty()
                due.put_nowait(transaction_of(index))
            for _ in connections:
                due.put_nowait(None)
    load.ended_at = time.monotonic()


async def _send(connection: asyncpg.Connection, due: asyncio.Queue[Transaction | None], load: Load) -> None:
    while (transaction := await due.get()) is not None:
        began = time.monotonic()
        await connection.execute(transaction.statement, *transaction.arguments)
        ended = time.monotonic()
        load.transactions += 1
        if began - load.began_at >= WARM_UP_S:
            load.commit_s.append(ended - began)
        if transaction.probe_id is not None:
            load.committed_at[transaction.probe_id] = ended


class Reader:
    """Polls a node for probe rows. ``query`` takes an id and returns the visible ones above it, in order."""

    def __init__(self, dsn: str, query: str, first_id: int, load: Load) -> None:
        self._dsn = dsn
        self._query = query
        self._next = first_id
        self._load = load
        self._expected: int | None = None

    def expect(self, count: int) -> None:
        """How many there are in all; the reader ends when it has seen them."""
        self._expected = count

    async def run(self) -> None:
        """Read until all expected rows were seen; raises SidecarError when they do not come."""
        deadline: float | None = None
        async with session(self._dsn) as connection:
            while True:
                rows = await connection.fetch(self._query, self._next - 1)
                now = time.monotonic()
                for (probe,) in rows:
                    self._load.seen_at.setdefault(probe, now)
                # Several connections commit out of order, so a gap is read again until it is filled.
                while self._next in self._load.seen_at:
                    self._next += 1
                if self._expected is not None:
                    if len(self._load.seen_at) >= self._expected:
                        return
                    deadline = deadline or now + ARRIVAL_DEADLINE_S
                    if now > deadline:
                        missing = self._expected - len(self._load.seen_at)
                        raise SidecarError(f"{missing} of {self._expected} rows did not arrive")
                await asyncio.sleep(READER_POLL_S)


@dataclass(frozen=True, slots=True)
class Probes:
    """Which rows a reader on ``dsn`` looks for; without ``arrive`` it polls all the same, and waits for none."""

    dsn: str
    query: str
    first_id: int
    arrive: bool = True


async def measure(
    dsn: str, rate: float, seconds: float, transaction_of: Callable[[int], Transaction], probes: Probes
) -> Load:
    """Write and read at the same time; returns when everything arrived (unless it is not to arrive)."""
    load = Load()
    reader = Reader(probes.dsn, probes.query, probes.first_id, load)
    reading = asyncio.create_task(reader.run())
    try:
        await write(dsn, rate, seconds, transaction_of, load)
        reader.expect(len(load.committed_at) if probes.arrive else 0)
        await reading
    finally:
        reading.cancel()
    return load
