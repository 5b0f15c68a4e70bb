"""Local changes that cannot be replicated are written down, and the stream goes on."""

from __future__ import annotations

import json

from node_harness import HarnessNode, cluster, converged, settle

from sidecar.lab.waiting import wait_until
from sidecar.node import intake

SCHEMA = """
CREATE TABLE doc (id int PRIMARY KEY, title text, body text);
COMMENT ON TABLE doc IS '@crdt';
"""
LIMITS = {"frame_bytes_max": 64 * 1024, "batch_bytes_max": 64 * 1024}
FITS = 2 * 64 * 1024 - 10
TOO_LARGE = 2 * 64 * 1024 + 1


async def put_aside(node: HarnessNode) -> list[tuple[str, dict[str, str] | None]]:
    return [(kept["sqlstate"], kept["row_key"] and json.loads(kept["row_key"])) for kept in await node.quarantine()]


async def test_a_row_too_large_for_any_peer_is_put_aside_and_the_stream_goes_on(postgres_server) -> None:  # type: ignore[no-untyped-def]
    async with cluster(postgres_server, 2, SCHEMA, limits=LIMITS) as (a, b):
        await a.sql("INSERT INTO doc VALUES (1, 'first', NULL)")
        async with a.app.transaction():
            await a.sql("INSERT INTO doc VALUES (7, '', repeat('x', $1))", TOO_LARGE)
            await a.sql("INSERT INTO doc VALUES (2, 'beside it', repeat('y', $1))", FITS)
        await a.sql("UPDATE doc SET body = repeat('x', $1) WHERE id = 1", TOO_LARGE)
        await a.sql("INSERT INTO doc VALUES (3, 'after it', NULL)")
        await a.captured()
        assert await put_aside(a) == [("0A000", {"id": "7"}), ("0A000", {"id": "1"})]
        assert "frame_bytes_max" in a.state.problems["put aside public.doc"]
        await b.merge_from(a)
        assert await b.rows("SELECT id, title, length(body) FROM doc ORDER BY id") == [
            (1, "first", None),
            (2, "beside it", FITS),
            (3, "after it", None),
        ]


COUNTED = SCHEMA.replace("body text);", "body text, likes int NOT NULL DEFAULT 0);") + (
    "COMMENT ON COLUMN doc.likes IS '@crdt(pn_counter)';"
)


async def test_what_a_change_that_is_put_aside_counted_counts_nowhere(postgres_server) -> None:  # type: ignore[no-untyped-def]
    """In the order in which the row was written, and once."""
    async with cluster(postgres_server, 2, COUNTED, limits=LIMITS) as nodes:
        a, b = nodes
        a.hold_capture()
        await a.sql("INSERT INTO doc VALUES (1, 'first', NULL, 10), (2, 'first', NULL, 10)")
        await a.sql("UPDATE doc SET likes = likes + 1")
        await a.sql("UPDATE doc SET body = repeat('x', $1), likes = likes + 100 WHERE id = 1", TOO_LARGE)
        await a.sql("UPDATE doc SET likes = likes + 1, body = NULL")
        await a.release_capture()
        await a.captured()
        assert await put_aside(a) == [("0A000", {"id": "1"})]
        assert await a.value("SELECT likes FROM doc WHERE id = 1") == 112
        await b.merge_from(a)
        assert await b.rows("SELECT id, likes FROM doc ORDER BY id") == [(1, 12), (2, 12)]
        assert await converged(nodes, "doc") == [["(1,first,,12)", "(2,first,,12)"]]


async def test_a_delete_of_a_row_that_is_put_aside_goes_everywhere(postgres_server, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(intake, "IMAGE_BYTES_MAX", 2 * TOO_LARGE)
    async with cluster(postgres_server, 2, COUNTED, limits=LIMITS) as nodes:
        a, b = nodes
        await a.sql("INSERT INTO doc VALUES (1, 'small', NULL, 10), (2, 'stays', NULL, 10)")
        await settle(nodes)
        await a.sql("UPDATE doc SET body = repeat('x', $1), likes = 11 WHERE id = 1", 3 * TOO_LARGE)
        await a.sql("DELETE FROM doc WHERE id = 1")
        await a.captured()
        assert await put_aside(a) == [("0A000", {"id": "1"})] * 2
        assert await converged(nodes, "doc") == [["(2,stays,,10)"]]
        await b.sql("INSERT INTO doc VALUES (1, 'again', NULL, 3)")
        assert await converged(nodes, "doc") == [["(1,again,,3)", "(2,stays,,10)"]]


async def test_a_small_change_of_a_row_with_a_large_value_is_captured(postgres_server) -> None:  # type: ignore[no-untyped-def]
    """Only what a change ships counts, not what the row holds."""
    rows = f"INSERT INTO doc SELECT i, 'old', repeat('x', {TOO_LARGE}) FROM generate_series(1, 2) AS i;"
    async with cluster(postgres_server, 2, SCHEMA + rows, limits=LIMITS) as (a, b):
        await a.sql("UPDATE doc SET title = 'new' WHERE id = 1")
        await a.sql("DELETE FROM doc WHERE id = 2")
        await a.captured()
        assert await put_aside(a) == []
        await b.merge_from(a)
        assert await b.rows("SELECT id, title, length(body) FROM doc") == [(1, "new", TOO_LARGE)]


WITHOUT_FULL = """
CREATE TABLE doc (id int PRIMARY KEY, title text, body text, likes int NOT NULL DEFAULT 0);
CREATE TABLE counted (id int PRIMARY KEY, likes int NOT NULL DEFAULT 0);
CREATE TABLE coded (id int PRIMARY KEY, code int NOT NULL UNIQUE, title text);
COMMENT ON TABLE doc IS '@crdt';
COMMENT ON TABLE counted IS '@crdt';
COMMENT ON TABLE coded IS '@crdt';
COMMENT ON COLUMN doc.likes IS '@crdt(pn_counter)';
COMMENT ON COLUMN counted.likes IS '@crdt(pn_counter)';
"""


async def test_what_came_without_its_old_row_is_put_aside_and_the_stream_goes_on(postgres_server) -> None:  # type: ignore[no-untyped-def]
    """Another tool took REPLICA IDENTITY FULL away for a while: the log keeps what was written then."""
    async with cluster(postgres_server, 2, WITHOUT_FULL) as nodes:
        a, b = nodes
        await a.sql("INSERT INTO doc SELECT i, 'first', 'body', 10 FROM generate_series(1, 5) AS i")
        await a.sql("INSERT INTO counted VALUES (1, 10)")
        await a.sql("INSERT INTO coded VALUES (1, 10, 'first'), (2, 20, 'first')")
        await settle(nodes)
        await a.sql("ALTER TABLE doc REPLICA IDENTITY DEFAULT; ALTER TABLE counted REPLICA IDENTITY DEFAULT")
        await a.sql("ALTER TABLE coded REPLICA IDENTITY USING INDEX coded_code_key")
        await a.sql("UPDATE doc SET title = 'unseen', likes = likes + 1 WHERE id = 1")
        await a.sql("DELETE FROM doc WHERE id = 2")
        await a.sql("UPDATE doc SET id = 30 WHERE id = 3")
        await a.sql("UPDATE counted SET likes = likes + 1")
        await a.sql("DELETE FROM coded WHERE id = 1")
        await a.sql("INSERT INTO doc VALUES (6, 'new', 'body', 1)")
        await a.refresh()
        full = "SELECT count(*) FROM pg_class WHERE relname IN ('doc', 'counted', 'coded') AND relreplident = 'f'"
        assert await a.value(full) == 3
        await a.sql("UPDATE doc SET title = 'seen' WHERE id = 4")
        await a.captured()
        kept = await a.quarantine()
        assert sorted((k["table_name"], k["row_key"] or "") for k in kept) == [
            ("public.coded", ""),
            ("public.counted", '{"id": "1"}'),
            ("public.doc", '{"id": "1"}'),
            ("public.doc", '{"id": "2"}'),
            ("public.doc", '{"id": "3"}'),
            ("public.doc", '{"id": "30"}'),
        ]
        assert all("REPLICA IDENTITY FULL" in k["reason"] for k in kept)
        await settle(nodes)
        assert await b.copy("doc") == [
            "(1,first,body,10)",
            "(4,seen,body,10)",
            "(5,first,body,10)",
            "(6,new,body,1)",
        ]
        # Written again, and from the other side: the rows are not stuck.
        await a.sql("UPDATE doc SET title = 'again' WHERE id = 1")
        await b.sql("UPDATE doc SET body = 'of b' WHERE id = 1")
        await b.sql("UPDATE counted SET likes = likes + 5")
        await settle(nodes)
        for node in nodes:
            assert await node.rows("SELECT title, body FROM doc WHERE id = 1") == [("again", "of b")]
        assert await b.rows("SELECT likes FROM counted") == [(15,)]


async def test_values_of_a_former_column_of_the_name_stop_nothing(postgres_server) -> None:  # type: ignore[no-untyped-def]
    """Dropped and added anew as a counter and a set, with a backlog of the texts that stood there."""
    async with cluster(postgres_server, 2, SCHEMA) as nodes:
        a = nodes[0]
        await a.sql("INSERT INTO doc VALUES (1, 'first', 'body')")
        await settle(nodes)
        a.hold_capture()
        await a.sql("UPDATE doc SET title = 'unseen', body = 'unseen' WHERE id = 1")
        await a.sql("INSERT INTO doc VALUES (2, 'unseen', 'unseen')")
        for node in nodes:
            await node.sql("ALTER TABLE doc DROP COLUMN title, DROP COLUMN body")
            await node.sql("ALTER TABLE doc ADD COLUMN title int NOT NULL DEFAULT 0, ADD COLUMN body text[]")
            await node.sql("COMMENT ON COLUMN doc.title IS '@crdt(pn_counter)'")
            await node.sql("COMMENT ON COLUMN doc.body IS '@crdt(or_set)'")
            await node.refresh()
        await a.release_capture()
        await a.captured()
        await a.sql("UPDATE doc SET title = title + 7, body = '{x}' WHERE id = 2")
        assert await converged(nodes, "doc") == [["(1,0,)", "(2,7,{x})"]]


async def test_changes_of_a_table_that_is_dropped_before_they_are_written(postgres_server) -> None:  # type: ignore[no-untyped-def]
    async with cluster(postgres_server, 2, WITHOUT_FULL) as (a, b):
        async with a.state.writer_lock:
            await a.sql("INSERT INTO doc VALUES (1, 'first', NULL, 1)")
            await a.sql("INSERT INTO counted VALUES (1, 10)")
            await wait_until(lambda: bool(a.state.pending_since_ms), 30, "the inserts are taken in")
            await a.sql("DROP TABLE doc")
            await a.refresh()
        await a.captured()
        assert [(k["table_name"], k["sqlstate"]) for k in await a.quarantine()] == [("public.doc", "42P01")]
        await b.merge_from(a)
        assert await b.rows("SELECT likes FROM counted") == [(10,)]
