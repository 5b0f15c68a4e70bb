"""``sidecar join``: bring this node's database up to another node's, while both go on."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from sidecar.cli import console, logs
from sidecar.errors import UsageError

if TYPE_CHECKING:
    from sidecar.node.join import Report

NOTED_EACH_S = 5.0
"""Without a terminal, one line of progress this often."""


def command(
    source: Annotated[str, typer.Option("--from", metavar="NODE", help="The node whose rows and states are copied.")],
    config: console.ConfigOption = console.DEFAULT_CONFIG,
    dsn: Annotated[
        str | None, typer.Option(help="Its database; else dsn of this peer in the configuration.", show_default=False)
    ] = None,
    wait: Annotated[
        bool, typer.Option("--wait/--no-wait", help="Also take what was written everywhere during the copy.")
    ] = True,
    json: console.JsonOption = False,
) -> None:
    """Copy another node's rows and states into this node's database, so that it can take part. Safe to run again.

    Run sidecar init first. Nothing is lost or counted twice, whatever is in the tables here already, and writes go on
    everywhere. All peers are told first, so that they keep what this node will need. At the end it has everything that
    the other node had when the copy was complete; sidecar run streams what came since, whenever it is started.
    """
    settings = console.settings_of(config)
    logs.configure(logs.LogLevel.ERROR, logs.LogFormat.AUTO, node=settings.node.name)
    from sidecar.node.join import join

    known = {peer.name: peer.dsn for peer in settings.peers}
    found = dsn or known.get(source)
    if found is None:
        raise UsageError(
            f"the database of {source} is not known", mend="give --dsn, or dsn in its [[peers]] in the configuration"
        )
    started = time.perf_counter()
    with _progress() as report:
        result = console.run_async(join(settings, source_name=source, source_dsn=found, report=report, wait=wait))
    seconds = time.perf_counter() - started
    if json:
        console.print_json(
            {
                "tables": result.tables,
                "rows": result.rows,
                "merged": result.merged,
                "written_anew": result.written_anew,
                "quarantined": result.quarantined,
                "seconds": seconds,
            }
        )
        return
    if result.quarantined:
        console.note(
            f"{result.quarantined} rows cannot be here and are in the quarantine: SELECT * FROM crdt.quarantine"
        )
    own = f", {result.written_anew} rows that only this node has written anew" if result.written_anew else ""
    console.fact(
        f"joined from {source}: {result.rows} rows of {result.tables} tables in {seconds:.1f} s{own}; next: sidecar run"
    )


@contextmanager
def _progress() -> Iterator[Report]:
    """A bar on a terminal; elsewhere a line now and then."""
    if not sys.stderr.isatty():
        yield _noted()
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("joining", total=None)

        def show(what: str, done: int, expected: int, unit: str) -> None:
            bar.update(task, description=f"{what} ({unit})", completed=done, total=max(done, expected) or None)

        yield show


def _noted() -> Report:
    said: dict[str, float] = {}

    def show(what: str, done: int, expected: int, unit: str) -> None:
        now = time.monotonic()
        if now - said.get("", -NOTED_EACH_S) >= NOTED_EACH_S:
            said[""] = now
            console.note(f"{what}: {done} of about {expected} {unit}" if expected else what)

    return show
