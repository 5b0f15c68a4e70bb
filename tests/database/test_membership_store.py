"""Departures and requests in the database, and taking the sidecar out of it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import msgspec
import psycopg
import pytest

from sidecar.core.wire.messages import Departure
from sidecar.errors import ConfigurationError, TransientError
from sidecar.postgres.admin import connect
from sidecar.postgres.attach import initialise
from sidecar.postgres.detach import check_dependents, departure, detach
from sidecar.postgres.journal_reader import JournalReader
from sidecar.postgres.membership import MembershipStore
from sidecar.postgres.requests import Requests
from sidecar.postgres.session import Session
from sidecar.settings import NodeSettings, Settings

Connection = psycopg.AsyncConnection[tuple[object, ...]]

TABLE = "CREATE TABLE public.posts (id uuid PRIMARY KEY DEFAULT crdt.uuidv7(), body text)"
GONE = Departure(node=3, name="c", kind="removed", at_ms=1000, by="a", holder=1, change_hlc=5, hlc=9)


def settings_for(dsn: str, node: int = 1) -> Settings:
    return Settings(node=NodeSettings(name="a", id=node, dsn=dsn))


@pytest.fixture
async def conn(database: str) -> AsyncIterator[Connection]:
    async with await connect(database, autocommit=True) as admin:
        await initialise(admin, settings_for(database))
        yield admin
        await admin.execute(
            "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = current_database()"
        )


@pytest.fixture
async def store(conn: Connection, database: str) -> AsyncIterator[MembershipStore]:
    session = await Session.open(database, purpose="upkeep", origin=False)
    yield MembershipStore(JournalReader(session))
    await session.close()


async def rows(conn: Connection, query: str) -> list[tuple[object, ...]]:
    return await (await conn.execute(query)).fetchall()  # type: ignore[arg-type]


async def test_what_is_kept_for_a_member_goes_with_its_departure(conn: Connection, store: MembershipStore) -> None:
    await conn.execute("INSERT INTO crdt_state.peer (id, name) VALUES (2, 'b'), (3, 'c')")
    await conn.execute("INSERT INTO crdt_state.peer_clock VALUES (3, 2, 7)")
    await conn.execute("INSERT INTO crdt_state.barrier_answer VALUES (3, '0/1', 'v1')")
    await store.store([GONE])
    await store.store([msgspec.structs.replace(GONE, change_hlc=8)])
    assert await store.departed() == ({3: msgspec.structs.replace(GONE, change_hlc=8)}, frozenset())
    assert await rows(conn, "SELECT id, name, state FROM crdt.nodes WHERE NOT is_local") == [
        (2, "b", "member"),
        (3, "c", "removed"),
    ]
    assert await rows(conn, "SELECT name FROM crdt.lag WHERE NOT is_local") == [("b",)]
    assert await rows(conn, "SELECT crdt_state.node_name(3)") == [("c",)]
    for table in ("peer WHERE id = 3", "peer_clock", "barrier_answer"):
        assert await rows(conn, f"SELECT count(*) FROM crdt_state.{table}") == [(0,)], table
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="knows 1"):
        await conn.execute("SELECT crdt.sync(2, '1s')")


async def test_a_departed_peer_is_not_written_down_again(
    conn: Connection, store: MembershipStore, database: str
) -> None:
    await store.store([GONE])
    session = await Session.open(database, purpose="upkeep", origin=False)
    link = {"last_seen_ms": None, "clock_offset_ms": None, "round_trip_ms": None, "last_error": None}
    await JournalReader(session).store_peer(3, "c", 5, connected=True, **link)  # type: ignore[arg-type]
    await JournalReader(session).store_peer(2, "b", 5, connected=True, **link)  # type: ignore[arg-type]
    await session.close()
    assert await rows(conn, "SELECT id FROM crdt_state.peer") == [(2,)]


async def test_one_request_at_a_time(conn: Connection, store: MembershipStore) -> None:
    requests = Requests(conn)
    assert await store.request() is None
    first = await requests.ask("remove", 3, forced=False, seconds=60)
    with pytest.raises(TransientError, match="under way"):
        await requests.ask("leave", 1, forced=True, seconds=60)
    found = await store.request()
    assert found is not None
    assert (found.id, found.kind, found.node, found.forced) == (first, "remove", 3, False)
    assert 0 < found.left_s <= 60
    await store.progress(found, "counting", 4)
    await store.outcome(found, done=False, text="no", mend="do")
    said: list[str] = []
    answer = await requests.follow(first, seconds=1, report=lambda text, left: said.append(text))
    assert (answer.done, answer.text, answer.mend, said) == (False, "no", "do", [])
    second = await requests.ask("leave", 1, forced=True, seconds=60)
    assert second != first
    assert await store.request() is not None


async def test_nodes_are_found_by_name_and_members_before_the_departed(
    conn: Connection, store: MembershipStore
) -> None:
    await store.store([GONE])
    requests = Requests(conn)
    assert (await requests.find("c")).told() == "c (node 3) was removed by a at 1970-01-01 00:00:01 UTC"
    await conn.execute("INSERT INTO crdt_state.peer (id, name) VALUES (9, 'c')")
    assert ((await requests.find("c")).id, (await requests.find("3")).departed) == (9, "removed")
    with pytest.raises(ConfigurationError, match="no node 'x'"):
        await requests.find("x")


async def test_the_sidecar_is_taken_out_and_rows_stay(conn: Connection, store: MembershipStore, database: str) -> None:
    await conn.execute(TABLE)  # type: ignore[arg-type]
    await conn.execute("COMMENT ON TABLE public.posts IS 'Posts. @crdt'")
    await initialise(conn, settings_for(database))
    await conn.execute("INSERT INTO public.posts (body) VALUES ('one')")
    await conn.execute("CREATE VIEW public.seen AS SELECT name FROM crdt.nodes")
    with pytest.raises(ConfigurationError, match=r"would be dropped: .*seen"):
        await check_dependents(conn)
    await conn.execute("DROP VIEW public.seen")
    await check_dependents(conn)
    assert await departure(conn) is None
    await store.store([msgspec.structs.replace(GONE, node=1, name="a", kind="left")], leaving=True)
    assert await departure(conn) == "leaving"
    await detach(conn, keep_state=True)
    assert await departure(conn) == "left"
    with pytest.raises(ConfigurationError, match="has left, and its id is not used again"):
        await initialise(conn, settings_for(database))
    await detach(conn, keep_state=False)
    await conn.execute("INSERT INTO public.posts (body) VALUES ('two')")
    assert await rows(conn, "SELECT body FROM public.posts ORDER BY id") == [("one",), ("two",)]
    assert await rows(conn, "SELECT relreplident::text FROM pg_class WHERE relname = 'posts'") == [("d",)]
    assert await rows(conn, "SELECT obj_description('public.posts'::regclass)") == [("Posts. @crdt",)]
    left = "SELECT count(*) FROM pg_class WHERE relnamespace = 'crdt'::regnamespace AND relkind IN ('v', 'r')"
    assert await rows(conn, left) == [(1,)]
    assert await rows(conn, "SELECT id, name FROM crdt.former_node") == [(1, "a")]
    assert await rows(conn, "SELECT count(*) FROM pg_replication_slots WHERE database = current_database()") == [(0,)]
    session = await Session.open(database, purpose="upkeep", origin=False)
    with pytest.raises(ConfigurationError, match="this database has left cluster"):
        await session.own_node()
    await session.close()
    with pytest.raises(ConfigurationError, match="its id is not used again"):
        await initialise(conn, settings_for(database))
    report = await initialise(conn, settings_for(database, node=2))
    assert report.attached == ["public.posts"]
