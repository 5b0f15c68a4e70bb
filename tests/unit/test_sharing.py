"""How tests are shared out among workers."""

from __future__ import annotations

from pathlib import Path

from tests.sharing import APART, place, unit

ROOT = Path(__file__).parents[2]


def test_only_files_that_share_nothing_are_torn_apart() -> None:
    files = {str(path.relative_to(ROOT)): path.read_text() for path in (ROOT / "tests/cluster").glob("test_*.py")}
    assert {name for name, text in files.items() if 'scope="module"' not in text} == APART


def test_a_file_goes_to_one_worker() -> None:
    cases = [f"tests/cluster/test_faults.py::test_{name}" for name in "ab"]
    assert {unit(case) for case in cases} == {"tests/cluster/test_faults.py"}
    apart = [f"tests/cluster/test_join.py::test_{name}" for name in "ab"]
    assert [unit(case) for case in apart] == apart


def test_clusters_stand_in_front_and_long_files_before_short_ones() -> None:
    units = {"tests/unit/test_hlc.py": 40, "tests/database/test_run.py": 9, "tests/cluster/test_faults.py": 20}
    units |= {"tests/cluster/test_relay.py::test_a": 1, "elsewhere.py": 99}
    assert sorted(units, key=lambda name: place(name, units[name])) == [
        "tests/cluster/test_faults.py",
        "tests/cluster/test_relay.py::test_a",
        "tests/database/test_run.py",
        "tests/unit/test_hlc.py",
        "elsewhere.py",
    ]
