"""The SQL functions of sets, maps and siblings on random histories, against the algebra: by changes and by states."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import psycopg
import pytest

from sidecar.core.crdt import aw_set, g_set, lww_map, lww_set, mv_register, or_set
from sidecar.core.crdt.dots import DotSet, SetChange
from sidecar.core.crdt.siblings import Siblings, Write
from sidecar.core.crdt.stamps import StampChange, Stamps
from sidecar.postgres.migrations import read_migrations

NODES = (1, 2, 3)
HISTORIES = 25
STEPS = 30
ELEMENTS = ('"', "10", "9", "a b", "é", "A", "b")


@pytest.fixture(scope="module")
def sql(postgres_server) -> Iterator[psycopg.Connection[Any]]:  # type: ignore[no-untyped-def]
    dsn = postgres_server.create_database("type_histories")
    with psycopg.connect(dsn, autocommit=True) as conn:
        for migration in read_migrations():
            conn.execute(migration.text)
        yield conn
    postgres_server.drop_database("type_histories")


def clock_array(clock: Mapping[int, int]) -> list[int]:
    return [clock.get(node, 0) for node in NODES]


@dataclass
class Kind:
    """One type: its algebra, how its states and changes look as JSON, and the SQL that merges them."""

    empty: Any
    write: Callable[[Any, random.Random, int, int], Any]
    apply: Callable[[Any, Any, Mapping[int, int]], Any]
    merge: Callable[[Any, Any], Any]
    as_state: Callable[[Any], Any]
    as_change: Callable[[Any], Any]
    sql_apply: str
    sql_merge: str
    shown: Callable[[Any], Any]
    sql_shown: str


def dots_json(state: DotSet) -> Any:
    return {element: {str(n): h for n, h in live.items()} for element, live in state.dots.items()}


def dots_change(change: SetChange) -> Any:
    out: dict[str, Any] = {"add": dict(change.add), "del": dict(change.remove), "null": change.null}
    return out | ({"full": change.hlc} if change.full else {})


def stamps_json(state: Stamps, *, is_map: bool) -> Any:
    if not is_map:
        return {e: [x.hlc, x.node, x.present] for e, x in state.entries.items()}
    return {
        e: [x.hlc, x.node, json.loads(str(x.value))] if x.present else [x.hlc, x.node] for e, x in state.entries.items()
    }


def stamps_change(change: StampChange, *, is_map: bool) -> Any:
    add = {e: [h, json.loads(str(v))] if is_map else h for e, (h, v) in change.add.items()}
    return {"add": add, "del": dict(change.remove), "null": change.null}


def some(rng: random.Random) -> list[str]:
    return rng.sample(ELEMENTS, rng.randint(0, 4))


def set_write(module: Any) -> Callable[[Any, random.Random, int, int], Any]:
    def write(state: Any, rng: random.Random, hlc: int, node: int) -> Any:
        if rng.random() < 0.15:
            insert = [state] if module is lww_set else []
            return module.insert(*insert, some(rng), hlc=hlc, node=node)
        return module.update(module.value(state), some(rng), hlc=hlc, node=node)

    return write


def map_write(state: Any, rng: random.Random, hlc: int, node: int) -> Any:
    new = {key: rng.choice(["1", "null", '{"q": 2}']) for key in some(rng)}
    if rng.random() < 0.15:
        return lww_map.insert(state, new, hlc=hlc, node=node)
    return lww_map.update(lww_map.value(state), new, hlc=hlc, node=node)


def dot_kind(module: Any) -> Kind:
    return Kind(
        empty=module.genesis(["a b", "9"]),
        write=set_write(module),
        apply=module.apply,
        merge=module.merge,
        as_state=dots_json,
        as_change=dots_change,
        sql_apply="crdt_state.dots_merge(%(state)s, %(change)s, %(origin)s, %(context)s::int8[])",
        sql_merge="crdt_state.dots_join(%(a)s, %(a_clock)s::int8[], %(b)s, %(b_clock)s::int8[])",
        shown=lambda state: list(module.value(state, numbers=True) or ()),
        sql_shown="crdt_state.dots_elements(%(state)s, true)",
    )


def stamp_kind(module: Any, genesis: Any, write: Any, *, is_map: bool) -> Kind:
    def shown(state: Any) -> Any:
        value = module.value(state)
        return {k: json.loads(v) for k, v in (value or {}).items()} if is_map else list(value or ())

    return Kind(
        empty=genesis,
        write=write,
        apply=lambda state, change, _context: module.apply(state, change),
        merge=module.merge,
        as_state=lambda state: stamps_json(state, is_map=is_map),
        as_change=lambda change: stamps_change(change, is_map=is_map),
        sql_apply=f"crdt_state.stamps_merge(%(state)s, %(change)s, %(origin)s, {'true' if is_map else 'false'})",
        sql_merge="crdt_state.stamps_join(%(a)s, %(b)s)",
        shown=shown,
        sql_shown=f"crdt_state.{'map_value(%(state)s)' if is_map else 'stamps_elements(%(state)s, false)'}",
    )


def siblings_json(state: Siblings) -> Any:
    return [[w.node, w.hlc, w.value] for w in mv_register.latest_first(state)]


SIBLING_APPLY = """coalesce(
    crdt_state.siblings_merge(
        CASE WHEN jsonb_array_length(%(state)s::jsonb) > 1 THEN %(state)s::jsonb END,
        (%(state)s::jsonb -> 0 -> 0)::int8, (%(state)s::jsonb -> 0 -> 1)::int8, %(state)s::jsonb -> 0 ->> 2,
        %(origin)s, %(context)s::int8[], (%(change)s::jsonb -> 1)::int8, %(change)s::jsonb ->> 2),
    jsonb_build_array(%(change)s::jsonb))"""

KINDS = {
    "g_set": dot_kind(g_set),
    "or_set": dot_kind(or_set),
    "aw_set": dot_kind(aw_set),
    "lww_set": stamp_kind(lww_set, lww_set.genesis(["9", "b"]), set_write(lww_set), is_map=False),
    "lww_map": stamp_kind(lww_map, lww_map.genesis({"9": "1"}), map_write, is_map=True),
    "mv_register": Kind(
        empty=mv_register.genesis("g"),
        write=lambda _state, rng, hlc, node: Write(hlc, node, rng.choice([None, "x", 'y"'])),
        apply=mv_register.apply,
        merge=mv_register.merge,
        as_state=siblings_json,
        as_change=lambda write: [write.node, write.hlc, write.value],
        sql_apply=SIBLING_APPLY,
        sql_merge="crdt_state.siblings_join(%(a)s, %(a_clock)s::int8[], %(b)s, %(b_clock)s::int8[])",
        shown=mv_register.value,
        sql_shown="%(state)s::jsonb -> 0 ->> 2",
    ),
}


@dataclass
class Replica:
    """A node of a history, with its state in both forms."""

    node: int
    state: Any
    shadow: Any
    clock: dict[int, int] = field(default_factory=dict)
    log: list[tuple[int, dict[int, int], Any]] = field(default_factory=list)


class History:
    """Random writes and deliveries in causal order; after each step both forms of a state are compared."""

    def __init__(self, sql: psycopg.Connection[Any], kind: Kind, seed: int) -> None:
        self.sql, self.kind, self.rng = sql, kind, random.Random(seed)
        self.replicas = [Replica(n, kind.empty, kind.as_state(kind.empty)) for n in NODES]
        self.hlc = itertools.count(1)

    def value(self, expression: str, **arguments: Any) -> Any:
        parameters = {k: json.dumps(v) if k in ("state", "change", "a", "b") else v for k, v in arguments.items()}
        row = self.sql.execute(f"SELECT {expression}", parameters).fetchone()
        assert row is not None
        return row[0]

    def take(self, at: Replica, origin: int, hlc: int, context: dict[int, int], change: Any) -> None:
        at.state = self.kind.apply(at.state, change, context)
        at.clock[origin] = hlc
        # A context need not name its own origin: it has seen itself.
        covered = None if origin == at.node else clock_array({**context, origin: 0})
        as_json = self.kind.as_change(change)
        at.shadow = self.value(self.kind.sql_apply, state=at.shadow, change=as_json, origin=origin, context=covered)
        assert at.shadow == self.kind.as_state(at.state), f"{as_json} of node {origin}, context {context}"

    def step(self) -> None:
        at = self.rng.choice(self.replicas)
        if self.rng.random() < 0.4:
            hlc, context = next(self.hlc), dict(at.clock)
            change = self.kind.write(at.state, self.rng, hlc, at.node)
            at.log.append((hlc, context, change))
            self.take(at, at.node, hlc, context, change)
            return
        source = self.rng.choice([r for r in self.replicas if r is not at])
        due = [entry for entry in source.log if entry[0] > at.clock.get(source.node, 0)][:1]
        for hlc, context, change in due:
            if all(at.clock.get(n, 0) >= h for n, h in context.items() if n != at.node):
                self.take(at, source.node, hlc, context, change)

    def joins(self) -> None:
        for a, b in itertools.permutations(self.replicas, 2):
            expected = self.kind.as_state(self.kind.merge(a.state, b.state))
            clocks = {"a_clock": clock_array(a.clock), "b_clock": clock_array(b.clock)}
            both = self.value(self.kind.sql_merge, a=a.shadow, b=b.shadow, **clocks)
            assert both == expected
            joined = [max(pair) for pair in zip(clocks["a_clock"], clocks["b_clock"], strict=True)]
            again = self.value(self.kind.sql_merge, a=both, a_clock=joined, b=b.shadow, b_clock=clocks["b_clock"])
            assert again == expected, "the same state merged twice changes nothing"


@pytest.mark.parametrize("name", KINDS)
def test_random_histories_equal_the_algebra(sql: psycopg.Connection[Any], name: str) -> None:
    kind = KINDS[name]
    for seed in range(HISTORIES):
        history = History(sql, kind, seed)
        for _ in range(STEPS):
            history.step()
        history.joins()
        for replica in history.replicas:
            assert history.value(kind.sql_shown, state=replica.shadow) == kind.shown(replica.state)
