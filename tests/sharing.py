"""How the workers of one run (``pytest -n 3``, pytest-xdist) share out the tests.

A file goes to one worker, so that its servers and clusters are started once; but where each test starts a cluster of
its own, tests go one by one, so that no worker has a minute of them left when the others are done. All stand in a row:
in front ``tests/cluster``, which starts many processes and waits for them much of the time, then databases, then pure
code, which keeps one processor busy. The first worker takes from the front, the others take from the back: a cluster
shares the machine with something light as long as there is any, and nobody is idle before the ends have met.
"""

from __future__ import annotations

from xdist.scheduler import LoadScopeScheduling
from xdist.workermanage import WorkerController

FOLDERS = ("tests/cluster/", "tests/database/", "tests/unit/")
FIRST_WORKER = "gw0"
APART = frozenset(
    f"tests/cluster/test_{name}.py"
    for name in (
        "bench",
        "clocks",
        "copied_database",
        "demo",
        "departures",
        "join",
        "large_transaction",
        "late_capture",
        "process_vectors",
        "random_topologies",
        "relay",
    )
)
"""Files of the cluster tests that share nothing between their tests."""


def unit(nodeid: str) -> str:
    """What goes to one worker together with this test."""
    path = nodeid.partition("::")[0]
    return nodeid if path in APART else path


def place(unit: str, tests: int) -> tuple[int, int, str]:
    """Where a unit with so many tests stands in the row: by folder, and within it the long ones in front."""
    folder = next((n for n, prefix in enumerate(FOLDERS) if unit.startswith(prefix)), len(FOLDERS))
    return folder, -tests, unit


class FromBothEnds(LoadScopeScheduling):
    """The row is what of the units nobody has taken."""

    def _split_scope(self, nodeid: str) -> str:
        return unit(nodeid)

    def _assign_work_unit(self, node: WorkerController) -> None:
        row = sorted(self.workqueue, key=lambda path: place(path, len(self.workqueue[path])))
        self.workqueue.move_to_end(row[0] if node.gateway.id == FIRST_WORKER else row[-1], last=False)
        super()._assign_work_unit(node)
