"""Applying: the causal gate, then the merge, with retries that always make progress (invariants 2, 4, 8)."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Iterator

from sidecar.core.changes import ChangeSetHeader, TableChanges
from sidecar.core.versions import VersionVector
from sidecar.core.wire.bodies import BODY_EXPANSION_MAX, unpack_tables
from sidecar.errors import Action, DirtyRowsError, HeldError, action_for
from sidecar.node.inbox import Inbox, ReceivedSet
from sidecar.node.pulse import Pulse
from sidecar.node.rewrite import rewrite_rows
from sidecar.node.state import NodeState
from sidecar.postgres.merge import Merger, MergeResult, MergeSet, UniqueSwapError, is_row_error

CAPTURE_WAIT_S = 5.0
"""How long one try waits, with nothing locked, for capture to pass the present end of the log."""

RETRY_FIRST_S = 0.002
"""First pause after a lock timeout; doubles up to retry_ms_max, with jitter so that two nodes do not march in step."""

HELD_RETRY_S = 1.0
"""A change set that waits for a person is tried again this often: soon after the mend, cheap until then."""

DATABASE_RETRY_S = 0.5
"""After errors of the server itself."""

_CAUSES: dict[type[Exception], str] = {DirtyRowsError: "dirty_rows", UniqueSwapError: "unique_swap"}


class Applier:
    """The merge loop. ``merger`` is replaced after a lost connection."""

    def __init__(
        self, state: NodeState, inbox: Inbox, merger: Merger, acknowledge: Callable[[], None], pulse: Pulse
    ) -> None:
        self._state = state
        self._inbox = inbox
        self._merger = merger
        self._acknowledge = acknowledge
        self._limits = state.settings.limits
        self._rows_budget = float(state.settings.limits.merge_rows_max)
        self._turn = 0
        self.held: str | None = None
        self._pulse = pulse

    async def run(self) -> None:
        """Until an error that needs a new connection, which is raised."""
        while True:
            self._pulse.merge_alive = asyncio.get_running_loop().time()
            self._inbox.arrived.clear()
            if self._state.tables_changed.is_set():
                self._state.tables_changed.clear()
                self._merger.forget_statements()
            if self._state.rewrites_due.is_set():
                self._state.rewrites_due.clear()
                await rewrite_rows(self._state, self._merger)
            await self._drop_duplicates()
            ready = self._ready()
            if ready:
                await self._merge(ready)
                continue
            if await self._close_intervals():
                continue
            try:
                await asyncio.wait_for(self._inbox.arrived.wait(), 0.05 if self._state.rewrites_due.is_set() else 0.5)
            except TimeoutError:
                continue

    async def _drop_duplicates(self) -> None:
        for origin, queue in self._inbox.heads().items():
            while queue and queue[0].header.to_hlc <= self._state.clock.get(origin, 0):
                await self._inbox.done(origin, queue.popleft())

    def _ready(self) -> list[ReceivedSet]:
        """The change sets that may be merged now, in an order that respects their contexts, within the row budget."""
        clock = dict(self._state.clock)
        heads = self._inbox.heads()
        origins = sorted(heads)
        if not origins:
            return []
        self._turn += 1
        origins = origins[self._turn % len(origins) :] + origins[: self._turn % len(origins)]
        places = dict.fromkeys(origins, 0)
        ready: list[ReceivedSet] = []
        rows = 0
        moved = True
        while moved:
            moved = False
            for origin in origins:
                queue = heads[origin]
                if places[origin] >= len(queue):
                    continue
                head = queue[places[origin]]
                if head.header.to_hlc <= clock.get(origin, 0):
                    # Sent again after a reconnect, right behind the first copy: dropped once that one is merged.
                    continue
                if not self._covered(head.header, clock):
                    continue
                rows += head.rows
                if ready and (rows > self._rows_budget or head.file is not None):
                    return ready
                ready.append(head)
                clock[origin] = head.header.to_hlc
                places[origin] += 1
                moved = True
                if head.file is not None:
                    return ready
        return ready

    def _covered(self, header: ChangeSetHeader, clock: VersionVector) -> bool:
        """The causal gate: everything the change set may depend on is here."""
        if clock.get(header.origin, 0) < header.from_hlc:
            return False
        return all(
            clock.get(node, 0) >= hlc
            for node, hlc in header.context.items()
            if node not in (header.origin, self._state.node_id)
        )

    async def _merge(self, ready: list[ReceivedSet]) -> None:
        started = time.perf_counter()
        try:
            sets = [self._opened(received) for received in ready]
            result = await self._merger.merge(sets, self._observe)
        except (DirtyRowsError, UniqueSwapError) as error:
            self._state.counters.retry(_CAUSES[type(error)])
            await self._one_by_one(ready)
            return
        except Exception as error:
            if not await self._retriable(error):
                raise
            await self._one_by_one(ready)
            return
        await self._merged(ready, result, time.perf_counter() - started)

    async def _one_by_one(self, ready: list[ReceivedSet]) -> None:
        """After a failed batch: only its first change set, until it is merged; the others come again."""
        received = ready[0]
        tries = 0
        isolate = False
        merge_set = self._opened(received)
        while True:
            self._pulse.merge_alive = asyncio.get_running_loop().time()
            started = time.perf_counter()
            try:
                tries += 1
                await self._merger.wait_for_capture(CAPTURE_WAIT_S)
                result = await self._merger.merge_locked(merge_set, self._observe, isolate=isolate)
            except (DirtyRowsError, UniqueSwapError) as error:
                self._state.counters.retry(_CAUSES[type(error)])
            except Exception as error:
                if is_row_error(error) and not isolate:
                    isolate = True
                    self._state.counters.retry("row_error")
                elif await self._retriable(error):
                    await asyncio.sleep(self._backoff_s(tries))
                else:
                    raise
            else:
                await self._merged([received], result, time.perf_counter() - started)
                return

    def _backoff_s(self, tries: int) -> float:
        longest = self._state.settings.timing.retry_ms_max / 1000
        pause: float = min(longest, RETRY_FIRST_S * 2.0 ** min(tries, 12))
        return pause * random.uniform(0.5, 1.0)  # noqa: S311

    async def _retriable(self, error: Exception) -> bool:
        """Count the error and wait where it takes somebody else to mend it; False when the session must be replaced."""
        action = action_for(error)
        if isinstance(error, HeldError):
            self.held = error.line()
            self._state.problem("merge", self.held)
            self._state.counters.retry("held")
            await self._wait_for_mend()
            return True
        if is_row_error(error):
            return True
        if action is Action.RETRY_NOW:
            self._state.counters.retry("lock_timeout")
            return True
        if action is Action.OPERATOR and getattr(error, "sqlstate", None):
            self.held = f"the merge waits: {' '.join(str(error).split())}"
            self._state.problem("merge", self.held)
            self._state.counters.retry("held")
            await self._wait_for_mend()
            return True
        return False

    async def _wait_for_mend(self) -> None:
        try:
            await asyncio.wait_for(self._state.tables_changed.wait(), HELD_RETRY_S)
            self._merger.forget_statements()
        except TimeoutError:
            self._merger.forget_statements()

    def _opened(self, received: ReceivedSet) -> MergeSet:
        limit = BODY_EXPANSION_MAX * self._limits.frame_bytes_max

        def tables() -> Iterator[TableChanges]:
            for body in received.read():
                yield from unpack_tables(body, limit)

        return MergeSet(received.header, tables, self._state.tables)

    def _observe(self, header: ChangeSetHeader) -> None:
        self._state.hlc.observe(header.to_hlc)

    async def _merged(self, sets: list[ReceivedSet], result: MergeResult, seconds: float) -> None:
        state = self._state
        for received in sets:
            origin = received.header.origin
            queue = self._inbox.heads()[origin]
            assert queue[0] is received, "change sets of an origin are merged in order"
            queue.popleft()
            state.advance(origin, received.header.to_hlc)
            await self._inbox.done(origin, received)
        counters = state.counters
        counters.merged_rows += result.rows
        counters.merged_change_sets += len(sets)
        counters.conflicts += result.conflicts
        counters.quarantined_rows += result.quarantined
        counters.merge_duration.observe(seconds)
        if self.held is not None:
            self.held = None
            state.problem("merge", None)
        if result.quarantined:
            state.log.warning("quarantined", rows=result.quarantined, mend="SELECT * FROM crdt.quarantine")
        self._adapt(result.rows, seconds)
        self._acknowledge()

    def _adapt(self, rows: int, seconds: float) -> None:
        """Rows per transaction such that their locks are held for some row_lock_ms."""
        if not rows:
            return
        fitting = rows * (self._limits.row_lock_ms / 1000) / max(seconds, 1e-4)
        self._rows_budget = min(self._limits.merge_rows_max, max(1.0, 0.8 * self._rows_budget + 0.2 * fitting))

    async def _close_intervals(self) -> bool:
        """Take over heartbeats of origins of which nothing waits; whether the clock moved."""
        moved = []
        for origin, (from_hlc, hlc) in list(self._inbox.closed.items()):
            known = self._state.clock.get(origin, 0)
            if known >= hlc:
                del self._inbox.closed[origin]
            elif known >= from_hlc:
                moved.append((origin, from_hlc, hlc))
        if not moved:
            return False
        async with self._state.writer_lock:
            await self._merger.close_intervals(moved)
            for origin, _, hlc in moved:
                self._state.hlc.observe(hlc)
                self._state.advance(origin, hlc)
                self._inbox.closed.pop(origin, None)
        self._acknowledge()
        return True
