"""The process stands back, never forward, and takes no others with it."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from pathlib import Path

import pytest

from sidecar.cli import priority
from sidecar.cli.priority import group_nice

PROGRAM = """
import os, sys
from sidecar.cli.priority import group_nice, stand_back
os.setpriority(os.PRIO_PROCESS, 0, max(int(sys.argv[2]), os.getpriority(os.PRIO_PROCESS, 0)))
stand_back(int(sys.argv[1]))
print(os.getpriority(os.PRIO_PROCESS, 0), group_nice())
"""
SLICES = """
import os, pathlib, sys
from sidecar.cli.priority import stand_back
if len(sys.argv) > 2:
    os.sched_setscheduler(0, getattr(os, sys.argv[2]), os.sched_param(0))
stand_back(int(sys.argv[1]))
lines = pathlib.Path("/proc/thread-self/sched").read_text().splitlines()
slices = [line.split()[-1] for line in lines if line.startswith("se.slice ")]
print(os.getpriority(os.PRIO_PROCESS, 0), os.sched_getscheduler(0), *slices)
"""
REFUSED = """
from sidecar.cli.priority import AUTOGROUP
try:
    AUTOGROUP.write_text("1")
except BlockingIOError:
    pass
except OSError as error:
    print(error)
"""


def after(nice: int, before: int, *, leader: bool) -> tuple[int, str]:
    """Nice value and that of the group, of a process of ``before`` (or more) that stood back to ``nice``."""
    run = [sys.executable, "-c", PROGRAM, str(nice), str(before)]
    own, group = subprocess.check_output(run, start_new_session=leader, timeout=60, text=True).split()
    return int(own), group


@pytest.mark.parametrize(("nice", "before"), [(7, 0), (3, 5), (0, 0)])
@pytest.mark.parametrize("leader", [False, True])
def test_it_stands_back_and_never_forward(nice: int, before: int, *, leader: bool) -> None:
    own, _ = after(nice, before, leader=leader)
    assert own == max(nice, before, os.getpriority(os.PRIO_PROCESS, 0))


def test_its_group_follows_where_it_is_its_own() -> None:
    if group_nice() is None:
        pytest.skip("no autogroups here: the kernel has none, or a sandbox hides them")
    if refusal := subprocess.check_output(
        [sys.executable, "-c", REFUSED], start_new_session=True, timeout=60, text=True
    ):
        pytest.skip(f"the nice value of a group cannot be set here: {refusal.strip()}")
    own, group = after(7, 0, leader=True)
    assert group == str(own)
    (_, shared), (_, unchanged) = after(7, 0, leader=False), after(0, 0, leader=False)
    assert shared == unchanged


def slices_after(nice: int, *policy: str) -> list[int]:
    """Nice value, policy and time slice in nanoseconds of a process that stood back to ``nice``."""
    run = [sys.executable, "-c", SLICES, str(nice), *policy]
    return [int(word) for word in subprocess.check_output(run, timeout=60, text=True).split()]


@pytest.mark.skipif(not Path("/proc/self/sched").exists(), reason="the kernel does not tell the slices of processes")
def test_one_that_stands_back_is_interrupted_by_who_has_less_to_do() -> None:
    release = re.match(r"(\d+)\.(\d+)", platform.release())
    old = release is None or (int(release[1]), int(release[2])) < (6, 12)
    if old or platform.machine() not in priority.SCHED_SETATTR:
        pytest.skip("slices of processes came with Linux 6.12")
    own = os.getpriority(os.PRIO_PROCESS, 0)
    assert slices_after(7) == [max(7, own), os.SCHED_OTHER, priority.SLICE_NS]
    if own == 0:
        assert slices_after(0)[2] < priority.SLICE_NS


@pytest.mark.skipif(not Path("/proc/self/sched").exists(), reason="the kernel does not tell the slices of processes")
def test_a_policy_that_somebody_chose_stays() -> None:
    assert slices_after(7, "SCHED_BATCH")[1] == os.SCHED_BATCH


@pytest.mark.parametrize(
    ("content", "nice"), [("/autogroup-25 nice -3\n", -3), ("", None), ("\n", None), ("none\n", None)]
)
def test_a_group_is_known_by_the_content_of_the_file(content: str, nice: int | None, tmp_path: Path) -> None:
    path = tmp_path / "autogroup"
    path.write_text(content)
    assert group_nice(path) == nice


def test_a_file_that_cannot_be_read_means_no_group(tmp_path: Path) -> None:
    assert group_nice(tmp_path / "missing") is None
    assert group_nice(tmp_path) is None


def test_a_refused_group_leaves_the_own_value(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(priority, "AUTOGROUP", tmp_path)  # a folder: every write fails
    priority._set_group(7)


def test_a_busy_group_is_tried_a_few_times_only(monkeypatch: pytest.MonkeyPatch) -> None:
    tries = []

    class Busy:
        def write_text(self, text: str) -> None:
            tries.append(text)
            raise BlockingIOError

    monkeypatch.setattr(priority, "AUTOGROUP", Busy())
    monkeypatch.setattr(priority, "GROUP_PAUSE_S", 0.0)
    priority._set_group(7)
    assert tries == ["7"] * priority.GROUP_TRIES
