"""The benchmark: sections that measure the sidecar beside built-in logical replication, one after the other."""

from __future__ import annotations

import os
import platform
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sidecar import __version__
from sidecar.errors import UsageError
from sidecar.lab.bench_contended import contended
from sidecar.lab.bench_drain import drain
from sidecar.lab.bench_lag import lag
from sidecar.lab.bench_pairs import SERVER_SETTINGS
from sidecar.lab.bench_results import Findings, Measure
from sidecar.lab.binaries import find_binaries
from sidecar.lab.embedded import stop_leftover
from sidecar.lab.folders import TemporaryFolder

Section = Callable[[Path, Path | None, float, int, Callable[[str], None]], Awaitable[Findings]]

SECTIONS: dict[str, Section] = {"drain": drain, "lag": lag, "contended": contended}
SCALE_MIN, SCALE_MAX = 0.001, 10.0


@dataclass(frozen=True, slots=True)
class Plan:
    """What to measure. ``scale`` shortens backlogs and durations; ``repetitions`` of each measurement."""

    sections: tuple[str, ...] = tuple(SECTIONS)
    scale: float = 1.0
    repetitions: int = 1
    pg_bin: Path | None = None

    @property
    def full(self) -> bool:
        """Whether the numbers are those to publish."""
        return self.scale == 1 and set(self.sections) == set(SECTIONS)


@dataclass(frozen=True, slots=True)
class Report:
    """Everything found. ``diverged`` is empty when all nodes were equal at the end."""

    at: datetime
    postgres: str
    machine: dict[str, Any]
    settings: dict[str, str]
    plan: dict[str, Any]
    measures: list[Measure]
    facts: dict[str, Any]
    diverged: list[str]

    def document(self) -> dict[str, Any]:
        """For JSON; each measure with its ratio and verdict."""
        lines = [
            asdict(m) | {"ratio": m.ratio, "target": None if m.target is None else str(m.target), "verdict": m.verdict}
            for m in self.measures
        ]
        return {name: getattr(self, name) for name in self.__slots__} | {"measures": lines}


def sections_of(text: str) -> tuple[str, ...]:
    """``drain,lag`` in the order of the benchmark; raises UsageError."""
    wanted = [word.strip() for word in text.split(",") if word.strip()]
    unknown = sorted(set(wanted) - set(SECTIONS))
    if unknown or not wanted:
        raise UsageError(
            f"there is no section {unknown[0]!r}" if unknown else "no section was named",
            mend=f"choose among {', '.join(SECTIONS)}",
        )
    return tuple(name for name in SECTIONS if name in wanted)


async def run(plan: Plan, say: Callable[[str], None]) -> Report:
    """Run the plan. ``say`` is told what is being done. Raises :class:`SidecarError`."""
    binaries = find_binaries(plan.pg_bin)
    began, load_before = datetime.now(UTC), os.getloadavg()
    found: dict[str, Findings] = {}
    place = TemporaryFolder("bench-", stop_leftovers)
    try:
        for name in plan.sections:
            found[name] = await SECTIONS[name](place.path, plan.pg_bin, plan.scale, plan.repetitions, say)
    finally:
        place.remove()
    return Report(
        at=began,
        postgres=binaries.version,
        machine=machine_facts(load_before),
        settings=SERVER_SETTINGS,
        plan={"sections": plan.sections, "scale": plan.scale, "repetitions": plan.repetitions},
        measures=[measure for findings in found.values() for measure in findings.measures],
        facts={name: findings.facts for name, findings in found.items()},
        diverged=[line for findings in found.values() for line in findings.diverged],
    )


def stop_leftovers(folder: Path) -> None:
    """End servers of a benchmark that was killed."""
    for pid_file in folder.glob("**/postmaster.pid"):
        stop_leftover(pid_file.parent)


def machine_facts(load_before: Sequence[float]) -> dict[str, Any]:
    """What the numbers were measured on."""
    return {
        "processors": os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "sidecar": __version__,
        "load_average_before": [round(value, 2) for value in load_before],
        "load_average_after": [round(value, 2) for value in os.getloadavg()],
    }
