"""Composition root: settings -> objects -> tasks."""

from __future__ import annotations

import asyncio

from sidecar.http.server import StatusServer
from sidecar.node.node import Node
from sidecar.settings import Settings


async def run_node(settings: Settings, *, stop: asyncio.Event) -> None:
    """Run a node until ``stop`` is set, then end it cleanly: what is durable stays, the rest comes again."""
    node = Node(settings)
    node.listen()
    http = StatusServer(settings.http.listen, node.status, node.waits) if settings.http is not None else None
    if http is not None:
        await http.start()
    running = asyncio.create_task(node.run(), name="node")
    stopping = asyncio.create_task(stop.wait(), name="stop")
    try:
        await asyncio.wait({running, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            running.result()
    finally:
        stopping.cancel()
        running.cancel()
        await asyncio.wait({running})
        if http is not None:
            await http.stop()
