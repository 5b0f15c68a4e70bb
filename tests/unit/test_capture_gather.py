"""While a node is behind, what it captures gathers into few change sets; else nothing waits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import stream_messages as raw

from sidecar.core.catalog import ColumnSpec, TableSpec
from sidecar.node import capture as module
from sidecar.node.capture import BEHIND_MS, Capture
from sidecar.node.intake import HOT_TRANSACTIONS
from sidecar.node.pulse import Pulse
from sidecar.node.state import CaptureProgress, NodeState
from sidecar.settings import LimitSettings, NodeSettings, Settings

FEW = 20
"""``batch_transactions_max``."""
AWAITED = 1 << 40


class Stream:
    """Hands out one batch per read, then nothing; busy as long as there are more."""

    def __init__(self, batches: list[list[bytes]]) -> None:
        self.batches = batches
        self.server_lsn = 0
        self.busy = True
        self.reads: list[bool] = []

    async def read(self, *, backlog: bool = False) -> list[bytes]:
        self.reads.append(backlog)
        await asyncio.sleep(0)
        if not self.batches:
            await asyncio.Event().wait()
        batch = self.batches.pop(0)
        self.busy = bool(self.batches)
        return batch

    async def rest(self, seconds: float) -> None:
        await asyncio.sleep(0)

    def confirm(self, lsn: int) -> None:
        return


class Writer:
    """Notes how many transactions and rows each change set has; ``done`` when so many transactions are written."""

    seq, parts = 0, 1

    def __init__(self, transactions: int) -> None:
        self.sets: list[tuple[int, int]] = []
        self.missing = transactions
        self.put_aside: list[Any] = []
        self.done = asyncio.Event()

    @asynccontextmanager
    async def change_set(self) -> AsyncIterator[None]:
        yield

    async def write_part(self, header: Any, *rest: Any, **isolation: Any) -> tuple[Any, list[int]]:
        self.sets.append((header.transactions, header.rows))
        self.missing -= header.transactions
        if not self.missing:
            self.done.set()
        return SimpleNamespace(header=header), []

    async def finish(self, lsn: int, to_hlc: int, issued_hlc: int) -> None:
        return


class Ran(NamedTuple):
    """The transactions and rows of each change set; for each read whether it was that of a backlog."""

    sets: list[tuple[int, int]]
    reads: list[bool]


class Unreached(CaptureProgress):
    """Whoever waits goes on waiting."""

    def reached(self, lsn: int) -> None:
        return


def update(key: int, before: int) -> bytes:
    return raw.update([b"%d" % key, b"%d" % before], [b"%d" % key, b"%d" % (before + 1)])


async def captured(age_ms: int, rows: int, count: int, *, server_lsn: int = 0) -> list[tuple[int, int]]:
    """The change sets of so many single-row transactions on so many rows, read one by one, while somebody waits for a
    position (``AWAITED``) and the stream is at ``server_lsn``."""
    return (await run(age_ms, rows, count, server_lsn=server_lsn)).sets


async def run(age_ms: int, rows: int, count: int, *, server_lsn: int = 0) -> Ran:
    """As :func:`captured`."""
    node = NodeSettings(name="a", id=1, dsn="postgresql://a@127.0.0.1:1/app")
    state = NodeState(Settings(node=node, limits=LimitSettings(batch_transactions_max=FEW)))
    columns = (ColumnSpec("id", 1, "integer", "integer"), ColumnSpec("n", 2, "integer", "integer"))
    state.set_tables([TableSpec(1, "public", "doc", columns[:1], columns[1:], relation_oid=raw.RELATION_OID)])
    committed_ms = state.now_ms() - age_ms
    batches = [[raw.relation("id", "n")]]
    for n in range(1, count + 1):
        batches.append([raw.begin(n, committed_ms), update(n % rows, n // rows), raw.commit(n)])
    stream, writer, progress = Stream(batches), Writer(count), Unreached(_nothing)
    stream.server_lsn = server_lsn
    running = asyncio.create_task(
        Capture(
            state,
            stream,  # type: ignore[arg-type]
            writer,  # type: ignore[arg-type]
            progress,
            Pulse(),
            resume_lsn=0,
            publish=lambda seq, part: None,
            refresh_tables=_nothing,
        ).run()
    )
    waiting = asyncio.create_task(progress.captured(AWAITED, 3600.0))
    async with asyncio.timeout(60):
        await writer.done.wait()
    for task in (running, waiting):
        task.cancel()
        await asyncio.wait({task})
    return Ran(writer.sets, stream.reads)


async def _nothing() -> None:
    await asyncio.sleep(0)


@pytest.fixture(autouse=True)
def slow_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither time passes while this runs, however long it takes."""
    monkeypatch.setattr(module, "GATHER_S", 3600.0)
    monkeypatch.setattr(module, "GATHER_PAUSE_S", 3600.0)


async def test_a_backlog_gathers_up_to_the_bound_of_its_rows() -> None:
    sets = await captured(10 * BEHIND_MS, 10_000, 200)
    assert sets[0][0] == 1, "the first change set goes at once"
    assert max(sets) == (FEW, FEW)
    assert len(sets) <= 200 / FEW + 2


async def test_a_backlog_on_few_rows_gathers_longer() -> None:
    sets = await captured(10 * BEHIND_MS, 5, 600)
    assert max(sets) == (FEW * HOT_TRANSACTIONS, 5)
    assert len(sets) <= 600 / (FEW * HOT_TRANSACTIONS) + 2


@pytest.mark.parametrize(("age_ms", "server_lsn"), [(-3_600_000, 0), (10 * BEHIND_MS, AWAITED)])
async def test_nothing_gathers_when_it_is_on_time_or_awaited(age_ms: int, server_lsn: int) -> None:
    assert len(await captured(age_ms, 10_000, 60, server_lsn=server_lsn)) > 200 / FEW + 2


async def test_who_waits_for_what_is_far_away_holds_nothing_up() -> None:
    """A heartbeat waits for the end of the log, always: it kept every backlog from gathering."""
    assert len(await captured(10 * BEHIND_MS, 10_000, 200, server_lsn=AWAITED - 1)) <= 200 / FEW + 2


async def test_a_backlog_is_read_as_one() -> None:
    ran = await run(10 * BEHIND_MS, 10_000, 200)
    first = 3  # the table, the first transaction, and the read that begins before its change set is on its way
    assert not any(ran.reads[:2])
    assert all(ran.reads[first:-1])  # the last waits for nothing


@pytest.mark.parametrize(("age_ms", "server_lsn"), [(-3_600_000, 0), (10 * BEHIND_MS, AWAITED)])
async def test_what_is_on_time_or_awaited_is_read_at_once(age_ms: int, server_lsn: int) -> None:
    assert not any((await run(age_ms, 10_000, 60, server_lsn=server_lsn)).reads)
