"""Applying: the causal gate, then the merge, with retries that always make progress (invariants 2, 4, 8)."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable, Iterator

from sidecar.core.changes import ChangeSetHeader, ChangeSetPart, TableChanges
from sidecar.core.element_versions import check_element_versions
from sidecar.core.former_names import by_present_names
from sidecar.core.wire.bodies import BODY_EXPANSION_MAX, check_versions, unpack_tables
from sidecar.errors import Action, DirtyRowsError, HeldError, ProtocolError, SidecarError, action_for
from sidecar.node.gate import Gate, Retry
from sidecar.node.inbox import Inbox, ReceivedSet
from sidecar.node.pulse import Pulse
from sidecar.node.rewrite import Rewriter
from sidecar.node.state import NodeState
from sidecar.postgres.fold_limit import SlowFunctionError
from sidecar.postgres.merge import Merger, MergeResult, UniqueSwapError
from sidecar.postgres.merge_batch import MergeSet
from sidecar.postgres.relay import Relayed
from sidecar.postgres.row_errors import is_row_error, waiting_line

CAPTURE_WAIT_S = 5.0
"""How long one try waits, with nothing locked, for capture to pass the present end of the log."""

RETRY_FIRST_S = 0.002
"""First pause after a lock timeout; doubles up to retry_ms_max, with jitter so that two nodes do not march in step."""

DIRTY_TRIES = 8
"""Tries of a change set with dirty rows without a pause: they wait for capture, longer each time. What is dirty after
that is not so because of local load."""

CAPTURE_BEHIND_S = 1.0
"""Pause of a change set that waits for capture, after CAPTURE_WAIT_S in vain."""

CAPTURE_STANDS_S = 10.0
"""Capture that does not move for so long is waited for no more before the first merge: an outage of capture (a table
whose state is locked, a clock that is not believed) would else be one of merging, too."""

RETRY_TOLD_S = 10.0
"""A change set that fails for so long is a problem, with its reason: ten times the longest wait that load explains."""

HELD_RETRY_S = 1.0
"""A change set that waits for a person is tried again this often: soon after the mend, cheap until then."""

MERGE_ROWS_MIN = 200
"""Below this a merge's time is that of its statements, not of its rows: smaller transactions would not be shorter, and
a node that is behind would never catch up."""

SETS_MAX = 4096
"""Change sets of one transaction. The budget of rows is mostly used up before; the bound is for tiny ones, and halves
when a transaction fails, so that what cannot be merged together is found in few tries, whatever waits."""

IDLE_S = 0.5
"""Longest sleep of an idle loop: it shows a sign of life that often."""

REWRITE_RETRY_S = 0.05
"""Pause between batches of queued rewrites."""

_CAUSES: dict[type[Exception], str] = {
    DirtyRowsError: "dirty_rows",
    UniqueSwapError: "unique_swap",
    SlowFunctionError: "slow_function",
}


class Applier:
    """The merge loop over one session; made anew after an error of the session.

    ``acknowledge()`` tells the peers the durable clock; ``resync(origin)`` makes that peer send again from it.
    ``refresh_tables()`` brings into force what the database has now.
    ``publish(number, part)``, on a node with relay, hands a merged change set to the links; ``None`` for the part of
    one that has several.
    """

    def __init__(
        self,
        state: NodeState,
        inbox: Inbox,
        merger: Merger,
        pulse: Pulse,
        *,
        acknowledge: Callable[[], None],
        resync: Callable[[int], None],
        publish: Callable[[int, ChangeSetPart | None], None] | None = None,
        refresh_tables: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._state = state
        self._inbox = inbox
        self._merger = merger
        self._acknowledge = acknowledge
        self._resync = resync
        self._publish = publish
        self._refresh_tables = refresh_tables
        self._limits = state.settings.limits
        self._rows_budget = float(MERGE_ROWS_MIN)  # the first statements are planned while rows are locked
        self._gate = Gate(state, inbox)
        self._rewriter = Rewriter(state, merger)
        self._sets_max = SETS_MAX
        self._lock_first = False
        self._pulse = pulse

    async def run(self) -> None:
        """Until an error that needs a new connection, which is raised."""
        self._pulse.merge_task = asyncio.current_task()
        await self._capture_first()
        while True:
            self._pulse.merge_alive = asyncio.get_running_loop().time()
            self._inbox.arrived.clear()
            if self._state.tables_changed.is_set():
                self._state.tables_changed.clear()
                self._merger.forget_statements()
            if self._rewriter.due:
                await self._rewriter.batch()
            self._gate.drop_duplicates()
            if self._gate.looks_for_gaps():
                self._ask_for_missing()
            ready = self._gate.ready(self._rows_budget, self._sets_max)
            retry = self._gate.retries.get(ready[0].header.origin) if ready else None
            if retry is not None:
                await self._again(ready[0], retry)
            elif ready:
                await self._merge(ready)
            elif not await self._close_intervals():
                await self._idle()

    async def _capture_first(self) -> None:
        """What was committed before the loops started is captured before anything is merged: a merge moves this node's
        clock on, and older writes that get their versions after it would win against newer ones of other nodes."""
        state, loop = self._state, asyncio.get_running_loop()
        log_end = await self._merger.log_end()
        seen, moved_at = (0, 0), loop.time()
        while not await self._merger.wait_for_capture(IDLE_S, log_end):
            self._pulse.merge_alive = loop.time()
            state.waiting = dict.fromkeys(self._inbox.heads(), "what was committed here before is captured first")
            moved = (state.server_lsn, state.counters.changes)
            # A walsender that reads what is not replicated says nothing for long, and nothing of that stands still.
            if moved != seen or not (state.watch.held or state.pending_since_ms is not None):
                seen, moved_at = moved, loop.time()
            elif loop.time() - moved_at > CAPTURE_STANDS_S:
                state.log.warning("merging_before_capture", reason="capture stands still", for_s=CAPTURE_STANDS_S)
                return

    def _ask_for_missing(self) -> None:
        """What was lost on the way is sent again, whatever others send meanwhile."""
        origin = self._gate.gap()
        if origin is not None:
            self._state.log.warning("gap", origin=origin, mend="the peer sends again from what is merged here")
            self._inbox.clear(origin)
            self._gate.settled(origin)
            self._resync(origin)

    async def _idle(self) -> None:
        """Until something arrives, or a retry is due."""
        self._state.waiting = self._gate.waiting()
        longest = REWRITE_RETRY_S if self._state.rewrites_due.is_set() else IDLE_S
        with contextlib.suppress(TimeoutError):
            # Not wait_for(): before Python 3.12 it swallows a cancellation that comes together with what it waits for.
            # A merge loop that goes on while the others of its group have ended is a node that stands still.
            async with asyncio.timeout(self._gate.next_due_s(longest)):
                await self._inbox.arrived.wait()

    async def _merge(self, ready: list[ReceivedSet]) -> None:
        """All of them in one transaction. When that met dirty rows, the next transaction locks its rows first."""
        locked, self._lock_first = self._lock_first, False
        merge = self._merger.merge_locked if locked else self._merger.merge
        sets = [self._opened(received) for received in ready]
        try:
            result = await merge(sets, self._observe)
        except DirtyRowsError as error:
            self._lock_first = True
            if locked:
                # Capture did not come by while the rows were locked: fewer at a time, and what is alone then waits by
                # itself and keeps what it has learnt.
                self._failed(ready, error, Retry(merge_set=sets[0]))
                await self._merger.wait_for_capture(CAPTURE_WAIT_S)
            else:
                self._state.counters.retry(_CAUSES[DirtyRowsError])
        except Exception as error:
            if not self._failed(ready, error, Retry(merge_set=sets[0])):
                raise
        else:
            self._merged(ready, result)

    async def _again(self, received: ReceivedSet, retry: Retry) -> None:
        """Further tries of one change set: its rows locked first, so it makes progress whatever goes on locally."""
        retry.tries += 1
        if retry.isolate and not retry.looked:
            await self._look_again(retry)
        if retry.merge_set is None:
            retry.merge_set = self._opened(received)
        try:
            # What the try before found dirty counts as clean after this wait, so it may not be cut short.
            if not await self._merger.wait_for_capture(CAPTURE_WAIT_S):
                self._state.counters.retry("capture_behind")
                # Nothing was tried, and the others should be meanwhile.
                self._pause(received.header.origin, retry, CAPTURE_BEHIND_S, "capture is behind on this node")
                return
            result = await self._merger.merge_locked(
                [retry.merge_set], self._observe, isolate=retry.isolate, tries=retry.tries
            )
        except Exception as error:
            if not self._failed([received], error, retry):
                raise
        else:
            self._merged([received], result)

    async def _look_again(self, retry: Retry) -> None:
        """Before rows are judged: the table may have changed a moment ago (another type of a column), and what failed
        was made for what it had been."""
        retry.looked = True
        before = self._state.tables
        if self._refresh_tables is not None:
            await self._refresh_tables()
        if self._state.tables is not before:
            retry.isolate, retry.merge_set = False, None
            self._merger.forget_statements()

    def _failed(self, sets: list[ReceivedSet], error: Exception, retry: Retry) -> bool:
        """Note when and how the change sets are tried again; False when the error is about the session, not about them.
        Of several, half as many are tried next, until the one that fails is alone; then other origins go on without
        it."""
        cause, pause_s = self._judge(error, retry)
        if cause is None:
            return False
        self._state.counters.retry(cause)
        if len(sets) > 1:
            self._sets_max = len(sets) // 2
            return True
        origin = sets[0].header.origin
        line = error.line() if isinstance(error, SidecarError) else waiting_line(error)
        if cause == "held":
            # The mend may change the catalogue: everything is looked up anew.
            retry.merge_set = None
            self._merger.forget_statements()
            self._state.problem(f"merge {origin}", " ".join(line.split()))
            line = ""
        self._pause(origin, retry, pause_s, line)
        return True

    def _pause(self, origin: int, retry: Retry, pause_s: float, line: str) -> None:
        """Try the change set again after a pause, and others meanwhile. What should have passed long ago is told, with
        ``line`` as the reason."""
        now = asyncio.get_running_loop().time()
        retry.not_before = now + pause_s
        retry.since = now if retry.since is None else retry.since
        self._gate.retries[origin] = retry
        if line and now - retry.since >= RETRY_TOLD_S:
            waits = f"changes of node {origin} wait for {now - retry.since:.0f} s: {line}"
            self._state.problem(f"merge {origin}", " ".join(waits.split()), restate=True)

    def _judge(self, error: Exception, retry: Retry) -> tuple[str | None, float]:
        """The cause to count and the pause in seconds; no cause for an error of the session itself."""
        immediate = _CAUSES.get(type(error))
        if immediate is not None:
            return immediate, self._backoff_s(retry.tries - DIRTY_TRIES) if retry.tries > DIRTY_TRIES else 0.0
        if isinstance(error, HeldError | ProtocolError):
            return "held", HELD_RETRY_S
        if is_row_error(error) and not retry.isolate:
            retry.isolate = True
            return "row_error", 0.0
        action = action_for(error)
        if action is Action.RETRY_NOW:
            return "lock_timeout", self._backoff_s(retry.tries)
        if action is Action.OPERATOR and getattr(error, "sqlstate", None):
            return "held", HELD_RETRY_S
        return None, 0.0

    def _backoff_s(self, tries: int) -> float:
        longest = self._state.settings.timing.retry_ms_max / 1000
        pause: float = min(longest, RETRY_FIRST_S * 2.0 ** min(tries, 12))
        return pause * random.uniform(0.5, 1.0)  # noqa: S311

    def _opened(self, received: ReceivedSet) -> MergeSet:
        limit = BODY_EXPANSION_MAX * self._limits.frame_bytes_max
        loop = asyncio.get_running_loop()

        def tables() -> Iterator[TableChanges]:
            for body in received.read():
                # A transaction of a million rows is merged part by part and takes minutes on a slow disk.
                self._pulse.merge_alive = loop.time()
                for table in unpack_tables(body, limit):
                    check_versions(table, received.first.from_hlc, received.header.to_hlc)
                    spec = self._state.tables.get(f"{table.schema}.{table.name}")
                    if spec is not None and spec.elements:
                        check_element_versions(spec, by_present_names(spec, table), received.header.to_hlc)
                    yield table

        relayed = None if self._publish is None else Relayed(received.size_bytes, received.parts)
        return MergeSet(received.header, tables, self._state.tables, relayed=relayed)

    def _observe(self, header: ChangeSetHeader) -> None:
        self._state.hlc.observe(header.to_hlc)

    def _merged(self, sets: list[ReceivedSet], result: MergeResult) -> None:
        state = self._state
        # First the whole clock: the next local change set must name everything that its transactions could see.
        for received in sets:
            state.advance(received.header.origin, received.header.to_hlc)
            state.context[received.header.origin] = received.header.to_hlc
        if self._publish is not None:
            # At once, before capture has the writer lock: in the order of the numbers.
            for number, received in zip(result.numbers, sets, strict=True):
                self._publish(number, None if received.is_large else next(received.parts()))
        for received in sets:
            origin = received.header.origin
            assert self._inbox.heads()[origin][0] is received, "change sets of an origin are merged in order"
            self._inbox.done(origin)
        self._sets_max = min(SETS_MAX, 2 * self._sets_max)
        counters = state.counters
        counters.merged_rows += result.rows
        counters.merged_change_sets += len(sets)
        counters.conflicts += result.conflicts
        counters.quarantined_rows += result.quarantined
        counters.merge_duration.observe(result.locked_s)
        for received in sets:
            self._gate.settled(received.header.origin)
        if result.quarantined:
            state.log.warning("quarantined", rows=result.quarantined, mend="SELECT * FROM crdt.quarantine")
        self._adapt(result)
        self._acknowledge()

    def _adapt(self, result: MergeResult) -> None:
        """Rows per transaction such that their locks are held for some row_lock_ms; several change sets share a
        transaction only up to this."""
        if not result.rows:
            return
        fitting = result.rows * (self._limits.row_lock_ms / 1000) / max(result.locked_s, 1e-4)
        budget = 0.8 * self._rows_budget + 0.2 * fitting
        self._rows_budget = min(self._limits.merge_rows_max, max(MERGE_ROWS_MIN, budget))

    async def _close_intervals(self) -> bool:
        """Take over heartbeats of origins of which nothing waits; whether the clock moved."""
        moved = []
        for origin, (from_hlc, hlc) in list(self._inbox.closed.items()):
            known = self._state.clock.get(origin, 0)
            if known >= hlc:
                del self._inbox.closed[origin]
            elif known >= from_hlc and not self._gate.is_ahead(origin, hlc):
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
