"""Plans as the sidecar's own sessions make them: key indexes and tuple ids, never a scan of a whole table."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from typing import Any

import pytest
from node_harness import HarnessNode, cluster

from sidecar.core.merge import apply, capture, clean
from sidecar.core.merge.staging import Shape, Statement, full_shape
from sidecar.postgres.session import Session

ROWS = 50_000
SCHEMA = f"""
CREATE TABLE doc (
    region text, id int, title text, body text, hits int NOT NULL DEFAULT 0, tags text[], best text,
    PRIMARY KEY (id, region)
);
COMMENT ON COLUMN doc.hits IS '@crdt(pn_counter)';
COMMENT ON COLUMN doc.tags IS '@crdt(or_set)';
COMMENT ON COLUMN doc.best IS '@crdt(max_register)';
INSERT INTO doc SELECT 'eu', i, 't', 'b', 0 FROM generate_series(1, {ROWS}) AS i;
ANALYZE doc;
"""
SCANS = {"Seq Scan", "Bitmap Heap Scan", "Hash Join", "Merge Join"}


@pytest.fixture
async def empty_node(postgres_server) -> AsyncIterator[HarnessNode]:  # type: ignore[no-untyped-def]
    """Tables that were analysed while they were empty, so the planner takes reading all of one for as cheap as a look
    at its index. The first rows of an application come in like this, thousands in a batch."""
    schema = "".join(line for line in SCHEMA.splitlines(keepends=True) if not line.startswith("INSERT"))
    async with cluster(postgres_server, 1, schema) as [node]:
        await node.sql("ANALYZE")
        yield node


@pytest.fixture
async def node(postgres_server) -> AsyncIterator[HarnessNode]:  # type: ignore[no-untyped-def]
    async with cluster(postgres_server, 1, SCHEMA) as [node]:
        spec = node.table("doc")
        keys = ", ".join(f"k_{c.attnum}" for c in spec.key)
        await node.sql(
            f"INSERT INTO crdt_state.row_{spec.table_id} ({keys}, row_node, row_hlc, live_node, live_hlc, row_xmin)"
            " SELECT id, region, 1, 1, 1, 1, xmin FROM doc"
        )
        await node.sql(f"ANALYZE crdt_state.row_{spec.table_id}")
        yield node


async def plan_nodes(session: Session, statement: Statement) -> list[dict[str, Any]]:
    """All nodes of the generic plan, as the session prepares it."""
    kinds = dict(re.findall(r"\$(\d+)::(\w+(?:\[\])?)", statement.sql))
    types = ", ".join(kinds[str(i)] for i in range(1, len(statement.names) + 1))
    nulls = ", ".join(["NULL"] * len(statement.names))
    connection = session.connection
    await connection.execute(f"PREPARE planned ({types}) AS {statement.sql}")
    try:
        text = await connection.fetchval(f"EXPLAIN (FORMAT JSON) EXECUTE planned ({nulls})")
    finally:
        await connection.execute("DEALLOCATE planned")
    plan = json.loads(text)[0]["Plan"]
    return [plan, *nodes_below(plan)]


def nodes_below(plan: dict[str, Any]) -> list[dict[str, Any]]:
    """All nodes of a plan but its root."""
    return [node for child in plan.get("Plans", []) for node in (child, *nodes_below(child))]


def statements(node: HarnessNode) -> dict[str, Statement]:
    spec = node.table("doc")
    full = full_shape(spec)
    narrow = Shape(tuple(c for c in spec.columns if c.name in ("title", "hits", "tags", "best")), 1, full=False)
    return {
        "merge": apply.merge_statement(spec, full),
        "merge narrow": apply.merge_statement(spec, narrow),
        "merge reinsert": apply.merge_statement(spec, full_shape(spec, reinsert=True)),
        "seen": apply.seen_statement(spec, full),
        "check": clean.check_statement(spec),
        "lock": clean.lock_statement(spec),
        "restamp": clean.restamp_statement(spec),
        "capture": capture.capture_statement(spec, full),
        "capture narrow": capture.capture_statement(spec, narrow),
        "deltas": capture.deltas_statement(spec, full),
        "genesis": capture.genesis_statement(spec, full),
        "capture seen": capture.seen_query(spec, full),
        "base": capture.base_statement(spec, full),
    }


def assert_no_scans(node: HarnessNode, name: str, plans: list[dict[str, Any]]) -> None:
    spec = node.table("doc")
    tables = {"doc", f"row_{spec.table_id}", f"counter_{spec.table_id}"}
    for plan in plans:
        if plan.get("Relation Name") in tables and plan["Node Type"] not in ("ModifyTable",):
            assert plan["Node Type"] in ("Index Scan", "Index Only Scan", "Tid Scan"), (name, plan)
            if plan["Node Type"] != "Tid Scan":
                # Both key columns are in the condition, or one of the state tables is looked up by its whole key.
                assert plan.get("Index Cond", "").count("=") >= len(spec.key), (name, plan)
        assert plan["Node Type"] not in SCANS, (name, plan)


async def test_no_statement_scans_a_table_or_hashes_it(node: HarnessNode) -> None:
    for name, statement in statements(node).items():
        assert_no_scans(node, name, await plan_nodes(node.merge_session, statement))


@pytest.mark.parametrize("name", ["merge", "merge narrow", "merge reinsert", "check", "lock", "restamp"])
async def test_no_statement_scans_a_table_that_was_analysed_empty(empty_node: HarnessNode, name: str) -> None:
    assert_no_scans(empty_node, name, await plan_nodes(empty_node.merge_session, statements(empty_node)[name]))


@pytest.mark.parametrize("shape", ["merge", "merge narrow"])
async def test_user_rows_are_written_by_tuple_id(node: HarnessNode, shape: str) -> None:
    plans = await plan_nodes(node.merge_session, statements(node)[shape])
    writes = [p for p in plans if p["Node Type"] == "ModifyTable" and p["Relation Name"] == "doc"]
    assert sorted(write["Operation"] for write in writes) == ["Delete", "Insert", "Update"]
    for write in writes:
        scans = [p for p in nodes_below(write) if p.get("Relation Name") == "doc"]
        assert len(scans) == (write["Operation"] != "Insert")
        for scan in scans:
            assert scan["Node Type"] == "Tid Scan"
            assert "xmin = p" in scan["Filter"]
            assert "ctid = p" in scan["TID Cond"]
