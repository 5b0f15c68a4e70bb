"""Change sets keep a distance under load, and nobody waits for it."""

from __future__ import annotations

from functools import partial

import pytest
from node_harness import DEADLINE_S, HarnessNode, open_node, wait_until

from sidecar.postgres.replication import ReplicationStream
from sidecar.settings import Settings, TimingSettings

SCHEMA = "CREATE TABLE doc (id int PRIMARY KEY, title text); COMMENT ON TABLE doc IS '@crdt';"


LONG_MS = 1000
"""A distance within which a slow machine, too, commits a few transactions after a change set began."""


@pytest.fixture
def endless(monkeypatch: pytest.MonkeyPatch) -> None:
    """The distance never ends by itself."""
    rest = ReplicationStream.rest

    async def rest_on(stream: ReplicationStream, seconds: float) -> None:
        assert 0 < seconds <= LONG_MS / 1000, "the rest of the distance"
        await rest(stream, 3600.0)

    monkeypatch.setattr(ReplicationStream, "rest", rest_on)
    timing = TimingSettings(change_set_ms=LONG_MS)
    monkeypatch.setattr("node_harness.Settings", partial(Settings, timing=timing))


async def sent(node: HarnessNode) -> None:
    """Wait until the walsender has written everything committed so far to the socket."""
    end = await node.value("SELECT pg_current_wal_lsn()::text")
    query = (
        "SELECT count(*) > 0 FROM pg_stat_replication JOIN pg_replication_slots ON active_pid = pid"
        " WHERE database = current_database() AND sent_lsn >= $1::text::pg_lsn"
    )

    async def done() -> bool:
        return bool(await node.value(query, end))

    await wait_until(done, DEADLINE_S, "everything is sent")


async def test_transactions_gather_until_somebody_waits_for_them(database: str, endless: None) -> None:
    async with open_node(database, 1, SCHEMA) as node:
        await node.sql("INSERT INTO doc VALUES (0)")
        await node.captured()
        # A question for the position that the server has not answered yet still counts as somebody who waits.
        stream = node.stream._stream
        await wait_until(lambda: not stream._pings_open, DEADLINE_S, "the server has answered")
        for i in range(1, 6):
            await node.sql("INSERT INTO doc VALUES ($1)", i)
            await sent(node)
        await node.captured()
        counts = [s.header.transactions for s in await node.sets()]
        # While the wait for the first one is just ending, the stream is read on, and the second may go by itself.
        assert counts in ([1, 5], [1, 1, 4])


async def test_what_waits_for_capture_is_not_held_up(database: str, endless: None) -> None:
    async with open_node(database, 1, SCHEMA) as node:
        for i in range(5):
            await node.sql("INSERT INTO doc VALUES ($1)", i)
            await node.captured()
        assert sum(s.header.transactions for s in await node.sets()) == 5
