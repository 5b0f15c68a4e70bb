"""The causal gate: which received change sets may be merged now (invariant 8), and when failed ones are due again."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field

from sidecar.core.changes import ChangeSetHeader
from sidecar.core.hlc import show, to_ms
from sidecar.core.versions import VersionVector
from sidecar.node.inbox import Inbox, ReceivedSet
from sidecar.node.state import NodeState
from sidecar.postgres.merge_batch import MergeSet

GAP_S = 1.0
"""How long a gap may stand: heartbeats and parts of one link may be handled in turns, which takes milliseconds."""

GAP_LOOK_S = 0.25
"""How often gaps are looked for, however busy the loop is: it walks through everything that waits."""


@dataclass(slots=True)
class Retry:
    """The state of a change set that failed before. ``not_before`` and ``since`` (it failed first): event-loop seconds.
    ``merge_set`` keeps what its tries have learnt; ``isolate``: rows that cannot apply go to quarantine one by one;
    ``looked``: after the tables were read again."""

    tries: int = 0
    not_before: float = 0.0
    since: float | None = None
    isolate: bool = False
    looked: bool = False
    merge_set: MergeSet | None = None


@dataclass(slots=True)
class Gate:
    """Chooses from the inbox. An origin whose head waits (for its context, a retry, a person, or the clock) holds
    nobody else up, except those that depend on it."""

    state: NodeState
    inbox: Inbox
    retries: dict[int, Retry] = field(default_factory=dict)
    _turn: int = 0
    _gap_since: dict[int, float] = field(default_factory=dict)
    _look_at: float = 0.0

    def drop_duplicates(self) -> None:
        """Take out what is merged already."""
        for origin, queue in self.inbox.heads().items():
            while queue and queue[0].header.to_hlc <= self.state.clock.get(origin, 0):
                self.inbox.done(origin)
                self.settled(origin)

    def settled(self, origin: int) -> None:
        """The change set that failed before is merged, or gone."""
        if self.retries.pop(origin, None) is not None:
            self.state.problem(f"merge {origin}", None)

    def ready(self, rows_budget: float, sets_max: int) -> list[ReceivedSet]:
        """The change sets to merge now in one transaction, in an order that respects their contexts, up to the budget
        and the number; at least one if any may be merged. A change set that failed before comes alone."""
        heads = self.inbox.heads()
        if not heads:
            return []
        now = asyncio.get_running_loop().time()
        origins = sorted(heads)
        self._turn += 1
        origins = origins[self._turn % len(origins) :] + origins[: self._turn % len(origins)]
        due = [o for o in origins if o in self.retries and self.retries[o].not_before <= now]
        for origin in due:
            if self._open(heads[origin][0].header, self.state.clock):
                return [heads[origin][0]]
        return self._together({o: heads[o] for o in origins if o not in self.retries}, rows_budget, sets_max)

    def _together(self, queues: dict[int, deque[ReceivedSet]], rows_budget: float, sets_max: int) -> list[ReceivedSet]:
        clock = dict(self.state.clock)
        places = dict.fromkeys(queues, 0)
        ready: list[ReceivedSet] = []
        rows, moved = 0, True
        while moved:
            moved = False
            for origin, queue in queues.items():
                if places[origin] >= len(queue):
                    continue
                head = queue[places[origin]]
                # One sent again after a reconnect, right behind its first copy, is dropped once that one is merged.
                if head.header.to_hlc <= clock.get(origin, 0) or not self._open(head.header, clock):
                    continue
                rows += head.rows
                if ready and (rows > rows_budget or len(ready) >= sets_max or head.is_large):
                    return ready
                ready.append(head)
                clock[origin] = head.header.to_hlc
                places[origin] += 1
                moved = True
                if head.is_large:
                    return ready
        return ready

    def _open(self, header: ChangeSetHeader, clock: VersionVector) -> bool:
        """Everything the change set may depend on is here, and it does not come from the future."""
        if clock.get(header.origin, 0) < header.from_hlc or self.is_ahead(header.origin, header.to_hlc):
            return False
        if self._is_impossible(header):
            return False
        return all(
            clock.get(node, 0) >= hlc
            for node, hlc in header.context.items()
            if node not in (header.origin, self.state.node_id)
        )

    def is_ahead(self, origin: int, hlc: int) -> bool:
        """Whether an hlc is further ahead of this node's wall clock than ``max_clock_drift_ms``: merging it would drag
        this node's clock along, and after it every other node's. It waits until the wall clock is near."""
        ahead_ms = to_ms(hlc) - self.state.now_ms()
        limit = self.state.settings.timing.max_clock_drift_ms
        key = f"drift {origin}"
        if ahead_ms <= limit:
            self.state.problem(key, None)
            return False
        self.state.problem(
            key, f"the clock of node {origin} is more than {limit} ms ahead: its changes wait; check NTP"
        )
        return True

    def _is_impossible(self, header: ChangeSetHeader) -> bool:
        """Whether a change set says that its origin had seen changes of this node that this node never made. It would
        supersede local writes to come, here and nowhere else. Such a peer lies, or this database has forgotten."""
        own = self.state.clock.get(self.state.node_id, 0)
        key = f"seen {header.origin}"
        if header.context.get(self.state.node_id, 0) <= own:
            self.state.problem(key, None)
            return False
        seen = show(header.context[self.state.node_id])
        self.state.problem(
            key,
            f"node {header.origin} has seen changes of this node up to {seen}, this node made none after {show(own)}:"
            " its changes wait; if this database is an older copy, make the node anew",
        )
        return True

    def waiting(self) -> dict[int, str]:
        """Why the next change set of each origin that has one is not merged now, in words."""
        now = asyncio.get_running_loop().time()
        return {origin: self._reason(origin, queue[0].header, now) for origin, queue in self.inbox.heads().items()}

    def _reason(self, origin: int, header: ChangeSetHeader, now: float) -> str:
        clock = self.state.clock
        if clock.get(origin, 0) < header.from_hlc:
            return f"what is before {show(header.from_hlc)} has not come"
        for node, hlc in header.context.items():
            if node not in (origin, self.state.node_id) and clock.get(node, 0) < hlc:
                here = show(clock.get(node, 0))
                return f"it depends on changes of node {node} up to {show(hlc)}, which are here up to {here}"
        if header.context.get(self.state.node_id, 0) > clock.get(self.state.node_id, 0):
            return "it has seen changes of this node that this node never made"
        retry = self.retries.get(origin)
        if retry is not None:
            return f"tried {retry.tries} times, next in {max(0.0, retry.not_before - now):.1f} s"
        return "it is next"

    def looks_for_gaps(self) -> bool:
        """Whether it is time to; then not again for ``GAP_LOOK_S``."""
        now = asyncio.get_running_loop().time()
        if now < self._look_at:
            return False
        self._look_at = now + GAP_LOOK_S
        return True

    def gap(self) -> int | None:
        """An origin of which something does not follow what is before it, for longer than ``GAP_S``: what is between
        them was lost on the way and must be sent again (invariant 2)."""
        now = asyncio.get_running_loop().time()
        for origin in {*self.inbox.heads(), *self.inbox.closed}:
            if not self._has_gap(origin):
                self._gap_since.pop(origin, None)
            elif now - self._gap_since.setdefault(origin, now) > GAP_S:
                del self._gap_since[origin]
                return origin
        return None

    def _has_gap(self, origin: int) -> bool:
        """Between the clock, the sets that wait, and the last heartbeat, which is all that an idle origin says."""
        end = self.state.clock.get(origin, 0)
        for received in self.inbox.heads().get(origin, ()):
            if received.header.from_hlc > end:
                return True
            end = max(end, received.header.to_hlc)
        closed_from, _ = self.inbox.closed.get(origin, (0, 0))
        return closed_from > end and not self.inbox.is_receiving(origin)

    def next_due_s(self, longest_s: float) -> float:
        """Seconds until the next retry, at most ``longest_s``."""
        now = asyncio.get_running_loop().time()
        heads = self.inbox.heads()
        # One that is due and was not taken waits for its context, which arrives like everything else.
        due = [retry.not_before - now for origin, retry in self.retries.items() if origin in heads]
        return min([longest_s, *(seconds for seconds in due if seconds > 0)])
