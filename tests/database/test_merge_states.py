"""State merges: diverged nodes, all types, either order, twice; every merge vector by states in place of changes."""

from __future__ import annotations

from typing import Any

import pytest
from node_harness import HarnessNode, cluster, settle
from state_exchange import merge_states
from test_database_vectors import concurrently, expected, of_nodes, run, shown, siblings

from tests.merge_vectors.placed import PLACED, initial_rows, schema_sql


async def xmins(node: HarnessNode) -> dict[str, list[Any]]:
    """Each user row's place and xmin: what a merge that changes nothing leaves alone."""
    return {t.name: await node.rows(f"SELECT ctid, xmin FROM {t.name} ORDER BY 1") for t in node.state.tables.values()}


async def wrong_values(nodes: list[HarnessNode]) -> list[Any]:
    wrong = []
    for place in PLACED:
        wanted = await expected(nodes[0], place.vector)
        for node in nodes:
            got = await shown(node, place)
            several = [v if v is None else str(v) for v in place.vector.siblings or ()]
            kept = await siblings(node, place) if several else []
            if got != wanted or kept != several:
                wrong.append((str(place.vector), node.id, got, wanted, kept))
    return wrong


@pytest.mark.parametrize("first", [2, 3])
@pytest.mark.parametrize("as_genesis", [True, False], ids=["genesis", "inserted"])
async def test_all_vectors_by_state(postgres_server, as_genesis: bool, first: int) -> None:  # type: ignore[no-untyped-def]
    """Node 1, which wrote nothing concurrently, merges the states of 2 and 3 in the order of ``first``, then both merge
    its; everybody merges the same again, and nothing is written."""
    async with cluster(postgres_server, 3, schema_sql(as_genesis=as_genesis)) as nodes:
        a, b, c = nodes
        if not as_genesis:
            await run(a, [initial_rows()])
        await run(a, [p.statements(t) for p in PLACED for t in p.vector.at_a])
        await settle(nodes)
        await concurrently(b, c, of_nodes([p for p in PLACED if p.vector.later == "C"]))
        await concurrently(c, b, of_nodes([p for p in PLACED if p.vector.later == "B"]))
        for node in (b, c):
            await node.rewrite()
        order = sorted((b, c), key=lambda node: node.id != first)
        for other in order:
            await merge_states(a, other)
        before = await xmins(a)
        for other in order:
            again = await merge_states(a, other)
            assert (again.inserted, again.updated, again.deleted) == (0, 0, 0)
        assert await xmins(a) == before
        for other in order:
            await merge_states(other, a)
        await settle(nodes)
        await run(a, [p.statements(t) for p in PLACED for t in p.vector.after])
        await settle(nodes)
        assert await wrong_values(nodes) == []
