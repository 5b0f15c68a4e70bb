"""What the loops of one node share. All in one event loop, so plain attributes are enough; the writer lock orders the
two loops that change row states (capture and merge)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any, Literal

import structlog

from sidecar.core.catalog import TableSpec
from sidecar.core.hlc import HybridClock
from sidecar.core.status import Counters
from sidecar.core.versions import VersionVector
from sidecar.node.clock_watch import ClockWatch
from sidecar.settings import Settings

NUDGE_AFTER_S = 0.003
"""Log that is not flushed is not decoded. Somebody else's commit mostly flushes it within this time; else we do."""

CATALOGUE = "catalogue "
"""Beginning of the problems of annotated tables; the rest is the table or the column."""

Ping = Callable[[int], Coroutine[Any, Any, None]]
"""Asks the walsender for its position until it has reached the LSN."""


def _wall_ms() -> int:
    """Wall clock, Unix milliseconds; the one place where the node reads it."""
    return time.time_ns() // 1_000_000


class WriterLock(asyncio.Lock):
    """Held by whoever changes row states; knows who that is."""

    holder: asyncio.Task[Any] | None = None

    async def acquire(self) -> Literal[True]:
        """Wait for it."""
        await super().acquire()
        self.holder = asyncio.current_task()
        return True


class NodeState:
    """Clock, tables, capture progress and counters of this node."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.node_id = settings.node.id
        self.clock_skew_ms = settings.lab.clock_skew_ms
        self.clock: dict[int, int] = {}
        # What local changes may depend on: per origin the end of the last change set merged. Not the clock, which also
        # rises with heartbeats: a third node may never hear of such a point, and would wait for it.
        self.context: dict[int, int] = {}
        # The end of this node's own last change set.
        self.journal_end = 0
        self.hlc = HybridClock()
        self.writer_lock = WriterLock()
        self.tables: dict[str, TableSpec] = {}
        self.tables_by_id: dict[int, TableSpec] = {}
        self.tables_by_oid: dict[int, TableSpec] = {}
        # Those whose newest columns or annotations are not in force yet, because a lock could not be had.
        self.busy_tables: frozenset[str] = frozenset()
        self.counters = Counters()
        self.waiting: dict[int, str] = {}
        self.started_at = time.time()
        self.server_lsn = 0
        self.pending_since_ms: int | None = None
        self.journal_bytes: int | None = None
        self.problems: dict[str, str] = {}
        self.log = structlog.get_logger("sidecar")
        self.watch = ClockWatch(settings.timing, self.now_ms, self.problem)
        self.clock_moved = asyncio.Event()
        self.tables_changed = asyncio.Event()
        self.rewrites_due = asyncio.Event()

    def now_ms(self) -> int:
        """This node's wall clock, Unix milliseconds: wrong by ``[lab] clock_skew_ms`` in experiments."""
        return _wall_ms() + self.clock_skew_ms

    def set_tables(self, tables: Iterable[TableSpec]) -> bool:
        """Take over the tables in force; whether anything changed."""
        by_name = {table.qualified: table for table in tables}
        if by_name == self.tables:
            return False
        self.tables = by_name
        self.tables_by_id = {table.table_id: table for table in by_name.values()}
        self.tables_by_oid = {table.relation_oid: table for table in by_name.values()}
        self.tables_changed.set()
        return True

    def fingerprints(self) -> dict[str, str]:
        """Per table what must be equal on all nodes."""
        return {name: table.fingerprint() for name, table in self.tables.items()}

    def ends(self) -> VersionVector:
        """What a token of this moment names: per origin the end of the last change set that is durable here."""
        return {**self.context, self.node_id: self.journal_end}

    def advance(self, node: int, hlc: int) -> None:
        """The clock after a durable commit."""
        if hlc > self.clock.get(node, 0):
            self.clock[node] = hlc
            self.clock_moved.set()

    def capture_lag_ms(self) -> float:
        """Age of the oldest local commit that is decoded and not captured; 0 when there is none."""
        return 0.0 if self.pending_since_ms is None else max(0.0, float(self.now_ms() - self.pending_since_ms))

    def set_catalogue_problems(self, lines: dict[str, str]) -> None:
        """The present problems of annotated tables by table or column, in place of the former."""
        for key in [key for key in self.problems if key.startswith(CATALOGUE)]:
            if key.removeprefix(CATALOGUE) not in lines:
                self.problem(key, None)
        for place, line in lines.items():
            self.problem(CATALOGUE + place, line)

    def problem(self, key: str, line: str | None, *, restate: bool = False) -> None:
        """Raise (once per text) or clear a line for the operator. ``restate``: another text is the same problem, and is
        shown without being logged again."""
        if line is None:
            if self.problems.pop(key, None) is not None:
                self.log.info("problem_solved", problem=key)
        elif self.problems.get(key) != line:
            known = key in self.problems
            self.problems[key] = line
            if not (known and restate):
                self.log.warning("problem", problem=key, reason=line)


class CaptureProgress:
    """How far capture has come, and waiting for it (the merge's :class:`CaptureGate`)."""

    def __init__(self, nudge: Callable[[], Awaitable[None]]) -> None:
        self.lsn = 0
        self.log_end = 0
        self._wanted_lsn = 0
        self._wanted_at_s = 0.0
        self._nudge = nudge
        self._waiters: list[tuple[int, asyncio.Future[bool]]] = []
        self._ping: Ping | None = None

    def connect(self, ping: Ping | None) -> None:
        """How to ask the present stream for its position; None while there is no stream."""
        self._ping = ping

    def awaited(self, lsn: int) -> bool:
        """Whether somebody waits for a position up to ``lsn``."""
        return any(wanted <= lsn for wanted, _ in self._waiters)

    def restart(self, lsn: int) -> None:
        """Capture resumes at ``lsn``; what it had passed before without anything to capture comes again."""
        self.lsn = lsn
        self._wanted_lsn = 0

    def saw_log_end(self, lsn: int, now_s: float) -> None:
        """The log ended at ``lsn``. The oldest such position that capture has not reached is remembered."""
        self.log_end = max(self.log_end, lsn)
        if self.lsn >= self._wanted_lsn:
            self._wanted_lsn, self._wanted_at_s = lsn, now_s

    def behind_s(self, now_s: float) -> float:
        """For how long capture has not reached a position where the log ended; 0 when it has reached the last one."""
        return 0.0 if self.lsn >= self._wanted_lsn else now_s - self._wanted_at_s

    def reached(self, lsn: int) -> None:
        """Everything committed before ``lsn`` is durably captured."""
        if lsn <= self.lsn:
            return
        self.lsn = lsn
        if self._waiters:
            still = []
            for wanted, waiter in self._waiters:
                if wanted > lsn:
                    still.append((wanted, waiter))
                elif not waiter.done():
                    waiter.set_result(True)
            self._waiters = still

    async def captured(self, lsn: int, timeout_s: float) -> bool:
        """Wait until everything committed before ``lsn`` is captured; False after ``timeout_s``."""
        if self.lsn >= lsn:
            return True
        waiter: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        entry = (lsn, waiter)
        self._waiters.append(entry)
        asking = asyncio.create_task(self._ask(lsn))
        try:
            async with asyncio.timeout(timeout_s):
                return await waiter
        except TimeoutError:
            return False
        finally:
            asking.cancel()
            await asyncio.wait({asking})
            if entry in self._waiters:
                self._waiters.remove(entry)
            if not asking.cancelled() and asking.exception() is not None:
                structlog.get_logger("sidecar").debug("capture_ping_failed", error=str(asking.exception()))

    async def _ask(self, lsn: int) -> None:
        """Ping the walsender until it is there; flush the log when nobody else does."""
        pinging: asyncio.Task[None] | None = None
        if self._ping is not None:
            pinging = asyncio.create_task(self._ping(lsn))
        try:
            await asyncio.sleep(NUDGE_AFTER_S)
            if self.lsn < lsn:
                await self._nudge()
            if pinging is not None:
                await pinging
        finally:
            if pinging is not None:
                pinging.cancel()
                await asyncio.wait({pinging})
                if not pinging.cancelled():
                    pinging.exception()  # the stream's own reader tells of a lost connection
