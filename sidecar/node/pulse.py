"""Signs of life of the loops, for health and status."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Pulse:
    """When the loops were last alive (event-loop seconds), and how capture is."""

    capture_state: str = "starting"
    capture_error: str | None = None
    database_error: str | None = None
    capture_alive: float = 0.0
    merge_alive: float = 0.0
