"""Errors of the replication stream are told once, also when the capture loop is being cancelled for another one."""

from __future__ import annotations

import asyncio
import gc
from contextlib import suppress
from typing import Any

from sidecar.errors import TransientError
from sidecar.node.capture import Capture


class Stream:
    """Is read until somebody cancels it; then the connection turns out to be lost."""

    async def read(self) -> list[bytes]:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise TransientError("connection lost") from None
        return []


async def test_a_stream_that_breaks_while_capture_is_cancelled_leaves_nothing_unheard() -> None:
    unheard: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: unheard.append(context))
    capture = object.__new__(Capture)
    capture._stream = Stream()  # type: ignore[assignment]
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
