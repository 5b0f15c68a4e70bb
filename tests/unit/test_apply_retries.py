"""What the merge loop does with change sets that fail, at what cost, whatever else waits."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from sidecar.core.catalog import ColumnSpec, TableSpec
from sidecar.core.changes import ChangeSetHeader, ChangeSetPart
from sidecar.errors import DirtyRowsError, HeldError
from sidecar.node import apply
from sidecar.node.apply import Applier
from sidecar.node.inbox import Inbox
from sidecar.node.pulse import Pulse
from sidecar.node.state import NodeState
from sidecar.postgres.merge import MergeResult, UniqueSwapError
from sidecar.postgres.merge_batch import MergeSet
from sidecar.settings import load

DEADLINE_S = 60.0
WAITING = 400
ORIGINS = range(1, 9)

Refuses = Callable[[list[ChangeSetHeader]], Exception | None]


class Merger:
    """Stands for the database: merges what it does not refuse, and counts what it was given."""

    def __init__(self, refuses: Refuses) -> None:
        self._refuses = refuses
        self.takes_turns = 1
        self.tries: list[int] = []
        self.capture_passes = True
        self.captured_first = True
        self.given = 0
        self.merged: list[tuple[int, int]] = []
        self.isolated = 0

    async def merge(self, sets: Sequence[MergeSet], observe: Any) -> MergeResult:
        for _ in range(self.takes_turns):
            await asyncio.sleep(0)
        headers = [merge_set.header for merge_set in sets]
        self.given += len(headers)
        error = self._refuses(headers)
        if error is not None:
            raise error
        self.merged += [(header.origin, header.to_hlc) for header in headers]
        return MergeResult(rows=len(headers), locked_s=0.001)

    async def merge_locked(
        self, sets: Sequence[MergeSet], observe: Any, *, isolate: bool = False, tries: int = 0
    ) -> MergeResult:
        self.tries.append(tries)
        self.isolated += isolate
        return await self.merge(sets, observe)

    async def wait_for_capture(self, timeout_s: float, log_end: int | None = None) -> bool:
        await asyncio.sleep(0)
        return self.capture_passes if log_end is None else self.captured_first

    async def log_end(self) -> int:
        return 1

    async def read_rewrites(self, limit: int) -> list[Any]:
        return []

    def forget_statements(self) -> None:
        return


class Node:
    """A node in which many small change sets wait."""

    def __init__(self, folder: Path, refuses: Refuses) -> None:
        path = folder / "node.toml"
        path.write_text('[node]\nname = "here"\nid = 99\ndsn = "postgresql://here@127.0.0.1:1/app"\n')
        self.state = NodeState(load(path))
        self.inbox = Inbox(queue_bytes_max=1 << 20, spool_bytes_max=1 << 20)
        self.merger = Merger(refuses)
        self.found: list[TableSpec] = []
        merger: Any = self.merger
        self.applier = Applier(
            self.state,
            self.inbox,
            merger,
            Pulse(),
            acknowledge=lambda: None,
            resync=lambda origin: None,
            refresh_tables=self._refresh,
        )

    async def _refresh(self) -> None:
        """What the database has now comes into force."""
        self.state.set_tables(self.found)

    async def put(self, origin: int, number: int) -> None:
        header = ChangeSetHeader(origin=origin, from_hlc=number - 1, to_hlc=number, context={}, rows=1)
        await self.inbox.put(ChangeSetPart(header=header, body=b"x"), lambda size: None)

    async def run_until(self, done: Callable[[], bool]) -> None:
        task = asyncio.create_task(self.applier.run())
        try:
            async with asyncio.timeout(DEADLINE_S):
                while not done():
                    await asyncio.sleep(0)
                    if task.done():
                        task.result()
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


async def test_a_backlog_that_cannot_be_merged_together_costs_little_more(tmp_path: Path) -> None:
    # Neighbours clash (a unique value that moves from row to row), so hardly any two can share a statement. Merging one
    # and then trying all others together took work that grew with the square of what waited: it looked like a stall.
    def neighbours(headers: list[ChangeSetHeader]) -> Exception | None:
        numbers = [header.to_hlc for header in headers]
        return UniqueSwapError("swap") if any(n + 1 in numbers for n in numbers) else None

    node = Node(tmp_path, neighbours)
    for number in range(1, WAITING + 1):
        await node.put(1, number)
    await node.run_until(lambda: len(node.inbox) == 0)
    assert node.merger.merged == [(1, number) for number in range(1, WAITING + 1)], "each once, in order"
    assert node.merger.given < 5 * WAITING


async def test_one_that_waits_for_a_person_is_found_among_many_and_stops_nobody_else(tmp_path: Path) -> None:
    def held(headers: list[ChangeSetHeader]) -> Exception | None:
        return HeldError("table x is not here") if (1, 40) in [(h.origin, h.to_hlc) for h in headers] else None

    node = Node(tmp_path, held)
    for number in range(1, WAITING + 1):
        await node.put(1, number)
        await node.put(2, number)
    await node.run_until(lambda: (2, WAITING) in node.merger.merged and "merge 1" in node.state.problems)
    assert [number for origin, number in node.merger.merged if origin == 1] == list(range(1, 40))
    assert [number for origin, number in node.merger.merged if origin == 2] == list(range(1, WAITING + 1))
    assert node.merger.given < 10 * WAITING


@pytest.mark.parametrize("failures", [1, 3])
async def test_what_a_single_set_learnt_is_kept_for_its_next_try(tmp_path: Path, failures: int) -> None:
    seen: list[int] = []

    def first_tries(headers: list[ChangeSetHeader]) -> Exception | None:
        seen.append(len(headers))
        return UniqueSwapError("swap") if len(seen) <= failures else None

    node = Node(tmp_path, first_tries)
    made: list[object] = []
    opened = node.applier._opened
    node.applier._opened = lambda received: made.append(received) or opened(received)  # type: ignore[method-assign, func-returns-value]
    await node.put(1, 1)
    await node.run_until(lambda: len(node.inbox) == 0)
    assert seen == [1] * (failures + 1)
    assert len(made) == 1, "a set opened anew would begin without what its tries found out"


async def test_rows_that_stay_dirty_become_a_problem_and_are_tried_with_pauses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A trigger that keeps the sidecar from writing, for instance: it must not pass silently, nor at full speed."""
    monkeypatch.setattr(apply, "RETRY_TOLD_S", 0.2)
    made = 0

    def dirty(headers: list[ChangeSetHeader]) -> Exception | None:
        nonlocal made
        made += any(header.origin == 1 for header in headers)
        return DirtyRowsError("7 rows of public.doc were written") if any(h.origin == 1 for h in headers) else None

    node = Node(tmp_path, dirty)
    await node.put(1, 1)
    for number in range(1, 50):
        await node.put(2, number)
    await node.run_until(lambda: "merge 1" in node.state.problems)
    assert "7 rows of public.doc" in node.state.problems["merge 1"]
    assert made < 40, "tried with pauses that grow"
    assert (2, 49) in node.merger.merged, "the others go on"
    assert node.merger.tries[-1] > 3, "each try may wait longer for capture"
    node.merger._refuses = lambda headers: None
    await node.run_until(lambda: len(node.inbox) == 0)
    assert "merge 1" not in node.state.problems


async def test_a_capture_that_is_far_behind_holds_up_one_origin_only(tmp_path: Path) -> None:
    """Every wait for capture takes seconds; one change set that needs it may not have all of them."""
    node = Node(tmp_path, lambda headers: DirtyRowsError("1 rows") if headers[0].origin == 1 else None)
    node.merger.capture_passes = False
    await node.put(1, 1)
    await node.run_until(lambda: node.state.counters.retries.get("capture_behind", 0) >= 1)
    for number in range(1, 50):
        await node.put(2, number)
    await node.run_until(lambda: (2, 49) in node.merger.merged)
    assert node.state.counters.retries["capture_behind"] < 3


async def test_what_is_sent_again_begins_without_what_its_first_copy_learnt(tmp_path: Path) -> None:
    node = Node(tmp_path, lambda headers: HeldError("table x is not here"))
    await node.put(1, 1)
    await node.run_until(lambda: "merge 1" in node.state.problems)
    node.inbox.close_interval(1, 5, 6)
    old_gap(node)
    assert len(node.inbox) == 0
    assert node.applier._gate.retries == {}
    assert "merge 1" not in node.state.problems


def old_gap(node: Node) -> None:
    """A gap that has stood for long."""
    node.applier._gate._gap_since[1] = float("-inf")
    node.applier._ask_for_missing()


async def test_a_merge_loop_that_is_cancelled_keeps_no_room_and_no_credit(tmp_path: Path) -> None:
    """The database goes away right after a merge: the loop is cancelled at its next wait, whichever that is. The room
    of what it merged and the credit of the link must be given back, or the link stands still for ever."""
    for turns in range(120):
        node = Node(tmp_path, lambda headers: None)
        node.inbox._queue_bytes_max = 150
        node.merger.takes_turns = turns % 5
        granted: list[int] = []
        links = [asyncio.create_task(feed(node.inbox, origin, granted)) for origin in ORIGINS]
        loop = asyncio.create_task(node.applier.run())
        for _ in range(turns):
            await asyncio.sleep(0)
        for task in (loop, *links):
            task.cancel()
        _, left = await asyncio.wait({loop, *links}, timeout=DEADLINE_S)
        assert not left, f"cancelled after {turns} turns, and goes on"
        waiting = {origin: sum(r.size_bytes for r in queue) for origin, queue in node.inbox.heads().items()}
        assert {origin: size for origin, size in node.inbox._bytes.items() if size} == waiting
        taken = len(node.inbox) + len(granted)
        assert taken == sum(taken_in(node, origin) for origin in ORIGINS), f"cancelled after {turns} turns"


@pytest.mark.parametrize("turns", range(4))
async def test_a_merge_loop_that_is_cancelled_ends_although_something_arrives_just_then(
    tmp_path: Path, turns: int
) -> None:
    """Its group ends when capture fails. A loop that overheard it went on alone: capture never started again, every row
    with a local write stayed dirty, and the node stood still."""
    node = Node(tmp_path, lambda headers: None)
    loop = asyncio.create_task(node.applier.run())
    for _ in range(10):
        await asyncio.sleep(0)
    await node.put(1, 1)
    for _ in range(turns):
        await asyncio.sleep(0)
    loop.cancel()
    _, left = await asyncio.wait({loop}, timeout=DEADLINE_S)
    loop.cancel()
    assert not left


def taken_in(node: Node, origin: int) -> int:
    """How many sets of an origin were taken in: merged or waiting."""
    return node.state.clock.get(origin, 0) + len(node.inbox.heads().get(origin, ()))


async def feed(inbox: Inbox, origin: int, granted: list[int]) -> None:
    """What a link does: one set after the other, each waiting for room."""
    for number in range(1, 9):
        header = ChangeSetHeader(origin=origin, from_hlc=number - 1, to_hlc=number, context={}, rows=1)
        await inbox.put(ChangeSetPart(header=header, body=b"x" * 100), granted.append)


@pytest.mark.parametrize("changed", [True, False])
async def test_a_row_is_judged_by_the_table_as_it_is_now(tmp_path: Path, changed: bool) -> None:
    """A column was widened everywhere, and a value that fits now came before this node had read its catalogue again."""
    table = TableSpec(1, "public", "doc", (ColumnSpec("id", 1, "bigint", "bigint"),), ())
    known = [table]

    def narrow(headers: list[ChangeSetHeader]) -> Exception | None:
        stale = [*node.state.tables.values()] == known
        return asyncpg.NumericValueOutOfRangeError("out of range") if stale and not node.merger.isolated else None

    node = Node(tmp_path, narrow)
    node.state.set_tables(known)
    node.found = [dataclasses.replace(table, name="wide")] if changed else known
    await node.put(1, 1)
    await node.run_until(lambda: len(node.inbox) == 0)
    assert node.merger.merged == [(1, 1)]
    assert node.merger.isolated == (0 if changed else 1)


@pytest.mark.parametrize(
    ("moves", "pending", "merges"), [(True, True, False), (False, False, False), (False, True, True)]
)
async def test_nothing_is_merged_before_capture_has_caught_up_unless_capture_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moves: bool, pending: bool, merges: bool
) -> None:
    """What is taken in and not written for long stands still; a stream that says nothing reads what is not ours."""
    monkeypatch.setattr(apply, "CAPTURE_STANDS_S", 0.02)
    node = Node(tmp_path, lambda headers: None)
    node.merger.captured_first = False
    node.state.pending_since_ms = 1 if pending else None
    await node.put(1, 1)
    loop = asyncio.get_running_loop()
    ends = loop.time() + 0.2

    def waited() -> bool:
        node.state.server_lsn += moves
        return loop.time() > ends

    if not merges:
        await node.run_until(waited)
        assert node.merger.merged == []
        assert list(node.state.waiting) == [1]
        node.merger.captured_first = True
    await node.run_until(lambda: node.merger.merged == [(1, 1)])
