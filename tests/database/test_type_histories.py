"""The SQL functions of sets, maps and siblings on random histories, against the algebra: by changes and by states."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import psycopg
import pytest
from type_algebra import KINDS, Kind

from sidecar.postgres.migrations import read_migrations

NODES = (1, 2, 3)
HISTORIES = 25
STEPS = 30


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
