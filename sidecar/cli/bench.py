"""``sidecar bench``: the sidecar beside built-in logical replication, or over long distances, on this machine."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from sidecar.cli import console
from sidecar.errors import ConfigurationError, UsageError
from sidecar.lab import bench, bench_wan
from sidecar.lab.bench_results import Measure

RESULTS = Path("benchmarks/results")
"""Of a source checkout; full runs go here, shortened ones to ``local`` below it, which is not versioned."""


class Kind(enum.StrEnum):
    """What to measure."""

    BUILT_IN = "built-in"
    WAN = "wan"


def command(
    kind: Annotated[
        Kind, typer.Argument(help="built-in: beside logical replication. wan: three regions, 80 to 200 ms apart.")
    ] = Kind.BUILT_IN,
    only: Annotated[
        str | None,
        typer.Option(help=f"built-in: sections, separated by commas: {', '.join(bench.SECTIONS)}. Default: all."),
    ] = None,
    scale: Annotated[
        float, typer.Option(min=bench.SCALE_MIN, max=bench.SCALE_MAX, help="Size of backlogs and durations.")
    ] = 1.0,
    repeat: Annotated[
        int | None, typer.Option(min=1, max=100, help="built-in: repetitions; the median counts. Default: 1.")
    ] = None,
    json: Annotated[Path | None, typer.Option(metavar="FILE", help="Where the numbers go as JSON.")] = None,
    pg_bin: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="PostgreSQL programs to measure with; default: PostgreSQL 18.")
    ] = None,
) -> int:
    """Measure against built-in logical replication: same machine, server, settings, tables and data, same run."""
    if kind is Kind.WAN:
        if only is not None or repeat is not None:
            raise UsageError("wan has no sections and no repetitions", mend="leave out --only and --repeat")
        return _wan(scale, json, pg_bin)
    sections = bench.sections_of(",".join(bench.SECTIONS) if only is None else only)
    plan = bench.Plan(sections, scale, repeat or 1, pg_bin)
    report = console.run_async(bench.run(plan, console.note))
    path = json or _default_path(f"{report.at:%Y-%m-%d}-pg{report.postgres}", full=plan.full)
    return _finish(report, path, ("baseline", "sidecar", "ratio"), [_row(measure) for measure in report.measures])


def _wan(scale: float, json: Path | None, pg_bin: Path | None) -> int:
    report = console.run_async(bench_wan.run(scale, pg_bin, console.note))
    path = json or _default_path(f"{report.at:%Y-%m-%d}-wan-pg{report.postgres}", full=scale == 1)
    return _finish(report, path, ("p50", "p95", "p99", "value"), [_wan_row(measure) for measure in report.measures])


def _finish(
    report: bench.Report | bench_wan.WanReport,
    path: Path | None,
    figures: tuple[str, ...],
    rows: list[tuple[object, ...]],
) -> int:
    if path is not None:
        _write(path, report)
    load = report.machine["load_average_after"][0]
    title = f"PostgreSQL {report.postgres}, {report.machine['processors']} processors, load average {load}"
    console.stdout().print(console.table(title, ("section", "what", "unit", *figures, "target", ""), rows))
    for line in report.diverged:
        console.note(f"error: the nodes differ: {line}")
    return console.EXIT_FAILED if report.diverged else console.EXIT_DONE


def _default_path(name: str, *, full: bool) -> Path | None:
    if not RESULTS.parent.is_dir():
        return None
    return (RESULTS if full else RESULTS / "local") / f"{name}.json"


def _write(path: Path, report: bench.Report | bench_wan.WanReport) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(msgspec.json.format(msgspec.json.encode(report.document()), indent=2) + b"\n")
    except OSError as error:
        raise ConfigurationError(f"cannot write {path}: {error.strerror}", mend="name another file: --json") from None
    console.note(f"written to {path}")


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


def _wan_row(measure: bench_wan.WanMeasure) -> tuple[object, ...]:
    figures = (measure.p50, measure.p95, measure.p99, measure.value)
    return (
        measure.section,
        measure.what,
        measure.unit,
        *map(_number, figures),
        measure.target,
        measure.verdict or "",
    )


def _number(value: float | None) -> str | None:
    if value is None:
        return None
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"
