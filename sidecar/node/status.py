"""The node's present status, from memory."""

from __future__ import annotations

import asyncio

from sidecar import __version__
from sidecar.core.hlc import to_ms
from sidecar.core.pgoutput import show_lsn
from sidecar.core.status import (
    CaptureStatus,
    LoopStatus,
    MergeStatus,
    NodeStatus,
    PeerStatus,
    StatusSnapshot,
    TableStatus,
)
from sidecar.node.clock_watch import CLOCK
from sidecar.node.inbox import Inbox
from sidecar.node.links import NodeLinks
from sidecar.node.pulse import Pulse
from sidecar.node.state import CaptureProgress, NodeState
from sidecar.peers.mesh import PeerMesh
from sidecar.peers.status import PeerPhase

HOLDING = ("merge ", "drift ", "seen ")
"""Beginnings of the problems that hold the changes of one node back; the rest is its id."""

_PEER_STATES = {PeerPhase.CONNECTED: "connected", PeerPhase.REFUSED: "refused"}


class NodeStatusSource:
    """Implements :class:`sidecar.core.status.StatusSource`."""

    def __init__(
        self,
        state: NodeState,
        pulse: Pulse,
        progress: CaptureProgress,
        inbox: Inbox,
        links: NodeLinks,
        mesh: PeerMesh,
    ) -> None:
        self._state = state
        self._pulse = pulse
        self._progress = progress
        self._inbox = inbox
        self._links = links
        self._mesh = mesh

    def snapshot(self) -> StatusSnapshot:
        """Everything now."""
        state, counters = self._state, self._state.counters
        node = state.settings.node
        return StatusSnapshot(
            node=NodeStatus(
                node.name, node.id, node.cluster, __version__, state.started_at, certificate_until=self._until()
            ),
            capture=CaptureStatus(
                state=self._pulse.capture_state,
                lag_bytes=self._lag_bytes(),
                lag_ms=self._lag_ms(),
                captured_lsn=show_lsn(self._progress.lsn) if self._progress.lsn else None,
                transactions=counters.transactions,
                changes=counters.changes,
                change_sets=counters.change_sets,
                last_error=self._pulse.capture_error,
            ),
            merge=MergeStatus(
                rows=counters.merged_rows,
                change_sets=counters.merged_change_sets,
                conflicts=counters.conflicts,
                conflict_rate=counters.conflicts / counters.merged_rows if counters.merged_rows else None,
                quarantined_rows=counters.quarantined_rows,
                retries=dict(counters.retries),
                waiting_change_sets=len(self._inbox),
                held="; ".join(line for key, line in state.problems.items() if key.startswith(HOLDING)) or None,
                duration=counters.merge_duration.copy(),
            ),
            peers=tuple(self._peers()),
            tables=tuple(
                TableStatus(name, table.row_rule, {c.name: c.crdt for c in table.columns})
                for name, table in sorted(state.tables.items())
            ),
            loops=self._loops(),
            problems=(*state.problems.values(), *self._mesh.problems()),
            refused_links=self._mesh.refusals,
            journal_bytes=state.journal_bytes,
            database_error=self._pulse.database_error,
        )

    def _until(self) -> float | None:
        ends_ms = self._mesh.certificate_ends_ms
        return None if ends_ms is None else ends_ms / 1000

    @property
    def _streaming(self) -> bool:
        return self._pulse.capture_state == "streaming"

    def _lag_bytes(self) -> int | None:
        log_end = max(self._state.server_lsn, self._progress.log_end)
        return max(0, log_end - self._progress.lsn) if self._streaming and log_end else None

    def _lag_ms(self) -> float | None:
        """The older of: the oldest commit that is decoded and not written; the oldest end of the log that was seen and
        is not reached. Nobody knows while the log is not read."""
        if not self._streaming:
            return None
        behind_ms = self._progress.behind_s(asyncio.get_running_loop().time()) * 1000
        return max(self._state.capture_lag_ms(), behind_ms)

    def _held(self, origin: int) -> str | None:
        """Why the changes of a node wait for somebody."""
        return next((line for key in HOLDING if (line := self._state.problems.get(f"{key}{origin}"))), None)

    def _loops(self) -> tuple[LoopStatus, ...]:
        """While the database is away no loop runs, and none is stuck: that is what readiness says."""
        if not self._streaming:
            return ()
        now = asyncio.get_running_loop().time()
        most = float(self._state.settings.timing.loop_silent_ms_max)
        # Without anything to capture the walsender may be silent for long.
        idle = self._state.pending_since_ms is None and self._progress.behind_s(now) == 0.0
        capture, merge = self._pulse.capture_alive, self._pulse.merge_alive
        if self._state.writer_lock.locked():
            # One of them writes and the other may wait for it: as long as the one makes progress, neither is stuck.
            if self._state.writer_lock.holder is self._pulse.merge_task:
                capture = max(capture, merge)
            else:
                merge = max(capture, merge)
        capture_ms = 0.0 if idle else (now - capture) * 1000
        return (LoopStatus("capture", capture_ms, most), LoopStatus("merge", (now - merge) * 1000, most))

    def _peers(self) -> list[PeerStatus]:
        out = []
        now = self._state.now_ms()
        stored = {name: peer_id for peer_id, name in self._links.names.items()}
        for name, peer in sorted(self._mesh.states.items()):
            known = peer.peer_id if peer.peer_id is not None else stored.get(name)
            hlc = self._state.clock.get(known, 0) if known is not None else 0
            held = self._held(known) if known is not None else None
            if held is None and self._state.watch.is_beyond(name):
                held = self._state.problems.get(f"{CLOCK}{name}")
            state = _PEER_STATES.get(peer.state, "down")
            if (departure := self._links.gone(name)) is not None and state != "connected":
                out.append(PeerStatus(name=name, id=departure.node, state=departure.kind, last_error=peer.last_error))
                continue
            out.append(
                PeerStatus(
                    name=name,
                    id=known,
                    state="held" if held and state == "connected" else state,
                    last_error=held or peer.last_error,
                    lag_ms=max(0.0, now - to_ms(hlc)) if hlc else None,
                    unacknowledged_change_sets=None if known is None else self._links.unacknowledged(known),
                    bytes_in=peer.bytes_in,
                    bytes_out=peer.bytes_out,
                    change_sets_in=peer.change_sets_in,
                    change_sets_out=peer.change_sets_out,
                    round_trip_ms=peer.round_trip_ms,
                    clock_offset_ms=peer.clock_offset_ms,
                    clock_alarm=f"{CLOCK}{name}" in self._state.problems,
                    waiting=None if known is None else self._state.waiting.get(known),
                )
            )
        return out
