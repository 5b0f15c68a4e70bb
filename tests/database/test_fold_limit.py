"""Merge functions that take too long: no merge waits for them for ever, and no other row is merged otherwise."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from hand_merge import HandNode, Row, Write, hand_node, table
from node_harness import cluster
from state_exchange import merge_states

from sidecar.postgres.fold_limit import SLOW_VALUES_MAX, SlowFunctionError
from sidecar.settings import LimitSettings, NodeSettings, Settings

SPEC = table(("cart", "text", "merge:public.joined"), ("title", "text", "lww_register"))
JOINED = """CREATE FUNCTION public.joined(winner text, other text) RETURNS text LANGUAGE plpgsql AS $$
    BEGIN
        PERFORM pg_sleep(CASE WHEN other LIKE 'hang%' THEN 3600 WHEN other LIKE 'slow%' THEN 0.15 ELSE 0 END);
        RETURN winner || '+' || other;
    END $$"""
LIMIT_MS = 300
TRIES_MAX = 3 * SLOW_VALUES_MAX


@pytest.fixture
async def node(postgres_server) -> AsyncIterator[HandNode]:  # type: ignore[no-untyped-def]
    async with hand_node(postgres_server, SPEC, JOINED, function_ms_max=LIMIT_MS) as node:
        yield node


async def concurrent(node: HandNode, **first: str) -> int:
    """Two writes to rows named ``r<id>``, the second one ``b``, together with one of another column; how many tries
    that took in vain."""
    keys = {int(name[1:]): value for name, value in first.items()}
    await node.app.execute("INSERT INTO t SELECT unnest($1::int[]), 'g', 'g'", list(keys))
    await node.merge(Write(1, 10, {}, tuple(Row(key, 10, {"cart": value}) for key, value in keys.items())))
    second = tuple(Row(key, 11, {"cart": "b", "title": "new"}) for key in keys)
    for tries in range(TRIES_MAX):
        try:
            await node.merge(Write(2, 11, {}, second))
        except SlowFunctionError:
            continue
        return tries
    raise AssertionError(f"not merged in {TRIES_MAX} tries")


async def test_a_function_that_never_returns_costs_its_row_the_function_and_no_other_row(node: HandNode) -> None:
    assert await concurrent(node, r1="a", r2="hang", r3="c") >= 1
    assert [await node.shown("cart", key) for key in (1, 2, 3)] == ["b+a", "b", "b+c"]
    assert await node.app.fetchval("SELECT count(*) FROM t WHERE title = 'new'") == 3
    notes = {r["row_key"]["id"]: r["note"] for r in await node.conflicts() if r["kind"] == "merge_failed"}
    assert notes == {"2": f"function public.joined ran longer than {LIMIT_MS} ms"}
    assert await node.app.fetchval("SELECT sib_2 FROM crdt_state.row_1 WHERE k_1 = 2") == [
        [2, 11, "b"],
        [1, 10, "hang"],
    ]


async def test_many_rows_that_take_long_together_are_all_merged(node: HandNode) -> None:
    tries = await concurrent(node, **{f"r{key}": f"slow{key}" for key in range(1, 11)})
    assert tries >= 1, "they take longer together than the first try allows"
    assert [await node.shown("cart", key) for key in range(1, 11)] == [f"b+slow{key}" for key in range(1, 11)]
    assert {r["kind"] for r in await node.conflicts()} == {"overwrite"}


async def test_a_function_that_is_always_too_slow_is_left_alone(node: HandNode) -> None:
    rows = {f"r{key}": f"hang{key}" for key in range(1, 3 * SLOW_VALUES_MAX)}
    assert SLOW_VALUES_MAX <= await concurrent(node, **rows) < len(rows)
    notes = [r["note"] for r in await node.conflicts() if r["kind"] == "merge_failed"]
    assert len(notes) == len(rows)
    assert set(notes) == {f"function public.joined ran longer than {LIMIT_MS} ms"}


async def test_an_interruption_by_somebody_else_leaves_nothing_out(node: HandNode) -> None:
    """Whoever cancels the merge's statement must not decide what a column shows."""
    await node.app.execute("INSERT INTO t VALUES (1, 'g', 'g')")
    await node.merge(Write(1, 10, {}, (Row(1, 10, {"cart": "a"}),)))
    cancelled = """CREATE FUNCTION public.at_once(winner text, other text) RETURNS text LANGUAGE plpgsql
        AS 'BEGIN PERFORM pg_cancel_backend(pg_backend_pid()); PERFORM pg_sleep(60); RETURN 1; END'"""
    await node.app.execute(f"ALTER FUNCTION public.joined RENAME TO kept; {cancelled}")
    await node.app.execute("ALTER FUNCTION public.at_once RENAME TO joined")
    with pytest.raises(SlowFunctionError, match="interrupted"):
        await node.merge(Write(2, 11, {}, (Row(1, 11, {"cart": "b"}),)))
    await node.app.execute("DROP FUNCTION public.joined; ALTER FUNCTION public.kept RENAME TO joined")
    await node.merge(Write(2, 11, {}, (Row(1, 11, {"cart": "b"}),)))
    assert await node.shown("cart") == "b+a"


async def test_the_merge_session_has_no_limit_afterwards(node: HandNode) -> None:
    await concurrent(node, r1="a")
    assert await node.merger.session.connection.fetchval("SHOW statement_timeout") == "0"


async def test_a_state_merge_does_not_wait_for_ever_either(postgres_server) -> None:  # type: ignore[no-untyped-def]
    schema = f"""{JOINED};
        CREATE TABLE t (id int PRIMARY KEY, cart text); COMMENT ON COLUMN t.cart IS '@crdt(merge(public.joined))';
        INSERT INTO t VALUES (1, 'g'), (2, 'g')"""
    async with cluster(postgres_server, 2, schema, limits={"merge_function_ms_max": LIMIT_MS}) as (a, b):
        await a.sql("UPDATE t SET cart = CASE id WHEN 1 THEN 'hang' ELSE 'a' END")
        await a.captured()
        b.state.hlc.observe(a.state.hlc.last)
        await b.sql("UPDATE t SET cart = 'b'")
        await b.captured()
        await merge_states(a, b)
        assert await a.copy("t") == ["(1,b)", "(2,b+a)"]


def test_the_default_is_far_above_a_function_that_computes() -> None:
    limits = Settings(node=NodeSettings(name="a", id=1, dsn="postgresql://localhost/a"), limits=LimitSettings()).limits
    assert limits.merge_function_ms_max == 2_000
