"""``sidecar run``: the node's process, from settings to a clean stop."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Annotated, Any

import structlog
import typer

from sidecar import __version__
from sidecar.cli import console, logs, priority
from sidecar.errors import FatalError

if TYPE_CHECKING:
    from sidecar.settings import Settings

CANCEL_SECONDS_MAX = 1.0
"""After the clean stop's own bound (timing.shutdown_ms_max, 8 s) a cancelled node gets this long, so that the process
ends below the 10 s after which supervisors kill."""

GC_THRESHOLDS = (20_000, 50, 100)
"""Decoding makes thousands of short-lived containers (tuples, lists) in each batch, none of them in a cycle. With
Python's defaults (700, 10, 10) looking through them, and through all that lives long, costs capture some 10 % of its
time. Cycles do occur, after errors and closed links: one collection per 20,000 containers more finds them soon enough,
and bounds what they hold to some MB."""

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)

RunNode = Callable[..., Coroutine[Any, Any, None]]


def command(
    config: console.ConfigOption = console.DEFAULT_CONFIG,
    log_level: Annotated[logs.LogLevel, typer.Option(help="The least level that is logged.")] = logs.LogLevel.INFO,
    log_format: Annotated[
        logs.LogFormat, typer.Option(help="auto is pretty on a terminal and JSON lines elsewhere.")
    ] = logs.LogFormat.AUTO,
) -> None:
    """Run this node: capture local changes, ship them, merge the peers' changes. Ends cleanly on SIGTERM and Ctrl-C."""
    settings = console.settings_of(config)
    # Not at the top: what runs a node takes a second to import, and the other commands need none of it.
    from sidecar.app import run_node

    logs.configure(log_level, log_format, node=settings.node.name)
    priority.stand_back(settings.node.nice)
    _spare_garbage_collection()
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(until_stopped(settings, run_node))


def _spare_garbage_collection() -> None:
    """What is imported by now stays until the end; no collection needs to look at it again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:  # not on every platform; asyncio's own loop does the same, slower
        return None
    return uvloop.new_event_loop


async def until_stopped(settings: Settings, run_node: RunNode) -> None:
    """Run the node until it ends by itself or a signal asks it to. A second signal, or the stop's time bound, ends the
    process at once; what is durable stays durable, and a restart resumes there."""
    log = structlog.get_logger("sidecar")
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()

    def on_signal(number: signal.Signals) -> None:
        if stop.is_set():
            _end_now("a second signal came")
        log.info("stopping", signal=number.name)
        stop.set()

    for number in STOP_SIGNALS:
        loop.add_signal_handler(number, on_signal, number)
    log.info("starting", version=__version__, node_id=settings.node.id, cluster=settings.node.cluster)
    node = asyncio.create_task(run_node(settings, stop=stop), name="node")
    asked = asyncio.create_task(stop.wait(), name="stop signal")
    try:
        await asyncio.wait({node, asked}, return_when=asyncio.FIRST_COMPLETED)
        if not node.done():
            await _bounded(node, settings.timing.shutdown_ms_max)
        node.result()
    finally:
        asked.cancel()
    log.info("stopped")


async def _bounded(node: asyncio.Task[None], shutdown_ms_max: int) -> None:
    await asyncio.wait({node}, timeout=shutdown_ms_max / 1000)
    if node.done():
        return
    node.cancel()
    await asyncio.wait({node}, timeout=CANCEL_SECONDS_MAX)
    if not node.done():
        _end_now(f"the node did not stop within {shutdown_ms_max} ms and ignores its cancellation")
    raise FatalError(
        f"the node did not stop within {shutdown_ms_max} ms", mend="nothing is lost, a restart resumes; see the log"
    )


def _end_now(reason: str) -> None:
    console.note(f"error: {reason}; ended at once, nothing durable is lost")
    sys.stdout.flush()
    os._exit(console.EXIT_FAILED)
