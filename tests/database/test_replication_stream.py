"""The replication stream against a real server."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from sidecar.core.catalog import ColumnSpec, TableSpec
from sidecar.core.coalesce import Coalescer, RelationPlan
from sidecar.core.pgoutput import (
    XLOG_HEADER_BYTES,
    AnyMessage,
    Begin,
    Commit,
    Delete,
    Insert,
    Message,
    Relation,
    Truncate,
    Update,
    decode,
    parse_lsn,
)
from sidecar.errors import ConfigurationError, FatalError, TransientError
from sidecar.postgres import replication, walsender
from sidecar.postgres.replication import ReplicationStream

SLOT = "sidecar_test"
DEADLINE_S = 60.0


@pytest.fixture
def published(database: str) -> Iterator[str]:
    """A database with a table, a publication and a slot."""
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("CREATE TABLE posts (id bigint PRIMARY KEY, body text, likes bigint)")
        connection.execute("ALTER TABLE posts REPLICA IDENTITY FULL")
        connection.execute("CREATE PUBLICATION crdt FOR TABLE posts")
        connection.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", [SLOT])
    yield database
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(active_pid, 5000) FROM pg_replication_slots"
            " WHERE slot_name = %s AND active_pid IS NOT NULL",
            [SLOT],
        )
        connection.execute(
            "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = %s", [SLOT]
        )


def execute(dsn: str, *statements: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement)


def scalar(dsn: str, statement: str) -> object:
    with psycopg.connect(dsn, autocommit=True) as connection:
        row = connection.execute(statement).fetchone()
    return row and row[0]


async def read_until(stream: ReplicationStream, done: Callable[[list[AnyMessage]], bool]) -> list[AnyMessage]:
    messages: list[AnyMessage] = []
    async with asyncio.timeout(DEADLINE_S):
        while not done(messages):
            messages += [decode(raw, XLOG_HEADER_BYTES) for raw in await stream.read()]
    return messages


def count(kind: type, wanted: int) -> Callable[[list[AnyMessage]], bool]:
    return lambda messages: sum(isinstance(m, kind) for m in messages) >= wanted


async def test_every_kind_of_message(published: str) -> None:
    async with await ReplicationStream.connect(published, slot=SLOT) as stream:
        execute(
            published,
            "INSERT INTO posts VALUES (1, 'hällo', NULL)",
            "UPDATE posts SET likes = 1",
            "DELETE FROM posts",
            "TRUNCATE posts",
            "SELECT pg_logical_emit_message(true, 'crdt', 'x')",
        )
        messages = await read_until(stream, count(Commit, 5))
    relation = next(m for m in messages if isinstance(m, Relation))
    assert (relation.schema, relation.name, relation.replica_identity) == ("public", "posts", "f")
    assert [column.name for column in relation.columns] == ["id", "body", "likes"]
    changes = [m for m in messages if not isinstance(m, Begin | Commit | Relation)]
    oid = relation.relation_oid
    assert changes[:4] == [
        Insert(oid, [b"1", "hällo".encode(), None]),
        Update(oid, [b"1", "hällo".encode(), None], None, [b"1", "hällo".encode(), b"1"]),
        Delete(oid, [b"1", "hällo".encode(), b"1"], None),
        Truncate(0, (oid,)),
    ]
    assert isinstance(changes[4], Message)
    assert (changes[4].transactional, changes[4].prefix, changes[4].content) == (True, "crdt", b"x")


async def test_text_images_do_not_depend_on_the_roles_settings(published: str) -> None:
    name = psycopg.conninfo.conninfo_to_dict(published)["dbname"]
    execute(
        published,
        f"ALTER DATABASE {name} SET TimeZone = 'Asia/Tokyo'",
        f"ALTER DATABASE {name} SET DateStyle = 'German'",
        f"ALTER DATABASE {name} SET IntervalStyle = 'iso_8601'",
        f"ALTER DATABASE {name} SET bytea_output = 'escape'",
        f"ALTER DATABASE {name} SET extra_float_digits = '-5'",
        "CREATE TABLE images (id int PRIMARY KEY, t timestamptz, i interval, b bytea, f float8)",
        "ALTER PUBLICATION crdt ADD TABLE images",
        "INSERT INTO images VALUES (1, '2025-01-02 03:04:05+00', '1 day 2 hours', '\\x00ff', 0.1::float8 + 0.2)",
    )
    async with await ReplicationStream.connect(published, slot=SLOT) as stream:
        messages = await read_until(stream, count(Insert, 1))
    insert = next(m for m in messages if isinstance(m, Insert))
    assert insert.new == [b"1", b"2025-01-02 03:04:05+00", b"1 day 02:00:00", b"\\x00ff", b"0.30000000000000004"]


async def test_unchanged_toast_is_taken_from_the_old_row(published: str) -> None:
    spec = TableSpec(
        1,
        "public",
        "posts",
        (ColumnSpec("id", 1, "bigint", "bigint"),),
        (ColumnSpec("body", 2, "text", "text"), ColumnSpec("likes", 3, "bigint", "bigint", "pn_counter")),
    )
    async with await ReplicationStream.connect(published, slot=SLOT) as stream:
        execute(
            published,
            "ALTER TABLE posts ALTER body SET STORAGE EXTERNAL",
            "INSERT INTO posts VALUES (1, repeat('x', 9000), 1)",
            "UPDATE posts SET likes = 5",
        )
        messages = await read_until(stream, count(Update, 1))
    relation = next(m for m in messages if isinstance(m, Relation))
    update = next(m for m in messages if isinstance(m, Update))
    coalescer = Coalescer()
    coalescer.begin(1, 1)
    coalescer.update(RelationPlan.build(relation, spec), update.old, update.new)
    coalescer.commit()
    (changes,) = coalescer.take()
    assert changes.changes.columns == ["likes"]
    assert changes.changes.values == [b"{4}"]


async def test_resumes_after_the_confirmed_position(published: str) -> None:
    async with await ReplicationStream.connect(published, slot=SLOT) as stream:
        execute(published, "INSERT INTO posts VALUES (1)", "INSERT INTO posts VALUES (2)")
        messages = await read_until(stream, count(Commit, 2))
        first = next(m for m in messages if isinstance(m, Commit))
        stream.confirm(first.end_lsn)
        await stream.report()
    async with await ReplicationStream.connect(published, slot=SLOT) as stream:
        messages = await read_until(stream, count(Insert, 1))
        assert [m.new[0] for m in messages if isinstance(m, Insert)] == [b"2"]
    second = next(m for m in messages if isinstance(m, Begin)).final_lsn
    async with await ReplicationStream.connect(published, slot=SLOT, start_lsn=second + 1) as stream:
        execute(published, "INSERT INTO posts VALUES (3)")
        messages = await read_until(stream, count(Insert, 1))
        assert [m.new[0] for m in messages if isinstance(m, Insert)] == [b"3"]


async def test_closing_confirms(published: str, wait_until) -> None:  # type: ignore[no-untyped-def]
    stream = await ReplicationStream.connect(published, slot=SLOT)
    execute(published, "INSERT INTO posts VALUES (1)")
    messages = await read_until(stream, count(Commit, 1))
    end = next(m for m in messages if isinstance(m, Commit)).end_lsn
    stream.confirm(end)
    await stream.aclose()
    await stream.aclose()
    query = f"SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = '{SLOT}'"
    await wait_until(lambda: parse_lsn(str(scalar(published, query))) >= end, DEADLINE_S, "confirmed_flush_lsn moved")
    with pytest.raises(TransientError, match="closed"):
        await stream.read()


async def test_batches_are_bounded_and_complete(published: str) -> None:
    execute(published, "INSERT INTO posts SELECT i, repeat('x', 1000) FROM generate_series(1, 2000) i")
    sizes = []
    keys: list[bytes | None] = []
    async with await ReplicationStream.connect(published, slot=SLOT, batch_messages_max=3) as stream:
        async with asyncio.timeout(DEADLINE_S):
            async for batch in stream.batches():
                sizes.append(len(batch))
                messages = [decode(raw, XLOG_HEADER_BYTES) for raw in batch]
                keys += [m.new[0] for m in messages if isinstance(m, Insert)]
                if len(keys) == 2000:
                    break
    assert max(sizes) == 3, "the bound was met, and kept"
    assert keys == [b"%d" % i for i in range(1, 2001)]
    async with await ReplicationStream.connect(published, slot=SLOT, batch_bytes_max=20_000) as stream:
        async with asyncio.timeout(DEADLINE_S):
            while not (batch := await stream.read()):
                pass
    assert sum(map(len, batch[:-1])) < 20_000


async def test_server_lsn_passes_wal_without_published_changes(published: str) -> None:
    async with await ReplicationStream.connect(published, slot=SLOT) as stream:
        execute(published, "CREATE TABLE elsewhere (i int)", "INSERT INTO elsewhere VALUES (1)")
        target = parse_lsn(str(scalar(published, "SELECT pg_current_wal_insert_lsn()::text")))
        async with asyncio.timeout(DEADLINE_S):
            while stream.server_lsn < target:
                assert await stream.read() == []


async def test_a_ping_is_answered_at_once(published: str) -> None:
    async with await ReplicationStream.connect(published, slot=SLOT) as stream:
        target = parse_lsn(str(scalar(published, "SELECT pg_current_wal_flush_lsn()::text")))
        reader = asyncio.create_task(read_for_ever(stream))
        try:
            async with asyncio.timeout(DEADLINE_S):
                await stream.ping(target)
            assert stream.server_lsn >= target
        finally:
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)
        await stream.ping()
        async with asyncio.timeout(DEADLINE_S):
            assert await stream.read() == []


async def read_for_ever(stream: ReplicationStream) -> None:
    async for _ in stream.batches():
        pass


async def test_an_idle_stream_never_pauses(published: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replication, "PAUSE_S", 2.0 * DEADLINE_S)
    connection = await psycopg.AsyncConnection.connect(published, autocommit=True)
    async with connection, await ReplicationStream.connect(published, slot=SLOT) as stream:
        for i in range(30):
            await connection.execute("INSERT INTO posts VALUES (%s)", [i])
            await read_until(stream, count(Commit, 1))


async def test_a_loaded_stream_pauses_when_a_read_brought_little(
    published: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replication, "PAUSE_S", 0.1)
    monkeypatch.setattr(replication, "PAUSE_RATE_PER_S", -1.0)
    async with await ReplicationStream.connect(published, slot=SLOT) as stream:
        execute(published, "INSERT INTO posts VALUES (1)")
        start = time.monotonic()
        await read_until(stream, count(Commit, 1))
        assert time.monotonic() - start >= 0.1


async def test_a_backlog_is_read_with_long_pauses(published: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also after a batch that was not small: the fewer pauses, the larger TCP's segments."""
    monkeypatch.setattr(replication, "PAUSE_S", 2.0 * DEADLINE_S)
    monkeypatch.setattr(replication, "BACKLOG_PAUSE_S", 0.1)
    monkeypatch.setattr(replication, "PAUSE_RATE_PER_S", -1.0)
    monkeypatch.setattr(replication, "PAUSE_BATCH_MESSAGES", 0)
    async with asyncio.timeout(DEADLINE_S), await ReplicationStream.connect(published, slot=SLOT) as stream:
        execute(published, "INSERT INTO posts VALUES (1)")
        start = time.monotonic()
        seen = 0
        while not seen:
            seen = sum(message[XLOG_HEADER_BYTES] == ord("C") for message in await stream.read(backlog=True))
        assert time.monotonic() - start >= 0.1


@pytest.fixture
def published_by_socket(published: str) -> str:
    """The same database through the server's Unix-domain socket."""
    with psycopg.connect(published) as connection:
        folder = connection.execute("SHOW unix_socket_directories").fetchone()
    if folder is None or not Path(folder[0]).is_dir():
        pytest.skip("the server's socket is not on this host")
    return psycopg.conninfo.make_conninfo(published, host=folder[0])


async def test_a_unix_domain_socket_is_read_without_long_pauses(
    published_by_socket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It holds a few hundred messages, and the walsender waits when it is full."""
    monkeypatch.setattr(replication, "BACKLOG_PAUSE_S", 2.0 * DEADLINE_S)
    monkeypatch.setattr(replication, "PAUSE_RATE_PER_S", -1.0)
    async with asyncio.timeout(DEADLINE_S), await ReplicationStream.connect(published_by_socket, slot=SLOT) as stream:
        execute(published_by_socket, "INSERT INTO posts VALUES (1)")
        seen = 0
        while not seen:
            seen = sum(message[XLOG_HEADER_BYTES] == ord("C") for message in await stream.read(backlog=True))


async def test_the_receive_buffer_is_limited_where_the_server_is_on_this_host(published: str) -> None:
    doubled = 2 * walsender.LOOPBACK_RECEIVE_BUFFER_BYTES  # as socket(7) has it
    async with await ReplicationStream.connect(published, slot=SLOT) as stream:
        with socket.socket(fileno=os.dup(stream._fd)) as loopback:
            assert loopback.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) == doubled
    for one in socket.socketpair():
        with one:
            before = one.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
            walsender.limit_receive_buffer(one.fileno())
            assert one.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) == before, "one of a Unix-domain socket"


async def test_a_rest_ends_with_a_ping_and_with_the_stream(published: str) -> None:
    async with asyncio.timeout(DEADLINE_S), await ReplicationStream.connect(published, slot=SLOT) as stream:
        await stream.read()  # the first answers
        for end in (stream.ping, stream.aclose):
            resting = asyncio.create_task(stream.rest(3600.0))
            await asyncio.sleep(0)
            await end()
            await resting


async def test_there_is_no_rest_while_a_ping_is_open_or_much_has_come(
    published: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with asyncio.timeout(DEADLINE_S), await ReplicationStream.connect(published, slot=SLOT) as stream:
        await stream.ping()
        await stream.rest(3600.0)
        while stream._pings_open:
            await stream.read()
        monkeypatch.setattr(replication, "PAUSE_BATCH_MESSAGES", 0)
        await stream.rest(3600.0)


async def test_a_busy_consumer_keeps_the_connection(published: str) -> None:
    """Feedback goes out while nobody reads, for longer than wal_sender_timeout."""
    dsn = psycopg.conninfo.make_conninfo(published, options="-c wal_sender_timeout=2s")
    async with await ReplicationStream.connect(dsn, slot=SLOT) as stream:
        many = "INSERT INTO posts SELECT i, repeat('x', 1000) FROM generate_series(1, 20000) i"
        await asyncio.to_thread(execute, published, many)
        await asyncio.sleep(5.0)  # the time is what is tested: more than twice the server's timeout
        messages = await read_until(stream, count(Commit, 1))
        assert sum(isinstance(m, Insert) for m in messages) == 20_000


async def test_cancelling_a_read_loses_nothing(published: str) -> None:
    async with await ReplicationStream.connect(published, slot=SLOT) as stream:
        for _ in range(20):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(read_for_ever(stream), 0.01)
        execute(published, "INSERT INTO posts VALUES (1)")
        assert count(Insert, 1)(await read_until(stream, count(Insert, 1)))


async def test_errors_say_what_to_do(published: str, restricted_dsn: str) -> None:
    with pytest.raises(FatalError, match="does not exist") as fatal:
        await ReplicationStream.connect(published, slot="no_such_slot")
    assert "docs/operations.md" in fatal.value.mend
    async with await ReplicationStream.connect(published, slot=SLOT):
        with pytest.raises(TransientError, match="is active for PID"):
            await ReplicationStream.connect(published, slot=SLOT)
    execute(published, "DROP ROLE IF EXISTS plain", "CREATE ROLE plain LOGIN")
    with pytest.raises(ConfigurationError, match="replication connection"):
        await ReplicationStream.connect(published.replace("//postgres@", "//plain@"), slot=SLOT)
    execute(published, "DROP ROLE plain")
    with pytest.raises(ConfigurationError, match="does not exist"):
        await ReplicationStream.connect(published.replace("//postgres@", "//nobody_there@"), slot=SLOT)
    with pytest.raises(TransientError):
        await ReplicationStream.connect("postgresql://postgres@127.0.0.1:1/postgres", slot=SLOT)
    async with await ReplicationStream.connect(restricted_dsn, slot=SLOT):
        pass


async def test_a_missing_publication_is_fatal(published: str) -> None:
    with pytest.raises(FatalError, match='publication "odd ""name" does not exist') as fatal:
        await ReplicationStream.connect(published, slot=SLOT, publication='odd "name')
    assert "sidecar init" in fatal.value.mend


async def test_a_lost_connection_is_transient(published: str) -> None:
    stream = await ReplicationStream.connect(published, slot=SLOT)
    async with stream:
        execute(
            published, f"SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = '{SLOT}'"
        )
        with pytest.raises(TransientError):
            await read_until(stream, lambda _: False)
        with pytest.raises(TransientError):
            await stream.ping()
