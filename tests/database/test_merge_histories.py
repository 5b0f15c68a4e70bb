"""Random histories on three databases, delivered in random orders, against the oracle, which does not merge."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from decimal import Decimal

import pytest
from node_harness import HarnessNode, cluster, settle
from oracle import Operation, expected, schema_of

SCHEMA = """
CREATE TABLE doc (
    id int PRIMARY KEY, title text, body text, n int NOT NULL DEFAULT 0, small smallint NOT NULL DEFAULT 0,
    g bigint NOT NULL DEFAULT 0, price numeric(5,2) NOT NULL DEFAULT 0
);
COMMENT ON COLUMN doc.n IS '@crdt(pn_counter)';
COMMENT ON COLUMN doc.small IS '@crdt(pn_counter)';
COMMENT ON COLUMN doc.g IS '@crdt(g_counter)';
COMMENT ON COLUMN doc.price IS '@crdt(pn_counter)';
INSERT INTO doc VALUES (1, 'genesis', 'g', 10, 32000, 5, 900), (2, 'genesis', NULL, 0, 0, 0, 0);
"""
GENESIS = {
    "public.doc": {
        1: {"title": "genesis", "body": "g", "n": "10", "small": "32000", "g": "5", "price": "900"},
        2: {"title": "genesis", "body": None, "n": "0", "small": "0", "g": "0", "price": "0"},
    }
}
COUNTERS = {"n": 10, "small": 1000, "g": 5, "price": 60}
FUTURE = 4_102_444_800_000 << 16
KEYS = (1, 2, 3)
STEPS = 40


@pytest.fixture
async def nodes(postgres_server) -> AsyncIterator[list[HarnessNode]]:  # type: ignore[no-untyped-def]
    async with cluster(postgres_server, 3, SCHEMA) as nodes:
        yield nodes


class Workload:
    """Does random row changes on random nodes and writes down each as the oracle wants it: read from the row before and
    after, with what its node had merged."""

    def __init__(self, nodes: list[HarnessNode], seed: int) -> None:
        self.nodes = nodes
        self.random = random.Random(seed)
        self.operations: list[Operation] = []

    async def step(self) -> None:
        node = self.random.choice(self.nodes)
        if self.random.random() < 0.35:
            other = self.random.choice([n for n in self.nodes if n is not node])
            await node.merge_from(other, limit=self.random.choice([1, 2, None]))
            return
        if self.random.random() < 0.3:
            await self.burst(node)
            return
        kind, key, statement, before = await self.change(node)
        seen = self.seen(node)
        await node.sql(statement)
        await node.captured()
        # Read before the rewrite of values that the type or the rules do not allow: this is what the application wrote.
        self.write_down(node, node.state.clock[node.id], kind, key, before or {}, await self.row(node, key) or {}, seen)
        await node.rewrite()

    async def burst(self, node: HarnessNode) -> None:
        """Several transactions captured together, hence coalesced, at versions that may tie with other nodes'."""
        seen = self.seen(node)
        node.hold_capture()
        base = max(node.state.hlc.last, FUTURE) + self.random.randrange(3)
        node.state.hlc.last = base
        for i in range(1, self.random.randrange(3, 7)):
            kind, key, statement, before = await self.change(node)
            await node.sql(statement)
            self.write_down(node, base + i, kind, key, before or {}, await self.row(node, key) or {}, seen)
        await node.release_capture()
        await node.captured()
        await node.rewrite()

    def seen(self, node: HarnessNode) -> dict[int, int]:
        return {n: hlc for n, hlc in node.state.clock.items() if n != node.id}

    async def change(self, node: HarnessNode) -> tuple[str, int, str, dict[str, str | None] | None]:
        key = self.random.choice(KEYS)
        row = await self.row(node, key)
        if row is None:
            return "insert", key, self.insert(key), row
        if self.random.random() < 0.25:
            return "delete", key, f"DELETE FROM doc WHERE id = {key}", row
        return "update", key, self.update(key, row), row

    async def row(self, node: HarnessNode, key: int) -> dict[str, str | None] | None:
        query = "SELECT title, body, n::text, small::text, g::text, price::text FROM doc WHERE id = $1"
        row = await node.app.fetchrow(query, key)
        return None if row is None else dict(row)

    def text(self) -> str:
        return self.random.choice(["NULL", "'a'", "'b'", "'c'", "'d'"])

    def insert(self, key: int) -> str:
        numbers = ", ".join(str(self.random.randrange(-limit // 2, limit)) for limit in COUNTERS.values())
        return f"INSERT INTO doc VALUES ({key}, {self.text()}, {self.text()}, {numbers})"

    def update(self, key: int, row: dict[str, str | None]) -> str:
        sets = [f"{name} = {self.text()}" for name in ("title", "body") if self.random.random() < 0.4]
        limits = {"small": 32767, "price": Decimal("999.99")}
        for name, limit in COUNTERS.items():
            if self.random.random() < 0.4:
                delta = self.random.randrange(-limit // 2, limit)
                value = min(Decimal(row[name] or 0) + delta, limits.get(name, Decimal(10**6)))
                sets.append(f"{name} = {value}")
        return f"UPDATE doc SET {', '.join(sets or ['title = title'])} WHERE id = {key}"

    def write_down(
        self,
        node: HarnessNode,
        hlc: int,
        kind: str,
        key: int,
        before: dict[str, str | None],
        after: dict[str, str | None],
        seen: dict[int, int],
    ) -> None:
        insert = kind == "insert"
        names = () if kind == "delete" else ("title", "body")
        assigned = {c: after[c] for c in names if insert or before[c] != after[c]}
        deltas = {}
        if kind != "delete":
            deltas = {c: Decimal(after[c] or 0) - Decimal(before.get(c) or 0) for c in COUNTERS}
            deltas = {c: d for c, d in deltas.items() if d or insert}
        if kind == "update" and not assigned and not deltas:
            return
        self.operations.append(Operation(node.id, hlc, kind, "public.doc", key, assigned, deltas, seen))  # type: ignore[arg-type]

    async def check(self) -> None:
        await settle(self.nodes)
        spec = self.nodes[0].table("doc")
        want = expected(self.operations, schema_of(spec), GENESIS)["public.doc"]
        for node in self.nodes:
            got = {key: row for key in KEYS if (row := await self.row(node, key)) is not None}
            assert got == want, f"node {node.id}"
        assert [await node.quarantine() for node in self.nodes] == [[], [], []]


@pytest.mark.parametrize("seed", range(8))
async def test_random_histories_end_as_the_oracle_says(nodes: list[HarnessNode], seed: int) -> None:
    workload = Workload(nodes, seed)
    for _ in range(STEPS):
        await workload.step()
    await workload.check()
