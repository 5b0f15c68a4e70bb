"""``sidecar demo``: three regions on this machine, writers in all of them, a cut link, and the proof."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.live import Live
from rich.status import Status

from sidecar.cli import console, demo_tables
from sidecar.lab import demo_kept
from sidecar.lab.cluster import LabCluster
from sidecar.lab.demo import REGIONS, SECONDS_MAX, SECONDS_MIN, TIMING, Demo, Outcome, check_binaries
from sidecar.lab.embedded import stop_leftover
from sidecar.lab.folders import TemporaryFolder

SECONDS_DEFAULT = 20.0
LIVE_S = 0.25  # four pictures a second look alive and cost little
LINE_S = 3.0  # between progress lines where there is no terminal
SEED_MAX = 2**31 - 1


def command(
    keep: Annotated[bool, typer.Option("--keep", help="Leave databases and sidecars running, to play with.")] = False,
    seconds: Annotated[
        float, typer.Option(min=SECONDS_MIN, max=SECONDS_MAX, help="How long the writers write.")
    ] = SECONDS_DEFAULT,
    seed: Annotated[
        int | None, typer.Option(min=0, max=SEED_MAX, help="Of what the writers do; by default another each time.")
    ] = None,
    pg_bin: Annotated[
        Path | None, typer.Option("--pg-bin", metavar="FOLDER", help="The bin folder of another PostgreSQL server.")
    ] = None,
    stop: Annotated[
        Path | None, typer.Option("--stop", metavar="FOLDER", help="Stop a kept demo and remove its folder.")
    ] = None,
) -> None:
    """Show three regions that all take writes and converge, with a link that is cut and heals. Needs no database.

    Exit status 1 when any table differs, a counter is not exact, or a row is lost.
    """
    if stop is not None:
        demo_kept.stop(stop)
        console.fact(f"stopped, and {stop} removed")
        return
    version = check_binaries(pg_bin)
    chosen = random.randint(0, 9999) if seed is None else seed  # noqa: S311
    out = console.stdout()
    with _folder(keep=keep) as folder:
        cluster = LabCluster(
            REGIONS, folder.path, proxied=not keep, pg_bin=pg_bin, keep=keep, detached=keep, sections=TIMING
        )
        out.print(f"[bold]Three regions[/], each a PostgreSQL {version} and a sidecar of its own; seed {chosen}.")
        outcome = console.run_async(_run(cluster, Demo(cluster, seconds, chosen), out, keep=keep))
        if keep:
            demo_tables.show_kept(out, folder.path, demo_kept.record(cluster))
    if outcome.problems:
        raise typer.Exit(console.EXIT_FAILED)


@contextlib.contextmanager
def _folder(*, keep: bool) -> Iterator[TemporaryFolder]:
    """A folder for the run. One that is kept goes too when the demo does not come to its end."""

    def stop_servers(folder: Path) -> None:
        for data_dir in folder.glob("*/server/data"):
            stop_leftover(data_dir)

    folder = TemporaryFolder("demo-", stop_servers, keep=keep)
    try:
        yield folder
    except BaseException:
        folder.remove()
        raise
    if not keep:
        folder.remove()


async def _run(cluster: LabCluster, demo: Demo, out: Console, *, keep: bool) -> Outcome:
    """Set up, write, prove, print; stop the cluster unless it is kept and came to its end."""
    started = time.monotonic()
    try:
        with _waiting(out, demo):
            await cluster.start()
            await demo.prepare()
        out.print(f"Ready after {time.monotonic() - started:.1f} s. Writing for {demo.seconds:g} s in all regions.\n")
        shown = asyncio.create_task(_show(demo, out), name="show")
        try:
            await demo.write()
        finally:
            shown.cancel()
            await asyncio.gather(shown, return_exceptions=True)
        outcome = await demo.prove()
        demo_tables.show_outcome(out, demo, outcome)
    except BaseException:
        demo_kept.discard(cluster)
        await cluster.stop()
        raise
    if not keep:
        await cluster.stop()
    return outcome


@contextlib.contextmanager
def _waiting(out: Console, demo: Demo) -> Iterator[Status | None]:
    """A spinner on a terminal; nothing elsewhere."""
    if not out.is_terminal:
        yield None
        return
    with out.status("starting three databases and three sidecars") as status:
        yield status


async def _show(demo: Demo, out: Console) -> None:
    """What happens, until cancelled: a live table on a terminal, a line every few seconds elsewhere."""
    if not out.is_terminal:
        while True:
            await asyncio.sleep(LINE_S)
            out.print(demo_tables.progress_line(demo, await demo.view()))
    with Live(console=out, auto_refresh=False) as live:
        try:
            while True:
                live.update(demo_tables.live_table(demo, await demo.view()), refresh=True)
                await asyncio.sleep(LIVE_S)
        finally:
            live.update(demo_tables.live_table(demo, await demo.view()), refresh=True)
