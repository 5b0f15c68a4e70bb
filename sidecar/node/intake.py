"""Intake: raw messages of the replication stream become held rows of whole transactions, each with its hlc."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator
from itertools import chain

from sidecar.core.catalog import TableSpec
from sidecar.core.coalesce import Coalescer, RelationPlan
from sidecar.core.pgoutput import (
    MESSAGE_BYTES_MAX,
    XLOG_HEADER_BYTES,
    Commit,
    Delete,
    Insert,
    Message,
    Relation,
    RowReader,
    Truncate,
    Update,
    begin_fields,
    decode,
    unix_ms,
)
from sidecar.core.refused import refused, without_old_row
from sidecar.core.relation_plan import present_names, unreadable
from sidecar.core.wire.bodies import ROW_FRAMES_MAX
from sidecar.errors import HeldError, SchemaError
from sidecar.node.state import NodeState
from sidecar.postgres.admin import ECHO_PREFIX

IMAGE_BYTES_MAX = 255 * 1024 * 1024
"""A deleted row's values stay here as its tombstone image; a jsonb object holds less than 256 MB."""

HOT_TRANSACTIONS = 10
"""How many times ``batch_transactions_max`` a change set holds of transactions that write the same rows again and
again: what a peer does for it, and how long it locks rows, depends on the rows. 20,000 arrive in 0.2 s."""

NO_OLD_ROW = (
    "it was written while the table did not have REPLICA IDENTITY FULL, so what it changed is not known; compare the"
    " nodes, and write the row again"
)

NO_SUM = "NaN and infinities cannot be added to what other nodes add; set it to a number"

_ROWS = frozenset(b"IUD")
"""Message types of row changes."""

_BEGIN, _COMMIT, _INSERT, _UPDATE = b"BCIU"

_RELATION = slice(XLOG_HEADER_BYTES + 1, XLOG_HEADER_BYTES + 5)
"""The relation oid in the message of a row change."""


class Intake:
    """``held`` has the rows taken in since they were last written. ``open``: a transaction is taken in halfway; ``hlc``
    and ``committed_ms`` are those of the last one that began. ``put_aside``: table and reason of changes that
    are not replicated whichever row they are of."""

    def __init__(self, state: NodeState, *, resume_lsn: int, refresh_tables: Callable[[], Awaitable[None]]) -> None:
        self.held = Coalescer()
        self.open = False
        self.hlc = 0
        self.committed_ms = 0
        self.put_aside: list[tuple[str, str]] = []
        self._state = state
        self._limits = state.settings.limits
        self._row_bytes_max = ROW_FRAMES_MAX * self._limits.frame_bytes_max
        self._resume_lsn = resume_lsn
        self._refresh_tables = refresh_tables
        self._reader = RowReader()
        self._plans: dict[bytes, RelationPlan | None] = {}  # by relation oid, as it stands in the messages
        self._relations: dict[int, Relation] = {}
        self._planned = state.tables
        self._lost: set[tuple[int, tuple[str, ...]]] = set()
        self._begin = b""  # the last begin, until a change follows it
        self._resuming = True
        self._latest_ms = 0
        self._xid = 0
        self._skip = False
        self._commit_lsn = resume_lsn
        self._committed = b""  # the last commit, until its position is wanted
        self._messages: Iterator[bytes] = iter(())

    @property
    def commit_lsn(self) -> int:
        """The end of the last transaction that was taken in whole."""
        if self._committed:
            commit = decode(self._committed, XLOG_HEADER_BYTES)
            assert isinstance(commit, Commit), "the type byte says so"
            self._commit_lsn, self._committed = commit.end_lsn, b""
        return self._commit_lsn

    def feed(self, messages: Iterable[bytes]) -> None:
        """The next messages; those before must be used up."""
        if self._planned is not self._state.tables and not self.open:
            self._plan_again()
        self._messages = iter(messages)

    def _plan_again(self) -> None:
        """After the tables in force changed: not every change of them shows in the stream."""
        self._planned = self._state.tables
        for oid, relation in self._relations.items():
            place = oid.to_bytes(4, "big")
            spec = self._state.tables_by_oid.get(oid)
            plan = None if spec is None else self._built(relation, spec)
            before = self._plans.get(place)
            if before is None or plan is None or not before.same_layout(plan):
                self._plans[place] = plan

    async def consume(self, *, until_commit: bool = False) -> bool:
        """Take messages until they are used up (False), or what is held has to be written before it goes on: it fills
        a part or a change set, or (``until_commit``) a transaction ended."""
        few_max = 1 if until_commit else self._limits.batch_transactions_max
        many_max = 1 if until_commit else few_max * HOT_TRANSACTIONS
        while True:
            raw = self._take(few_max, many_max)
            if not raw:
                return raw is not None
            await self._other(raw)

    def _take(self, few_max: int, many_max: int) -> bytes | None:
        """Take begins, row changes and commits up to a message of another kind, which is returned. ``None`` when all
        are used up, ``b""`` when something has to be written: ``few_max`` transactions on as many rows, ``many_max``
        on fewer rows.

        Two of the three messages of a small transaction are its begin and its commit, so this is one plain loop.
        """
        held, skip = self.held, self._skip
        rows_max, bytes_max = self._limits.batch_rows_max, self._limits.batch_bytes_max
        for raw in self._messages:
            kind = raw[XLOG_HEADER_BYTES]
            if kind in _ROWS:
                if skip:
                    continue
                if not self._row(kind, raw):
                    self._messages = chain((raw,), self._messages)
                    return b""
                if held.rows >= rows_max or held.bytes >= bytes_max:
                    return b""
            elif kind == _BEGIN:
                self._begin = raw
                if self._resuming:
                    # Decoding resumed at a position; what committed before it is captured already (invariant 1), and
                    # comes before everything else.
                    final_lsn, _, _ = begin_fields(raw, XLOG_HEADER_BYTES)
                    self._resuming = self._skip = skip = final_lsn < self._resume_lsn
            elif kind == _COMMIT:
                self._begin = b""
                self._skip = skip = False
                if self.open:
                    self.open = False
                    self._committed = raw
                    held.commit()
                    if held.transactions >= few_max and (held.rows >= few_max or held.transactions >= many_max):
                        return b""
            else:
                return raw
        return None

    def _row(self, kind: int, raw: bytes) -> bool:
        """Take one row change; False when what is held must be written before it."""
        if self._begin:
            self._start(self._begin)
        plan = self._plans[raw[_RELATION]]
        size = len(raw)
        if plan is None or (size > self._row_bytes_max and self._too_large(plan, raw)):
            return True
        held = self.held
        if kind == _UPDATE and size <= MESSAGE_BYTES_MAX and held.known_update(plan, raw, XLOG_HEADER_BYTES):
            return True
        old, new = self._reader.read(raw, XLOG_HEADER_BYTES)
        if kind == _INSERT:
            assert new is not None, "an insert has a new row"
            held.insert(plan, new, size)
        elif old is None:
            self._put_aside_without_old_row(plan, raw)
        elif held.must_split(plan, old, new):
            return False
        elif kind == _UPDATE:
            assert new is not None, "an update has a new row"
            if plan.fractional and (name := plan.not_summable(old, new)):
                held.refuse(plan, refused(plan, self._xid, self.hlc, old, new, f"counter {name!r}: {NO_SUM}"), size)
                return True
            held.update(plan, old, new, size)
        else:
            held.delete(plan, old, size)
        return True

    def _start(self, begin: bytes) -> None:
        """The first change of a transaction: only now is it known to be a foreign one.

        The commit time is the server's, but not later than now by this node's clock. Otherwise a wrong clock of the
        server would make versions that no peer can doubt in time.
        """
        state = self._state
        self._begin = b""
        self.open = True
        _, commit_us, xid = begin_fields(begin, XLOG_HEADER_BYTES)
        committed_ms = unix_ms(commit_us) + state.clock_skew_ms
        if committed_ms > self._latest_ms:
            self._latest_ms = state.watch.latest_ms()
            committed_ms = min(committed_ms, self._latest_ms)
        self.committed_ms = committed_ms
        if state.pending_since_ms is None:
            state.pending_since_ms = committed_ms
        self.hlc = state.hlc.issue(committed_ms)
        self._xid = xid
        self.held.begin(xid, self.hlc)

    async def _other(self, raw: bytes) -> None:
        message = decode(raw, XLOG_HEADER_BYTES)
        if isinstance(message, Message):
            if message.transactional and message.prefix == ECHO_PREFIX and not self.open:
                self._skip = True
        elif isinstance(message, Relation):
            self._relations[message.relation_oid] = message
            self._plans[message.relation_oid.to_bytes(4, "big")] = await self._plan(message)
        elif isinstance(message, Truncate):
            self._truncate(message)

    async def _plan(self, relation: Relation) -> RelationPlan | None:
        """By the table's oid: in a backlog it has the name of then."""
        spec = self._state.tables_by_oid.get(relation.relation_oid)
        name = f"{relation.schema}.{relation.name}"
        known = 0 if spec is None else len(spec.key) + len(spec.columns)
        if spec is None or spec.qualified != name or len(relation.columns) != known or _unknown(relation, spec):
            await self._refresh_tables()
            spec = self._state.tables_by_oid.get(relation.relation_oid)
        if spec is None:
            self._state.problem(f"capture {name}", f"table {name} is published but not attached; run sidecar check")
            return None
        new = _unknown(relation, spec)
        if new and spec.qualified in self._state.busy_tables:
            # Without it the changes of the column would be passed over for good.
            raise HeldError(f"column {new[0]!r} of {spec.qualified} is new, and the table's state is locked")
        if new:
            self._tell_of_lost(spec, new)
        return self._built(relation, spec)

    def _tell_of_lost(self, spec: TableSpec, columns: list[str]) -> None:
        """Once for each set of columns: the stream describes a table again and again."""
        if (spec.table_id, tuple(columns)) in self._lost:
            return
        self._lost.add((spec.table_id, tuple(columns)))
        reason = (
            f"values of column {', '.join(map(repr, columns))} of {spec.qualified} are not replicated: the table had it"
            " when they were written, but it was dropped since, renamed more than once, or is not in force yet; run"
            " sidecar check, and compare the nodes"
        )
        self.put_aside.append((spec.qualified, reason))

    def _built(self, relation: Relation, spec: TableSpec) -> RelationPlan:
        name = spec.qualified
        try:
            plan = RelationPlan.build(relation, spec)
        except SchemaError as error:
            self._state.problem(f"capture {name}", error.line())
            raise
        self._state.problem(f"capture {name}", None)
        return plan

    def _truncate(self, message: Truncate) -> None:
        """Each table by itself."""
        if self._skip:
            return
        for relation_oid in message.relation_oids:
            plan = self._plans.get(relation_oid.to_bytes(4, "big"))
            if plan is None:
                continue
            if self._begin:
                self._start(self._begin)
            self.held.truncate(plan)

    def _too_large(self, plan: RelationPlan, raw: bytes) -> bool:
        """Whether a row change carries more than a peer can take; then it is put aside, so that the stream goes on."""
        message = decode(raw, XLOG_HEADER_BYTES)
        assert isinstance(message, Insert | Update | Delete), "the type byte says so"
        size = plan.carried_bytes(message)
        limit = IMAGE_BYTES_MAX if isinstance(message, Delete) else self._row_bytes_max
        if size <= limit:
            return False
        old = None if isinstance(message, Insert) else message.old
        new = None if isinstance(message, Delete) else message.new
        if old is None and isinstance(message, Update):
            return False  # which is an error of its own
        reason = f"it has {size} bytes, at most {limit} are sent; raise frame_bytes_max in [limits] on all nodes"
        self.held.refuse(plan, refused(plan, self._xid, self.hlc, old, new, reason), len(raw))
        return True

    def _put_aside_without_old_row(self, plan: RelationPlan, raw: bytes) -> None:
        """It stands in the log as it is, for good: no mend of the table makes it another."""
        message = decode(raw, XLOG_HEADER_BYTES)
        assert isinstance(message, Update | Delete), "the type byte says so"
        new = None if isinstance(message, Delete) else message.new
        changes = without_old_row(plan, self._xid, self.hlc, message.key, new, NO_OLD_ROW)
        if changes:
            self.held.refuse(plan, changes, len(raw))
        elif (plan.spec.table_id, ()) not in self._lost:
            self._lost.add((plan.spec.table_id, ()))
            self.put_aside.append((plan.spec.qualified, f"deletes in {plan.spec.qualified}: {NO_OLD_ROW}"))


def _unknown(relation: Relation, spec: TableSpec) -> list[str]:
    """Columns in the stream that the table in force has not: new, renamed, or dropped (perhaps for another one that has
    the name now)."""
    known = {*(column.name for column in (*spec.key, *spec.columns)), *spec.generated}
    known -= unreadable(relation, spec)
    return [name for name in present_names(relation, spec) if name not in known]
