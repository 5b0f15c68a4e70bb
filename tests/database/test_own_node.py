"""One sidecar per database: the right to be it outlives neither the process nor a broken connection."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest

from sidecar.errors import FatalError, TransientError
from sidecar.lab.waiting import wait_until
from sidecar.node.node import Node
from sidecar.postgres.admin import connect
from sidecar.postgres.attach import initialise
from sidecar.postgres.session import Session
from sidecar.settings import NodeSettings, Settings, TimingSettings

DEADLINE_S = 60.0
TAKE = "SELECT pg_advisory_lock(1668441204, 1)"
KILL = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'sidecar/upkeep'"


def settings_for(dsn: str) -> Settings:
    return Settings(node=NodeSettings(name="a", id=1, dsn=dsn), timing=TimingSettings(retry_ms_max=50))


@pytest.fixture
async def attached(database: str):  # type: ignore[no-untyped-def]
    async with await connect(database) as admin:
        await initialise(admin, settings_for(database))
    yield database
    async with await connect(database) as admin:
        await admin.execute("SELECT pg_drop_replication_slot('sidecar_1')")


async def test_a_second_sidecar_ends_and_one_that_had_the_right_waits(attached: str) -> None:
    first = await Session.open(attached, purpose="upkeep", origin=False)
    second = await Session.open(attached, purpose="upkeep", origin=False)
    await first.own_node()
    with pytest.raises(FatalError, match="another sidecar runs"):
        await second.own_node()
    with pytest.raises(TransientError, match="former session"):
        await second.own_node(again=True)
    await first.close()
    await second.own_node(again=True)
    await second.close()


async def test_a_node_goes_on_after_its_old_session_held_the_right_for_a_while(attached: str) -> None:
    """The connection broke and the server has not noticed: its old backend still holds the lock."""
    node = Node(settings_for(attached))
    running = asyncio.create_task(node.run())
    holder = await asyncpg.connect(attached)

    def streams() -> bool:
        assert not running.done(), running.result()
        return node._pulse.capture_state == "streaming"

    try:
        await wait_until(streams, DEADLINE_S, "the node serves")
        taking = asyncio.create_task(holder.execute(TAKE))  # waits, and is the next to have it
        killer = await asyncpg.connect(attached)
        waits = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
        while not await killer.fetchval(waits):
            assert not taking.done()
        await killer.execute(KILL)
        await killer.close()
        await taking

        def waited() -> bool:
            assert not running.done(), running.result()
            return "former session" in node.state.problems.get("database", "")

        await wait_until(waited, DEADLINE_S, "the node met the lock")
        await holder.close()
        await wait_until(streams, DEADLINE_S, "the node serves again")
    finally:
        running.cancel()
        await asyncio.wait({running})
        await holder.close()
