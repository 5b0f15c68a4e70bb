"""Replicas of one row with one column, as the algebra holds them: local SQL, capture in batches, and delivery.

As in production, what the application wrote is captured later, several transactions at once, and always before
anything is merged into the row; a change set arrives after what its origin had seen, and a duplicate is dropped. Until
the row is rewritten, the application sees what it wrote, also where the merged value is another (order, undone
removals).
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from sidecar.core.hlc import HybridClock
from sidecar.core.versions import VersionVector, dominates, join
from tests.oracle import Operation, Tables, expected, expected_siblings
from tests.unit.crdt_types import ColumnType, RowRule

TABLE, KEY, COLUMN = "t", "k", "v"
ABSENT = object()
"""What the application sees of a row that is not there. As genesis: nobody has the row."""


@dataclass(frozen=True)
class State:
    """What a node holds of the row."""

    row: Any
    column: Any


@dataclass(frozen=True)
class Transaction:
    """What one local transaction did to the row: ``insert`` (also a delete and insert), ``update`` or ``delete``."""

    kind: str
    hlc: int
    change: Any | None
    operations: tuple[Operation, ...]


@dataclass(frozen=True)
class ChangeSet:
    """What travels. ``from_hlc`` is where the origin's previous one ended."""

    origin: int
    from_hlc: int
    to_hlc: int
    context: VersionVector
    rows: tuple[tuple[str, int], ...]
    change: Any | None
    operations: tuple[Operation, ...]


@dataclass
class Replica:
    node: int
    column: ColumnType
    rule: RowRule
    genesis: Any = ABSENT
    clock: HybridClock = field(default_factory=HybridClock)
    seen: VersionVector = field(default_factory=dict)
    uncaptured: list[Transaction] = field(default_factory=list)
    operations: dict[tuple[int, int, int], Operation] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.genesis is ABSENT:
            self.state = State(self.rule.empty, self.column.empty)
        else:
            self.state = State(self.rule.genesis, self.column.genesis(self.genesis))
        self.table = self.shown()

    def shown(self) -> Any:
        """What the table must hold by the merged state."""
        return self.column.shown(self.state.column) if self.rule.alive(self.state.row) else ABSENT

    def write(self, value: Any, *, ms: int = 0, same_transaction: bool = False) -> bool:
        """INSERT, or UPDATE of the row that is there; ``False`` where that writes nothing."""
        if self.table is ABSENT:
            self._act("insert", value, ms, same_transaction)
        elif self.table != value:
            self._act("update", value, ms, same_transaction)
        else:
            return False
        return True

    def delete(self, *, ms: int = 0, same_transaction: bool = False) -> bool:
        """DELETE of the row, if it is there."""
        if self.table is ABSENT:
            return False
        self._act("delete", ABSENT, ms, same_transaction)
        return True

    def _act(self, kind: str, value: Any, ms: int, same_transaction: bool) -> None:
        held = self._captured()
        before = self.uncaptured.pop() if same_transaction and self.uncaptured else None
        hlc = before.hlc if before else self.clock.issue(ms)
        done = before.operations if before else ()
        told = {}
        if kind == "insert":
            change = self.column.insert(held, value, hlc, self.node)
            told = self.column.operation(None, value)
        elif kind == "update":
            change = self.column.update(held, self.table, value, hlc, self.node)
            told = self.column.operation(self.table, value)
        else:
            change = self.column.delete(held)
        operation = Operation(self.node, hlc, kind, TABLE, KEY, seen=dict(self.seen), order=len(done), **told)  # type: ignore[arg-type]
        self.operations[operation.stamp] = operation
        self.table = value
        if before and before.kind == "insert" and kind == "update":
            kind = "insert"
        changes = [before.change, change] if before else [change]
        self.uncaptured.append(Transaction(kind, hlc, self._one(changes), (*done, operation)))

    def _captured(self) -> Any:
        """The column's state with what is not captured yet."""
        column = self.state.column
        for transaction in self.uncaptured:
            if transaction.change is not None:
                column = self.column.apply(column, transaction.change, self.seen)
        return column

    def _one(self, changes: Iterable[Any | None]) -> Any | None:
        made = [change for change in changes if change is not None]
        return functools.reduce(self.column.then, made) if made else None

    def capture(self) -> ChangeSet | None:
        """Version what the application wrote since; ``None`` if nothing."""
        batch, self.uncaptured = self.uncaptured, []
        if not batch:
            return None
        rows = [(t.kind, t.hlc) for t in batch]
        if self.rule.coalesced:
            kind = "insert" if rows[-1][0] == "update" and any(k == "insert" for k, _ in rows) else rows[-1][0]
            rows = [(kind, rows[-1][1])]
        change_set = ChangeSet(
            self.node,
            self.seen.get(self.node, 0),
            batch[-1].hlc,
            {node: hlc for node, hlc in self.seen.items() if node != self.node},
            tuple(rows),
            self._one(t.change for t in batch),
            tuple(o for t in batch for o in t.operations),
        )
        self._apply(change_set)
        return change_set

    def may_receive(self, change_set: ChangeSet) -> bool:
        """The causal gate; a duplicate passes."""
        return self.seen.get(change_set.origin, 0) >= change_set.from_hlc and dominates(self.seen, change_set.context)

    def receive(self, change_set: ChangeSet) -> None:
        assert not self.uncaptured, "only clean rows are merged"
        if self.seen.get(change_set.origin, 0) >= change_set.to_hlc:
            return
        self.clock.observe(change_set.to_hlc)
        self.operations.update({o.stamp: o for o in change_set.operations})
        self._apply(change_set)
        self.rewrite()

    def _apply(self, change_set: ChangeSet) -> None:
        row, column = self.state.row, self.state.column
        for kind, hlc in change_set.rows:
            row = self.rule.apply(row, kind, hlc, change_set.origin, change_set.context)
        if change_set.change is not None:
            column = self.column.apply(column, change_set.change, change_set.context)
        self.state = State(row, column)
        self.seen[change_set.origin] = change_set.to_hlc

    def join(self, other: Replica) -> None:
        """Merge all that another replica holds, as a state."""
        assert not self.uncaptured, "only clean rows are merged"
        assert not other.uncaptured, "only captured writes are in the state"
        self.state = self.merged(self.state, other.state)
        self.operations.update(other.operations)
        self.seen = join(self.seen, other.seen)
        self.clock.observe(other.clock.last)
        self.rewrite()

    def merged(self, a: State, b: State) -> State:
        return State(self.rule.merge(a.row, b.row), self.column.merge(a.column, b.column))

    def rewrite(self) -> None:
        self.table = self.shown()


def wanted(column: ColumnType, rule: str, genesis: Any, operations: Iterable[Operation]) -> Any:
    """What the oracle says that a replica which has seen these operations shows."""
    held: Tables = {} if genesis is ABSENT else {TABLE: {KEY: {COLUMN: genesis}}}
    schema = {TABLE: {COLUMN: column.column}}
    rows = expected(operations, schema, held, {TABLE: rule})[TABLE]
    return rows[KEY][COLUMN] if KEY in rows else ABSENT


def wanted_siblings(column: ColumnType, genesis: Any, operations: Iterable[Operation]) -> list[str | None]:
    held: Tables = {} if genesis is ABSENT else {TABLE: {KEY: {COLUMN: genesis}}}
    rows = expected_siblings(operations, {TABLE: {COLUMN: column.column}}, held)[TABLE]
    return rows[KEY][COLUMN] if KEY in rows else []


@dataclass
class Network:
    """Replicas, and the change sets that have not arrived; ``deliver`` and ``repeat`` pick one of what there is."""

    replicas: list[Replica]
    sent: list[ChangeSet] = field(default_factory=list)

    def capture(self, replica: Replica) -> None:
        change_set = replica.capture()
        if change_set is not None:
            self.sent.append(change_set)

    def pending(self, replica: Replica) -> list[ChangeSet]:
        return [c for c in self.sent if replica.seen.get(c.origin, 0) < c.to_hlc and replica.may_receive(c)]

    def deliver(self, replica: Replica, pick: int) -> None:
        self.capture(replica)
        ready = self.pending(replica)
        if ready:
            replica.receive(ready[pick % len(ready)])

    def repeat(self, replica: Replica, pick: int) -> None:
        self.capture(replica)
        arrived = [c for c in self.sent if replica.seen.get(c.origin, 0) >= c.to_hlc]
        if arrived:
            replica.receive(arrived[pick % len(arrived)])

    def join(self, replica: Replica, other: Replica) -> None:
        self.capture(replica)
        self.capture(other)
        replica.join(other)

    def settle(self) -> None:
        """Everything is captured and arrives everywhere, the newest first where it may."""
        for replica in self.replicas:
            self.capture(replica)
            replica.rewrite()
        for replica in self.replicas:
            while ready := self.pending(replica):
                replica.receive(ready[-1])

    def states_joined(self, order: Iterable[int]) -> State:
        """All replicas' states, merged in this order, each twice."""
        first = self.replicas[0]
        total = State(first.rule.empty, first.column.empty)
        for index in itertools.chain.from_iterable((i, i) for i in order):
            total = first.merged(total, self.replicas[index].state)
        return total

    def all_operations(self) -> list[Operation]:
        return list({o.stamp: o for r in self.replicas for o in r.operations.values()}.values())


def network(column: ColumnType, rule: RowRule, count: int, genesis: Any = ABSENT) -> Network:
    """``count`` replicas, numbered from 1."""
    return Network([Replica(node, column, rule, genesis) for node in range(1, count + 1)])
