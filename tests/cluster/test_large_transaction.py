"""One transaction of very many rows: it passes in parts with bounded memory, and arrives as a whole or not at all."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import psutil
import psycopg
import pytest

from sidecar.lab.cluster import LabCluster
from sidecar.lab.embedded import FAST_SETTINGS

ROWS = int(os.environ.get("SIDECAR_LARGE_ROWS", "150000"))
"""Fifteen parts of the default size. The million rows that the README speaks of: SIDECAR_LARGE_ROWS=1000000."""

RESIDENT_BYTES_MAX = 512 * 1024 * 1024
DEADLINE_S = 60 + ROWS / 2_000

SCHEMA = """
CREATE TABLE items (
    id bigint PRIMARY KEY, a integer, b integer, c bigint, name text, note text, price numeric(12,2), at timestamptz
);
COMMENT ON TABLE items IS '@crdt';
"""


async def counts_until(dsn: str, query: str, wanted: int) -> set[int]:
    """Every count that was seen until the wanted one came."""
    seen: set[int] = set()
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        async with asyncio.timeout(DEADLINE_S):
            while wanted not in seen:
                row = await (await connection.execute(query)).fetchone()  # type: ignore[arg-type]
                assert row is not None
                seen.add(row[0])
                await asyncio.sleep(0.2)
    return seen


@pytest.mark.timeout(int(DEADLINE_S) * 3)
async def test_a_large_transaction_arrives_as_a_whole_with_bounded_memory(tmp_path: Path) -> None:
    async with LabCluster(2, tmp_path, schema_sql=SCHEMA, proxied=False, server_settings=FAST_SETTINGS) as cluster:
        source, target = cluster.nodes
        async with await psycopg.AsyncConnection.connect(source.dsn, autocommit=True) as connection:
            await connection.execute(
                "INSERT INTO items SELECT i, i, i % 7, i * 3, 'name ' || i, 'note of row ' || i, i * 1.5, now()"
                f" FROM generate_series(1, {ROWS}) AS i"
            )
            assert await counts_until(target.dsn, "SELECT count(*) FROM items", ROWS) <= {0, ROWS}
            await connection.execute("UPDATE items SET a = a + 1, note = 'again ' || id")
        query = "SELECT count(*) FROM items WHERE a = id + 1"
        assert await counts_until(target.dsn, query, ROWS) <= {0, ROWS}
        await cluster.wait_converged(DEADLINE_S)
        assert len({await cluster.table_checksum(i, "items") for i in range(2)}) == 1
        for node in cluster.nodes:
            assert node.sidecar_process is not None
            resident = psutil.Process(node.sidecar_process.pid).memory_full_info().rss
            peak = _peak_bytes(node.sidecar_process.pid)
            assert max(resident, peak) < RESIDENT_BYTES_MAX, f"{node.name}: {peak} bytes resident"


def _peak_bytes(pid: int) -> int:
    """The highest resident size so far."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0
