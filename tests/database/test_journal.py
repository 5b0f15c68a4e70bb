"""The journal: continuous intervals, whole partitions, one transaction with the row states; captured positions."""

from __future__ import annotations

import asyncpg
import pytest
from node_harness import HarnessNode, cluster, converged, open_node, wait_until

from sidecar.node.state import CaptureProgress

SCHEMA = """
CREATE TABLE doc (id int PRIMARY KEY, title text, hits int NOT NULL DEFAULT 0);
COMMENT ON TABLE doc IS '@crdt';
COMMENT ON COLUMN doc.hits IS '@crdt(pn_counter)';
"""
DEADLINE_S = 60.0


async def write_sets(node: HarnessNode, count: int, first: int = 1) -> None:
    """One change set each."""
    for i in range(first, first + count):
        await node.sql("INSERT INTO doc VALUES ($1, 'x')", i)
        await node.captured()


async def partitions(node: HarnessNode) -> list[str]:
    query = "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'crdt_state.journal'::regclass"
    return sorted(name for (name,) in await node.rows(query))


async def test_intervals_join_without_gaps(database: str) -> None:
    async with open_node(database, 1, SCHEMA) as node:
        await write_sets(node, 5)
        await node.sql("UPDATE doc SET title = title")  # nothing to ship
        await node.captured()
        await write_sets(node, 2, first=10)
        sets = await node.sets()
        assert [s.header.from_hlc for s in sets[1:]] == [s.header.to_hlc for s in sets[:-1]]
        assert all(s.header.from_hlc < s.header.to_hlc for s in sets)
        assert [s.seq for s in sets] == sorted({s.seq for s in sets})
        end = sets[-1].header.to_hlc
        assert await node.rows("SELECT to_hlc FROM crdt_state.position") == [(end,)]
        assert await node.rows("SELECT hlc FROM crdt_state.clock WHERE node = 1") == [(end,)]
        assert node.state.clock[1] == end


async def test_a_restart_resumes_where_the_journal_ends(database: str) -> None:
    async with open_node(database, 1, SCHEMA) as node:
        await write_sets(node, 3)
        before = await node.sets()
        await node.sql("SELECT pg_advisory_lock(7)")
        # A second harness on the same database would own the slot; so the first one lets go of it here.
        assert node.capture_task is not None
        node.capture_task.cancel()
        await wait_until(node.capture_task.done, DEADLINE_S, "capture ended")
        await node.stream._stream.aclose()
        await node.sql("INSERT INTO doc VALUES (50, 'while away')")
        await node.sql("UPDATE doc SET hits = 5 WHERE id = 50")

        async def reopened() -> bool:
            async with open_node(database, 1) as again:
                await again.captured()
                sets = await again.sets()
                assert [s.seq for s in sets[:3]] == [s.seq for s in before]
                assert sets[3].header.from_hlc == before[-1].header.to_hlc
                assert sum(s.rows()["doc"] for s in sets[3:]) in (1, 2), "captured once"
                counted = await again.rows("SELECT sum(increased) FROM crdt_state.counter_1")
                assert counted == [(5,)]
            return True

        await wait_until(reopened, DEADLINE_S, "the slot is free", tolerate=(asyncpg.ObjectInUseError,))


async def test_row_states_journal_and_position_commit_together(database: str) -> None:
    async with open_node(database, 1, SCHEMA) as node:
        await write_sets(node, 1)
        query = """SELECT (SELECT lsn FROM crdt_state.position), (SELECT count(*) FROM crdt_state.row_1),
                   (SELECT count(*) FROM crdt_state.journal), (SELECT hlc FROM crdt_state.clock WHERE node = 1)"""
        before = await node.rows(query)
        # The last statement of the change set's transaction fails.
        await node.sql("ALTER TABLE crdt_state.clock ADD CONSTRAINT stop CHECK (hlc < 0) NOT VALID")
        await node.sql("INSERT INTO doc VALUES (2, 'x')")
        assert node.capture_task is not None
        await wait_until(node.capture_task.done, DEADLINE_S, "capture failed")
        with pytest.raises(asyncpg.CheckViolationError):
            node.check()
        assert await node.rows(query) == before
        assert node.writer.seq == 1


async def test_a_large_transaction_in_parts_arrives_as_a_whole(postgres_server) -> None:  # type: ignore[no-untyped-def]
    async with cluster(postgres_server, 2, SCHEMA, limits={"batch_rows_max": 100}) as (a, b):
        await a.sql("INSERT INTO doc VALUES (-1, 'before')")
        async with a.app.transaction():
            await a.sql("INSERT INTO doc SELECT i, 'x' FROM generate_series(1, 950) AS i")
            await a.sql("UPDATE doc SET hits = hits + 1, title = 'y'")
            await a.sql("DELETE FROM doc WHERE id BETWEEN 1 AND 150")
        await a.captured()
        large = (await a.sets())[-1]
        assert [p.header.part for p in large.parts] == list(range(len(large.parts)))
        assert len(large.parts) > 10
        assert [p.header.last for p in large.parts] == [False] * (len(large.parts) - 1) + [True]
        assert len({(p.header.from_hlc, p.header.to_hlc) for p in large.parts}) == 1
        [rows] = await converged([a, b], "doc")
        assert len(rows) == 801
        assert await b.value("SELECT sum(hits) FROM doc") == 801
        await b.sql("UPDATE doc SET hits = hits + 1")
        await converged([a, b], "doc")


async def test_partitions_are_made_ahead_and_dropped_as_a_whole(database: str) -> None:
    async with open_node(database, 1, SCHEMA, limits={"journal_partition_rows": 100}) as node:
        node.writer._partition_rows = 4
        node.writer._partitions.clear()
        await node.sql("INSERT INTO crdt_state.peer (id, name) VALUES (2, 'b'), (3, 'c')")
        await write_sets(node, 10)  # seq 1..3, 4..7, 8..10
        assert len(await partitions(node)) == 3
        sets = await node.sets()
        size, lost = await node.reader.trim(sets[5].header.to_hlc, 1 << 40)
        assert (lost, size > 0) == ([], True)
        assert [s.seq for s in await node.sets()] == list(range(4, 11)), "seq 7 is not acknowledged yet"
        await node.reader.trim(sets[6].header.to_hlc, 1 << 40)
        assert [s.seq for s in await node.sets()] == [8, 9, 10]
        await node.reader.trim(sets[9].header.to_hlc, 1 << 40)
        assert [s.seq for s in await node.sets()] == [8, 9, 10], "the newest partition is being written"
        assert await node.value("SELECT dropped_hlc FROM crdt_state.position") == sets[6].header.to_hlc
        assert await node.reader.position_of(sets[8].header.to_hlc) == (9, sets[6].header.to_hlc)


async def test_a_partition_of_huge_rows_ends_by_its_bytes(database: str) -> None:
    """Rows alone would not bound it, and the newest partition is never dropped."""
    limits = {"journal_partition_bytes_max": 64 * 1024, "journal_partition_rows": 64}
    async with open_node(database, 1, SCHEMA, limits=limits) as node:
        for i in range(4):
            # Some 90 kB compressed.
            noise = "SELECT string_agg(gen_random_uuid()::text, '') FROM generate_series(1, 5000)"
            await node.sql(f"INSERT INTO doc VALUES ($1, ({noise}))", i)
            await node.captured()
        await write_sets(node, 2, first=10)
        sets = await node.sets()
        assert [s.seq for s in sets] == [1, 64, 128, 192, 256, 257]
        assert [s.header.from_hlc for s in sets[1:]] == [s.header.to_hlc for s in sets[:-1]]
        await node.reader.trim(0, 280 * 1024)
        assert [s.seq for s in await node.sets()] == [192, 256, 257], "by the bound, down to what it allows"
        # A restart knows how full the newest partition is.
        again = type(node.writer)(node.merge_session, node.overtaking, 1, 64, 1)
        assert (await again.start()).seq == 257
        assert again._next_seq() == 320


async def test_the_bound_marks_the_peers_that_lose_changes(database: str) -> None:
    async with open_node(database, 1, SCHEMA) as node:
        node.writer._partition_rows = 4
        node.writer._partitions.clear()
        await write_sets(node, 10)
        sets = await node.sets()
        await node.sql("INSERT INTO crdt_state.peer (id, name) VALUES (2, 'away')")
        await node.sql(
            "INSERT INTO crdt_state.peer (id, name, acknowledged) VALUES (3, 'near', $1)", sets[8].header.to_hlc
        )
        _, lost = await node.reader.trim(0, 1)
        assert lost == ["away"]
        assert await node.rows("SELECT name FROM crdt_state.peer WHERE journal_lost") == [("away",)]
        _, dropped = await node.reader.position_of(0)
        assert dropped == sets[6].header.to_hlc
        assert (await node.reader.trim(0, 1))[1] == [], "told once"


async def test_capture_never_claims_more_than_it_has_written(database: str) -> None:
    """A flush in the middle of a batch of messages: the stream's position is beyond what was written (invariant 4)."""
    async with open_node(database, 1, SCHEMA, limits={"batch_transactions_max": 3}) as node:
        node.hold_capture()
        ends: list[int] = []
        for i in range(40):
            await node.sql("INSERT INTO doc VALUES ($1, 'x')", i)
            ends.append(await node.log_end())
        claims: list[tuple[int, int]] = []
        reached = CaptureProgress.reached

        def watched(lsn: int) -> None:
            # A commit that ended before the claim must be captured.
            claims.append((sum(end <= lsn for end in ends), node.state.counters.transactions))
            reached(node.progress, lsn)

        node.progress.reached = watched  # type: ignore[method-assign]
        await node.release_capture()
        await node.captured()
        assert len(claims) > 10
        assert all(claimed <= captured for claimed, captured in claims), claims
        assert len(await node.sets()) > 10


async def test_a_context_names_change_sets_and_no_heartbeats(database: str) -> None:
    """A third node may never hear of a point that only a heartbeat reached, and its own changes may wait for ours: with
    heartbeats in the contexts three busy nodes waited for each other for ever."""
    async with open_node(database, 1, SCHEMA) as node:
        node.state.context[2] = 500
        node.state.advance(2, 999)
        await node.sql("INSERT INTO doc VALUES (1, 'x')")
        await node.captured()
        (change_set,) = await node.sets()
        assert change_set.header.context == {2: 500}


async def test_a_peer_made_anew_keeps_its_name_under_another_id(database: str) -> None:
    async with open_node(database, 1, SCHEMA) as node:

        async def store(peer_id: int, name: str, acknowledged: int) -> None:
            await node.reader.store_peer(
                peer_id,
                name,
                acknowledged,
                connected=True,
                last_seen_ms=None,
                clock_offset_ms=None,
                round_trip_ms=None,
                last_error=None,
            )

        await store(2, "b", 50)
        await store(3, "c", 60)
        await store(7, "b", 0)
        await store(7, "b", 10)
        assert sorted(await node.reader.known_peers()) == [(3, "c", 60), (7, "b", 10)]


CONFLICTS = """
INSERT INTO crdt_state.conflict
    (id, table_id, row_key, rule, kind, winner_node, winner_hlc, loser_node, loser_hlc, detected)
SELECT gen_random_uuid(), 1, '{}', 'lww_register', 'overwrite', 1, 1, 2, i, now() - make_interval(hours => i)
FROM generate_series(1, 50) AS i
"""


async def test_old_conflicts_and_those_beyond_the_number_go_the_oldest_first(database: str) -> None:
    async with open_node(database, 1, SCHEMA) as node:
        hours = "SELECT array_agg(loser_hlc ORDER BY loser_hlc) FROM crdt_state.conflict"
        await node.sql(CONFLICTS)
        await node.reader.trim_conflicts(1000, 1000)
        assert await node.value(hours) == list(range(1, 51))
        await node.reader.trim_conflicts(2, 1000)
        assert await node.value(hours) == list(range(1, 48))
        await node.reader.trim_conflicts(1, 20)
        assert await node.value(hours) == list(range(1, 22))
