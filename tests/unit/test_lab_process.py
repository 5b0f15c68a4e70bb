"""What the laboratory reads of processes, which may end at any time."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sidecar.lab.process import children_of


def test_children_are_found_while_others_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looking at a path in /proc raises when its process is ending; a benchmark ended with that."""
    looked = Path.exists

    def ends(self: Path) -> bool:
        if self.name == "stat":
            raise ProcessLookupError(3, "No such process", str(self))
        return looked(self)

    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        monkeypatch.setattr(Path, "exists", ends)
        assert child.pid in children_of(os.getpid())
    finally:
        child.communicate(b"\n")
