"""Draining a backlog: it is written while nobody consumes, then the consumer starts and the stopwatch runs.

The stopwatch starts when the walsender of the slot is active, so starting a process is not counted (it is reported
apart), and ends when the last transaction, a marker row, is visible on the other node.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import asyncpg

from sidecar.errors import SidecarError
from sidecar.lab.bench_pairs import OBSERVER, BuiltinPair, Pair, SidecarPair, session
from sidecar.lab.bench_results import Findings, Measure, Target, median

SECTION = "drain"
DRAIN_DEADLINE_S = 900.0  # a tenth of the expected speed on a machine that does other work as well
ACTIVE_POLL_S = 0.002
MARKER_POLL_S = 0.01

INSERTS = 100_000
UPDATES = 200_000
HOT_ROWS = 100
MARKER = 1 << 40


@dataclass(frozen=True, slots=True)
class Backlog:
    """What is written: ``prepared`` rows beforehand, then inserts and updates in transactions of equal size."""

    name: str
    prepared: int
    inserts: int
    updates: int
    rows_per_transaction: int
    target: Target

    @property
    def changes(self) -> int:
        return self.inserts + self.updates

    def scaled(self, scale: float) -> Backlog:
        """The same with fewer changes, in whole transactions; the hot set keeps its size."""

        def part(count: int) -> int:
            whole = self.rows_per_transaction
            return max(whole, int(count * scale) // whole * whole) if count else 0

        return Backlog(
            self.name,
            self.prepared,
            part(self.inserts),
            part(self.updates),
            self.rows_per_transaction,
            self.target,
        )


BACKLOGS = (
    Backlog("single-row transactions", 0, INSERTS, UPDATES, 1, Target(0.5, at_most=False)),
    Backlog("100-row transactions", 0, INSERTS, UPDATES, 100, Target(0.5, at_most=False)),
    Backlog("hot set of 100 rows", HOT_ROWS, 0, UPDATES, 1, Target(1.0, at_most=False)),
)


@dataclass(frozen=True, slots=True)
class Drain:
    """One measurement. ``drain_s`` from the active walsender, ``total_s`` from the order to start (seconds)."""

    system: str
    backlog: str
    repetition: int
    changes: int
    transactions: int
    write_s: float
    start_s: float
    drain_s: float
    total_s: float
    converged: bool
    processor_s: dict[str, float]
    bytes_out: int | None
    row_bytes: float
    memory_peak_bytes: dict[str, int]

    @property
    def changes_per_s(self) -> float:
        return self.changes / self.drain_s

    @property
    def processor_us_per_change(self) -> float:
        """Of all servers and sidecars together: steadier than the speed on a machine that does other work as well."""
        used = sum(seconds for name, seconds in self.processor_s.items() if name != OBSERVER)
        return used * 1e6 / self.changes

    @property
    def bytes_per_change(self) -> float | None:
        return None if self.bytes_out is None else self.bytes_out / self.changes


async def drain(
    folder: Path, pg_bin: Path | None, scale: float, repetitions: int, say: Callable[[str], None]
) -> Findings:
    """Measure each backlog with each system on fresh servers; who begins alternates."""
    found: list[Drain] = []
    for backlog in (backlog.scaled(scale) for backlog in BACKLOGS):
        for repetition in range(repetitions):
            systems: list[type[BuiltinPair | SidecarPair]] = [BuiltinPair, SidecarPair]
            for system in systems if repetition % 2 == 0 else systems[::-1]:
                say(f"drain, {backlog.name}: {system.name} ({repetition + 1} of {repetitions})")
                async with system(folder / f"drain-{len(found)}", pg_bin) as pair:
                    found.append(await _drain_once(pair, backlog, repetition))
                say(f"drain, {backlog.name}: {system.name} {found[-1].changes_per_s:,.0f} changes/s")
    return Findings(
        measures=[
            *(_speeds(backlog, found) for backlog in BACKLOGS),
            *(_work(b, found) for b in BACKLOGS),
            *_wire(found),
        ],
        facts={"runs": [asdict(one) | {"changes_per_s": one.changes_per_s} for one in found]},
        diverged=[f"drain, {one.backlog}, {one.system}" for one in found if not one.converged],
    )


async def _drain_once(pair: Pair, backlog: Backlog, repetition: int) -> Drain:
    if backlog.prepared:
        await pair.execute(0, f"CALL insert_items(1, {backlog.prepared}, {backlog.prepared})")
        await pair.settle()
    await pair.pause()
    began = time.monotonic()
    await _write(pair, backlog)
    write_s = time.monotonic() - began
    for node in (0, 1):
        await pair.execute(node, "CHECKPOINT")  # or its writes fall into some measurements and not into others
    before = pair.processor()
    ordered, active, done = await _stopwatch(pair)
    used = pair.processor().since(before)
    states = await pair.status()
    return Drain(
        system=pair.name,
        backlog=backlog.name,
        repetition=repetition,
        changes=backlog.changes,
        transactions=backlog.changes // backlog.rows_per_transaction,
        write_s=write_s,
        start_s=active - ordered,
        drain_s=done - active,
        total_s=done - ordered,
        converged=await pair.converged(),
        processor_s=used,
        bytes_out=states[0]["peers"][0]["bytes_out"] if states else None,
        row_bytes=float(await pair.value(0, "SELECT avg(octet_length(items::text)) FROM items")),
        memory_peak_bytes=pair.memory_peak_bytes() if isinstance(pair, SidecarPair) else {},
    )


async def _write(pair: Pair, backlog: Backlog) -> None:
    size = backlog.rows_per_transaction
    highest = backlog.prepared + backlog.inserts
    statements = ["SET synchronous_commit = off"]
    if backlog.inserts:
        statements.append(f"CALL insert_items({backlog.prepared + 1}, {highest}, {size})")
    statements += [f"CALL update_items({backlog.updates}, {highest}, {size})", "RESET synchronous_commit"]
    await pair.execute(0, *statements, f"INSERT INTO marker (id) VALUES ({MARKER})")


async def _stopwatch(pair: Pair) -> tuple[float, float, float]:
    """Start the consumer; the times (monotonic, seconds) of the order, of the active walsender and of the end."""
    async with session(pair.dsns[0]) as source, session(pair.dsns[1]) as sink:
        ordered = time.monotonic()
        resuming = asyncio.create_task(pair.resume())
        query = "SELECT coalesce(bool_or(active), false) FROM pg_replication_slots"
        active = await _poll(pair, source, query, ACTIVE_POLL_S, ordered + DRAIN_DEADLINE_S)
        await resuming
        query = f"SELECT EXISTS (SELECT FROM marker WHERE id = {MARKER})"
        done = await _poll(pair, sink, query, MARKER_POLL_S, active + DRAIN_DEADLINE_S)
    return ordered, active, done


async def _poll(pair: Pair, connection: asyncpg.Connection, query: str, pause_s: float, deadline: float) -> float:
    """When (monotonic seconds) the query first answered true; raises SidecarError at the deadline."""
    while not await connection.fetchval(query):
        pair.check()
        if time.monotonic() > deadline:
            raise SidecarError(f"{pair.name}: a backlog was not drained within {DRAIN_DEADLINE_S:g} s")
        await asyncio.sleep(pause_s)
    return time.monotonic()


def _of(found: list[Drain], kind: type[Pair], backlog: Backlog, figure: str) -> float | None:
    return median([getattr(one, figure) for one in found if (one.system, one.backlog) == (kind.name, backlog.name)])


def _speeds(backlog: Backlog, found: list[Drain]) -> Measure:
    sidecar, builtin = (_of(found, kind, backlog, "changes_per_s") for kind in (SidecarPair, BuiltinPair))
    return Measure(SECTION, backlog.name, "changes/s", sidecar, builtin, target=backlog.target)


def _work(backlog: Backlog, found: list[Drain]) -> Measure:
    sidecar, builtin = (_of(found, kind, backlog, "processor_us_per_change") for kind in (SidecarPair, BuiltinPair))
    return Measure(SECTION, f"{backlog.name}: processor time", "µs/change", sidecar, builtin)


def _wire(found: list[Drain]) -> list[Measure]:
    """Bytes on the link per change in large batches, beside the row as text."""
    return [
        Measure("wire", f"drain, {one.backlog}", "bytes/change", one.bytes_per_change, one.row_bytes, "row as text")
        for one in found
        if one.bytes_out is not None and one.repetition == 0
    ]
