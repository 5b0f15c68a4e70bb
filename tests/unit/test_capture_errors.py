"""Errors of the replication stream are told once, also when the capture loop is being cancelled for another one."""

from __future__ import annotations

import asyncio
import gc
from contextlib import suppress
from typing import Any

from sidecar.errors import TransientError
from sidecar.node.capture import Capture
from sidecar.node.pulse import Pulse
from sidecar.node.state import CaptureProgress, NodeState
from sidecar.settings import NodeSettings, Settings


class Stream:
    """Is read until somebody cancels it; then the connection turns out to be lost."""

    server_lsn = 0

    async def read(self, *, backlog: bool = False) -> list[bytes]:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise TransientError("connection lost") from None
        return []


async def _nothing() -> None:
    await asyncio.sleep(0)


async def test_a_stream_that_breaks_while_capture_is_cancelled_leaves_nothing_unheard() -> None:
    unheard: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: unheard.append(context))
    capture = Capture(
        NodeState(Settings(node=NodeSettings(name="a", id=1, dsn="postgresql://a@127.0.0.1:1/app"))),
        Stream(),  # type: ignore[arg-type]
        None,  # type: ignore[arg-type]
        CaptureProgress(_nothing),
        Pulse(),
        resume_lsn=0,
        publish=lambda seq, part: None,
        refresh_tables=_nothing,
    )
    capture._flushing = asyncio.create_task(asyncio.Event().wait())  # type: ignore[assignment, arg-type]
    reading = asyncio.create_task(capture._read())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    reading.cancel()
    with suppress(asyncio.CancelledError):
        await reading
    capture._flushing.cancel()  # type: ignore[union-attr]
    del reading
    gc.collect()
    await asyncio.sleep(0)
    assert unheard == []
