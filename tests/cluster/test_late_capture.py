"""What was committed while a sidecar was down is captured late, and is as old as it is: later writes of others win."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import psycopg

from sidecar.lab.embedded import FAST_SETTINGS
from sidecar.lab.waiting import wait_until
from tests.prepared import PreparedCluster

DEADLINE_S = 60.0

SCHEMA = """
CREATE TABLE filler (id int PRIMARY KEY, n int NOT NULL DEFAULT 0);
COMMENT ON TABLE filler IS '@crdt';
CREATE TABLE busy (id int PRIMARY KEY, n int NOT NULL DEFAULT 0);
COMMENT ON TABLE busy IS '@crdt';
CREATE TABLE pages (id int PRIMARY KEY, title text NOT NULL);
COMMENT ON TABLE pages IS '@crdt';
INSERT INTO filler SELECT i FROM generate_series(1, 1000) AS i;
INSERT INTO busy VALUES (1);
INSERT INTO pages SELECT i, 'genesis' FROM generate_series(1, 30) AS i;
"""

BACKLOG = """
DO $$ BEGIN
    FOR i IN 1..200000 LOOP UPDATE filler SET n = n + 1 WHERE id = 1 + i % 1000; COMMIT; END LOOP;
END $$
"""


async def execute(dsn: str, *statements: str) -> None:
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        for statement in statements:
            await connection.execute(statement)  # type: ignore[call-overload]


@contextlib.asynccontextmanager
async def writing(dsn: str) -> AsyncIterator[None]:
    """Small transactions all the time, so that their change sets come to whoever starts."""

    async def write() -> None:
        async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
            while True:
                await connection.execute("UPDATE busy SET n = n + 1")
                await asyncio.sleep(0.002)

    task = asyncio.create_task(write())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def test_what_was_written_while_the_sidecar_was_down_does_not_win_against_what_came_after_it(
    tmp_path: Path,
) -> None:
    sections = {"timing": {"reconnect_ms_max": 500}}
    async with PreparedCluster(
        3, tmp_path, schema_sql=SCHEMA, server_settings=FAST_SETTINGS, sections=sections
    ) as cluster:
        await cluster.wait_linked()
        early, late, busy = cluster.nodes
        # Rows that nobody has written yet are not merged before capture has passed them, whatever else is.
        await execute(busy.dsn, "UPDATE busy SET n = 1", "UPDATE pages SET title = 'known'")
        await cluster.wait_converged(DEADLINE_S)
        # Only who has not seen the late writes can be merged before them, and then they must not be there themselves.
        await cluster.isolate(1)
        async with writing(busy.dsn):
            await cluster.stop_sidecar(0)
            await execute(
                early.dsn,
                BACKLOG,
                "UPDATE pages SET title = 'early' WHERE id <= 10",
                "DELETE FROM pages WHERE id BETWEEN 11 AND 20",
                "INSERT INTO pages SELECT i, 'early' FROM generate_series(31, 40) AS i",
            )
            await execute(
                late.dsn,
                "UPDATE pages SET title = 'late' WHERE id <= 20",
                "INSERT INTO pages SELECT i, 'late' FROM generate_series(31, 40) AS i",
            )
            await cluster.start_sidecar(0)
            await wait_until(lambda: _captured(early.dsn), DEADLINE_S, "the backlog is captured")
        cluster.heal()
        await cluster.wait_converged(DEADLINE_S)
        expected = [(i, "known" if 20 < i <= 30 else "late") for i in range(1, 41)]
        for node in cluster.nodes:
            async with await psycopg.AsyncConnection.connect(node.dsn) as connection:
                rows = await connection.execute("SELECT id, title FROM pages ORDER BY id")
                assert await rows.fetchall() == expected, node.name


async def _captured(dsn: str) -> bool:
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        row = await (
            await connection.execute("SELECT pg_current_wal_lsn() - lsn < 100000 FROM crdt_state.position")
        ).fetchone()
        return bool(row and row[0])
