"""Counters through capture and merge on real databases, against hand-computed cases."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from node_harness import HarnessNode, cluster, converged

from sidecar.errors import TransientError

SCHEMA = """
CREATE TABLE stock (
    id int PRIMARY KEY, name text, amount int NOT NULL DEFAULT 0, small smallint, views bigint NOT NULL DEFAULT 0,
    price numeric(5,2), ratio numeric
);
COMMENT ON COLUMN stock.amount IS '@crdt(pn_counter)';
COMMENT ON COLUMN stock.small IS '@crdt(pn_counter)';
COMMENT ON COLUMN stock.views IS '@crdt(g_counter)';
COMMENT ON COLUMN stock.price IS '@crdt(pn_counter)';
COMMENT ON COLUMN stock.ratio IS '@crdt(pn_counter)';
INSERT INTO stock VALUES (1, 'genesis', 100, 32000, 10, 990.00, 0.5);
INSERT INTO stock VALUES (2, 'nulls', 0, NULL, 0, NULL, NULL);
INSERT INTO stock VALUES (4, 'zeros', 2, NULL, 0, NULL, 0.500);
"""
FUTURE = 4_102_444_800_000 << 16


@pytest.fixture
async def nodes(postgres_server) -> AsyncIterator[list[HarnessNode]]:  # type: ignore[no-untyped-def]
    async with cluster(postgres_server, 3, SCHEMA) as nodes:
        yield nodes


async def write(node: HarnessNode, *statements: str) -> None:
    """Each statement is a transaction, and a change set, of its own."""
    for statement in statements:
        await node.sql(statement)
        await node.captured()


async def shown(nodes: list[HarnessNode], columns: str, key: int = 1) -> tuple:  # type: ignore[type-arg]
    """The values on which all nodes agree."""
    await converged(nodes, "stock")
    rows = await nodes[0].rows(f"SELECT {columns} FROM stock WHERE id = {key}")
    return rows[0] if rows else ()


@pytest.mark.parametrize("locked", [False, True])
async def test_a_change_set_that_comes_again_counts_once(nodes: list[HarnessNode], locked: bool) -> None:
    """The commit's answer was lost, or the link repeats itself: the clock in the database refuses it (invariant 2)."""
    a, b, _ = nodes
    await write(a, "UPDATE stock SET amount = amount + 5 WHERE id = 1")
    (change_set,) = await a.sets()
    await b.merge(change_set)
    merge = b.merger.merge_locked if locked else b.merger.merge
    with pytest.raises(TransientError, match="does not follow its clock"):
        await merge([b.opened(change_set)], b.observe)
    assert await shown(nodes, "amount") == (105,)


async def test_deltas_add_up_from_genesis(nodes: list[HarnessNode]) -> None:
    a, b, c = nodes
    await write(a, "UPDATE stock SET amount = amount + 5 WHERE id = 1")
    await write(b, "UPDATE stock SET amount = amount - 30, ratio = ratio + 0.25 WHERE id = 1")
    await write(c, "UPDATE stock SET amount = 200 WHERE id = 1")
    assert await shown(nodes, "amount, ratio::text") == (175, "0.75")
    assert [await n.conflicts() for n in nodes] == [[], [], []]


async def test_increments_to_a_row_inserted_elsewhere(nodes: list[HarnessNode]) -> None:
    a, b, _ = nodes
    await write(a, "INSERT INTO stock (id, amount, views) VALUES (3, 7, 1)")
    await b.merge_from(a)
    await write(b, "UPDATE stock SET amount = amount + 1, views = views + 1 WHERE id = 3")
    await write(a, "UPDATE stock SET amount = amount + 2, views = views + 2 WHERE id = 3")
    assert await shown(nodes, "amount, views", 3) == (10, 4)


async def test_a_key_inserted_on_two_nodes_adds_both_values(nodes: list[HarnessNode]) -> None:
    """No delete has seen either, so both inserted values are increments."""
    a, b, _ = nodes
    await write(a, "INSERT INTO stock (id, amount) VALUES (3, 7)")
    await write(b, "INSERT INTO stock (id, amount) VALUES (3, 4)")
    assert await shown(nodes, "amount", 3) == (11,)


async def test_a_sum_beyond_the_type_saturates_and_comes_back(nodes: list[HarnessNode]) -> None:
    a, b, _ = nodes
    await write(a, "UPDATE stock SET small = small + 700, price = price + 9.99 WHERE id = 1")
    await write(b, "UPDATE stock SET small = small + 600, price = price + 8 WHERE id = 1")
    assert await shown(nodes, "small, price::text") == (32767, "999.99")
    excess = []
    for node in nodes:
        spec = node.table("stock")
        n = {c.name: c.attnum for c in spec.columns}
        excess += await node.rows(
            f"SELECT x_{n['small']}::text, x_{n['price']}::text FROM crdt_state.row_{spec.table_id} WHERE k_1 = 1"
        )
    assert excess == [("533", "8.00")] * 3, "the true sum is kept"
    await write(b, "UPDATE stock SET small = small - 1000, price = price - 10 WHERE id = 1")
    assert await shown(nodes, "small, price::text") == (32300, "997.99")


@pytest.mark.parametrize("writers", [2, 3])
async def test_the_record_of_a_sum_that_saturates_is_the_same_on_every_node(
    nodes: list[HarnessNode], writers: int
) -> None:
    """Another write is the last to come on each node; the sum that cannot be shown is the same."""
    for number, node in enumerate(nodes[:writers]):
        await write(node, f"UPDATE stock SET small = small + {700 + number} WHERE id = 1")
    assert await shown(nodes, "small") == (32767,)
    total = 32000 + sum(700 + number for number in range(writers))
    query = f"""SELECT id::text, winner_node, winner_hlc, winner_value, winner_vector, loser_node, loser_hlc,
                       loser_value, loser_vector
                FROM crdt_state.conflict WHERE kind = 'saturated' AND loser_value = '{total}'"""
    records = [await node.rows(query) for node in nodes]
    assert [len(found) for found in records] == [1, 1, 1]
    assert records[0] == records[1] == records[2]


async def test_a_saturated_counter_goes_on_from_the_true_sum_when_written_locally(nodes: list[HarnessNode]) -> None:
    a, b, _ = nodes
    await write(a, "UPDATE stock SET small = 32767 WHERE id = 1")
    await write(b, "UPDATE stock SET small = 32767 WHERE id = 1")
    assert await shown(nodes, "small") == (32767,)
    # The true sum is 33534; one less is still beyond the type, so the local row goes back to the limit.
    await write(a, "UPDATE stock SET small = small - 1 WHERE id = 1")
    await a.rewrite()
    assert await a.value("SELECT small FROM stock WHERE id = 1") == 32767
    assert await shown(nodes, "small") == (32767,)


async def test_a_decrease_of_a_grow_only_counter_is_undone_locally(nodes: list[HarnessNode]) -> None:
    a, b, _ = nodes
    await write(a, "UPDATE stock SET views = 3, name = 'a' WHERE id = 1")
    assert await a.value("SELECT count(*) FROM crdt_state.rewrite") == 1
    await write(b, "UPDATE stock SET views = views + 1 WHERE id = 1")
    assert await shown(nodes, "views, name") == (11, "a")


async def test_increases_after_an_undone_decrease_count(nodes: list[HarnessNode]) -> None:
    a, _, _ = nodes
    await write(a, "UPDATE stock SET views = 3 WHERE id = 1", "UPDATE stock SET views = views + 4 WHERE id = 1")
    assert await shown(nodes, "views") == (14,)


async def test_null_counts_as_zero_once_it_is_written(nodes: list[HarnessNode]) -> None:
    a, b, _ = nodes
    await write(a, "UPDATE stock SET small = 5 WHERE id = 2")
    await write(b, "UPDATE stock SET small = 6 WHERE id = 2")
    assert await shown(nodes, "small", 2) == (11,)


async def test_a_null_of_genesis_stays_while_nobody_writes_it(nodes: list[HarnessNode]) -> None:
    """All nodes hold it; a merge of other columns must not turn it into 0 on some of them."""
    a, b, _ = nodes
    await write(a, "UPDATE stock SET name = 'a' WHERE id = 2")
    await write(b, "UPDATE stock SET amount = 5 WHERE id = 2")
    assert await shown(nodes, "name, amount, small, price", 2) == ("a", 5, None, None)


async def test_a_null_written_to_a_counter_is_its_sum(nodes: list[HarnessNode]) -> None:
    a, b, _ = nodes
    await write(a, "UPDATE stock SET small = NULL WHERE id = 1")
    await write(b, "UPDATE stock SET small = small + 3 WHERE id = 1")
    assert await shown(nodes, "small") == (3,)


async def test_a_null_written_over_zero_is_zero(nodes: list[HarnessNode]) -> None:
    a, b, _ = nodes
    await write(a, "UPDATE stock SET small = 5 WHERE id = 2")
    await converged(nodes, "stock")
    await write(b, "UPDATE stock SET small = small - 5 WHERE id = 2", "UPDATE stock SET small = NULL WHERE id = 2")
    assert await shown(nodes, "small", 2) == (0,)


async def test_a_null_inserted_into_a_counter_is_zero(nodes: list[HarnessNode]) -> None:
    a, b, _ = nodes
    await write(a, "INSERT INTO stock (id, small) VALUES (3, NULL)")
    assert await shown(nodes, "small, price", 3) == (0, 0)
    await write(b, "UPDATE stock SET small = small + 3 WHERE id = 3")
    assert await shown(nodes, "small", 3) == (3,)


async def test_zeros_behind_the_point_are_the_same_everywhere(nodes: list[HarnessNode]) -> None:
    """The scale of a sum depends on the order of the deltas; equal tables are equal bytes."""
    a, b, c = nodes
    await write(a, "UPDATE stock SET ratio = 1.500 WHERE id = 1", "INSERT INTO stock (id, ratio) VALUES (3, 2.00)")
    await write(b, "UPDATE stock SET ratio = 0.75 WHERE id = 1")
    await write(c, "UPDATE stock SET ratio = 2 WHERE id = 1")
    assert await shown(nodes, "ratio::text") == ("3.25",)
    await write(c, "UPDATE stock SET ratio = 4 WHERE id = 1")
    assert await shown(nodes, "ratio::text") == ("4",)
    assert await shown(nodes, "ratio::text", 3) == ("2",)


async def test_a_genesis_number_keeps_its_zeros_while_nobody_writes_it(nodes: list[HarnessNode]) -> None:
    a, b, _ = nodes
    await write(a, "UPDATE stock SET name = 'a' WHERE id = 4")
    await write(b, "DELETE FROM stock WHERE id = 4")
    a.state.hlc.last = FUTURE
    await write(a, "UPDATE stock SET amount = amount + 1 WHERE id = 4")
    assert await shown(nodes, "name, amount, ratio::text, small", 4) == ("a", 3, "0.500", None)


async def test_a_reinsert_shows_its_value_and_what_its_delete_had_not_seen(nodes: list[HarnessNode]) -> None:
    """Genesis holds 100; node 2 adds 5, which the delete has seen; node 3 adds 40, which it has not."""
    a, b, c = nodes
    await write(b, "UPDATE stock SET amount = amount + 5 WHERE id = 1")
    await a.merge_from(b)
    await write(c, "UPDATE stock SET amount = amount + 40 WHERE id = 1")
    await write(a, "DELETE FROM stock WHERE id = 1")
    await write(a, "INSERT INTO stock (id, amount) VALUES (1, 1)")
    assert await shown(nodes, "amount") == (41,)
    await write(b, "UPDATE stock SET amount = amount + 2 WHERE id = 1")
    assert await shown(nodes, "amount") == (43,)


async def test_a_delete_and_reinsert_in_one_transaction(nodes: list[HarnessNode]) -> None:
    a, b, _ = nodes
    await write(b, "UPDATE stock SET amount = amount + 40 WHERE id = 1")
    async with a.app.transaction():
        await a.sql("DELETE FROM stock WHERE id = 1")
        await a.sql("INSERT INTO stock (id, amount) VALUES (1, 3)")
    await a.captured()
    assert await shown(nodes, "amount") == (43,)


async def test_a_revived_row_keeps_its_counters(nodes: list[HarnessNode]) -> None:
    a, b, _ = nodes
    await write(a, "DELETE FROM stock WHERE id = 1")
    b.state.hlc.last = FUTURE
    await write(b, "UPDATE stock SET amount = amount + 40 WHERE id = 1")
    assert await shown(nodes, "amount, small, views, price::text, ratio::text") == (140, 32000, 10, "990.00", "0.5")


async def test_increments_of_a_dead_row_are_there_when_it_revives(nodes: list[HarnessNode]) -> None:
    a, b, c = nodes
    await write(b, "UPDATE stock SET amount = amount + 1, small = small + 767 WHERE id = 1")
    a.state.hlc.last = FUTURE
    await write(a, "DELETE FROM stock WHERE id = 1")
    c.state.hlc.last = FUTURE + 10
    await write(c, "UPDATE stock SET amount = amount + 10, small = small + 1 WHERE id = 1")
    await c.merge_from(b)
    assert await shown(nodes, "amount, small") == (111, 32767)
    await write(a, "UPDATE stock SET small = small - 100 WHERE id = 1")
    assert await shown(nodes, "small") == (32668,)


async def in_one_change_set(node: HarnessNode, *statements: str) -> None:
    """Each statement is a transaction, and all are captured together."""
    node.hold_capture()
    for statement in statements:
        await node.sql(statement)
    await node.release_capture()


async def test_a_decrease_and_an_increase_in_one_change_set(nodes: list[HarnessNode]) -> None:
    """Whether transactions are coalesced must not change what a grow-only counter counts."""
    increase, decrease = (f"UPDATE stock SET views = views {by} WHERE id = 1" for by in ("+ 5", "- 3"))
    await in_one_change_set(nodes[0], increase, decrease)
    assert await shown(nodes, "views") == (15,)


async def test_an_insert_below_nothing_and_an_increase_in_one_change_set(nodes: list[HarnessNode]) -> None:
    """What the insert takes away is undone, so it is not set off against what comes after: shown was 1 for 3."""
    insert, increase = "INSERT INTO stock (id, views) VALUES (3, -2)", "UPDATE stock SET views = views + 3 WHERE id = 3"
    await in_one_change_set(nodes[0], insert, increase)
    assert await shown(nodes, "views", 3) == (3,)
