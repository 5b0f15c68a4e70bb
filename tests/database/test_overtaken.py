"""Local changes of a key that were over when a merge put a row there, and are captured after it.

Capture is held back while a row is inserted and deleted, or the table truncated; then the other node's insert of the
same key is merged. What is expected is told by the operations: the delete had not seen the other node's insert, so the
table's rule decides between the two; and what is written to the merged row has seen it.
"""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg
import pytest
from node_harness import DEADLINE_S, HarnessNode, cluster, converged, settle, wait_until

from sidecar.core.hlc import from_ms
from sidecar.errors import DirtyRowsError
from sidecar.postgres.merge import MergeResult
from sidecar.postgres.merge_batch import Batch
from sidecar.postgres.session import Session

RULES = ("lww", "add_wins", "remove_wins")


def schema(rule: str) -> str:
    return f"""
        CREATE TABLE doc (id int PRIMARY KEY, title text, hits int NOT NULL DEFAULT 0,
            tags text[] NOT NULL DEFAULT '{{}}', label text DEFAULT 'x', likes int NOT NULL DEFAULT 0);
        COMMENT ON TABLE doc IS '@crdt(row={rule})';
        COMMENT ON COLUMN doc.hits IS '@crdt(pn_counter)';
        COMMENT ON COLUMN doc.tags IS '@crdt(or_set)';
        COMMENT ON COLUMN doc.label IS '@crdt(mv_register)';
        COMMENT ON COLUMN doc.likes IS '@crdt(g_counter)';
    """


PAIR = ("INSERT INTO doc VALUES (1, 'a', 7, '{a}', 'la', 4)", "DELETE FROM doc WHERE id = 1")
OF_B = "INSERT INTO doc VALUES (1, 'b', 5, '{b}', 'lb', 3)"
ROW_OF_B = ("b", 5, ["b"], "lb", 3)

THEN: dict[str, tuple[tuple[str, ...], tuple[Any, ...] | None]] = {
    "nothing": ((), ROW_OF_B),
    "touch": (("UPDATE doc SET title = title",), ROW_OF_B),
    "register": (("UPDATE doc SET title = 'mine'",), ("mine", *ROW_OF_B[1:])),
    "all": (
        ("UPDATE doc SET title = 'mine', hits = hits + 2, tags = tags || '{c}', label = 'z', likes = likes + 1",),
        ("mine", 7, ["b", "c"], "z", 4),
    ),
    "delete": (("DELETE FROM doc",), None),
    "again": (("DELETE FROM doc", "INSERT INTO doc VALUES (1, 'n', 9, '{q}', 'lq', 8)"), ("n", 9, ["q"], "lq", 8)),
    "new key": (("UPDATE doc SET id = 2",), None),
}


async def content(node: HarnessNode, key: int = 1) -> tuple[Any, ...] | None:
    rows = await node.rows("SELECT title, hits, tags, label, likes FROM doc WHERE id = $1", key)
    return rows[0] if rows else None


async def kinds(node: HarnessNode) -> list[tuple[str | None, str]]:
    return [(record["column_name"], record["kind"]) for record in await node.conflicts()]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("then", THEN)
@pytest.mark.parametrize("before", ["never there", "tombstone", "truncate"])
async def test_what_was_over_before_a_merge_leaves_no_trace(  # type: ignore[no-untyped-def]
    postgres_server, rule: str, then: str, before: str
) -> None:
    """The delete gets its hlc after the merge, above that of the other node's insert; so it wins unless the rule is
    ``add_wins``, or the row is written here afterwards, which has seen both."""
    async with cluster(postgres_server, 2, schema(rule)) as nodes:
        a, b = nodes
        await a.sql("INSERT INTO doc VALUES (9, 'other')")
        if before == "tombstone":
            await a.sql("INSERT INTO doc VALUES (1, 'old', 100, '{old}', 'lold', 50)")
            await settle(nodes)
            await a.sql("DELETE FROM doc WHERE id = 1")
        await settle(nodes)
        a.hold_capture()
        for statement in ("TRUNCATE doc",) if before == "truncate" else PAIR:
            await a.sql(statement)
        await b.sql(OF_B)
        await b.captured()
        await a.try_merge((await b.sets())[-1])
        statements, expected = THEN[then]
        for statement in statements:
            await a.sql(statement.replace("FROM doc", "FROM doc WHERE id = 1") + _only_one(statement))
        await a.release_capture()
        await settle(nodes)
        if rule != "add_wins" and before != "truncate" and then in ("nothing", "touch"):
            expected = None
        assert [await content(node) for node in nodes] == [expected] * 2
        if then == "new key":
            assert [await content(node, 2) for node in nodes] == [ROW_OF_B] * 2
        assert [await content(node, 9) is None for node in nodes] == [before == "truncate"] * 2
        await converged(nodes, "doc")
        # And the row can be used as before.
        await b.sql("INSERT INTO doc VALUES (1, 'new', 1) ON CONFLICT (id) DO UPDATE SET hits = doc.hits + 1")
        await settle(nodes)
        hits = 1 if expected is None else expected[1] + 1
        assert [(await content(node) or ())[1] for node in nodes] == [hits] * 2


def _only_one(statement: str) -> str:
    return " WHERE id = 1" if statement.startswith("UPDATE") else ""


async def pair_then_merge(a: HarnessNode, b: HarnessNode) -> None:
    """Node a inserts and deletes the key, which stays uncaptured, and merges what b has captured last."""
    a.hold_capture()
    for statement in PAIR:
        await a.sql(statement)
    await a.try_merge((await b.sets())[-1])


@pytest.mark.parametrize("rule", RULES)
async def test_a_later_delete_that_was_overtaken_wins_by_the_rule(postgres_server, rule: str) -> None:  # type: ignore[no-untyped-def]
    async with cluster(postgres_server, 3, schema(rule)) as nodes:
        a, b, _ = nodes
        await b.sql(OF_B)
        await b.captured()
        a.state.hlc.observe((await b.sets())[-1].header.to_hlc)
        await pair_then_merge(a, b)
        assert await content(a) == ROW_OF_B
        await a.release_capture()
        await settle(nodes)
        kept = rule == "add_wins"
        assert [await content(node) for node in nodes] == [ROW_OF_B if kept else None] * 3
        assert await kinds(a) == ([] if kept else [(None, "overwrite")])
        assert not await a.quarantine()


async def test_a_delete_is_not_done_again_to_a_row_that_was_written_since(postgres_server) -> None:  # type: ignore[no-untyped-def]
    async with cluster(postgres_server, 2, schema("lww")) as nodes:
        a, b = nodes
        await b.sql(OF_B)
        await b.captured()
        a.state.hlc.observe((await b.sets())[-1].header.to_hlc)
        await pair_then_merge(a, b)
        await a.release_capture()
        await a.captured()
        assert await a.rows("SELECT row_key FROM crdt_state.rewrite WHERE deleted_hlc IS NOT NULL") == [(["1"],)]
        await a.sql("UPDATE doc SET title = 'kept' WHERE id = 1")
        await settle(nodes)
        assert [await content(node) for node in nodes] == [("kept", *ROW_OF_B[1:])] * 2
        assert await a.value("SELECT count(*) FROM crdt_state.rewrite") == 0


@pytest.mark.parametrize("rule", RULES)
async def test_a_delete_that_has_its_hlc_and_waits_to_be_written_is_overtaken_too(postgres_server, rule: str) -> None:  # type: ignore[no-untyped-def]
    """Its hlc is below that of the merged insert, although its change set names the insert as seen."""
    async with cluster(postgres_server, 2, schema(rule)) as nodes:
        a, b = nodes
        await a.state.writer_lock.acquire()
        await a.sql("INSERT INTO doc VALUES (9, 'other')")
        await wait_until(lambda: _taken_in(a, 0), DEADLINE_S, "the first insert is taken in")
        taken = a.state.hlc.last
        for statement in PAIR:
            await a.sql(statement)
        await wait_until(lambda: _taken_in(a, taken + 1), DEADLINE_S, "the pair is taken in")
        b.state.hlc.observe(a.state.hlc.last)
        await b.sql(OF_B)
        await b.captured()
        merging = asyncio.create_task(a.try_merge((await b.sets())[-1]))
        await asyncio.sleep(0)
        a.state.writer_lock.release()
        await merging
        await settle(nodes)
        expected = None if rule == "remove_wins" else ROW_OF_B
        assert [await content(node) for node in nodes] == [expected] * 2
        await converged(nodes, "doc")


async def _taken_in(node: HarnessNode, above_hlc: int) -> bool:
    return node.state.pending_since_ms is not None and node.state.hlc.last > above_hlc


async def test_what_a_merge_overtook_is_known_after_a_restart(postgres_server) -> None:  # type: ignore[no-untyped-def]
    async with cluster(postgres_server, 2, schema("add_wins")) as nodes:
        a, b = nodes
        a.hold_capture()
        for statement in PAIR:
            await a.sql(statement)
        await b.sql(OF_B)
        await b.captured()
        await a.try_merge((await b.sets())[-1])
        await a.sql("UPDATE doc SET title = 'mine' WHERE id = 1")
        a.overtaking.passed(1 << 62)
        assert not a.overtaking.expects(a.table("doc"))
        await a.overtaking.restore(a.merge_session.connection)
        assert a.overtaking.expects(a.table("doc"))
        await a.release_capture()
        await settle(nodes)
        assert [await content(node) for node in nodes] == [("mine", *ROW_OF_B[1:])] * 2


async def test_the_parts_of_what_was_overtaken_stand_in_several_change_sets(postgres_server) -> None:  # type: ignore[no-untyped-def]
    limits = {"batch_transactions_max": 1}
    async with cluster(postgres_server, 2, schema("lww"), limits=limits) as nodes:
        a, b = nodes
        a.hold_capture()
        inserted, deleted = PAIR
        for statement in (inserted, "UPDATE doc SET hits = 3", deleted, inserted, deleted):
            await a.sql(statement)
        await b.sql(OF_B)
        await b.captured()
        await a.try_merge((await b.sets())[-1])
        await a.sql("UPDATE doc SET hits = hits + 1")
        await a.release_capture()
        await settle(nodes)
        assert [await content(node) for node in nodes] == [("b", 6, ["b"], "lb", 3)] * 2


async def test_a_later_merge_of_the_same_row_keeps_what_was_overtaken_known(postgres_server) -> None:  # type: ignore[no-untyped-def]
    async with cluster(postgres_server, 3, schema("add_wins")) as nodes:
        a, b, c = nodes
        a.hold_capture()
        for statement in PAIR:
            await a.sql(statement)
        await b.sql(OF_B)
        await c.merge_from(b) if await _done(b) else None
        await c.sql("UPDATE doc SET hits = hits + 10, title = 'c'")
        await c.captured()
        await a.try_merge((await b.sets())[-1])
        await a.try_merge((await c.sets())[-1])
        await a.sql("UPDATE doc SET hits = hits + 1")
        await a.release_capture()
        await settle(nodes)
        assert [await content(node) for node in nodes] == [("c", 16, ["b"], "lb", 3)] * 3


async def _done(node: HarnessNode) -> bool:
    await node.captured()
    return True


async def test_rows_that_were_merged_one_by_one_overtake_as_well(postgres_server) -> None:  # type: ignore[no-untyped-def]
    """A row of the same change set cannot be here: the others are merged in subtransactions, whose xids they carry."""
    async with cluster(postgres_server, 2, schema("add_wins")) as nodes:
        a, b = nodes
        await a.sql("ALTER TABLE doc ADD CHECK (title <> 'bad')")
        a.hold_capture()
        for statement in PAIR:
            await a.sql(statement)
        async with b.app.transaction():
            await b.sql(OF_B)
            await b.sql("INSERT INTO doc VALUES (2, 'bad')")
        await b.captured()
        merge_set = a.opened((await b.sets())[-1])
        result = await a.merger.merge_locked([merge_set], a.observe, isolate=True)
        a.state.advance(2, merge_set.header.to_hlc)
        a.state.context[2] = merge_set.header.to_hlc
        assert result.quarantined == 1
        await a.sql("UPDATE doc SET title = 'mine' WHERE id = 1")
        await a.release_capture()
        await settle(nodes)
        assert [await content(node) for node in nodes] == [("mine", *ROW_OF_B[1:])] * 2


@pytest.mark.parametrize("rule", RULES)
async def test_a_deleted_row_of_genesis_is_captured_before_it_is_replaced(postgres_server, rule: str) -> None:  # type: ignore[no-untyped-def]
    """What genesis held in its counters is known from the delete alone, which may not be left out."""
    genesis = "INSERT INTO doc VALUES (1, 'gen', 1, '{g}', 'lg', 1), (2, 'gen', 1, '{g}', 'lg', 1);"
    async with cluster(postgres_server, 2, schema(rule) + genesis) as nodes:
        a, b = nodes
        a.hold_capture()
        await a.sql("DELETE FROM doc")
        async with b.app.transaction():
            await b.sql("DELETE FROM doc WHERE id = 1")
            await b.sql(OF_B)
        await b.sql("DELETE FROM doc WHERE id = 2")
        await b.captured()
        with pytest.raises(DirtyRowsError):
            await a.try_merge((await b.sets())[0])
        await a.release_capture()
        await settle(nodes)
        for node in nodes:
            await node.sql(
                "INSERT INTO doc VALUES (1, 'new', 7) ON CONFLICT (id) DO UPDATE SET hits = doc.hits + 1, title = 'a'"
            )
            await settle(nodes)
        # Where the row was dead, the 5 that no delete had seen come back with the new row.
        hits = {"remove_wins": 5 + 7 + 1}.get(rule, 5 + 1 + 1)
        assert [(await content(node) or ())[1] for node in nodes] == [hits] * 2
        await converged(nodes, "doc")


@pytest.mark.parametrize("rule", ["lww", "remove_wins"])
async def test_a_delete_is_done_again_although_an_older_write_was_merged_since(postgres_server, rule: str) -> None:  # type: ignore[no-untyped-def]
    async with cluster(postgres_server, 2, schema(rule)) as nodes:
        a, b = nodes
        await b.sql(OF_B)
        await b.captured()
        first = (await b.sets())[-1]
        await b.sql("UPDATE doc SET title = 'b2' WHERE id = 1")
        await b.captured()
        a.state.hlc.observe((await b.sets())[-1].header.to_hlc)
        a.hold_capture()
        for statement in PAIR:
            await a.sql(statement)
        await a.try_merge(first)
        await a.release_capture()
        await a.captured()
        await a.try_merge((await b.sets())[-1])
        await settle(nodes)
        assert [await content(node) for node in nodes] == [None] * 2
        assert [r["winner_value"] for r in await a.conflicts()] == ["deleted"]


async def test_a_queued_delete_of_a_table_that_is_gone_is_forgotten(postgres_server) -> None:  # type: ignore[no-untyped-def]
    async with cluster(postgres_server, 1, schema("lww")) as nodes:
        (a,) = nodes
        await a.sql("INSERT INTO crdt_state.rewrite (table_id, row_key, deleted_hlc) VALUES (4711, '{1}', 5)")
        await a.rewrite()


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("sets", [1, 2])
async def test_what_is_captured_below_a_merged_row_that_is_gone_again_is_above_it(  # type: ignore[no-untyped-def]
    postgres_server, rule: str, sets: int
) -> None:
    """Nothing tells whether it was before or after the merge, so it counts as after it: its values are the same on all
    nodes when another write brings the row back."""
    async with cluster(postgres_server, 3, schema(rule)) as nodes:
        a, b, c = nodes
        a.hold_capture()
        await c.sql("INSERT INTO doc VALUES (1, 'c', 1, '{c}', 'lc', 1)")
        await c.captured()
        for statement in PAIR:
            await a.sql(statement)
        b.state.hlc.observe(from_ms(a.state.now_ms() + 50))
        await b.sql(OF_B)
        if sets == 2:
            await b.captured()
        await b.sql("DELETE FROM doc WHERE id = 1")
        await b.captured()
        for change_set in await b.sets():
            await a.merge(change_set)
        await a.release_capture()
        await a.captured()
        c.state.hlc.observe(from_ms(a.state.now_ms() + 200))
        await c.sql("UPDATE doc SET hits = hits + 1 WHERE id = 1")
        await settle(nodes)
        title = {"remove_wins": None}.get(rule, "a")
        assert [(await content(node) or (None,))[0] for node in nodes] == [title] * 3
        await converged(nodes, "doc")


NOTES = """
    CREATE TABLE note (id int PRIMARY KEY, title text, extra text DEFAULT 'x');
    COMMENT ON TABLE note IS '@crdt(row={rule})';
"""


@pytest.mark.parametrize(("rule", "left"), [("lww", []), ("add_wins", ["(1,b,x)"]), ("remove_wins", [])])
async def test_an_insert_amidst_the_merge_of_an_insert_and_delete(postgres_server, rule: str, left: list[str]) -> None:  # type: ignore[no-untyped-def]
    """A remote insert and delete find nothing to hold: the local insert commits between their statement and their
    commit, with the lower hlc. Its own node kept the row, and no other had it; or nodes had different values."""
    async with cluster(postgres_server, 2, NOTES.format(rule=rule)) as nodes:
        a, b = nodes
        b.state.hlc.observe(from_ms(a.state.now_ms() + 400))
        async with b.app.transaction():
            await b.sql("INSERT INTO note VALUES (1, 'b')")
            await b.sql("DELETE FROM note")
        await b.captured()
        finish = a.merger._finish

        async def finish_late(batch: Batch, result: MergeResult) -> None:
            a.merger._finish = finish  # type: ignore[method-assign]
            await finish(batch, result)
            before = a.state.hlc.last
            await a.sql("INSERT INTO note VALUES (1, 'a')")
            await wait_until(lambda: _taken_in(a, before), DEADLINE_S, "the insert is taken in")

        a.merger._finish = finish_late  # type: ignore[method-assign]
        await a.merge((await b.sets())[-1])
        await settle(nodes)
        assert [await node.copy("note") for node in nodes] == [left, left]


async def test_notes_go_when_capture_has_passed_them(postgres_server) -> None:  # type: ignore[no-untyped-def]
    async with cluster(postgres_server, 2, schema("lww")) as nodes:
        a, b = nodes
        a.hold_capture()
        await a.sql("INSERT INTO doc VALUES (9, 'other')")
        await b.sql(OF_B)
        await b.captured()
        await a.try_merge((await b.sets())[-1])
        await a.reader.trim_overtaking()
        assert await a.value("SELECT count(*) FROM crdt_state.overtaking") == 1
        assert a.overtaking.expects(a.table("doc"))
        await a.release_capture()
        await a.captured()
        await a.sql("INSERT INTO doc VALUES (8, 'later')")
        await a.captured()
        assert not a.overtaking.expects(a.table("doc"))
        await a.reader.trim_overtaking()
        assert await a.value("SELECT count(*) FROM crdt_state.overtaking") == 0
        # A merge that puts no row anywhere is not noted.
        await b.sql("UPDATE doc SET title = 'x' WHERE id = 1")
        await b.captured()
        await a.merge_from(b)
        assert await a.value("SELECT count(*) FROM crdt_state.overtaking") == 0


async def _write_in_vain(session: Session) -> None:
    async with session.local_transaction():
        await session.connection.execute("INSERT INTO public.doc VALUES (3, 'not')")
        await session.connection.execute("INSERT INTO public.doc VALUES (1, 'again')")


@pytest.mark.parametrize("origin", [False, True])
async def test_a_session_of_the_sidecar_can_write_as_the_application(postgres_server, origin: bool) -> None:  # type: ignore[no-untyped-def]
    async with cluster(postgres_server, 1, schema("lww")) as nodes:
        (a,) = nodes
        session = await Session.open(a.dsn, purpose="test", origin=origin)
        try:
            assert session.privileges.origin is origin
            async with session.own_transaction():
                await session.connection.execute("INSERT INTO public.doc VALUES (1, 'own')")
            async with session.local_transaction():
                await session.connection.execute("INSERT INTO public.doc VALUES (2, 'local')")
            with pytest.raises(asyncpg.UniqueViolationError):
                await _write_in_vain(session)
            async with session.own_transaction():
                await session.connection.execute("INSERT INTO public.doc VALUES (4, 'own')")
            await a.captured()
        finally:
            await session.close()
        assert await a.rows(f"SELECT k_1 FROM crdt_state.row_{a.table('doc').table_id}") == [(2,)]
        assert await a.rows("SELECT id FROM doc ORDER BY id") == [(1,), (2,), (4,)]
        if origin:
            setup = "SELECT count(*) FROM pg_replication_origin WHERE roname LIKE 'crdt%test'"
            assert await a.value(setup) == 1
            await a.sql(
                "SELECT pg_replication_origin_drop(roname) FROM pg_replication_origin WHERE roname LIKE '%test'"
            )


async def test_an_error_is_told_though_the_session_cannot_be_what_it_was(postgres_server) -> None:  # type: ignore[no-untyped-def]
    async with cluster(postgres_server, 1, schema("lww")) as nodes:
        (a,) = nodes
        session = await Session.open(a.dsn, purpose="test", origin=True)
        name = await a.value("SELECT roname FROM pg_replication_origin WHERE roname LIKE 'crdt%test'")
        try:
            with pytest.raises(asyncpg.UniqueViolationError):
                await _write_twice(session, a.app, name)
            assert session.connection.is_closed()
        finally:
            await session.close()
            await a.app.execute("SELECT pg_replication_origin_session_reset()")
            await a.app.execute("SELECT pg_replication_origin_drop($1)", name)


async def _write_twice(session: Session, other: asyncpg.Connection, origin: str) -> None:
    async with session.local_transaction():
        await other.execute("SELECT pg_replication_origin_session_setup($1)", origin)
        await session.connection.execute("INSERT INTO public.doc VALUES (1, 'a'), (1, 'b')")
