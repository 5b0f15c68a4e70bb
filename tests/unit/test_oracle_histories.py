"""The algebra equals the oracle: replicas run random histories, changes arrive in random causal order, some twice."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any, Literal

from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.core.crdt import g_counter, lww_register, pn_counter, row_liveness
from sidecar.core.crdt.g_counter import GCounter
from sidecar.core.crdt.lww_register import LwwRegister
from sidecar.core.crdt.pn_counter import PnCounter
from sidecar.core.crdt.row_liveness import RowLiveness
from sidecar.core.hlc import HybridClock
from sidecar.core.versions import VersionVector, dominates
from tests.oracle import Column, Operation, expected, happened_before

COLUMNS = {
    "title": Column(),
    "body": Column(),
    "likes": Column("pn_counter", "smallint"),
    "views": Column("g_counter", "bigint"),
}
SCHEMA = {"posts": COLUMNS}
GENESIS_ROW = {"title": "old", "body": None, "likes": "10", "views": "100"}

Kind = Literal["insert", "update", "delete"]


@dataclass(frozen=True)
class RowState:
    """A row as the algebra holds it. Also the form of a change: the parts that it does not touch are bottoms."""

    live: RowLiveness = field(default_factory=RowLiveness)
    title: LwwRegister = lww_register.EMPTY
    body: LwwRegister = lww_register.EMPTY
    likes: PnCounter = field(default_factory=PnCounter)
    views: GCounter = field(default_factory=GCounter)

    def merge(self, other: RowState) -> RowState:
        return RowState(
            row_liveness.merge(self.live, other.live),
            lww_register.merge(self.title, other.title),
            lww_register.merge(self.body, other.body),
            pn_counter.merge(self.likes, other.likes),
            g_counter.merge(self.views, other.views),
        )

    def shown(self) -> dict[str, str | None]:
        return {
            "title": lww_register.value(self.title),
            "body": lww_register.value(self.body),
            "likes": str(pn_counter.clamp(pn_counter.value(self.likes), "smallint")),
            "views": str(g_counter.value(self.views)),
        }


GENESIS_STATE = RowState(
    row_liveness.GENESIS,
    LwwRegister("old"),
    LwwRegister(None),
    pn_counter.genesis(Decimal(10)),
    g_counter.genesis(Decimal(100)),
)
GENESIS_TABLES = {"posts": {"g": GENESIS_ROW}}


@dataclass(frozen=True)
class Change:
    """What travels: the operations of one transaction, and the state they made."""

    operations: tuple[Operation, ...]
    state: RowState

    @property
    def first(self) -> Operation:
        return self.operations[0]


@dataclass
class Replica:
    node: int
    clock: HybridClock = field(default_factory=HybridClock)
    seen: VersionVector = field(default_factory=dict)
    rows: dict[str, RowState] = field(default_factory=lambda: {"g": GENESIS_STATE})
    history: list[Operation] = field(default_factory=list)

    def act(self, action: Action) -> Change | None:
        """Carry out a local transaction; ``None`` if there is nothing to do it on."""
        state = self.rows.get(action.key, RowState())
        alive = row_liveness.value(state.live)
        kind = action.kind if alive else "insert"
        if alive and kind == "insert":
            kind = "update"
        hlc = self.clock.issue(action.ms)
        seen = dict(self.seen)
        numbers = {"likes": Decimal(action.likes), "views": Decimal(action.views)}
        texts = {"title": action.text, "body": None}
        made: list[Operation] = []

        def record(what: Kind, assigned: dict[str, str | None], deltas: dict[str, Decimal]) -> None:
            made.append(Operation(self.node, hlc, what, "posts", action.key, assigned, deltas, seen, order=len(made)))

        if kind in ("delete", "replace"):
            after = replace(state, likes=pn_counter.delete(state.likes), views=g_counter.delete(state.views))
            record("delete", {}, {})
        else:
            after = state
        if kind in ("insert", "replace"):
            after = replace(
                after,
                title=lww_register.assign(after.title, action.text, hlc=hlc, node=self.node),
                body=lww_register.assign(after.body, None, hlc=hlc, node=self.node),
                likes=pn_counter.insert(after.likes, numbers["likes"], node=self.node),
                views=g_counter.insert(after.views, numbers["views"], node=self.node),
            )
            record("insert", texts, numbers)
        elif kind == "update":
            if not (action.text or any(numbers.values())):
                return None
            if action.text:
                after = replace(after, title=lww_register.assign(after.title, action.text, hlc=hlc, node=self.node))
            after = replace(
                after,
                likes=pn_counter.increment(after.likes, numbers["likes"], node=self.node),
                views=g_counter.increment(after.views, numbers["views"], node=self.node),
            )
            record("update", {"title": action.text} if action.text else {}, numbers)
        mark = row_liveness.delete if kind == "delete" else row_liveness.write
        after = replace(after, live=mark(state.live, hlc=hlc, node=self.node))
        self.rows[action.key] = after
        self.seen[self.node] = hlc
        self.history += made
        return Change(tuple(made), after if action.whole_state else _difference(state, after))

    def may_receive(self, change: Change) -> bool:
        """The causal gate; a change that came before passes as a duplicate."""
        return dominates(self.seen, change.first.seen)

    def receive(self, change: Change) -> None:
        key = change.first.key
        assert isinstance(key, str)
        self.rows[key] = self.rows.get(key, RowState()).merge(change.state)
        self.clock.observe(change.first.hlc)
        if self.seen.get(change.first.node, 0) < change.first.hlc:
            self.seen[change.first.node] = change.first.hlc
            self.history += change.operations

    def shown(self) -> dict[str, dict[str, str | None]]:
        return {key: state.shown() for key, state in self.rows.items() if row_liveness.value(state.live)}


def _difference(before: RowState, after: RowState) -> RowState:
    """The least that has to travel: what differs from before."""
    return RowState(
        RowLiveness(
            after.live.live if after.live.live != before.live.live else row_liveness.NEVER,
            after.live.dead if after.live.dead != before.live.dead else row_liveness.NEVER,
        ),
        after.title if after.title != before.title else lww_register.EMPTY,
        after.body if after.body != before.body else lww_register.EMPTY,
        PnCounter(*(dict(new.items() - old.items()) for old, new in _maps(before.likes, after.likes))),
        GCounter(*(dict(new.items() - old.items()) for old, new in _maps(before.views, after.views))),
    )


def _maps(before: PnCounter | GCounter, after: PnCounter | GCounter) -> list[tuple[Any, Any]]:
    return [(before.sums, after.sums), (before.seen, after.seen), (before.base, after.base)]


@dataclass(frozen=True)
class Action:
    """A step of a history. Actions ``deliver`` and ``repeat`` take the change number ``pick``, modulo what there is."""

    replica: int
    kind: str
    key: str
    text: str
    likes: int
    views: int
    ms: int
    whole_state: bool
    pick: int


actions = st.builds(
    Action,
    replica=st.integers(0, 4),
    kind=st.sampled_from(
        ["update", "update", "insert", "delete", "replace", "deliver", "deliver", "deliver", "repeat"]
    ),
    key=st.sampled_from(["g", "g", "g", "n"]),
    text=st.sampled_from(["", "a", "b", "c"]),
    likes=st.sampled_from([0, 1, -1, 5, 20_000, -20_000]),
    views=st.sampled_from([0, 1, 7, -3]),
    ms=st.integers(0, 6),  # wall clocks that stand still, jump and go back
    whole_state=st.booleans(),
    pick=st.integers(0, 50),
)


def _matches_oracle(replica: Replica) -> None:
    assert replica.shown() == expected(replica.history, SCHEMA, GENESIS_TABLES)["posts"]


@settings(max_examples=400)
@given(st.sampled_from([3, 3, 4, 5]), st.lists(actions, min_size=15, max_size=40))
def test_random_histories_equal_the_oracle(count: int, steps: list[Action]) -> None:
    replicas = [Replica(node) for node in range(1, count + 1)]
    pending: dict[int, list[Change]] = {replica.node: [] for replica in replicas}
    arrived: dict[int, list[Change]] = {replica.node: [] for replica in replicas}
    for step in steps:
        replica = replicas[step.replica % count]
        if step.kind == "repeat" and arrived[replica.node]:
            replica.receive(arrived[replica.node][step.pick % len(arrived[replica.node])])
        elif step.kind == "deliver":
            ready = [change for change in pending[replica.node] if replica.may_receive(change)]
            if ready:
                _deliver(replica, ready[step.pick % len(ready)], pending, arrived)
        elif step.kind != "repeat" and (made := replica.act(step)) is not None:
            for other in replicas:
                if other is not replica:
                    pending[other.node].append(made)
        _matches_oracle(replica)
    for replica in replicas:
        while pending[replica.node]:
            ready = [change for change in pending[replica.node] if replica.may_receive(change)]
            _deliver(replica, ready[-1], pending, arrived)
        _matches_oracle(replica)
    assert all(replica.shown() == replicas[0].shown() for replica in replicas)
    assert all(replica.rows == replicas[0].rows for replica in replicas)


def _deliver(
    replica: Replica, change: Change, pending: dict[int, list[Change]], arrived: dict[int, list[Change]]
) -> None:
    pending[replica.node].remove(change)
    arrived[replica.node].append(change)
    replica.receive(change)


@settings(max_examples=100)
@given(st.lists(actions, max_size=25))
def test_seen_is_the_same_as_reachability(steps: list[Action]) -> None:
    """Happened-before by version vectors is transitive and never holds both ways."""
    replicas = [Replica(node) for node in (1, 2, 3)]
    everything: list[Change] = []
    for step in steps:
        replica = replicas[step.replica % 3]
        if step.kind in ("deliver", "repeat"):
            ready = [c for c in everything if c.first.node != replica.node and replica.may_receive(c)]
            if ready:
                replica.receive(ready[step.pick % len(ready)])
        elif (made := replica.act(step)) is not None:
            everything.append(made)
    operations = [operation for change in everything for operation in change.operations]
    for a, b in itertools.combinations(operations, 2):
        assert not (happened_before(a, b) and happened_before(b, a))
    for a, b, c in itertools.permutations(operations[:8], 3):
        assert not (happened_before(a, b) and happened_before(b, c)) or happened_before(a, c)
