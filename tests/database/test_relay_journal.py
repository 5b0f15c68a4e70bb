"""Other nodes' change sets in the journal: one transaction with the merge, one sequence, dropped by origin."""

from __future__ import annotations

from typing import Any

import pytest
from node_harness import ChangeSet, HarnessNode, cluster

from sidecar.errors import DirtyRowsError
from sidecar.postgres.merge import MergeResult
from sidecar.postgres.relay import Relayed, RelayStore, RelayWriter

SCHEMA = "CREATE TABLE doc (id int PRIMARY KEY, title text); COMMENT ON TABLE doc IS '@crdt';"
ROWS = "SELECT seq, part, last, from_hlc, to_hlc, origin FROM crdt_state.journal ORDER BY seq, part"


async def write(node: HarnessNode, first: int, count: int = 1) -> None:
    """Change sets of one row each."""
    for i in range(first, first + count):
        await node.sql("INSERT INTO doc VALUES ($1, 'x')", i)
        await node.captured()


async def relayed(node: HarnessNode, change_set: ChangeSet, *, locked: bool = False) -> MergeResult:
    """Merge one as a node with relay does."""
    node.merger._relay = RelayWriter(node.writer)
    merge_set = node.opened(change_set)
    merge_set.relayed = Relayed(sum(len(p.body) for p in change_set.parts), lambda: iter(change_set.parts))
    merge = node.merger.merge_locked if locked else node.merger.merge
    result = await merge([merge_set], node.observe)
    node.state.advance(change_set.header.origin, change_set.header.to_hlc)
    node.state.context[change_set.header.origin] = change_set.header.to_hlc
    return result


async def origins(node: HarnessNode) -> list[tuple[int, int | None]]:
    return [(seq, origin) for seq, origin in await node.rows("SELECT seq, origin FROM crdt_state.journal ORDER BY seq")]


@pytest.mark.parametrize("locked", [False, True])
async def test_a_merge_and_capture_share_one_sequence(postgres_server: Any, locked: bool) -> None:
    async with cluster(postgres_server, 2, SCHEMA) as (a, b):
        await write(a, 1, 2)
        await write(b, 100)
        first, second = await a.sets()
        assert (await relayed(b, first, locked=locked)).numbers == [2]
        await write(b, 101)
        assert (await relayed(b, second, locked=locked)).numbers == [4]
        assert await origins(b) == [(1, None), (2, 1), (3, None), (4, 1)]
        kept = (await b.sets())[1]
        assert (kept.header, kept.parts[0].body) == (first.header, first.parts[0].body), "as it came"
        assert (await b.reader.position_of(first.header.to_hlc))[0] < 2, "another node's end says nothing of this one's"


async def test_a_merge_that_fails_leaves_no_row_and_no_gap(postgres_server: Any) -> None:
    async with cluster(postgres_server, 2, SCHEMA) as (a, b):
        await write(a, 1)
        [change_set] = await a.sets()
        b.hold_capture()
        await b.sql("INSERT INTO doc VALUES (1, 'local')")
        with pytest.raises(DirtyRowsError):
            await relayed(b, change_set)
        assert (await origins(b), b.writer.seq) == ([], 0)
        await b.release_capture()
        await b.captured()
        assert (await relayed(b, change_set)).numbers == [2]


async def test_large_change_sets_are_kept_in_parts_and_found_by_what_is_lacking(postgres_server: Any) -> None:
    async with cluster(postgres_server, 2, SCHEMA, limits={"batch_rows_max": 100}) as (a, b):
        await a.sql("INSERT INTO doc SELECT i, 'x' FROM generate_series(1, 350) AS i")
        await a.captured()
        await write(a, 1000)
        large, small = await a.sets()
        for change_set in (large, small):
            await relayed(b, change_set)
        assert [(seq, part, last) for seq, part, last, *_ in await b.rows(ROWS)] == [
            *((1, n, n == len(large.parts) - 1) for n in range(len(large.parts))),
            (2, 0, True),
        ]
        store = RelayStore(b.reader)
        assert await store.first_lacking({1: 0}) == 1
        assert await store.first_lacking({1: large.header.to_hlc}) == 2
        assert await store.first_lacking({1: small.header.to_hlc, 3: 0}) is None
        assert await b.reader.sets_after(0) == 0, "of this node's own"


async def test_a_partition_goes_when_nobody_needs_what_others_wrote(postgres_server: Any) -> None:
    async with cluster(postgres_server, 2, SCHEMA) as (a, b):
        b.writer._partition_rows = 4
        b.writer._partitions.clear()
        await write(a, 1, 6)
        sets = await a.sets()
        for change_set in sets:
            await relayed(b, change_set)  # 1..3, 4..6
        asked: list[dict[int, int]] = []

        def needed(ends: Any) -> bool:
            asked.append(dict(ends))
            return False

        await b.reader.trim(0, 1 << 40, needed)
        assert asked == [{1: sets[2].header.to_hlc}]
        assert len(await origins(b)) == 6
        await b.reader.trim(0, 1 << 40, lambda ends: True)
        assert [seq for seq, _ in await origins(b)] == [4, 5, 6], "the newest partition is being written"
        store = RelayStore(b.reader)
        assert await store.floors() == {1: sets[2].header.to_hlc}
        assert await b.value("SELECT dropped_hlc FROM crdt_state.position") == 0, "nothing of its own was dropped"


async def test_what_was_merged_without_relay_is_below_the_floor(postgres_server: Any) -> None:
    async with cluster(postgres_server, 2, SCHEMA) as (a, b):
        store = RelayStore(b.reader)
        await write(a, 1, 3)
        sets = await a.sets()
        await b.try_merge(sets[0])
        await store.begin()
        assert await store.floors() == {1: sets[0].header.to_hlc}
        await relayed(b, sets[1])
        await store.begin()
        assert await store.floors() == {1: sets[0].header.to_hlc}, "a restart changes nothing"
        await store.stop()
        await b.try_merge(sets[2])
        await store.begin()
        assert await store.floors() == {1: sets[2].header.to_hlc}
        await store.store_peer_clocks({3: {1: 5, 2: 7}})
        await store.store_peer_clocks({3: {1: 4, 2: 9}})
        assert await store.peer_clocks() == {3: {1: 4, 2: 9}}, "a peer that was made anew has less"
        await store.store_members({9: "far"})
        assert await store.members() == {9: "far"}
        assert await b.value("SELECT crdt_state.node_name(9)") == "far"
