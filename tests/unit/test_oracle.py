"""The oracle: hand-computed cases, impossible histories, and random histories replayed through the algebra."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.core.catalog import ColumnSpec, TableSpec
from sidecar.core.crdt import g_counter, lww_register, pn_counter, row_liveness
from sidecar.core.crdt.g_counter import GCounter
from sidecar.core.crdt.lww_register import LwwRegister
from sidecar.core.crdt.pn_counter import PnCounter
from sidecar.core.crdt.row_liveness import RowLiveness
from sidecar.core.hlc import HybridClock
from sidecar.core.versions import VersionVector, dominates
from tests.oracle import Column, Operation, expected, happened_before, schema_of

COLUMNS = {
    "title": Column(),
    "body": Column(),
    "likes": Column("pn_counter", "smallint"),
    "views": Column("g_counter", "bigint"),
}
SCHEMA = {"posts": COLUMNS}
GENESIS_ROW = {"title": "old", "body": None, "likes": "10", "views": "100"}

Kind = Literal["insert", "update", "delete"]


def op(
    dot: tuple[int, int], kind: Kind, seen: Mapping[int, int] | None = None, order: int = 0, **values: Any
) -> Operation:
    """``dot`` is ``(node, hlc)``; ints are deltas of counters, texts are assigned."""
    deltas = {name: Decimal(v) for name, v in values.items() if name in ("likes", "views")}
    assigned = {name: v for name, v in values.items() if name not in deltas}
    return Operation(dot[0], dot[1], kind, "posts", "k", assigned, deltas, seen or {}, order)


def row(*operations: Operation, genesis: Mapping[str, str | None] | None = None) -> dict[str, str | None] | None:
    """The one row, whatever the order in which the operations are given."""
    rows = {"posts": {"k": genesis}} if genesis is not None else None
    results = [expected(p, SCHEMA, rows) for p in itertools.islice(itertools.permutations(operations), 24)]
    assert all(result == results[0] for result in results)
    return results[0]["posts"].get("k")


def test_genesis_rows_stay_as_they_are() -> None:
    assert row(genesis=GENESIS_ROW) == GENESIS_ROW
    assert row(genesis={"title": "x"}) == {"title": "x", "body": None, "likes": None, "views": None}


def test_a_row_that_was_never_inserted_does_not_exist() -> None:
    assert row() is None
    assert row(op((1, 10), "update", title="a")) is None
    assert row(op((1, 10), "delete")) is None


def test_an_insert_assigns_every_column() -> None:
    assert row(op((1, 10), "insert", title="a", likes=3)) == {"title": "a", "body": None, "likes": "3", "views": "0"}


def test_concurrent_inserts_of_one_key_add_their_counters() -> None:
    a = op((1, 10), "insert", title="a", body="a", likes=3, views=5)
    b = op((2, 11), "insert", title="b", likes=-1, views=7)
    assert row(a, b) == {"title": "b", "body": None, "likes": "2", "views": "12"}


def test_concurrent_updates_the_higher_hlc_wins_per_column() -> None:
    a = op((1, 20), "update", title="a")
    b = op((2, 19), "update", title="b", body="b")
    assert row(a, b, genesis=GENESIS_ROW) == {**GENESIS_ROW, "title": "a", "body": "b"}


def test_concurrent_updates_with_equal_hlc_the_higher_node_wins() -> None:
    a = op((1, 20), "update", title="a")
    b = op((2, 20), "update", title="b")
    assert row(a, b, genesis=GENESIS_ROW) == {**GENESIS_ROW, "title": "b"}


def test_three_nodes_a_write_that_saw_another_wins_over_it_only() -> None:
    a = op((1, 10), "update", title="a")
    b = op((2, 11), "update", {1: 10}, title="b", likes=1)
    c = op((3, 30), "update", title="c", likes=1)
    assert row(a, b, c, genesis=GENESIS_ROW) == {**GENESIS_ROW, "title": "c", "likes": "12"}
    d = op((1, 31), "update", {1: 10, 2: 11, 3: 30}, title="d")
    assert row(a, b, c, d, genesis=GENESIS_ROW) == {**GENESIS_ROW, "title": "d", "likes": "12"}


@pytest.mark.parametrize(("node", "hlc", "alive"), [(2, 9, False), (2, 11, True), (2, 10, True), (0, 0, False)])
def test_delete_against_a_concurrent_increment(node: int, hlc: int, alive: bool) -> None:
    changes = [op((1, 10), "delete")]
    if node:
        changes.append(op((node, hlc), "update", likes=5))
    shown = row(*changes, genesis=GENESIS_ROW)
    assert shown == ({**GENESIS_ROW, "likes": "15"} if alive else None)  # nothing is erased: no insert saw the delete


def test_equal_hlc_the_delete_of_the_higher_node_wins() -> None:
    assert row(op((2, 10), "delete"), op((1, 10), "update", likes=5), genesis=GENESIS_ROW) is None


def test_re_insert_shows_the_inserted_values() -> None:
    update = op((1, 9), "update", title="b", likes=4, views=4)
    delete = op((1, 10), "delete", {1: 9})
    insert = op((1, 11), "insert", {1: 10}, title="again", likes=2, views=1)
    assert row(update, delete, insert, genesis=GENESIS_ROW) == {
        "title": "again",
        "body": None,
        "likes": "2",
        "views": "1",
    }


@pytest.mark.parametrize("hlc", [8, 20])
def test_re_insert_keeps_increments_that_the_delete_had_not_seen(hlc: int) -> None:
    delete = op((1, 10), "delete")
    unseen = op((2, hlc), "update", likes=4, views=4)
    insert = op((1, 30), "insert", {1: 10, 2: hlc}, likes=2, views=1)
    assert row(delete, unseen, insert, genesis=GENESIS_ROW) == {
        "title": None,
        "body": None,
        "likes": "6",
        "views": "5",
    }


def test_re_insert_on_another_node_and_an_update_it_had_not_seen() -> None:
    delete = op((1, 10), "delete")
    insert = op((2, 11), "insert", {1: 10}, title="again", likes=2)
    late = op((3, 40), "update", title="late", likes=1)
    assert row(delete, insert, late, genesis=GENESIS_ROW) == {"title": "late", "body": None, "likes": "3", "views": "0"}


def test_concurrent_re_inserts_add_up() -> None:
    delete = op((1, 10), "delete")
    a = op((1, 11), "insert", {1: 10}, title="a", likes=2)
    b = op((2, 12), "insert", {1: 10}, title="b", likes=3)
    assert row(delete, a, b, genesis=GENESIS_ROW) == {"title": "b", "body": None, "likes": "5", "views": "0"}


def test_a_delete_that_no_insert_saw_erases_nothing() -> None:
    seen_by_insert = op((1, 10), "delete")
    other = op((2, 12), "delete")
    increment = op((2, 11), "update", likes=5)
    insert = op((1, 20), "insert", {1: 10}, likes=1)
    # The increment was seen by node 2's delete, but the insert saw only node 1's.
    shown = row(seen_by_insert, increment, other, insert, genesis=GENESIS_ROW)
    assert shown == {"title": None, "body": None, "likes": "6", "views": "0"}
    # Had it seen both deletes, the increment would be erased too.
    saw_both = replace(insert, seen={1: 10, 2: 12})
    assert row(seen_by_insert, increment, other, saw_both, genesis=GENESIS_ROW) == {**shown, "likes": "1"}


def test_an_insert_that_a_later_delete_erased_stays_erased() -> None:
    changes = [
        op((1, 10), "insert", likes=1),
        op((1, 11), "delete", {1: 10}),
        op((2, 12), "insert", {1: 11}, likes=2),
        op((2, 13), "delete", {1: 11, 2: 12}),
        op((1, 14), "insert", {1: 11, 2: 13}, likes=4),
    ]
    for length, likes in enumerate(["1", None, "2", None, "4"], start=1):
        shown = row(*changes[:length])
        assert (shown and shown["likes"]) == likes


def test_delete_and_insert_in_one_transaction() -> None:
    delete = op((1, 10), "delete", order=0)
    insert = op((1, 10), "insert", order=1, title="new", likes=1)
    elsewhere = op((2, 9), "update", likes=7)
    assert row(delete, insert, elsewhere, genesis=GENESIS_ROW) == {
        "title": "new",
        "body": None,
        "likes": "8",
        "views": "0",
    }
    gone = [op((1, 10), "insert", order=0, likes=1), op((1, 10), "delete", order=1)]
    assert row(*gone) is None


def test_a_write_that_changes_nothing_is_no_write() -> None:
    delete = op((1, 10), "delete")
    assert row(delete, op((2, 11), "update", likes=0), genesis=GENESIS_ROW) is None
    assert row(delete, op((2, 11), "update"), genesis=GENESIS_ROW) is None


def test_g_counter_takes_no_decrease() -> None:
    changes = [op((1, 10), "update", views=-50), op((2, 10), "update", views=3)]
    assert row(*changes, genesis={**GENESIS_ROW, "views": "-5"}) == {**GENESIS_ROW, "views": "-2"}


def test_pn_counter_saturates_and_comes_back() -> None:
    up = [op((1, 10), "update", likes=32_000), op((2, 10), "update", likes=32_000)]
    down = op((3, 10), "update", likes=-32_000)
    assert row(*up, genesis=GENESIS_ROW) == {**GENESIS_ROW, "likes": "32767"}
    assert row(*up, down, genesis=GENESIS_ROW) == {**GENESIS_ROW, "likes": "32010"}
    assert row(down, op((1, 10), "update", likes=-32_000), genesis=GENESIS_ROW) == {**GENESIS_ROW, "likes": "-32768"}


@pytest.mark.parametrize(
    ("type_name", "held", "deltas", "text"),
    [
        ("numeric", "1.50", ["0.5"], "2"),
        ("numeric", "100", ["0"], "100"),
        ("numeric", "1e40", ["0.1"], f"1{'0' * 40}.1"),
        ("numeric(10,2)", "1.5", ["1"], "2.50"),
        ("numeric(4, 2)", "99", ["1"], "99.99"),
        ("numeric(4,2)", "-99", ["-1"], "-99.99"),
        ("numeric(3)", "5", ["1"], "6"),
        ("numeric(2,-3)", "99000", ["1000"], "99000"),
        ("bigint", "9223372036854775807", ["5"], "9223372036854775807"),
        ("integer", "-2147483648", ["-5"], "-2147483648"),
        ("bigint", None, ["5"], "5"),
    ],
)
def test_number_images(type_name: str, held: str | None, deltas: list[str], text: str) -> None:
    schema = {"t": {"n": Column("pn_counter", type_name)}}
    operations = [Operation(1, 10 + i, "update", "t", 1, {}, {"n": Decimal(d)}) for i, d in enumerate(deltas)]
    assert expected(operations, schema, {"t": {1: {"n": held}}}) == {"t": {1: {"n": text}}}


def test_tables_and_keys_do_not_mix() -> None:
    schema = {"a": {"n": Column()}, "b": {"n": Column()}, "c": {}}
    operations = [
        Operation(1, 10, "insert", "a", ("x", "y"), {"n": "1"}),
        Operation(1, 10, "insert", "b", ("x", "y"), {"n": "2"}),
        Operation(1, 10, "insert", "a", ("x", "z"), {"n": "3"}),
    ]
    assert expected(operations, schema) == {
        "a": {("x", "y"): {"n": "1"}, ("x", "z"): {"n": "3"}},
        "b": {("x", "y"): {"n": "2"}},
        "c": {},
    }


def test_schema_of_table_specs() -> None:
    key = ColumnSpec("id", 1, "uuid", "uuid")
    likes = ColumnSpec("likes", 2, "numeric(10,2)", "numeric", "pn_counter")
    spec = TableSpec(1, "public", "posts", (key,), (likes,))
    assert schema_of(spec) == {"public.posts": {"likes": Column("pn_counter", "numeric(10,2)")}}


@pytest.mark.parametrize(
    ("operations", "message"),
    [
        ([op((0, 1), "insert")], "node 0"),
        ([op((1, 10), "update", title="a"), op((1, 10), "update", title="b")], "two operations"),
        ([op((1, 10), "update"), op((2, 9), "update", {1: 10})], "has seen a later one of node 1"),
        ([op((1, 10), "update"), op((2, 10), "update", {1: 10})], "has seen a later one of node 1"),
        ([op((1, 5), "update"), op((2, 10), "update", {1: 5}), op((2, 11), "update")], "forgot"),
    ],
)
def test_impossible_histories(operations: list[Operation], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        expected(operations, SCHEMA)


def test_unknown_rules_are_refused() -> None:
    with pytest.raises(ValueError, match="no rule for or_set"):
        expected([Operation(1, 1, "insert", "t", 1)], {"t": {"n": Column("or_set", "text[]")}})


def test_a_version_vector_ahead_of_all_operations_is_fine() -> None:
    assert row(op((1, 5), "insert", title="a"), op((2, 10), "update", {1: 99}, title="b")) is not None


# Random histories: 3 to 5 replicas run the algebra, changes arrive in random causal order, some twice.


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
