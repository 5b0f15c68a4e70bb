"""What capture makes of local writes to sets, maps and registers that keep siblings: row states, what is shipped, which
rows are queued for a rewrite."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
from node_harness import HarnessNode, cluster, converged

from sidecar.core.elements import array_elements

SCHEMA = """
CREATE TABLE items (
    id int PRIMARY KEY, tags text[], flags bool[], grown int[], whole text[], stamps numeric[], attrs jsonb,
    marks jsonb, choice text
);
COMMENT ON COLUMN items.tags IS '@crdt(or_set)';
COMMENT ON COLUMN items.flags IS '@crdt(or_set)';
COMMENT ON COLUMN items.grown IS '@crdt(g_set)';
COMMENT ON COLUMN items.whole IS '@crdt(aw_set)';
COMMENT ON COLUMN items.stamps IS '@crdt(lww_set)';
COMMENT ON COLUMN items.attrs IS '@crdt(lww_map)';
COMMENT ON COLUMN items.marks IS '@crdt(or_set)';
COMMENT ON COLUMN items.choice IS '@crdt(mv_register)';
INSERT INTO items VALUES (1, '{b,a}', '{t,f}', '{10,9}', '{x}', '{1.0,2}', '{"k": 1.00, "n": null}', '[2, "b"]', 'g');
"""


@pytest.fixture
async def node(postgres_server) -> AsyncIterator[HarnessNode]:  # type: ignore[no-untyped-def]
    async with cluster(postgres_server, 1, SCHEMA) as (node,):
        yield node


async def write(node: HarnessNode, *statements: str) -> None:
    """Each statement is a transaction, and a change set, of its own."""
    for statement in statements:
        await node.sql(statement)
        await node.captured()


async def state(node: HarnessNode, column: str, key: int = 1) -> tuple[Any, bool | None]:
    """``(e_, z_)`` of a row, hlcs replaced: 0 stays, the others become their rank from 1."""
    spec = node.table("items")
    n = next(c.attnum for c in spec.columns if c.name == column)
    ((elements, nulled),) = await node.rows(
        f"SELECT e_{n}, z_{n} FROM crdt_state.row_{spec.table_id} WHERE k_1 = {key}"
    )
    decoded = json.loads(elements) if elements is not None else None
    hlcs = sorted({hlc for hlc in _hlcs(decoded) if hlc})
    return _ranked(decoded, {0: 0} | {hlc: rank for rank, hlc in enumerate(hlcs, 1)}), nulled


def _hlcs(value: Any) -> list[int]:
    if isinstance(value, dict):
        return [hlc for member in value.values() for hlc in _hlcs(member)]
    if isinstance(value, list):
        return [value[0]]
    return [value] if isinstance(value, int) else []


def _ranked(value: Any, ranks: dict[int, int]) -> Any:
    if isinstance(value, dict):
        return {key: _ranked(member, ranks) for key, member in value.items()}
    if isinstance(value, list):
        return [ranks[value[0]], *value[1:]]
    return ranks[value] if isinstance(value, int) else value


async def shipped(node: HarnessNode, column: str) -> list[dict[str, Any]]:
    """The changes of a column in the journal, in order, with the names of their members only."""
    out = []
    for change_set in await node.sets():
        for table in change_set.tables():
            if column in table.columns and (literal := table.values[table.columns.index(column)]):
                out += [json.loads(text) for text in array_elements(literal.decode()) if text is not None]
    return out


async def queued(node: HarnessNode) -> set[int]:
    return {int(key[0]) for (key,) in await node.rows("SELECT row_key FROM crdt_state.rewrite")}


async def test_an_update_touches_its_elements_only(node: HarnessNode) -> None:
    await write(node, "UPDATE items SET tags = '{b,a,c}' WHERE id = 1")
    assert await state(node, "tags") == ({"a": {"0": 0}, "b": {"0": 0}, "c": {"1": 1}}, False)
    assert await state(node, "flags") == (None, None)
    await write(node, "UPDATE items SET tags = '{c,b}' WHERE id = 1")
    assert await state(node, "tags") == ({"b": {"0": 0}, "c": {"1": 1}}, False)
    await write(node, "UPDATE items SET tags = NULL WHERE id = 1")
    assert await state(node, "tags") == ({}, True)
    first, second, third = await shipped(node, "tags")
    assert (set(first), set(second), set(third)) == ({"add"}, {"del"}, {"del", "null"})


async def test_elements_of_genesis_have_the_text_of_the_array(node: HarnessNode) -> None:
    """``bool[]::text[]`` would write ``true``."""
    await write(node, "UPDATE items SET flags = '{t}' WHERE id = 1")
    assert await state(node, "flags") == ({"t": {"0": 0}}, False)


async def test_a_row_in_another_order_is_queued(node: HarnessNode) -> None:
    """Genesis elements are in the order of their text, whatever the order in the row was."""
    await write(node, "UPDATE items SET choice = 'x' WHERE id = 1")
    assert await queued(node) == set()
    await write(node, "UPDATE items SET tags = '{b,a,c}' WHERE id = 1")
    assert await queued(node) == {1}
    await write(node, "INSERT INTO items (id, tags, grown) VALUES (2, '{a,b}', '{9,10}')")
    assert await queued(node) == {1}
    await write(node, "INSERT INTO items (id, tags) VALUES (3, '{a,a,NULL}'), (4, '{}'), (5, '[0:0]={a}')")
    assert await queued(node) == {1, 3, 5}


async def test_a_removal_from_a_growing_set_is_undone_and_recorded(node: HarnessNode) -> None:
    await write(node, "UPDATE items SET grown = '{9,11}' WHERE id = 1")
    assert await state(node, "grown") == ({"9": {"0": 0}, "10": {"0": 0}, "11": {"1": 1}}, False)
    assert await queued(node) == {1}
    (record,) = await node.conflicts()
    assert (record["kind"], record["rule"], record["column_name"], record["element"]) == (
        "undone",
        "g_set",
        "grown",
        "10",
    )
    assert (record["winner_node"], record["winner_value"]) == (0, "10")
    assert (record["loser_node"], record["loser_value"]) == (1, None)


async def test_every_write_of_an_add_wins_set_adds_all_anew(node: HarnessNode) -> None:
    await write(
        node, "INSERT INTO items (id, whole) VALUES (2, '{x,y}')", "UPDATE items SET whole = '{x}' WHERE id = 2"
    )
    assert await state(node, "whole", 2) == ({"x": {"1": 1}}, False)
    first, second = await shipped(node, "whole")
    assert second["full"] > first["full"]


async def test_stamps_stay_when_elements_go(node: HarnessNode) -> None:
    await write(node, "UPDATE items SET stamps = '{1.0,3}', attrs = '{\"k\": 1.0}' WHERE id = 1")
    assert (await state(node, "stamps"))[0] == {"1.0": [0, 0, True], "2": [1, 1, False], "3": [1, 1, True]}
    assert (await state(node, "attrs"))[0] == {"k": [1, 1, 1.0], "n": [1, 1]}


async def test_a_new_row_after_a_captured_delete_names_what_the_tombstone_held(node: HarnessNode) -> None:
    await write(node, "DELETE FROM items WHERE id = 1")
    await write(node, "INSERT INTO items (id, tags, stamps, attrs) VALUES (1, '{a}', '{3}', '{\"n\": 2}')")
    assert (await state(node, "stamps"))[0] == {"1.0": [1, 1, False], "2": [1, 1, False], "3": [1, 1, True]}
    assert (await state(node, "attrs"))[0] == {"k": [1, 1], "n": [1, 1, 2]}
    assert (await state(node, "tags"))[0] == {"a": {"1": 1}}
    (stamps,), (tags,), (attrs,) = [await shipped(node, name) for name in ("stamps", "tags", "attrs")]
    assert (set(stamps["add"]), set(stamps["del"]), set(attrs["del"])) == ({"3"}, {"1.0", "2"}, {"k"})
    assert set(stamps["del"].values()) == {stamps["full"]}
    assert set(tags) == {"full", "add"}


async def test_a_row_deleted_and_inserted_in_one_batch(node: HarnessNode) -> None:
    node.hold_capture()
    await node.sql("UPDATE items SET stamps = '{1.0,5}' WHERE id = 1")
    await node.sql("DELETE FROM items WHERE id = 1")
    await node.sql("INSERT INTO items (id, stamps, tags) VALUES (1, '{7}', '{z}')")
    await node.release_capture()
    await node.captured()
    stamps, _ = await state(node, "stamps")
    assert stamps == {"1.0": [2, 1, False], "2": [1, 1, False], "5": [2, 1, False], "7": [2, 1, True]}
    assert (await state(node, "tags"))[0] == {"z": {"1": 1}}


async def test_a_deleted_row_keeps_its_elements(node: HarnessNode) -> None:
    await write(node, "UPDATE items SET tags = '{a,c}' WHERE id = 1", "DELETE FROM items WHERE id = 1")
    assert (await state(node, "tags"))[0] == {"a": {"0": 0}, "c": {"1": 1}}
    node.hold_capture()
    await node.sql("INSERT INTO items (id, tags, stamps) VALUES (6, '{a}', '{1}')")
    await node.sql("UPDATE items SET tags = '{b}' WHERE id = 6")
    await node.sql("DELETE FROM items WHERE id = 6")
    await node.release_capture()
    await node.captured()
    assert (await state(node, "tags", 6))[0] == {"b": {"1": 1}}
    assert (await state(node, "stamps", 6))[0] == {"1": [1, 1, True]}


async def test_a_value_that_is_no_array_or_object_counts_as_empty(node: HarnessNode) -> None:
    await write(node, "UPDATE items SET marks = '{\"a\": 1}', attrs = '3' WHERE id = 1")
    assert (await state(node, "marks"))[0] == {}
    assert (await state(node, "attrs"))[0] == {"k": [1, 1], "n": [1, 1]}
    assert await queued(node) == {1}
    records = {r["column_name"]: r for r in await node.conflicts()}
    assert {name: (r["kind"], r["loser_value"], r["winner_value"]) for name, r in records.items()} == {
        "marks": ("undone", '{"a": 1}', "[]"),
        "attrs": ("undone", "3", "{}"),
    }


async def test_a_local_write_supersedes_all_siblings(node: HarnessNode) -> None:
    spec = node.table("items")
    n = next(c.attnum for c in spec.columns if c.name == "choice")
    await write(node, "UPDATE items SET choice = 'x' WHERE id = 1")
    siblings = f'UPDATE crdt_state.row_{spec.table_id} SET sib_{n} = \'[[2, 5, "p"], [1, 4, "x"]]\''
    await node.sql(siblings)
    await write(node, "UPDATE items SET tags = '{}' WHERE id = 1")
    assert await node.value(f"SELECT sib_{n} IS NOT NULL FROM crdt_state.row_{spec.table_id}")
    await write(node, "UPDATE items SET choice = 'y' WHERE id = 1")
    assert await node.value(f"SELECT sib_{n} IS NULL FROM crdt_state.row_{spec.table_id}")
    await node.sql(siblings)
    await write(node, "DELETE FROM items WHERE id = 1", "INSERT INTO items (id) VALUES (1)")
    assert await node.value(f"SELECT sib_{n} IS NULL FROM crdt_state.row_{spec.table_id}")


async def test_rows_of_a_locked_table_are_queued_unseen(node: HarnessNode) -> None:
    """Capture waits for nobody's lock, so only the rewrite can tell whether the row shows what it should."""
    node.hold_capture()
    await node.sql("UPDATE items SET tags = '{c,a}' WHERE id = 1")
    await node.sql("UPDATE items SET flags = '{f,t,t}' WHERE id = 1")
    async with node.app.transaction():
        await node.sql("LOCK TABLE items IN ACCESS EXCLUSIVE MODE")
        await node.release_capture()
        await node.progress.captured(await node.log_end(), 10)
        assert await queued(node) == {1}
    await node.rewrite()
    assert await node.rows("SELECT tags, flags::text FROM items WHERE id = 1") == [(["a", "c"], "{f,t}")]


@pytest.mark.parametrize(("kind", "head", "tail"), [("or_set", "[", "]"), ("lww_map", '{"k": ', "}")])
async def test_the_deepest_document_that_a_session_can_store_is_captured(
    postgres_server,  # type: ignore[no-untyped-def]
    kind: str,
    head: str,
    tail: str,
) -> None:
    schema = f"CREATE TABLE deep (id int PRIMARY KEY, x jsonb); COMMENT ON COLUMN deep.x IS '@crdt({kind})';"
    async with cluster(postgres_server, 2, schema + "INSERT INTO deep VALUES (1)") as nodes:
        a = nodes[0]
        # What fits into the application's stack when it writes the row, found by halving.
        fits, too_deep = 1, 60_000
        while too_deep - fits > 20:
            depth = (fits + too_deep) // 2
            try:
                await a.app.execute("UPDATE deep SET x = $1::text::jsonb", head + "[" * depth + "]" * depth + tail)
            except asyncpg.StatementTooComplexError:
                too_deep = depth
            else:
                fits = depth
        await converged(nodes, "deep")
