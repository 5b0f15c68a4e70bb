"""What a running node says about itself: plain values, filled by the loops, read by HTTP and the command line.

Times are milliseconds, sizes bytes; ``None`` means "not known yet", never zero.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field
from typing import Protocol

# Upper bounds (seconds, inclusive) around the two numbers that matter: row locks are held some 20 ms, a full batch
# of ten thousand rows merges in some 200 ms. Anything above 10 s is one class: stuck.
DURATION_BOUNDS_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.5, 10.0)


DEPARTED = ("left", "removed")
"""States of peers that are no longer members."""


@dataclass(slots=True)
class Histogram:
    """Counts of observed seconds in fixed buckets; ``counts`` has one element more than ``bounds`` (above the last)."""

    bounds: tuple[float, ...] = DURATION_BOUNDS_SECONDS
    counts: list[int] = field(default_factory=list)
    sum_seconds: float = 0.0

    def __post_init__(self) -> None:
        if not self.counts:
            self.counts = [0] * (len(self.bounds) + 1)
        if len(self.counts) != len(self.bounds) + 1:
            raise ValueError(f"{len(self.counts)} counts do not fit {len(self.bounds)} bounds")

    def observe(self, seconds: float) -> None:
        """Count one duration; a bound includes its own value, as in Prometheus."""
        self.counts[bisect_left(self.bounds, seconds)] += 1
        self.sum_seconds += seconds

    @property
    def total(self) -> int:
        """The number of observations."""
        return sum(self.counts)

    def copy(self) -> Histogram:
        """A value that later observations do not change."""
        return Histogram(self.bounds, list(self.counts), self.sum_seconds)


@dataclass(slots=True)
class LinkCounters:
    """What went over the links with one peer since the process started."""

    bytes_in: int = 0
    bytes_out: int = 0
    change_sets_in: int = 0
    change_sets_out: int = 0


@dataclass(slots=True)
class Counters:
    """Counts since the process started. The loops add to them; nobody ever subtracts."""

    transactions: int = 0
    changes: int = 0
    change_sets: int = 0
    merged_rows: int = 0
    merged_change_sets: int = 0
    conflicts: int = 0
    quarantined_rows: int = 0
    retries: dict[str, int] = field(default_factory=dict)
    merge_duration: Histogram = field(default_factory=Histogram)
    links: dict[int, LinkCounters] = field(default_factory=dict)

    def retry(self, cause: str) -> None:
        """Count one retry. ``cause`` is a short fixed word (``dirty_rows``, ``lock_timeout``): it becomes a label."""
        self.retries[cause] = self.retries.get(cause, 0) + 1

    def link(self, node_id: int) -> LinkCounters:
        """The counters of one peer, made at first use."""
        return self.links.setdefault(node_id, LinkCounters())


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """Who answers. ``started_at``: Unix seconds, as ``certificate_until``, the end of this node's certificate (``None``
    without TLS)."""

    name: str
    id: int
    cluster: str
    version: str
    started_at: float
    certificate_until: float | None = None


@dataclass(frozen=True, slots=True)
class CaptureStatus:
    """The capture loop. ``state``: ``starting``, ``streaming``, ``retrying`` or ``stopped``.

    ``lag_bytes``: WAL written but not captured. ``lag_ms``: age of the oldest commit not captured, 0 when
    there is none.
    """

    state: str = "starting"
    lag_bytes: int | None = None
    lag_ms: float | None = None
    captured_lsn: str | None = None
    transactions: int = 0
    changes: int = 0
    change_sets: int = 0
    last_error: str | None = None


@dataclass(frozen=True, slots=True)
class PeerStatus:
    """One other node. ``state``: ``connected``, ``down``, ``refused`` or ``held``; ``left`` or ``removed`` for one
    that is no longer a member.

    ``waiting``: why its next change set is not merged here yet. ``lag_ms``: how old the newest merged state of that
    origin is. ``unacknowledged_change_sets``: journal rows the peer has not made durable yet. ``clock_offset_ms``: the
    peer's wall clock minus this one's, ``clock_alarm`` whether that is too much. ``id`` is ``None`` until the first
    hello.
    """

    name: str
    id: int | None = None
    state: str = "down"
    last_error: str | None = None
    lag_ms: float | None = None
    unacknowledged_change_sets: int | None = None
    bytes_in: int = 0
    bytes_out: int = 0
    change_sets_in: int = 0
    change_sets_out: int = 0
    round_trip_ms: float | None = None
    clock_offset_ms: float | None = None
    waiting: str | None = None
    clock_alarm: bool = False


@dataclass(frozen=True, slots=True)
class MergeStatus:
    """The apply loop. ``waiting_change_sets``: received, not merged yet. ``held``: why merging waits for somebody.
    ``conflict_rate``: conflicts per merged row change, ``None`` before the first."""

    rows: int = 0
    change_sets: int = 0
    conflicts: int = 0
    conflict_rate: float | None = None
    quarantined_rows: int = 0
    retries: dict[str, int] = field(default_factory=dict)
    waiting_change_sets: int = 0
    held: str | None = None
    duration: Histogram = field(default_factory=Histogram)


@dataclass(frozen=True, slots=True)
class TableStatus:
    """One replicated table: ``columns`` maps a column to its CRDT type (key columns are left out)."""

    name: str
    row_rule: str
    columns: dict[str, str]


@dataclass(frozen=True, slots=True)
class LoopStatus:
    """One supervised loop: ``silent_ms`` since its last sign of life, stuck above ``silent_ms_max``."""

    name: str
    silent_ms: float
    silent_ms_max: float

    @property
    def stuck(self) -> bool:
        return self.silent_ms > self.silent_ms_max


@dataclass(frozen=True, slots=True)
class StatusSnapshot:
    """Everything, taken at one moment. ``database_error`` is ``None`` while the database answers; ``problems`` are
    lines an operator should read. ``refused_links``: connections that did not become links, by cause."""

    node: NodeStatus
    capture: CaptureStatus
    merge: MergeStatus
    peers: tuple[PeerStatus, ...] = ()
    tables: tuple[TableStatus, ...] = ()
    loops: tuple[LoopStatus, ...] = ()
    problems: tuple[str, ...] = ()
    journal_bytes: int | None = None
    database_error: str | None = None
    refused_links: dict[str, int] = field(default_factory=dict)

    def unhealthy(self) -> list[str]:
        """Why the process should be restarted; empty when it is well."""
        return [
            f"loop {loop.name} is silent for {loop.silent_ms:.0f} ms, its bound is {loop.silent_ms_max:.0f} ms"
            for loop in self.loops
            if loop.stuck
        ]

    def unready(self) -> list[str]:
        """Why the node does not replicate right now; empty when it does. A peer that is away is no reason."""
        reasons = []
        if self.database_error is not None:
            reasons.append(f"database: {self.database_error}")
        if self.capture.state != "streaming":
            detail = f" ({self.capture.last_error})" if self.capture.last_error else ""
            reasons.append(f"capture is {self.capture.state}{detail}")
        return reasons


class StatusSource(Protocol):
    """Whoever can describe the node now. Called on each request; must not block or await."""

    def snapshot(self) -> StatusSnapshot:
        """The present status."""
        ...
