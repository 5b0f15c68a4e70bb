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
from sidecar.node.inbox import Inbox
from sidecar.node.links import NodeLinks
from sidecar.node.pulse import Pulse
from sidecar.node.state import CaptureProgress, NodeState
from sidecar.peers.mesh import PeerMesh
from sidecar.peers.status import PeerPhase

STUCK_MS = 60_000.0
"""A loop that shows no sign of life for a minute is stuck: its longest legitimate wait is a large part's statement."""

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
            node=NodeStatus(node.name, node.id, node.cluster, __version__, state.started_at),
            capture=CaptureStatus(
                state=self._pulse.capture_state,
                lag_bytes=max(0, state.server_lsn - self._progress.lsn) if state.server_lsn else None,
                lag_ms=state.capture_lag_ms(),
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
                quarantined_rows=counters.quarantined_rows,
                retries=dict(counters.retries),
                waiting_change_sets=len(self._inbox),
                held=next((line for key, line in state.problems.items() if key.startswith("merge ")), None),
                duration=counters.merge_duration.copy(),
            ),
            peers=tuple(self._peers()),
            tables=tuple(
                TableStatus(name, table.row_rule, {c.name: c.crdt for c in table.columns})
                for name, table in sorted(state.tables.items())
            ),
            loops=self._loops(),
            problems=tuple(state.problems.values()),
            journal_bytes=state.journal_bytes,
            database_error=self._pulse.database_error,
        )

    def _loops(self) -> tuple[LoopStatus, ...]:
        now = asyncio.get_running_loop().time()
        pulse = self._pulse
        loops = []
        if pulse.merge_alive:
            loops.append(LoopStatus("merge", (now - pulse.merge_alive) * 1000, STUCK_MS))
        return tuple(loops)

    def _peers(self) -> list[PeerStatus]:
        out = []
        now = self._state.now_ms()
        for name, peer in sorted(self._mesh.states.items()):
            known = peer.peer_id
            hlc = self._state.clock.get(known, 0) if known is not None else 0
            out.append(
                PeerStatus(
                    name=name,
                    id=known,
                    state=_PEER_STATES.get(peer.state, "down"),
                    last_error=peer.last_error,
                    lag_ms=max(0.0, now - to_ms(hlc)) if hlc else None,
                    unacknowledged_change_sets=None,
                    bytes_in=peer.bytes_in,
                    bytes_out=peer.bytes_out,
                    change_sets_in=peer.change_sets_in,
                    change_sets_out=peer.change_sets_out,
                    round_trip_ms=peer.round_trip_ms,
                    clock_offset_ms=peer.clock_offset_ms,
                )
            )
        return out
