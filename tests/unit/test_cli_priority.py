"""The process stands back, never forward, and takes no others with it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from sidecar.cli.priority import AUTOGROUP

PROGRAM = """
import os, sys
from pathlib import Path
from sidecar.cli.priority import AUTOGROUP, stand_back
os.nice(int(sys.argv[2]))
stand_back(int(sys.argv[1]))
print(os.getpriority(os.PRIO_PROCESS, 0), AUTOGROUP.read_text().split()[-1] if AUTOGROUP.exists() else 0)
"""


def after(nice: int, before: int, *, leader: bool) -> list[int]:
    """Nice value and that of the group, of a process that had ``before`` and stood back to ``nice``."""
    run = [sys.executable, "-c", PROGRAM, str(nice), str(before)]
    return [int(n) for n in subprocess.check_output(run, start_new_session=leader, timeout=30).split()]


@pytest.mark.parametrize(("nice", "before", "expected"), [(7, 0, 7), (3, 5, 5), (0, 0, 0)])
def test_it_stands_back_and_never_forward(nice: int, before: int, expected: int) -> None:
    own, _ = after(nice, before, leader=False)
    assert own >= expected  # the tests may run with a nice value themselves
    assert (own == expected) or own > before


@pytest.mark.skipif(not AUTOGROUP.exists(), reason="this kernel has no autogroups")
def test_its_group_follows_where_it_is_its_own() -> None:
    own, group = after(7, 0, leader=True)
    assert group == own
    (_, shared), (_, unchanged) = after(7, 0, leader=False), after(0, 0, leader=False)
    assert shared == unchanged
