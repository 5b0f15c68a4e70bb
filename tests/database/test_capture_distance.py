"""Change sets keep a distance under load, and nobody waits for it."""

from __future__ import annotations

import pytest
from node_harness import DEADLINE_S, HarnessNode, open_node, wait_until

from sidecar.postgres.replication import ReplicationStream

SCHEMA = "CREATE TABLE doc (id int PRIMARY KEY, title text); COMMENT ON TABLE doc IS '@crdt';"


@pytest.fixture
def endless(monkeypatch: pytest.MonkeyPatch) -> None:
    """The distance never ends by itself."""
    rest = ReplicationStream.rest

    async def rest_on(stream: ReplicationStream, seconds: float) -> None:
        assert 0 < seconds <= 0.01, "the rest of the default distance"
        await rest(stream, 3600.0)

    monkeypatch.setattr(ReplicationStream, "rest", rest_on)


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
        for i in range(1, 6):
            await node.sql("INSERT INTO doc VALUES ($1)", i)
        await sent(node)
        await node.captured()
        assert [s.header.transactions for s in await node.sets()] == [1, 5]


async def test_what_waits_for_capture_is_not_held_up(database: str, endless: None) -> None:
    async with open_node(database, 1, SCHEMA) as node:
        for i in range(5):
            await node.sql("INSERT INTO doc VALUES ($1)", i)
            await node.captured()
        assert sum(s.header.transactions for s in await node.sets()) == 5
