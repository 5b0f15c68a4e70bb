"""Progress of commands that take a while: a bar or a line that changes on a terminal, else a line now and then."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from sidecar.cli import console

if TYPE_CHECKING:
    from sidecar.postgres.requests import Report

NOTED_EACH_S = 5.0
"""Without a terminal, one line of progress this often."""


@contextmanager
def lacking(title: str) -> Iterator[Report]:
    """For what counts down: the most that was ever lacking is the whole."""
    if not sys.stderr.isatty():
        yield _noted()
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=None)
        most = 0

        def show(what: str, left: int | None) -> None:
            nonlocal most
            most = max(most, left or 0)
            bar.update(task, description=what, completed=most - (left or 0), total=most or None)

        yield show


def _noted() -> Report:
    said_s = -NOTED_EACH_S
    said = ""

    def show(what: str, left: int | None) -> None:
        nonlocal said, said_s
        now_s = time.monotonic()
        if now_s - said_s >= NOTED_EACH_S and what != said:
            said, said_s = what, now_s
            console.note(what)

    return show
