"""Commit-to-visible lag and the latency of local commits, at a steady rate, in interleaved rounds.

Three pairs of servers stand side by side: without replication, with built-in replication, with sidecars. Each round
loads them one after the other, in an order of its own, so that what the machine does besides, and what one leaves
behind for the next, falls on all; the median of the rounds counts.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from sidecar.lab.bench_load import Load, Probes, Transaction, measure
from sidecar.lab.bench_pairs import BuiltinPair, Pair, PlainPair, SidecarPair
from sidecar.lab.bench_results import Findings, Measure, Target, median, percentile

TRANSACTIONS_PER_S = 500
ROUNDS = 12  # a slow phase of the machine takes several rounds; the median of fewer tells of the phase
ROUND_S = 4.0  # 2,000 transactions: twenty lie above the 99th percentile
ROUND_S_MIN = 0.5
BASE_ROWS = 10_000
IDS_PER_ROUND = 1_000_000

INSERT = "INSERT INTO items VALUES ($1, 1, 2, 3, 'name', 'note', 1.50, clock_timestamp())"
UPDATE = "UPDATE items SET a = a + 1, note = $2, at = clock_timestamp() WHERE id = $1"
# The limit, ten times what is ever on its way, makes it read the index: else each poll would read the whole table, and
# take as much of the processor as the replication that is measured.
VISIBLE = "SELECT id FROM items WHERE id > $1 ORDER BY id LIMIT 1000"

LAG_P50 = Target(20, at_most=True, absolute=True)
LAG_P99 = Target(100, at_most=True, absolute=True)
COMMIT_P99 = Target(1.15, at_most=True)


@dataclass(frozen=True, slots=True)
class Round:
    """One round of one system, milliseconds; lags are ``None`` where nothing arrives."""

    system: str
    transactions: int
    late: int
    commit_p50_ms: float
    commit_p99_ms: float
    lag_p50_ms: float | None
    lag_p99_ms: float | None
    lag_max_ms: float | None
    processor_s: dict[str, float]


async def lag(
    folder: Path, pg_bin: Path | None, scale: float, repetitions: int, say: Callable[[str], None]
) -> Findings:
    """Measure in ``ROUNDS`` times ``repetitions`` rounds."""
    rounds: list[Round] = []
    diverged = []
    async with AsyncExitStack() as stack:
        pairs: list[Pair] = []
        for kind in (PlainPair, BuiltinPair, SidecarPair):
            say(f"lag and local commit: starting {kind.name}")
            pairs.append(await stack.enter_async_context(kind(folder / "lag", pg_bin)))
        for pair in pairs:
            await pair.execute(0, f"CALL insert_items(1, {BASE_ROWS}, {BASE_ROWS})")
            if pair.replicated:
                await pair.settle()
        before = await _sent(pairs[-1])
        for number in range(ROUNDS * repetitions):
            for pair in _shuffled(pairs, number):
                say(f"lag and local commit: round {number + 1} of {ROUNDS * repetitions}, {pair.name}")
                rounds.append(await _round(pair, number, max(ROUND_S_MIN, ROUND_S * scale)))
        wire = _wire(before, await _sent(pairs[-1]))
        merge = (await pairs[-1].status())[1]["merge"]
        for pair in pairs[1:]:
            await pair.settle()
            if not await pair.converged():
                diverged.append(f"lag, {pair.name}")
    row_bytes = wire.pop("row_bytes")
    measures = [*_lags(rounds), *_commits(rounds)]
    measures.append(Measure("wire", "500 transactions/s", "bytes/change", wire["bytes"], row_bytes, "row as text"))
    return Findings(measures, {"rounds": rounds, "wire": wire, "merge": merge}, diverged)


def _shuffled(pairs: list[Pair], number: int) -> list[Pair]:
    return random.Random(number).sample(pairs, len(pairs))  # noqa: S311  the same in every run


async def _round(pair: Pair, number: int, seconds: float) -> Round:
    first = (number + 1) * IDS_PER_ROUND
    source = random.Random(number)  # noqa: S311  equal for all systems
    before = pair.processor()
    load: Load = await measure(
        pair.dsns[0],
        TRANSACTIONS_PER_S,
        seconds,
        partial(_transaction, source, first),
        Probes(pair.dsns[1], VISIBLE, first, arrive=pair.replicated),
    )
    lags = load.lag_s
    return Round(
        system=pair.name,
        transactions=load.transactions,
        late=load.late,
        commit_p50_ms=_ms(percentile(load.commit_s, 50)) or 0.0,
        commit_p99_ms=_ms(percentile(load.commit_s, 99)) or 0.0,
        lag_p50_ms=_ms(percentile(lags, 50)),
        lag_p99_ms=_ms(percentile(lags, 99)),
        lag_max_ms=_ms(percentile(lags, 100)),
        processor_s=pair.processor().since(before),
    )


def _transaction(source: random.Random, first: int, index: int) -> Transaction:
    """Inserts, whose arrival is seen, and updates of older rows by turns."""
    if index % 2 == 0:
        return Transaction(INSERT, (first + index // 2,), first + index // 2)
    return Transaction(UPDATE, (source.randint(1, BASE_ROWS), f"updated {index}"))


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else seconds * 1000


def _of(rounds: list[Round], system: str, figure: str) -> float | None:
    return median([value for one in rounds if one.system == system and (value := getattr(one, figure)) is not None])


def _lags(rounds: list[Round]) -> list[Measure]:
    return [
        Measure(
            "lag",
            f"commit to visible {name}, 500 transactions/s",
            "ms",
            _of(rounds, SidecarPair.name, figure),
            _of(rounds, BuiltinPair.name, figure),
            target=target,
        )
        for name, figure, target in (
            ("p50", "lag_p50_ms", LAG_P50),
            ("p99", "lag_p99_ms", LAG_P99),
            ("max", "lag_max_ms", None),
        )
    ]


def _commits(rounds: list[Round]) -> list[Measure]:
    """The sidecar, and for comparison built-in replication, against no replication at all."""
    figures = (("p50", "commit_p50_ms", None), ("p99", "commit_p99_ms", COMMIT_P99))
    return [
        Measure(
            "commit",
            f"local commit {name}" + ("" if system == SidecarPair.name else f" with {system}"),
            "ms",
            _of(rounds, system, figure),
            _of(rounds, PlainPair.name, figure),
            "no replication",
            target if system == SidecarPair.name else None,
        )
        for system in (SidecarPair.name, BuiltinPair.name)
        for name, figure, target in figures
    ]


async def _sent(pair: Pair) -> dict[str, Any]:
    state = (await pair.status())[0]
    return {
        "bytes": state["peers"][0]["bytes_out"],
        "changes": state["capture"]["changes"],
        "change_sets": state["capture"]["change_sets"],
        "row_bytes": float(await pair.value(0, "SELECT avg(octet_length(items::text)) FROM items")),
    }


def _wire(before: dict[str, Any], after: dict[str, Any]) -> dict[str, float]:
    changes = after["changes"] - before["changes"]
    return {
        "bytes": (after["bytes"] - before["bytes"]) / max(1, changes),
        "changes_per_change_set": changes / max(1, after["change_sets"] - before["change_sets"]),
        "row_bytes": after["row_bytes"],
    }
