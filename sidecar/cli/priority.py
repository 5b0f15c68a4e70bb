"""Standing back for others: the priority of the process, and of its group where the kernel schedules by groups, and
its time slices, which decide whether it is interrupted for who has less to do."""

from __future__ import annotations

import ctypes
import os
import platform
import struct
import time
from pathlib import Path

AUTOGROUP = Path("/proc/self/autogroup")
"""With autogroups (the default of most Linux desktops and many servers, sched(7)) every session is a group that gets an
equal share, and the nice value of a process counts inside its group only. PostgreSQL makes a session per backend."""

GROUP_TRIES = 5
GROUP_PAUSE_S = 0.11
"""Linux takes one such write in 0.1 s from all users other than root together, and answers EAGAIN to the others: a few
processes that start at the same time all get their turn, and a machine full of them delays no start by much."""

SLICE_NS = 100_000_000
"""The longest time slice that Linux takes (6.12 and later, sched_setattr(2); earlier ones ignore it). Who wakes up with
a shorter one, as a backend with a transaction to commit, gets the processor at once instead of at the end of a slice;
the shares of the processor stay what the nice values say. Of what the slowest tenth of local commits waits for a
processor, the sidecar's part falls to about half by it."""

SCHED_SETATTR = {"x86_64": 314, "aarch64": 274}
"""Number of the system call, which neither Python nor older C libraries have a function for."""

SCHED_ATTR = struct.Struct("=IIQiIQQQ")  # size, policy, flags, nice, priority, runtime, deadline, period


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
    """Raise the nice value of this process to ``nice`` (0 to 19), unless it is higher already; never lower it. One that
    stands back at all does so in its time slices, too."""
    nice = max(nice, os.getpriority(os.PRIO_PROCESS, 0))
    os.setpriority(os.PRIO_PROCESS, 0, nice)
    if nice > 0:
        _lengthen_slices(nice)
    # The group of another session leader (a shell) is not ours to slow down.
    if os.getsid(0) == os.getpid() and group_nice() is not None:
        _set_group(nice)


def _lengthen_slices(nice: int) -> None:
    """Of this thread and all that it will start. A kernel or sandbox that refuses leaves them as they are, and so does
    an operator's own choice of a policy."""
    number = SCHED_SETATTR.get(platform.machine())
    if number is None or platform.system() != "Linux" or os.sched_getscheduler(0) != os.SCHED_OTHER:
        return
    attributes = SCHED_ATTR.pack(SCHED_ATTR.size, os.SCHED_OTHER, 0, nice, 0, SLICE_NS, 0, 0)
    ctypes.CDLL(None).syscall(number, 0, attributes, 0)


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
