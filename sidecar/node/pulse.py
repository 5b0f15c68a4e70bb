"""Signs of life of the loops, for health and status."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any


@dataclass(slots=True)
class Pulse:
    """How capture and the database are, and when the loops were last alive (event-loop seconds). The latter means
    something only while the loops run, that is while ``capture_state`` is ``streaming``. ``merge_task``: the merge
    loop."""

    capture_state: str = "starting"
    capture_error: str | None = None
    database_error: str | None = None
    capture_alive: float = 0.0
    merge_alive: float = 0.0
    merge_task: asyncio.Task[Any] | None = None

    def merge_beats(self) -> None:
        """The merge makes progress."""
        self.merge_alive = asyncio.get_running_loop().time()

    def restart(self, now: float) -> None:
        """The loops start (anew)."""
        self.capture_alive = self.merge_alive = now
