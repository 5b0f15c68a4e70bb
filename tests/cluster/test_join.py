"""A node joins others that are written to all the time: nothing lost, nothing counted twice."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import asyncpg
import pytest
from join_lab import (
    CONVERGE_S,
    GENESIS,
    SEVERAL,
    Books,
    agree,
    begin_join,
    cluster_and_newcomer,
    cut_short,
    join,
    let_go,
    seconds,
    writing,
)

from sidecar.errors import SidecarError
from sidecar.lab.waiting import wait_until
from tests.prepared import PreparedCluster

PER_S = 500
"""Transactions a second on all nodes together."""
SLOW_PER_S = 60
"""The same where it is not the load that is tried: what a busy machine does beside everything else."""
LOAD_S = seconds("SIDECAR_JOIN_LOAD_S", 4.0)
"""How long all nodes, the new one too, are written to after the join."""


async def ledger_of(cluster: PreparedCluster, index: int) -> set[int]:
    """The transactions that a node has."""
    connection = await asyncpg.connect(cluster.nodes[index].dsn)
    try:
        return {row[0] for row in await connection.fetch("SELECT id FROM ledger")}
    finally:
        await connection.close()


@SEVERAL
async def test_a_fourth_node_joins_under_load_and_is_written_to(tmp_path: Path) -> None:
    """When the join says that it is done, the node has everything that the copied one had before."""
    async with cluster_and_newcomer(tmp_path, 4) as cluster:
        books = Books()
        async with writing(cluster, (0, 1, 2), books, PER_S / 3):
            began = time.monotonic()
            await asyncio.sleep(2)  # row states of many rows
            there = await ledger_of(cluster, 0)
            before, started = books.transactions, time.monotonic()
            status, output = await join(cluster)
            assert status == 0, output
            assert "joined from us-east" in output
            assert there - await ledger_of(cluster, 3) == set()
            # Against what this machine did before: it may be busy with something else.
            usual_per_s = before / (started - began)
            per_s = (books.transactions - before) / (time.monotonic() - started)
            assert per_s > usual_per_s / 4, "the writers were held up"
        await cluster.start_sidecar(3)
        async with writing(cluster, (0, 1, 2, 3), books, PER_S / 4):
            await asyncio.sleep(LOAD_S)
        await agree(cluster, books)


@SEVERAL
async def test_a_join_survives_its_own_end_and_that_of_the_node_it_copies(tmp_path: Path) -> None:
    """Killed in the middle; then the sidecar and the server that it copies from are killed; then brought to its end."""
    async with cluster_and_newcomer(tmp_path, 4) as cluster:
        books = Books()
        async with writing(cluster, (0, 1, 2), books, SLOW_PER_S / 3):
            await asyncio.sleep(1)
            assert await cut_short(cluster, 0.0), "the join was done before it could be cut short"
            with pytest.raises(SidecarError, match="has begun to join from us-east"):
                await cluster.start_sidecar(3)
            await cluster.kill_sidecar(3)
            process = begin_join(cluster, "--no-wait", log=tmp_path / "join.log")
            await asyncio.sleep(1.5)
            await cluster.kill_sidecar(0)
            await cluster.kill_server(0)
            await asyncio.to_thread(process.wait)
            said = (tmp_path / "join.log").read_text()
            assert process.returncode == 0 or "error: " in said.splitlines()[-1], said
            assert "Traceback" not in said
            await cluster.start_server(0)
            await cluster.start_sidecar(0)
            connection = await asyncpg.connect(cluster.nodes[3].dsn)
            await let_go(connection)
            await connection.close()
            status, output = await join(cluster)
            assert status == 0, output
        await cluster.start_sidecar(3)
        async with writing(cluster, (0, 1, 2, 3), books, SLOW_PER_S / 4):
            await asyncio.sleep(LOAD_S)
        await agree(cluster, books)


async def test_a_node_with_rows_joins_without_waiting_for_the_rest(tmp_path: Path) -> None:
    async with cluster_and_newcomer(tmp_path, 3, newcomer_rows=GENESIS // 2) as cluster:
        books = Books()
        async with writing(cluster, (0, 1), books, SLOW_PER_S / 2):
            await asyncio.sleep(1)
            status, output = await join(cluster, "--no-wait")
            assert status == 0, output
        await cluster.start_sidecar(2)
        await agree(cluster, books)


async def test_a_join_that_was_cut_short_goes_on(tmp_path: Path) -> None:
    """Killed at several moments, then brought to its end."""
    async with cluster_and_newcomer(tmp_path, 3) as cluster:
        books = Books()
        async with writing(cluster, (0, 1), books, SLOW_PER_S / 2):
            await asyncio.sleep(1)
            for after_s in (0.0, 0.1, 0.3):
                if not await cut_short(cluster, after_s):
                    break  # a fast machine may be done before it can be cut short again
            status, output = await join(cluster)
            assert status == 0, output
            await cluster.start_sidecar(2)
        await agree(cluster, books)


async def test_a_truncate_between_two_tries_holds(tmp_path: Path) -> None:
    """Rows that nobody has written leave nothing behind when they are truncated: the second try may not take those that
    the first one has copied for this node's own, and bring them back."""
    async with cluster_and_newcomer(tmp_path, 2) as cluster:
        first, last = cluster.nodes
        source, newcomer = await asyncpg.connect(first.dsn), await asyncpg.connect(last.dsn)
        await source.execute("UPDATE goods SET stock = stock + 1 WHERE id <= 10")
        status, output = await join(cluster, "--no-wait")
        assert status == 0, output
        assert await newcomer.fetchval("SELECT count(*) FROM goods") == GENESIS
        # As when it was killed just before its end.
        await newcomer.execute("UPDATE crdt_state.node SET joining = 'us-east'")
        await newcomer.execute("DELETE FROM crdt_state.clock WHERE node <> 2")
        await source.execute("TRUNCATE goods")
        await source.execute("INSERT INTO goods (id, name, stock) VALUES (5, 'new', 1), (20, 'new', 2)")
        status, output = await join(cluster, "--no-wait")
        assert status == 0, output
        await cluster.start_sidecar(1)
        await cluster.wait_converged(CONVERGE_S)
        for connection in (source, newcomer):
            assert await connection.fetch("SELECT id, stock FROM goods ORDER BY id") == [(5, 1), (20, 2)]
            await connection.close()


async def test_tables_that_differ_are_listed_and_nothing_is_written(tmp_path: Path) -> None:
    async with cluster_and_newcomer(tmp_path, 3) as cluster:
        third = cluster.nodes[2]
        await asyncio.to_thread(third.server.run_psql, "ALTER TABLE goods ADD COLUMN more int", "app")
        status, output = await join(cluster)
        assert status == 2
        assert "table public.goods differs: column more is missing there, integer lww_register here" in output
        assert await asyncio.to_thread(third.server.run_psql, "SELECT count(*) FROM goods", "app") in ("0", "0\n")


async def test_a_node_is_made_anew_under_its_old_name_and_id(tmp_path: Path) -> None:
    """Its own earlier changes come back to it, and its new ones follow them."""
    async with cluster_and_newcomer(tmp_path, 3, newcomer_rows=GENESIS) as cluster:
        await cluster.start_sidecar(2)
        books = Books()
        async with writing(cluster, (0, 1, 2), books, SLOW_PER_S / 3):
            await asyncio.sleep(2)
        await agree(cluster, books)
        await cluster.stop_sidecar(2)
        third = cluster.nodes[2]
        await asyncio.to_thread(third.server.run_psql, "SELECT pg_drop_replication_slot('sidecar_3')", "app")
        await asyncio.to_thread(third.server.run_psql, "DROP DATABASE app")
        await cluster._start_database(third)
        await cluster._init(third)
        async with writing(cluster, (0, 1), books, SLOW_PER_S / 2):
            status, output = await join(cluster)
            assert status == 0, output
            await cluster.start_sidecar(2)
            async with writing(cluster, (2,), books, SLOW_PER_S / 4):
                await asyncio.sleep(2)
        await agree(cluster, books)


TRIMMED = {"limits": {"journal_partition_rows": 64}}
"""A journal that is dropped in small pieces."""


async def journal_begins(dsn: str) -> int:
    """The first number that a node's journal may still hold."""
    connection = await asyncpg.connect(dsn)
    try:
        return int(await connection.fetchval("SELECT coalesce(min(seq), 0) FROM crdt_state.journal"))
    finally:
        await connection.close()


@SEVERAL
async def test_a_peer_that_lists_nobody_keeps_its_journal_for_a_joining_node(tmp_path: Path) -> None:
    """The copy takes longer than that peer and the copied node take to be done with what comes after it: without being
    told, the peer trims it before the new node is there."""
    async with cluster_and_newcomer(tmp_path, 3, sections=TRIMMED) as cluster:
        dialled = cluster.nodes[1]
        text = dialled.config_path.read_text()
        dialled.config_path.write_text(text[: text.index("[[peers]]")])
        await cluster.stop_sidecar(1)
        await cluster.start_sidecar(1)
        books = Books()
        blocker = await asyncpg.connect(cluster.nodes[2].dsn)
        async with writing(cluster, (1,), books, 100):
            await wait_until(lambda: trimmed(dialled.dsn), CONVERGE_S, "the peer trims its journal")
            async with blocker.transaction():
                await blocker.execute("LOCK TABLE ledger IN SHARE MODE")
                process = begin_join(cluster, log=tmp_path / "join.log")
                begun = "SELECT joining IS NOT NULL FROM crdt_state.node"
                await wait_until(lambda: blocker.fetchval(begun), CONVERGE_S, "the join copies")
                begins, written = await journal_begins(dialled.dsn), books.transactions  # the peer knows by now
                await wait_until(lambda: books.transactions > written + 1500, CONVERGE_S, "much is written")
                assert process.returncode is None
            assert await asyncio.to_thread(process.wait) == 0, (tmp_path / "join.log").read_text()
            assert await journal_begins(dialled.dsn) <= begins + 2 * 64
        await cluster.start_sidecar(2)
        await agree(cluster, books)
        await blocker.close()


async def trimmed(dsn: str) -> bool:
    return await journal_begins(dsn) > 64
