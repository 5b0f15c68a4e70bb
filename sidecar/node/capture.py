"""Capture: local commits become versioned change sets in the journal, then on the links.

Decoding goes on while the change set before is written; what has come in meanwhile is the next change set. So batches
are small when the node is quiet and large when it is behind. A transaction larger than a part is written in parts
within one database transaction (invariant 1), and arrives as a whole.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from itertools import chain

from sidecar.core.changes import ChangeSetHeader, ChangeSetPart, LocalChanges
from sidecar.core.coalesce import Coalescer, RelationPlan
from sidecar.core.pgoutput import (
    XLOG_HEADER_BYTES,
    AnyMessage,
    Begin,
    Commit,
    Delete,
    Insert,
    Message,
    Relation,
    Truncate,
    Update,
    decode,
    unix_ms,
)
from sidecar.core.wire.bodies import ROW_FRAMES_MAX
from sidecar.errors import HeldError, SchemaError
from sidecar.node.pulse import Pulse
from sidecar.node.state import CaptureProgress, NodeState
from sidecar.postgres.admin import ECHO_PREFIX
from sidecar.postgres.journal import JournalWriter
from sidecar.postgres.replication import ReplicationStream

IMAGE_BYTES_MAX = 255 * 1024 * 1024
"""A deleted row's values stay here as its tombstone image; a jsonb object holds less than 256 MB."""

Publish = Callable[[int, ChangeSetPart | None], None]
"""Told of a durable change set by its seq; with the part, unless it has several (they are in the journal)."""


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
        self._resume_lsn = resume_lsn
        self._publish = publish
        self._refresh_tables = refresh_tables
        self._limits = state.settings.limits
        self._coalescer = Coalescer()
        self._plans: dict[int, RelationPlan | None] = {}
        self._relations: dict[int, Relation] = {}
        self._begin: Begin | None = None
        self._skip = False
        self._open = False
        self._hlc = 0
        self._commit_lsn = resume_lsn
        self._committed_ms = 0
        self._flushing: asyncio.Task[None] | None = None
        self._large = False
        self._row_bytes_max = ROW_FRAMES_MAX * self._limits.frame_bytes_max
        self._put_aside: list[tuple[str, str, dict[str, str]]] = []
        self._messages: Iterator[bytes] = iter(())
        self._pulse = pulse

    async def run(self) -> None:
        """Until an error, which is raised."""
        try:
            while True:
                self._messages = iter(await self._read())
                self._state.server_lsn = self._stream.server_lsn
                while await self._consume():
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

    async def _consume(self) -> bool:
        """Take messages until they are used up (False), or the held rows fill a part (True)."""
        coalescer, limits = self._coalescer, self._limits
        for raw in self._messages:
            if raw[XLOG_HEADER_BYTES] in _ROWS:
                if not self._row(raw):
                    self._messages = chain((raw,), self._messages)
                    return True
                if coalescer.rows >= limits.batch_rows_max or coalescer.bytes >= limits.batch_bytes_max:
                    return True
            else:
                await self._other(raw)
                if self._large and not self._open:
                    return False
        return False

    async def _read(self) -> list[bytes]:
        """The next messages; ends early when the flush before is done, so that what waits goes out."""
        flushing = self._flushing
        if flushing is None:
            return await self._stream.read()
        reading = asyncio.ensure_future(self._stream.read())
        try:
            await asyncio.wait({reading, flushing}, return_when=asyncio.FIRST_COMPLETED)
            if reading.done():
                return reading.result()
        finally:
            if not reading.done():
                reading.cancel()
                await asyncio.wait({reading})
        return reading.result() if not reading.cancelled() else []

    def _row(self, raw: bytes) -> bool:
        """Take one row change; False when the held batch must be written before it."""
        if self._skip:
            return True
        begin = self._begin
        if begin is not None:
            self._start(begin)
        message = decode(raw, XLOG_HEADER_BYTES)
        coalescer = self._coalescer
        if len(raw) > self._row_bytes_max and self._too_large(message):
            return True
        if isinstance(message, Update):
            plan = self._plans[message.relation_oid]
            if plan is not None:
                if coalescer.must_split(plan, message.old, message.new):
                    return False
                coalescer.update(plan, message.old, message.new, len(raw))
        elif isinstance(message, Insert):
            plan = self._plans[message.relation_oid]
            if plan is not None:
                coalescer.insert(plan, message.new, len(raw))
        elif isinstance(message, Delete):
            plan = self._plans[message.relation_oid]
            if plan is not None:
                if coalescer.must_split(plan, message.old):
                    return False
                coalescer.delete(plan, message.old, len(raw))
        return True

    def _start(self, begin: Begin) -> None:
        """The first change of a transaction: only now is it known to be a foreign one."""
        self._begin = None
        self._open = True
        self._committed_ms = unix_ms(begin.commit_us) + self._state.clock_skew_ms
        if self._state.pending_since_ms is None:
            self._state.pending_since_ms = self._committed_ms
        self._hlc = self._state.hlc.issue(self._committed_ms)
        self._coalescer.begin(begin.xid, self._hlc)

    async def _other(self, raw: bytes) -> None:
        message = decode(raw, XLOG_HEADER_BYTES)
        if isinstance(message, Begin):
            # Decoding resumed at a position; what committed before it is captured already (invariant 1).
            self._skip = message.final_lsn < self._resume_lsn
            self._begin = message
        elif isinstance(message, Commit):
            await self._commit(message)
        elif isinstance(message, Message):
            if message.transactional and message.prefix == ECHO_PREFIX and not self._open:
                self._skip = True
        elif isinstance(message, Relation):
            await self._relation(message)
        elif isinstance(message, Truncate):
            self._truncate(message)

    async def _commit(self, message: Commit) -> None:
        self._begin = None
        self._skip = False
        if not self._open:
            return
        self._open = False
        self._coalescer.commit()
        self._commit_lsn = message.end_lsn
        if not self._large and self._coalescer.transactions >= self._limits.batch_transactions_max:
            await self._flushed()
            self._flush()

    async def _relation(self, message: Relation) -> None:
        self._relations[message.relation_oid] = message
        self._plans[message.relation_oid] = await self._plan(message)

    async def _plan(self, relation: Relation) -> RelationPlan | None:
        name = f"{relation.schema}.{relation.name}"
        spec = self._state.tables.get(name)
        known = {c.name for c in (*spec.key, *spec.columns)} if spec else set()
        if spec is None or known != {column.name for column in relation.columns}:
            await self._refresh_tables()
            spec = self._state.tables.get(name)
        if spec is None:
            self._state.problem(f"capture {name}", f"table {name} is published but not attached; run sidecar check")
            return None
        try:
            return RelationPlan.build(relation, spec)
        except SchemaError as error:
            self._state.problem(f"capture {name}", error.line())
            raise

    def _truncate(self, message: Truncate) -> None:
        """TRUNCATE names no rows, so nothing is shipped; it is written down instead of passing silently."""
        if not self._skip:
            for relation_oid in message.relation_oids:
                relation = self._relations.get(relation_oid)
                name = f"{relation.schema}.{relation.name}" if relation else str(relation_oid)
                reason = f"TRUNCATE of {name} was not replicated: the other nodes keep its rows; use DELETE there"
                self._put_aside.append((name, reason, {}))

    def _too_large(self, message: AnyMessage) -> bool:
        """Whether a row change carries more than a peer can take; then it is put aside, so that the stream goes on."""
        if not isinstance(message, Insert | Update | Delete):
            return False
        plan = self._plans[message.relation_oid]
        size = 0 if plan is None else plan.carried_bytes(message)
        limit = IMAGE_BYTES_MAX if isinstance(message, Delete) else self._row_bytes_max
        if plan is None or size <= limit:
            return False
        row = message.old if isinstance(message, Delete) else message.new
        key = dict(zip((c.name for c in plan.spec.key), plan.key_texts(row or []), strict=False))
        reason = (
            f"a change of a row of {plan.spec.qualified} was not replicated: it has {size} bytes, at most {limit} are "
            "sent; raise frame_bytes_max in [limits] on all nodes and write the row again"
        )
        self._put_aside.append((plan.spec.qualified, reason, key))
        return True

    async def _report_put_aside(self) -> None:
        """Write down the local changes that cannot be replicated."""
        state = self._state
        while self._put_aside:
            name, reason, key = self._put_aside[0]
            async with state.writer_lock:
                await self._writer.quarantine(name, reason, state.clock.get(state.node_id, 0), key)
            del self._put_aside[0]
            state.counters.quarantined_rows += 1
            state.problem(f"put aside {name}", reason)

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
        if self._coalescer.rows and not self._open:
            self._flush(passed_lsn=self._stream.server_lsn)
        elif not self._coalescer.rows:
            self._state.pending_since_ms = None
            self._progress.reached(self._stream.server_lsn)
            self._stream.confirm(self._stream.server_lsn)

    def _take(self, passed_lsn: int = 0) -> _Taken:
        """``passed_lsn``: the stream's position, when all messages up to it are consumed. Amidst a batch of messages
        only the last commit is known to have passed; the merge relies on it (invariant 4)."""
        transactions, rows = self._coalescer.transactions, self._coalescer.rows
        return _Taken(
            changes=self._coalescer.take(),
            transactions=transactions,
            rows=rows,
            commit_lsn=self._commit_lsn,
            passed_lsn=max(passed_lsn, self._commit_lsn),
            hlc=self._hlc,
            committed_ms=self._committed_ms,
        )

    def _flush(self, passed_lsn: int = 0) -> None:
        if self._coalescer.rows:
            self._flushing = asyncio.create_task(self._write(self._take(passed_lsn)), name="capture flush")

    async def _flushed(self) -> None:
        if self._flushing is not None:
            flushing, self._flushing = self._flushing, None
            await flushing

    async def _write(self, taken: _Taken) -> None:
        state = self._state
        async with state.writer_lock:
            header = self._header(taken, part=0, last=True)
            async with self._writer.change_set():
                part, rewrites = await self._writer.write_part(header, taken.changes, state.tables_by_id)
                to_hlc = header.to_hlc if part is not None else header.from_hlc
                await self._writer.finish(taken.commit_lsn, to_hlc, state.hlc.last)
            state.advance(state.node_id, to_hlc)
            if part is not None:
                self._publish(self._writer.seq, part)
        state.counters.transactions += taken.transactions
        state.counters.changes += taken.rows
        self._done(taken, bool(rewrites))

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
        self._state.pending_since_ms = self._committed_ms if self._coalescer.rows else None
        self._stream.confirm(taken.commit_lsn)
        self._progress.reached(taken.passed_lsn)
        if rewrites:
            self._state.rewrites_due.set()

    async def _split(self) -> None:
        """The held rows fill a part: between transactions that is a change set, within one a part of a larger one."""
        if self._open:
            await self._write_large()
        else:
            await self._flushed()
            self._flush()

    async def _write_large(self) -> None:
        """A change set in parts, which ends with the transaction that is open now. Everything is one database
        transaction, so nothing of it is seen before all of it is durable; memory holds one part at a time."""
        await self._flushed()
        state = self._state
        self._large = True
        try:
            async with state.writer_lock:
                async with self._writer.change_set():
                    taken, rewrites, transactions = await self._write_parts()
                    await self._writer.finish(taken.commit_lsn, taken.hlc, state.hlc.last)
                state.advance(state.node_id, taken.hlc)
                self._publish(self._writer.seq, None)
        finally:
            self._large = False
        state.counters.transactions += transactions
        self._done(taken, rewrites)

    async def _write_parts(self) -> tuple[_Taken, bool, int]:
        number, transactions, rewrites = 0, 0, False
        while True:
            taken = self._take()
            transactions += taken.transactions
            header = self._header(taken, part=number, last=not self._open)
            _, queued = await self._writer.write_part(header, taken.changes, self._state.tables_by_id)
            rewrites = rewrites or bool(queued)
            self._state.counters.changes += taken.rows
            if not self._open:
                return taken, rewrites, transactions
            number += 1
            self._pulse.capture_alive = asyncio.get_running_loop().time()
            while self._open and not await self._consume():
                if self._open:
                    self._messages = iter(await self._stream.read())


_ROWS = frozenset(b"IUD")
"""Message types of row changes."""
