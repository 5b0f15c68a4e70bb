"""Standing back for others: the priority of the process, and of its group where the kernel schedules by groups."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

AUTOGROUP = Path("/proc/self/autogroup")
"""With autogroups (the default of most Linux desktops and many servers, sched(7)) every session is a group that gets an
equal share, and the nice value of a process counts inside its group only. PostgreSQL makes a session per backend."""


def stand_back(nice: int) -> None:
    """Raise the nice value of this process to ``nice`` (0 to 19), unless it is higher already; never lower it."""
    nice = max(nice, os.getpriority(os.PRIO_PROCESS, 0))
    os.setpriority(os.PRIO_PROCESS, 0, nice)
    # The group of another session leader (a shell) is not ours to slow down.
    if os.getsid(0) == os.getpid() and AUTOGROUP.exists():
        with contextlib.suppress(OSError):  # a kernel without autogroups, a /proc that is read-only
            AUTOGROUP.write_text(str(nice))
