"""The benchmark at a hundredth of its size: it runs whole, judges convergence, and writes what it prints."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sidecar.cli.main import main
from sidecar.lab.bench_results import Measure, Target, percentile


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


@pytest.mark.parametrize(("arguments", "words"), [(["--only", "speed"], "'speed'"), (["--scale", "0"], "--scale")])
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
