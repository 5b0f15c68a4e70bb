"""How the workers of one run (``pytest -n 2``, pytest-xdist) share out the tests.

A file goes to one worker, so that its servers and clusters are started once. The files stand in a row: in front
``tests/cluster``, which starts many processes and waits for them much of the time, then databases, then pure code,
which keeps one processor busy. The first worker takes from the front, the others take from the back: a cluster shares
the machine with something light as long as there is any, and nobody is idle before the ends have met.
"""

from __future__ import annotations

from xdist.scheduler import LoadScopeScheduling
from xdist.workermanage import WorkerController

FOLDERS = ("tests/cluster/", "tests/database/", "tests/unit/")
FIRST_WORKER = "gw0"


def place(path: str, tests: int) -> tuple[int, int, str]:
    """Where a file with so many tests stands in the row: by folder, and within it the long ones in front."""
    folder = next((n for n, prefix in enumerate(FOLDERS) if path.startswith(prefix)), len(FOLDERS))
    return folder, -tests, path


class FromBothEnds(LoadScopeScheduling):
    """A unit of work is a file; the row is what of them nobody has taken."""

    def _split_scope(self, nodeid: str) -> str:
        return nodeid.partition("::")[0]

    def _assign_work_unit(self, node: WorkerController) -> None:
        row = sorted(self.workqueue, key=lambda path: place(path, len(self.workqueue[path])))
        self.workqueue.move_to_end(row[0] if node.gateway.id == FIRST_WORKER else row[-1], last=False)
        super()._assign_work_unit(node)
