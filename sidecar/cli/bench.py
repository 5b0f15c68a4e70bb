"""``sidecar bench``: the sidecar beside built-in logical replication, on embedded servers of this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from sidecar.cli import console
from sidecar.errors import ConfigurationError
from sidecar.lab import bench
from sidecar.lab.bench_results import Measure

RESULTS = Path("benchmarks/results")
"""Of a source checkout; full runs go here, shortened ones to ``local`` below it, which is not versioned."""


def command(
    only: Annotated[str, typer.Option(help=f"Sections, separated by commas: {', '.join(bench.SECTIONS)}.")] = ",".join(
        bench.SECTIONS
    ),
    scale: Annotated[
        float, typer.Option(min=bench.SCALE_MIN, max=bench.SCALE_MAX, help="Size of backlogs and durations.")
    ] = 1.0,
    repeat: Annotated[int, typer.Option(min=1, max=100, help="Repetitions; the median counts.")] = 1,
    json: Annotated[Path | None, typer.Option(metavar="FILE", help="Where the numbers go as JSON.")] = None,
    pg_bin: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="PostgreSQL programs to measure with; default: PostgreSQL 18.")
    ] = None,
) -> int:
    """Measure against built-in logical replication: same machine, server, settings, tables and data, same run."""
    plan = bench.Plan(bench.sections_of(only), scale, repeat, pg_bin)
    report = console.run_async(bench.run(plan, console.note))
    path = json or _default_path(plan, report)
    if path is not None:
        _write(path, report)
    _print(report)
    for line in report.diverged:
        console.note(f"error: the nodes differ: {line}")
    return console.EXIT_FAILED if report.diverged else console.EXIT_DONE


def _default_path(plan: bench.Plan, report: bench.Report) -> Path | None:
    if not RESULTS.parent.is_dir():
        return None
    folder = RESULTS if plan.full else RESULTS / "local"
    return folder / f"{report.at:%Y-%m-%d}-pg{report.postgres}.json"


def _write(path: Path, report: bench.Report) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(msgspec.json.format(msgspec.json.encode(report.document()), indent=2) + b"\n")
    except OSError as error:
        raise ConfigurationError(f"cannot write {path}: {error.strerror}", mend="name another file: --json") from None
    console.note(f"written to {path}")


def _print(report: bench.Report) -> None:
    load = report.machine["load_average_after"][0]
    title = f"PostgreSQL {report.postgres}, {report.machine['processors']} processors, load average {load}"
    columns = ("section", "what", "unit", "baseline", "sidecar", "ratio", "target", "")
    console.stdout().print(console.table(title, columns, map(_row, report.measures)))


def _row(measure: Measure) -> tuple[object, ...]:
    baseline = None if measure.baseline is None else f"{_number(measure.baseline)} ({measure.baseline_name})"
    ratio = None if measure.ratio is None else f"{measure.ratio:.2f} x"
    return (
        measure.section,
        measure.what,
        measure.unit,
        baseline,
        _number(measure.sidecar),
        ratio,
        measure.target,
        measure.verdict or "",
    )


def _number(value: float | None) -> str | None:
    if value is None:
        return None
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"
