"""A tiny program that gives up privileges, ties its life to its parent's, and becomes another program.

Run by path with ``python -I -S`` (it must not need the project's packages, nor any package):
``launch.py <parent pid> <death signal or 0> <uid or -1> <gid or -1> program [arguments]``.
It exists because the same work in ``preexec_fn`` would run Python between fork and exec of a threaded process.
"""

from __future__ import annotations

import ctypes
import os
import sys

PR_SET_PDEATHSIG = 1  # prctl(2)
EXIT_CANNOT_EXECUTE = 127  # as shells say it


def main(arguments: list[str]) -> int:
    """Never returns when all goes well; else the exit status."""
    parent, death_signal, uid, gid = (int(word) for word in arguments[:4])
    program = arguments[4:]
    if uid >= 0:
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
    if death_signal and sys.platform == "linux":
        # After setuid: a change of credentials clears the parent-death signal.
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, death_signal, 0, 0, 0)
        if os.getppid() != parent:
            return EXIT_CANNOT_EXECUTE
    try:
        os.execv(program[0], program)  # noqa: S606
    except OSError as error:
        sys.stderr.write(f"cannot run {program[0]}: {error.strerror}\n")
    return EXIT_CANNOT_EXECUTE


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
