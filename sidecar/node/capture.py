"""Capture: local commits become versioned change sets in the journal, then on the links.

What comes from the stream is taken in by :mod:`sidecar.node.intake`, also while the change set before is written; what
has come in meanwhile is the next change set. So batches are small when the node is quiet and large when it is behind. A
transaction larger than a part is written in parts within one database transaction (invariant 1) and arrives as a whole.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from sidecar.core.changes import ChangeSetHeader, ChangeSetPart, LocalChanges
from sidecar.errors import HeldError, SchemaError
from sidecar.node.intake import Intake
from sidecar.node.pulse import Pulse
from sidecar.node.state import CaptureProgress, NodeState
from sidecar.postgres.journal import JournalWriter
from sidecar.postgres.replication import BACKLOG_PAUSE_S, ReplicationStream
from sidecar.postgres.row_errors import is_row_error

Publish = Callable[[int, ChangeSetPart | None], None]
"""Told of a durable change set by its seq; with the part, unless it has several (they are in the journal)."""


HELD_LOOK_S = 0.05
"""How often capture looks whether the clock is believed again; every start of a node waits for it once."""

BEHIND_MS = 500
"""A commit that is captured this long after it happened is late, whatever is done: then work counts, not delay."""

GATHER_S = 0.1
"""How long transactions gather while this node is behind. A change set costs some milliseconds of processor on each
node, whether it holds one transaction or thousands."""

GATHER_PAUSE_S = BACKLOG_PAUSE_S + 0.02
"""When nothing comes for so long, or the walsender says that it is at the end of the log, what has gathered goes."""


@dataclass(slots=True)
class _Taken:
    """What one flush writes."""

    changes: list[LocalChanges]
    transactions: int
    rows: int
    commit_lsn: int
    passed_lsn: int
    hlc: int
    committed_ms: int


class Capture:
    """The capture loop over one stream and one journal session; made anew after an error."""

    def __init__(
        self,
        state: NodeState,
        stream: ReplicationStream,
        writer: JournalWriter,
        progress: CaptureProgress,
        pulse: Pulse,
        *,
        resume_lsn: int,
        publish: Publish,
        refresh_tables: Callable[[], Awaitable[None]],
    ) -> None:
        self._state = state
        self._stream = stream
        self._writer = writer
        self._progress = progress
        self._publish = publish
        self._intake = Intake(state, resume_lsn=resume_lsn, refresh_tables=refresh_tables)
        self._flushing: asyncio.Task[None] | None = None
        self._distance_s = state.settings.timing.change_set_ms / 1000
        self._flush_due_s = 0.0
        self._gather_until_s = 0.0
        self._pulse = pulse

    async def run(self) -> None:
        """Until an error, which is raised."""
        try:
            while True:
                await self._clock_believed()
                await self._pause()
                self._intake.feed(await self._read())
                self._state.server_lsn = self._stream.server_lsn
                while await self._intake.consume():
                    await self._split()
                await self._report_put_aside()
                self._advance()
        except SchemaError as error:
            # Somebody's schema change is no reason to end the process; it goes on once it is mended.
            raise HeldError(error.message, mend=error.mend) from None
        finally:
            if self._flushing is not None:
                self._flushing.cancel()
                await asyncio.wait({self._flushing})
                if not self._flushing.cancelled():
                    self._flushing.exception()  # one outage is told once, by the error that ends the loop

    async def _clock_believed(self) -> None:
        """While this node's clock is not believed, the log keeps the commits."""
        while self._state.watch.held:
            self._pulse.capture_alive = asyncio.get_running_loop().time()
            await asyncio.sleep(HELD_LOOK_S)

    async def _pause(self) -> None:
        """After a change set was begun, let the next one gather; nothing of it has been taken in yet."""
        wait_s = self._flush_due_s - asyncio.get_running_loop().time()
        if wait_s > 0 and not self._intake.held.rows and not self._intake.open:
            await self._stream.rest(wait_s)

    async def _read(self) -> list[bytes]:
        """The next messages; ends early when the flush before is done, so that what waits goes out."""
        flushing = self._flushing
        if flushing is None and self._gathers():
            messages: list[bytes] = []
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(GATHER_PAUSE_S):
                    messages = await self._stream.read(backlog=True)
            if not messages:
                self._gather_until_s = 0.0
            return messages
        if flushing is None:
            return await self._stream.read(backlog=self._backlog())
        reading = asyncio.ensure_future(self._stream.read(backlog=self._backlog()))
        try:
            await asyncio.wait({reading, flushing}, return_when=asyncio.FIRST_COMPLETED)
            if reading.done():
                return reading.result()
        finally:
            if not reading.done():
                reading.cancel()
                await asyncio.wait({reading})
            if not reading.cancelled():
                reading.exception()  # taken note of, also when this loop is being cancelled for another error
        return reading.result() if not reading.cancelled() else []

    def _gathers(self) -> bool:
        """Whether what is held waits for more: this node is behind, and more comes."""
        held = self._intake.held.rows and asyncio.get_running_loop().time() < self._gather_until_s
        return bool(held and self._stream.busy and self._backlog())

    def _backlog(self) -> bool:
        """Whether local transactions are taken in that are late, and nobody waits for what has come."""
        taking = self._intake.held.rows or self._intake.open or self._flushing is not None
        late = taking and self._state.now_ms() - self._intake.committed_ms > BEHIND_MS
        # Heartbeats wait for the end of the log: what is far from it is better reached fast than told of early.
        return bool(late and not self._progress.awaited(self._stream.server_lsn))

    async def _report_put_aside(self) -> None:
        """Write down what of the local changes is not replicated at all."""
        state = self._state
        while self._intake.put_aside:
            table, reason = self._intake.put_aside[0]
            async with state.writer_lock:
                await self._writer.quarantine(table, reason, state.clock.get(state.node_id, 0))
            del self._intake.put_aside[0]
            state.counters.quarantined_rows += 1
            state.problem(f"put aside {table}", reason)

    # Writing ----------------------------------------------------------------------------------------------------------

    def _advance(self) -> None:
        """After each read: start a flush if none is under way, or note that an idle stream has moved on."""
        if self._flushing is not None and self._flushing.done():
            flushing, self._flushing = self._flushing, None
            flushing.result()
        if self._flushing is not None:
            return
        # Reading on while a write hangs is no sign of life.
        self._pulse.capture_alive = asyncio.get_running_loop().time()
        if self._intake.held.rows and not self._intake.open:
            if not self._gathers():
                self._flush(passed_lsn=self._stream.server_lsn)
        elif not self._intake.held.rows:
            if not self._intake.open:
                self._state.pending_since_ms = None
            self._progress.reached(self._stream.server_lsn)
            self._stream.confirm(self._stream.server_lsn)

    def _take(self, passed_lsn: int = 0) -> _Taken:
        """``passed_lsn``: the stream's position, when all messages up to it are consumed. Amidst a batch of messages
        only the last commit is known to have passed; the merge relies on it (invariant 4)."""
        intake = self._intake
        transactions, rows = intake.held.transactions, intake.held.rows
        return _Taken(
            changes=intake.held.take(),
            transactions=transactions,
            rows=rows,
            commit_lsn=intake.commit_lsn,
            passed_lsn=max(passed_lsn, intake.commit_lsn),
            hlc=intake.hlc,
            committed_ms=intake.committed_ms,
        )

    def _flush(self, passed_lsn: int = 0) -> None:
        if self._intake.held.rows:
            now_s = asyncio.get_running_loop().time()
            self._flush_due_s, self._gather_until_s = now_s + self._distance_s, now_s + GATHER_S
            self._flushing = asyncio.create_task(self._write(self._take(passed_lsn)), name="capture flush")

    async def _flushed(self) -> None:
        if self._flushing is not None:
            flushing, self._flushing = self._flushing, None
            await flushing

    async def _write(self, taken: _Taken) -> None:
        state = self._state
        async with state.writer_lock:
            header = self._header(taken, part=0, last=True)
            try:
                part, rewrites = await self._written(taken, header)
            except Exception as error:
                if not is_row_error(error):
                    raise
                part, rewrites = await self._written(taken, header, isolate=self._beat)
            state.advance(state.node_id, header.to_hlc if part is not None else header.from_hlc)
            if part is not None:
                self._publish(self._writer.seq, part if self._writer.parts == 1 else None)
        state.counters.transactions += taken.transactions
        state.counters.changes += taken.rows
        self._done(taken, bool(rewrites))

    async def _written(
        self, taken: _Taken, header: ChangeSetHeader, isolate: Callable[[], None] | None = None
    ) -> tuple[ChangeSetPart | None, list[int]]:
        """One transaction; the rows are isolated in a second one, so that a batch without bad rows pays nothing."""
        state = self._state
        async with self._writer.change_set():
            part, rewrites = await self._writer.write_part(header, taken.changes, state.tables_by_id, isolate=isolate)
            to_hlc = header.to_hlc if part is not None else header.from_hlc
            await self._writer.finish(taken.commit_lsn, to_hlc, state.hlc.last)
        self._tell_put_aside()
        return part, rewrites

    def _beat(self) -> None:
        self._pulse.capture_alive = asyncio.get_running_loop().time()

    def _tell_put_aside(self) -> None:
        """What was put aside in the transaction that was just committed."""
        state = self._state
        state.counters.quarantined_rows += len(self._writer.put_aside)
        for table, reason in {row.table: row.reason for row in self._writer.put_aside}.items():
            state.problem(f"put aside {table}", f"{table}: {reason}", restate=True)
        self._writer.put_aside.clear()

    def _header(self, taken: _Taken, *, part: int, last: bool) -> ChangeSetHeader:
        state = self._state
        return ChangeSetHeader(
            origin=state.node_id,
            from_hlc=state.clock.get(state.node_id, 0),
            to_hlc=taken.hlc,
            context=dict(state.context),
            part=part,
            last=last,
            transactions=taken.transactions,
            rows=taken.rows,
            committed_ms=taken.committed_ms or state.now_ms(),
        )

    def _done(self, taken: _Taken, rewrites: bool) -> None:
        self._state.counters.change_sets += 1
        pending = self._intake.held.rows or self._intake.open
        self._state.pending_since_ms = self._intake.committed_ms if pending else None
        self._stream.confirm(taken.commit_lsn)
        self._progress.reached(taken.passed_lsn)
        if rewrites:
            self._state.rewrites_due.set()

    async def _split(self) -> None:
        """The held rows fill a part: between transactions that is a change set, within one a part of a larger one."""
        if self._intake.open:
            await self._write_large()
        else:
            await self._flushed()
            self._flush()

    async def _write_large(self) -> None:
        """A change set in parts, which ends with the transaction that is open now. Everything is one database
        transaction, so nothing of it is seen before all of it is durable; memory holds one part at a time."""
        await self._flushed()
        state = self._state
        async with state.writer_lock:
            async with self._writer.change_set():
                taken, rewrites, transactions = await self._write_parts()
                await self._writer.finish(taken.commit_lsn, taken.hlc, state.hlc.last)
            self._tell_put_aside()
            state.advance(state.node_id, taken.hlc)
            self._publish(self._writer.seq, None)
        state.counters.transactions += transactions
        self._done(taken, rewrites)

    async def _write_parts(self) -> tuple[_Taken, bool, int]:
        number, transactions, rewrites = 0, 0, False
        while True:
            taken = self._take()
            transactions += taken.transactions
            header = self._header(taken, part=number, last=not self._intake.open)
            # What was taken in does not come again: it is isolated at once, beside which its savepoints cost nothing.
            _, queued = await self._writer.write_part(
                header, taken.changes, self._state.tables_by_id, isolate=self._beat
            )
            rewrites = rewrites or bool(queued)
            self._state.counters.changes += taken.rows
            if not self._intake.open:
                return taken, rewrites, transactions
            number += 1
            self._pulse.capture_alive = asyncio.get_running_loop().time()
            while self._intake.open and not await self._intake.consume(until_commit=True):
                self._intake.feed(await self._stream.read(backlog=self._backlog()))
                # Rows that are written again and again fill no part for long.
                self._pulse.capture_alive = asyncio.get_running_loop().time()
