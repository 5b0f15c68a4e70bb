"""The node's status as Prometheus metrics, built at scrape time; nothing is counted twice and nothing is global.

Names carry base units (https://prometheus.io/docs/practices/naming/). A value that is not known yet has no sample.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from sidecar.core.status import DEPARTED, Histogram, PeerStatus, StatusSnapshot, StatusSource

Value = float | int | None


@dataclass(frozen=True, slots=True)
class _Single:
    """A metric with one sample. ``name`` is complete, a counter's with ``_total``."""

    name: str
    text: str
    value: Callable[[StatusSnapshot], Value]

    def families(self, snapshot: StatusSnapshot) -> Iterator[Metric]:
        family = _family(self.name, self.text, ())
        value = self.value(snapshot)
        if value is not None:
            family.add_metric((), value)
            yield family


@dataclass(frozen=True, slots=True)
class _PerPeer:
    """A metric with one sample per peer, or per peer and direction when ``value`` gives (in, out)."""

    name: str
    text: str
    value: Callable[[PeerStatus], Value | tuple[int, int]]
    labels: Sequence[str] = ("peer",)

    def families(self, snapshot: StatusSnapshot) -> Iterator[Metric]:
        family = _family(self.name, self.text, self.labels)
        for peer in snapshot.peers:
            if peer.state in DEPARTED:
                continue  # nobody waits for it
            value = self.value(peer)
            if isinstance(value, tuple):
                family.add_metric((peer.name, "in"), value[0])
                family.add_metric((peer.name, "out"), value[1])
            elif value is not None:
                family.add_metric((peer.name,), value)
        yield family


def _family(name: str, text: str, labels: Sequence[str]) -> CounterMetricFamily | GaugeMetricFamily:
    kind = CounterMetricFamily if name.endswith("_total") else GaugeMetricFamily
    return kind(name, text, labels=labels)


def _seconds(milliseconds: float | None) -> float | None:
    return None if milliseconds is None else milliseconds / 1000


_DIRECTED = ("peer", "direction")

METRICS: tuple[_Single | _PerPeer, ...] = (
    _Single("sidecar_capture_lag_bytes", "WAL written and not captured yet.", lambda s: s.capture.lag_bytes),
    _Single(
        "sidecar_capture_lag_seconds",
        "Age of the oldest commit not captured yet.",
        lambda s: _seconds(s.capture.lag_ms),
    ),
    _Single("sidecar_capture_streaming", "1 while WAL is being captured.", lambda s: s.capture.state == "streaming"),
    _Single("sidecar_captured_transactions_total", "Local transactions captured.", lambda s: s.capture.transactions),
    _Single("sidecar_captured_changes_total", "Local row changes captured.", lambda s: s.capture.changes),
    _Single(
        "sidecar_captured_change_sets_total", "Change sets written to the journal.", lambda s: s.capture.change_sets
    ),
    _Single("sidecar_journal_bytes", "Size of the journal kept for the peers.", lambda s: s.journal_bytes),
    _Single("sidecar_merged_rows_total", "Rows merged from peers.", lambda s: s.merge.rows),
    _Single("sidecar_merged_change_sets_total", "Change sets merged from peers.", lambda s: s.merge.change_sets),
    _Single(
        "sidecar_waiting_change_sets", "Change sets received and not merged.", lambda s: s.merge.waiting_change_sets
    ),
    _Single("sidecar_merge_held", "1 while merging waits for an operator.", lambda s: s.merge.held is not None),
    _Single("sidecar_conflicts_total", "Concurrent writes of one column.", lambda s: s.merge.conflicts),
    _Single("sidecar_conflict_ratio", "Conflicts per merged row change.", lambda s: s.merge.conflict_rate),
    _Single("sidecar_quarantined_rows_total", "Rows that could never apply.", lambda s: s.merge.quarantined_rows),
    _Single("sidecar_database_reachable", "1 while the database answers.", lambda s: s.database_error is None),
    _Single("sidecar_problems", "Problems an operator should read in /status.", lambda s: len(s.problems)),
    _Single("sidecar_start_time_seconds", "Unix time of the process start.", lambda s: s.node.started_at),
    _Single(
        "sidecar_certificate_until_seconds",
        "Unix time at which this node's certificate ends.",
        lambda s: s.node.certificate_until,
    ),
    _PerPeer("sidecar_peer_connected", "1 while a link with the peer is up.", lambda p: p.state == "connected"),
    _PerPeer("sidecar_peer_lag_seconds", "Age of the peer's newest state merged here.", lambda p: _seconds(p.lag_ms)),
    _PerPeer("sidecar_peer_round_trip_seconds", "Round trip on the link.", lambda p: _seconds(p.round_trip_ms)),
    _PerPeer(
        "sidecar_clock_offset_seconds", "The peer's wall clock minus ours.", lambda p: _seconds(p.clock_offset_ms)
    ),
    _PerPeer("sidecar_clock_alarm", "1 while that is above timing.clock_alarm_ms.", lambda p: p.clock_alarm),
    _PerPeer(
        "sidecar_peer_unacknowledged_change_sets",
        "Journal rows the peer has not made durable.",
        lambda p: p.unacknowledged_change_sets,
    ),
    _PerPeer("sidecar_peer_bytes_total", "Bytes on the wire.", lambda p: (p.bytes_in, p.bytes_out), _DIRECTED),
    _PerPeer(
        "sidecar_peer_change_sets_total",
        "Change sets on the wire.",
        lambda p: (p.change_sets_in, p.change_sets_out),
        _DIRECTED,
    ),
)


class StatusCollector(Collector):
    """Turns one snapshot into metric families at each scrape."""

    def __init__(self, source: StatusSource) -> None:
        self._source = source

    def describe(self) -> list[Metric]:
        """Nothing: a registry would otherwise scrape once at registration, before the node runs."""
        return []

    def collect(self) -> Iterator[Metric]:
        snapshot = self._source.snapshot()
        for metric in METRICS:
            yield from metric.families(snapshot)
        retries = CounterMetricFamily("sidecar_retries_total", "Merges tried again, by cause.", labels=("cause",))
        for cause, count in sorted(snapshot.merge.retries.items()):
            retries.add_metric((cause,), count)
        yield retries
        refused = CounterMetricFamily(
            "sidecar_refused_links_total", "Connections that did not become links, by cause.", labels=("cause",)
        )
        for cause, count in sorted(snapshot.refused_links.items()):
            refused.add_metric((cause,), count)
        yield refused
        yield _histogram("sidecar_merge_duration_seconds", "Time of one merge transaction.", snapshot.merge.duration)
        build = GaugeMetricFamily("sidecar_build_info", "Always 1.", labels=("version", "node", "cluster"))
        build.add_metric((snapshot.node.version, snapshot.node.name, snapshot.node.cluster), 1)
        yield build


def _histogram(name: str, text: str, histogram: Histogram) -> HistogramMetricFamily:
    """Prometheus' buckets are cumulative and end with ``+Inf``."""
    buckets: list[tuple[str, float]] = []
    running = 0
    for bound, count in zip((*map(str, histogram.bounds), "+Inf"), histogram.counts, strict=True):
        running += count
        buckets.append((bound, running))
    family = HistogramMetricFamily(name, text)
    family.add_metric((), buckets, sum_value=histogram.sum_seconds)
    return family


def registry_of(source: StatusSource) -> CollectorRegistry:
    """A registry of the node's metrics alone."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(StatusCollector(source))
    return registry
