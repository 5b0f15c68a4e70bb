"""Both nodes write the same rows all the time: what built-in replication cannot do at all.

Every transaction assigns two columns (last writer wins) and raises a counter, so that at the end not only equality but
also the exact number of increments shows.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from sidecar.lab.bench_load import Load, Probes, Transaction, measure
from sidecar.lab.bench_pairs import ANNOTATIONS, SCHEMA, SidecarPair
from sidecar.lab.bench_results import Findings, Measure, Target, percentile

TRANSACTIONS_PER_S = 500
SECONDS = 15.0
SECONDS_MIN = 1.0
ROWS = 10_000
PROBE_EVERY = 5  # of the transactions carry a probe row: 100 lags a second, at the cost of a fifth more changes
DRAIN_DEADLINE_S = 120.0

UPDATE = "UPDATE items SET a = $2, note = $3, c = c + 1 WHERE id = $1"
UPDATE_AND_PROBE = f"WITH u AS ({UPDATE} RETURNING id) INSERT INTO probe (node, id) SELECT $4, $5 FROM u"
VISIBLE = "SELECT id FROM probe WHERE node = {node} AND id > $1 ORDER BY id LIMIT 1000"  # as in bench_lag
COUNTERS = "SELECT sum(c)::bigint FROM items"

LAG_P99 = Target(500, at_most=True, absolute=True)
COMMIT_P99 = Target(10, at_most=True, absolute=True)


async def contended(
    folder: Path, pg_bin: Path | None, scale: float, repetitions: int, say: Callable[[str], None]
) -> Findings:
    """One pair of sidecars, ``repetitions`` loads after each other."""
    seconds = max(SECONDS_MIN, SECONDS * scale)
    schema = SCHEMA + ANNOTATIONS + "COMMENT ON COLUMN items.c IS '@crdt(pn_counter)';\n"
    loads: list[Load] = []
    drained_s: list[float] = []
    say("both nodes on the same rows: starting")
    async with SidecarPair(folder / "contended", pg_bin, schema=schema) as pair:
        await pair.execute(0, f"CALL insert_items(1, {ROWS}, {ROWS})")
        await pair.settle()
        counted = int(await pair.value(0, COUNTERS))
        before = pair.processor()
        for number in range(repetitions):
            say(f"both nodes on the same rows: {seconds:g} s ({number + 1} of {repetitions})")
            both = await asyncio.gather(*(_load(pair, node, number, seconds) for node in (0, 1)))
            await pair.cluster.wait_converged(DRAIN_DEADLINE_S)
            drained_s.append(time.monotonic() - max(load.ended_at for load in both))
            loads += both
        used = pair.processor().since(before)
        states = await pair.status()
        counters = [int(await pair.value(node, COUNTERS)) - counted for node in (0, 1)]
        equal = await pair.converged()
    increments = sum(load.transactions for load in loads)
    diverged = [] if equal else ["both nodes on the same rows: checksums"]
    if counters != [increments, increments]:
        diverged.append(f"both nodes on the same rows: counters {counters} after {increments} increments")
    facts: dict[str, Any] = {
        "transactions": increments,
        "late": sum(load.late for load in loads),
        "conflicts": [state["merge"]["conflicts"] for state in states],
        "retries": [state["merge"]["retries"] for state in states],
        "change_sets": [state["merge"]["change_sets"] for state in states],
        "merged_rows": [state["merge"]["rows"] for state in states],
        "merge_duration": [state["merge"]["duration"] for state in states],
        "drained_s": drained_s,
        "processor_s": used,
        "counters_exact": counters == [increments, increments],
        "checksums_equal": equal,
    }
    return Findings(_measures(loads, states, drained_s), facts, diverged)


async def _load(pair: SidecarPair, node: int, number: int, seconds: float) -> Load:
    """One node's writer, and the reader of its probes on the other node."""
    first = number * 1_000_000 + 1
    return await measure(
        pair.dsns[node],
        TRANSACTIONS_PER_S,
        seconds,
        partial(_transaction, random.Random(node), node, first),  # noqa: S311  equal on every run
        Probes(pair.dsns[1 - node], VISIBLE.format(node=node), first),
    )


def _transaction(source: random.Random, node: int, first: int, index: int) -> Transaction:
    arguments = (source.randint(1, ROWS), index, f"node {node} wrote {index}")
    if index % PROBE_EVERY:
        return Transaction(UPDATE, arguments)
    probe = first + index // PROBE_EVERY
    return Transaction(UPDATE_AND_PROBE, (*arguments, node, probe), probe)


def _rate(loads: list[Load]) -> float:
    """Commits per second; below what is sent when the machine cannot keep up, and the latencies are of that rate."""
    return sum(load.transactions / (load.ended_at - load.began_at) for load in loads) * 2 / len(loads)


def _measures(loads: list[Load], states: list[dict[str, Any]], drained_s: list[float]) -> list[Measure]:
    commits = [value * 1000 for load in loads for value in load.commit_s]
    lags = [value * 1000 for load in loads for value in load.lag_s]
    retries: Counter[str] = Counter()
    for state in states:
        retries.update(state["merge"]["retries"])
    figures: list[tuple[str, str, float | None, Target | None]] = [
        ("transactions of both nodes (1,000 are sent)", "1/s", _rate(loads), None),
        ("local commit p50", "ms", percentile(commits, 50), None),
        ("local commit p99", "ms", percentile(commits, 99), COMMIT_P99),
        ("commit to visible p50", "ms", percentile(lags, 50), None),
        ("commit to visible p99", "ms", percentile(lags, 99), LAG_P99),
        ("drained after", "s", max(drained_s), None),
        ("conflicts", "", float(sum(state["merge"]["conflicts"] for state in states)), None),
        *((f"retries: {cause}", "", float(count), None) for cause, count in sorted(retries.items())),
    ]
    return [Measure("contended", what, unit, value, target=target) for what, unit, value, target in figures]
