"""Standing back for others: the priority of the process, and of its group where the kernel schedules by groups."""

from __future__ import annotations

import os
import time
from pathlib import Path

AUTOGROUP = Path("/proc/self/autogroup")
"""With autogroups (the default of most Linux desktops and many servers, sched(7)) every session is a group that gets an
equal share, and the nice value of a process counts inside its group only. PostgreSQL makes a session per backend."""

GROUP_TRIES = 5
GROUP_PAUSE_S = 0.11
"""Linux takes one such write in 0.1 s from all users other than root together, and answers EAGAIN to the others: a few
processes that start at the same time all get their turn, and a machine full of them delays no start by much."""


def group_nice(path: Path = AUTOGROUP) -> int | None:
    """Nice value of this process's group; ``None`` without autogroups.

    By the content (``/autogroup-25 nice 0``) alone: where autogroups are off, or in a sandbox, the file may be missing,
    there and empty, or there and not readable.
    """
    try:
        words = path.read_text().split()
    except OSError:
        return None
    try:
        return int(words[-1])
    except (IndexError, ValueError):
        return None


def stand_back(nice: int) -> None:
    """Raise the nice value of this process to ``nice`` (0 to 19), unless it is higher already; never lower it."""
    nice = max(nice, os.getpriority(os.PRIO_PROCESS, 0))
    os.setpriority(os.PRIO_PROCESS, 0, nice)
    # The group of another session leader (a shell) is not ours to slow down.
    if os.getsid(0) == os.getpid() and group_nice() is not None:
        _set_group(nice)


def _set_group(nice: int) -> None:
    for _ in range(GROUP_TRIES):
        try:
            AUTOGROUP.write_text(str(nice))
        except BlockingIOError:
            time.sleep(GROUP_PAUSE_S)
        except OSError:  # a /proc that is read-only: the own value must do
            return
        else:
            return
