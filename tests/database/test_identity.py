"""Who a database is: where it was attached, the starts on it, and what is kept of the peers."""

from __future__ import annotations

import subprocess
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from sidecar.core.wire.identity import Known
from sidecar.core.wire.messages import STARTS_MAX, Start
from sidecar.errors import ConfigurationError, FatalError, SidecarError
from sidecar.lab.binaries import find_binaries
from sidecar.node.node import Node
from sidecar.postgres.admin import connect
from sidecar.postgres.attach import InitReport, initialise
from sidecar.postgres.identity import MetStore, begin_start, check_end, present_place, require_place, take_place
from sidecar.postgres.journal_reader import JournalReader
from sidecar.postgres.session import Session
from sidecar.settings import NodeSettings, Settings

COPIED = "this database is a copy of that of node 'a', which was attached"


def settings_for(dsn: str) -> Settings:
    return Settings(node=NodeSettings(name="a", id=1, dsn=dsn))


async def init(dsn: str, *, moved: bool = False) -> InitReport:
    async with await connect(dsn) as admin:
        return await initialise(admin, settings_for(dsn), moved=moved)


async def fetch(dsn: str, text: str) -> list[tuple[Any, ...]]:
    async with await connect(dsn, autocommit=True) as conn:
        cursor = await conn.execute(text.encode())
        return await cursor.fetchall() if cursor.description else []


@pytest.fixture
async def attached(database: str) -> AsyncIterator[str]:
    await init(database)
    yield database
    await fetch(database, "SELECT pg_drop_replication_slot('sidecar_1')")


def restored(postgres_server: Any, dsn: str, name: str) -> str:
    """A dump of the database, restored beside it."""
    copy = postgres_server.create_database(name)
    binaries = find_binaries(None)
    dump = subprocess.run([binaries.program("pg_dump"), "--dbname", dsn], capture_output=True, check=True)
    subprocess.run(
        [binaries.program("psql"), "--quiet", "--dbname", copy], input=dump.stdout, capture_output=True, check=True
    )
    return str(copy)


@pytest.mark.parametrize("way", ["template", "dump"])
async def test_a_copied_database_is_told_before_anything_is_done(postgres_server: Any, attached: str, way: str) -> None:
    before = await fetch(attached, "SELECT incarnation, server, database_oid::int8 FROM crdt_state.node")
    name = f"copy_{way}_{conninfo_to_dict(attached)['dbname']}"
    copy = (
        restored(postgres_server, attached, name)
        if way == "dump"
        else postgres_server.create_database(name, conninfo_to_dict(attached)["dbname"])
    )
    assert await fetch(copy, "SELECT incarnation, server, database_oid::int8 FROM crdt_state.node") == before
    with pytest.raises(ConfigurationError, match=COPIED + " in another database of this server") as refused:
        await init(copy)
    assert "sidecar init --moved" in refused.value.mend
    with pytest.raises(ConfigurationError, match=COPIED):
        await Node(settings_for(copy)).run()
    assert await fetch(copy, "SELECT count(*) FROM crdt_state.start") == [(0,)]
    with pytest.raises(SidecarError, match="slot"):
        await init(copy, moved=True)
    assert await fetch(copy, "SELECT server, database_oid::int8 FROM crdt_state.node") == [before[0][1:]]
    await init(attached)
    postgres_server.drop_database(name)


async def test_a_database_that_was_moved_with_its_slot_goes_on_when_that_is_said(attached: str) -> None:
    """As after pg_upgrade, which carries slots over and makes another system identifier."""
    await fetch(attached, "UPDATE crdt_state.node SET server = '1'")
    with pytest.raises(ConfigurationError, match=COPIED + " on another server"):
        await require_place(attached)
    with pytest.raises(ConfigurationError, match=COPIED):
        await init(attached)
    before = await fetch(attached, "SELECT incarnation FROM crdt_state.node")
    await init(attached, moved=True)
    await require_place(attached)
    found = await begin_start(attached, "x", known=None)
    assert str(before[0][0]) == found.incarnation


async def test_a_database_of_an_earlier_release_is_where_it_is_first_seen(attached: str) -> None:
    await fetch(attached, "UPDATE crdt_state.node SET server = NULL, database_oid = NULL")
    await require_place(attached)
    assert await fetch(attached, "SELECT count(*) FROM crdt_state.node WHERE server IS NOT NULL") == [(1,)]
    await require_place(attached)


async def test_a_role_that_may_not_read_the_control_file_sees_the_same_server(
    database: str, restricted_dsn: str
) -> None:
    await fetch(database, "REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        await fetch(restricted_dsn, "SELECT pg_control_system()")
    async with await connect(restricted_dsn) as conn, await connect(database) as admin:
        assert await present_place(conn, restricted_dsn) == await present_place(admin, database)


async def test_each_start_is_written_down_with_where_it_began(attached: str) -> None:
    first = await begin_start(attached, "one", known=None)
    assert first.starts == (Start(1, "one", 0),)
    assert first.generation == 1
    assert not first.rejoined
    await fetch(attached, "UPDATE crdt_state.clock SET hlc = 77 WHERE node = 1")
    second = await begin_start(attached, "two", known=None)
    assert second == replace(first, starts=(Start(1, "one", 0), Start(2, "two", 77)))
    assert await begin_start(attached, "two", known=second) == second, "the database was away for a moment"
    for i in range(STARTS_MAX + 3):
        last = await begin_start(attached, f"start {i}", known=None)
    assert len(last.starts) == STARTS_MAX
    assert [start.number for start in last.starts] == list(range(last.starts[0].number, STARTS_MAX + 6))


async def test_a_process_whose_database_was_put_back_or_exchanged_ends(attached: str) -> None:
    own = await begin_start(attached, "one", known=None)
    await fetch(attached, "DELETE FROM crdt_state.start")
    with pytest.raises(FatalError, match="put back or exchanged"):
        await begin_start(attached, "one", known=own)
    with pytest.raises(FatalError, match=r"went back in time while the sidecar was running: .* up to 0\.9, .* 0\.8"):
        check_end(9, 8)
    check_end(9, 9)


async def test_who_the_peers_were_is_kept_of_those_that_are_known(attached: str) -> None:
    session = await Session.open(attached, purpose="upkeep", origin=False)
    store = MetStore(JournalReader(session))
    met = {2: Known("b", "i", 3, 4, "boot", 5), 3: Known("c", "j", 1, 1, "other", 0)}
    assert await store.write(met) == set()
    await fetch(attached, "INSERT INTO crdt_state.peer (id, name) VALUES (2, 'b'), (4, 'd')")
    assert await store.write(met) == {2}
    assert await store.read() == {2: met[2]}
    await session.close()


async def test_a_join_in_the_place_of_another_database_makes_a_new_identity(attached: str) -> None:
    session = await Session.open(attached, purpose="join", origin=False)
    before = await begin_start(attached, "one", known=None)

    async def take(met: list[tuple[str, int]], *, anew: bool) -> None:
        async def there(_query: str, _node: int) -> list[tuple[str, int]]:
            return met

        await take_place(session, there, 1, anew=anew)

    await take([], anew=False)
    await take([(before.incarnation, 1)], anew=False)
    assert await begin_start(attached, "one", known=before) == before, "nothing changed"
    await take([("another", 7)], anew=False)
    after = await begin_start(attached, "two", known=None)
    assert after.incarnation != before.incarnation
    assert after.generation > 7
    assert after.starts == (Start(1, "two", 0),)
    await take([(after.incarnation, after.generation)], anew=True)
    latest = await begin_start(attached, "three", known=None)
    assert latest.generation > after.generation
    assert latest.rejoined
    await session.close()
