"""The benchmark at a hundredth of its size: it runs whole, judges convergence, and writes what it prints."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from sidecar.cli.main import main
from sidecar.lab.bench_pairs import SERVER_SETTINGS, WAL_FILES, start_server
from sidecar.lab.bench_results import Measure, Target, percentile
from sidecar.lab.bench_wan import WanMeasure
from sidecar.lab.embedded import EmbeddedPostgres
from sidecar.lab.wan import one_way_ms


def test_a_measured_server_makes_no_wal_file_while_it_is_measured(tmp_path: Path) -> None:
    """Those it will need stand behind the one it writes."""
    server = EmbeddedPostgres(tmp_path, settings=SERVER_SETTINGS)
    try:
        start_server(server)
        current = "pg_walfile_name(pg_current_wal_lsn())"
        assert int(server.run_psql(f"SELECT count(*) FROM pg_ls_waldir() WHERE name > {current}")) >= WAL_FILES
    finally:
        server.close()


def test_a_small_drain(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "new" / "drain.json"
    assert main(["bench", "--only", "drain", "--scale", "0.01", "--json", str(path)]) == 0
    captured = capsys.readouterr()
    assert "single-row transactions" in captured.out
    assert f"written to {path}" in captured.err
    report = json.loads(path.read_text())
    runs = report["facts"]["drain"]["runs"]
    assert [(run["system"], run["changes"]) for run in runs] == [
        ("built-in", 3000),
        ("sidecar", 3000),
        ("built-in", 3000),
        ("sidecar", 3000),
        ("built-in", 2000),
        ("sidecar", 2000),
    ]
    assert all(run["converged"] and run["drain_s"] > 0 for run in runs)
    assert report["diverged"] == []
    assert report["settings"]["fsync"] == "on"
    speeds = [measure for measure in report["measures"] if measure["section"] == "drain" and measure["target"]]
    assert len(speeds) == 3
    assert all(speed["verdict"] in ("met", "missed") and speed["ratio"] > 0 for speed in speeds)


def test_a_small_run_over_long_distances(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "wan.json"
    assert main(["bench", "wan", "--scale", "0.05", "--json", str(path)]) == 0
    captured = capsys.readouterr()
    assert f"written to {path}" in captured.err
    report = json.loads(path.read_text())
    assert report["diverged"] == []
    assert report["facts"]["refused"] == {"links up": 0, "cut off": 0}
    measures = {(m["section"], m["what"]): m for m in report["measures"]}
    assert len(measures) == 2 + 6 + 4 + 2 + 3
    for (section, what), measure in measures.items():
        assert what in captured.out
        if section == "commit to visible":
            origin, _, reader = what.partition(" to ")
            assert measure["p50"] > one_way_ms(origin, reader), "nothing is faster than the link"
            assert measure["target"] == f"<= {1000 + one_way_ms(origin, reader):g}"
        if section == "accepted writes":
            assert (measure["value"], measure["verdict"]) == (100, "met")
    assert measures["local commit", "ap-south, cut off"]["p50"] > 0
    assert re.search(r"section\W+what\W+unit\W+p50\W+p95\W+p99\W+value\W+target", captured.out)


@pytest.mark.parametrize(
    ("measure", "verdict"),
    [
        (WanMeasure.of("s", "w", [1.0] * 99 + [20.0], Target(10, at_most=True, absolute=True)), "met"),
        (WanMeasure.of("s", "w", [1.0] * 98 + [20.0] * 2, Target(10, at_most=True, absolute=True)), "missed"),
        (WanMeasure("s", "w", "%", value=99.9, target=Target(100, at_most=False, absolute=True)), "missed"),
        (WanMeasure.of("s", "w", [], Target(10, at_most=True, absolute=True)), None),
        (WanMeasure.of("s", "w", [1.0], None), None),
    ],
)
def test_the_99th_percentile_is_judged(measure: WanMeasure, verdict: str | None) -> None:
    assert measure.verdict == verdict


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--only", "speed"], "'speed'"),
        (["--scale", "0"], "--scale"),
        (["moon"], "'moon'"),
        (["wan", "--only", "lag"], "--only"),
        (["wan", "--repeat", "2"], "--repeat"),
    ],
)
def test_bad_usage(capsys: pytest.CaptureFixture[str], arguments: list[str], words: str) -> None:
    assert main(["bench", *arguments]) == 2
    shown = capsys.readouterr().err
    assert words in shown
    assert shown.count("\n") == 1


def test_percentiles_are_of_the_nearest_rank() -> None:
    values = [float(number) for number in range(100, 0, -1)]
    assert percentile(values, 50) == 50.0
    assert percentile(values, 99) == 99.0
    assert percentile(values, 100) == 100.0
    assert percentile([7.0], 99) == 7.0
    assert percentile([], 50) is None


@pytest.mark.parametrize(
    ("target", "verdict"),
    [
        (Target(0.5, at_most=False), "met"),
        (Target(0.6, at_most=False), "missed"),
        (Target(0.5, at_most=True), "met"),
        (Target(0.4, at_most=True), "missed"),
        (Target(50, at_most=True, absolute=True), "met"),
        (Target(49, at_most=True, absolute=True), "missed"),
    ],
)
def test_a_target_looks_at_the_ratio_or_the_value(target: Target, verdict: str) -> None:
    assert Measure("drain", "it", "s", sidecar=50, baseline=100, target=target).verdict == verdict
