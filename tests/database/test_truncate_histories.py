"""Random histories with TRUNCATE on three databases, against the oracle: it is a delete of each row that its node has.

As :mod:`test_type_workloads`, on rows that were all written. A row that comes back is lost at the truncating node,
which says so; such rows are left out of the comparison.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from node_harness import cluster, settle
from test_merge_histories import KEYS, STEPS
from test_type_workloads import SCHEMA, TypeWorkload, joined

from tests.oracle import expected, row_rules_of, schema_of

TRUNCATES = 0.1
"""Share of the steps that are one."""

UNRIVALLED = 0.8
"""Share of them that are later than all that was written: under ``row=lww`` only later writes survive those."""


class TruncatingWorkload(TypeWorkload):
    async def step(self) -> None:
        if self.random.random() >= TRUNCATES:
            await super().step()
            return
        node = self.random.choice(self.nodes)
        if self.random.random() < UNRIVALLED:
            node.state.hlc.observe(max(other.state.hlc.last for other in self.nodes))
        rows = {key: row for key in KEYS if (row := await self.row(node, key)) is not None}
        seen = self.seen(node)
        await node.sql("TRUNCATE doc")
        await node.captured()
        for key, row in rows.items():
            self.write_down(node, node.state.clock[node.id], "delete", key, row, {}, seen)

    async def check(self) -> None:
        await settle(self.nodes)
        schema = schema_of(self.nodes[0].table("doc"))
        columns = schema["public.doc"]
        columns["cart"] = replace(columns["cart"], function=joined)
        want = expected(self.operations, schema, {}, row_rules_of(self.nodes[0].table("doc")))["public.doc"]
        apart = {int(json.loads(row["row_key"])["id"]) for node in self.nodes for row in await node.quarantine()}
        for node in self.nodes:
            got = {key: row for key in KEYS if (row := await self.row(node, key)) is not None}
            for key in set(KEYS) - apart:
                assert got.get(key) == want.get(key), f"node {node.id}, row {key}"


@pytest.mark.parametrize("rule", ["lww", "add_wins", "remove_wins"])
@pytest.mark.parametrize("seed", range(4))
async def test_random_histories_end_as_the_oracle_says(postgres_server: Any, rule: str, seed: int) -> None:
    schema = f"{SCHEMA[: SCHEMA.index('INSERT INTO doc')]}COMMENT ON TABLE doc IS '@crdt(row={rule})';"
    async with cluster(postgres_server, 3, schema) as nodes:
        workload = TruncatingWorkload(nodes, seed)
        for _ in range(STEPS):
            await workload.step()
        await workload.check()
