"""Two servers of which the second follows the first: by the sidecar, by built-in logical replication, or not at all.

All pairs get the same server settings (``SERVER_SETTINGS``, fsync on), the same tables, the same place for their data
and WAL files made beforehand (``WAL_FILES``), so that what differs between them is the replication.
"""

from __future__ import annotations

import asyncio
import os
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, LiteralString, Self

import asyncpg

from sidecar.lab.cluster import LabCluster
from sidecar.lab.convergence import table_checksum
from sidecar.lab.embedded import EmbeddedPostgres
from sidecar.lab.process import children_of
from sidecar.lab.waiting import wait_until

SERVER_SETTINGS: dict[str, str] = {
    "fsync": "on",
    "full_page_writes": "on",
    "synchronous_commit": "on",
    # A backlog writes some 300 MB of WAL; a checkpoint that falls into one measurement and not into another is noise.
    "max_wal_size": "4GB",
    "checkpoint_timeout": "30min",
}
WAL_FILES = 16
"""A server that has run for a while writes into WAL files that a checkpoint has left for reuse. A new one makes each
when it is needed, and no commit gets through for the 10 to 60 ms in which 16 MB of zeros are written. One such wait in
a round of 2,000 transactions is the 99th percentile of that round, whatever else is measured; so there are files for
256 MB from the beginning, more than any measurement writes on a server."""

DATABASE = "app"
TABLES = ("items", "marker", "probe")
SETTLE_DEADLINE_S = 120.0
OBSERVER = "benchmark"  # this process, which takes processor time from what it measures

SCHEMA = """
CREATE TABLE items (
    id bigint PRIMARY KEY, a integer, b integer, c bigint, name text, note text, amount numeric(12,2), at timestamptz
);
CREATE TABLE marker (id bigint PRIMARY KEY, at timestamptz NOT NULL DEFAULT clock_timestamp());
CREATE TABLE probe (node integer, id bigint, at timestamptz NOT NULL DEFAULT clock_timestamp(), PRIMARY KEY (node, id));
CREATE PROCEDURE insert_items(first bigint, last bigint, rows_per_transaction integer) LANGUAGE plpgsql AS $$
BEGIN
    FOR i IN first..last LOOP
        INSERT INTO items VALUES (i, i, i % 7, i * 3, 'name ' || i, 'note of row ' || i, i * 1.5, now());
        IF i % rows_per_transaction = 0 THEN COMMIT; END IF;
    END LOOP;
END $$;
CREATE PROCEDURE update_items(updates bigint, highest_id bigint, rows_per_transaction integer) LANGUAGE plpgsql AS $$
DECLARE
    chosen bigint;
BEGIN
    FOR i IN 1..updates LOOP
        chosen := 1 + floor(random() * highest_id)::bigint;
        UPDATE items SET a = a + 1, note = 'updated ' || i, at = clock_timestamp() WHERE id = chosen;
        IF i % rows_per_transaction = 0 THEN COMMIT; END IF;
    END LOOP;
END $$;
"""
ANNOTATIONS = "".join(f"COMMENT ON TABLE {table} IS '@crdt';\n" for table in TABLES)


@asynccontextmanager
async def session(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection that is closed at the end; after an error at once, as a polite close waits for what still runs."""
    connection = await asyncpg.connect(dsn)
    try:
        yield connection
    except BaseException:
        connection.terminate()
        raise
    await connection.close()


@dataclass(frozen=True, slots=True)
class Processor:
    """Processor seconds used so far by each part of a pair; empty where there is no /proc."""

    seconds: Mapping[str, float]

    def since(self, earlier: Processor) -> dict[str, float]:
        """What was used between two readings."""
        return {name: round(value - earlier.seconds.get(name, 0.0), 2) for name, value in self.seconds.items()}


class Pair(ABC):
    """``async with pair: ...``: node 0 takes the writes, node 1 follows; ``dsns`` are known once it is started."""

    name: str
    replicated = True
    dsns: tuple[str, str]
    servers: tuple[EmbeddedPostgres, EmbeddedPostgres]

    @abstractmethod
    async def start(self) -> None:
        """Start servers and replication; returns when node 1 follows."""

    @abstractmethod
    async def stop(self) -> None:
        """End everything and remove the files."""

    @abstractmethod
    async def pause(self) -> None:
        """Stop the consumer of node 0's changes; its slot stays."""

    @abstractmethod
    async def resume(self) -> None:
        """Tell the consumer to go on; does not wait for it."""

    def check(self) -> None:
        """Raise when a process that should run has ended by itself."""
        return

    async def status(self) -> list[dict[str, Any]]:
        """What each sidecar says about itself; empty where there is none."""
        return []

    def processes(self) -> dict[str, int]:
        """Further processes that take part, by name."""
        return {}

    def processor(self) -> Processor:
        """Read the processor time of the servers (with their sessions), of :meth:`processes` and of this process."""
        groups = {f"server {index}": [server.pid] for index, server in enumerate(self.servers)}
        for pids in groups.values():
            pids.extend(children_of(pids[0]) if pids[0] else [])
        groups.update({name: [pid] for name, pid in self.processes().items()})
        groups[OBSERVER] = [os.getpid()]
        return Processor({name: sum(map(_processor_seconds, pids)) for name, pids in groups.items()})

    async def execute(self, node: int, *statements: str) -> None:
        """Run statements in one session of a node, each in its own transaction."""
        async with session(self.dsns[node]) as connection:
            for statement in statements:
                await connection.execute(statement)

    async def value(self, node: int, query: LiteralString) -> Any:
        """The first column of the first row."""
        async with session(self.dsns[node]) as connection:
            return await connection.fetchval(query)

    async def settle(self, deadline_s: float = SETTLE_DEADLINE_S) -> None:
        """Wait until node 1 has everything that is committed on node 0."""
        number = await self.value(0, "INSERT INTO marker (id) SELECT coalesce(max(id), 0) + 1 FROM marker RETURNING id")
        async with session(self.dsns[1]) as connection:

            async def arrived() -> bool:
                self.check()
                return bool(await connection.fetchval("SELECT EXISTS (SELECT FROM marker WHERE id >= $1)", number))

            await wait_until(arrived, deadline_s, f"{self.name}: arrival of what was committed")

    async def converged(self, tables: Sequence[str] = TABLES) -> bool:
        """Whether the tables are equal on both nodes, byte by byte."""
        sums = [await asyncio.gather(*(table_checksum(dsn, table) for dsn in self.dsns)) for table in tables]
        return all(left == right for left, right in sums)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()


def start_server(server: EmbeddedPostgres) -> None:
    """Start a server that has ``WAL_FILES`` to reuse."""
    server.start()
    server.run_psql(
        f"""
        DO $$ BEGIN
            FOR i IN 1..{WAL_FILES} LOOP
                PERFORM pg_logical_emit_message(false, 'bench', '');  -- an empty file would not be left
                PERFORM pg_switch_wal();
            END LOOP;
        END $$;
        CHECKPOINT;
        """
    )


class PlainPair(Pair):
    """Two servers that know nothing of each other: what a commit costs by itself."""

    name = "none"
    replicated = False

    def __init__(self, folder: Path, pg_bin: Path | None = None) -> None:
        def server(index: int) -> EmbeddedPostgres:
            return EmbeddedPostgres(folder / f"{self.name}-{index}", bin_dir=pg_bin, settings=SERVER_SETTINGS)

        self.servers = (server(0), server(1))

    async def start(self) -> None:
        try:
            dsns = [await asyncio.to_thread(self._start_server, server) for server in self.servers]
        except BaseException:
            await self.stop()
            raise
        self.dsns = (dsns[0], dsns[1])

    @staticmethod
    def _start_server(server: EmbeddedPostgres) -> str:
        start_server(server)
        dsn = server.create_database(DATABASE)
        server.run_psql(SCHEMA, DATABASE)
        return dsn

    async def stop(self) -> None:
        for server in self.servers:
            await asyncio.to_thread(server.close)

    async def pause(self) -> None:
        return

    async def resume(self) -> None:
        return


class BuiltinPair(PlainPair):
    """A publication and a subscription with its defaults (no parallel apply, synchronous_commit off in the worker)."""

    name = "built-in"
    replicated = True

    async def start(self) -> None:
        await super().start()
        full = [f"ALTER TABLE {table} REPLICA IDENTITY FULL" for table in TABLES]
        await self.execute(0, *full, f"CREATE PUBLICATION bench FOR TABLE {', '.join(TABLES)}")
        await self.execute(
            1,
            *full,
            f"CREATE SUBSCRIPTION bench CONNECTION '{self.dsns[0]}' PUBLICATION bench WITH (copy_data = false)",
        )
        await self.settle()

    async def pause(self) -> None:
        await self.execute(1, "ALTER SUBSCRIPTION bench DISABLE")
        await wait_until(partial(self._is_idle), SETTLE_DEADLINE_S, "built-in: the end of its walsender")

    async def _is_idle(self) -> bool:
        return not await self.value(0, "SELECT bool_or(active) FROM pg_replication_slots")

    async def resume(self) -> None:
        await self.execute(1, "ALTER SUBSCRIPTION bench ENABLE")


class SidecarPair(Pair):
    """A lab cluster of two nodes without proxies, its sidecars with default settings."""

    name = "sidecar"

    def __init__(self, folder: Path, pg_bin: Path | None = None, *, schema: str = SCHEMA + ANNOTATIONS) -> None:
        self.cluster = LabCluster(
            2, folder / self.name, schema_sql=schema, proxied=False, pg_bin=pg_bin, server_settings=SERVER_SETTINGS
        )
        self.servers = (self.cluster.nodes[0].server, self.cluster.nodes[1].server)

    async def start(self) -> None:
        try:
            await asyncio.gather(*(asyncio.to_thread(start_server, server) for server in self.servers))
        except BaseException:
            await self.stop()
            raise
        await self.cluster.start()
        self.dsns = (self.cluster.nodes[0].dsn, self.cluster.nodes[1].dsn)
        try:
            await self.cluster.wait_linked()
            await self.settle()
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        await self.cluster.stop()

    async def pause(self) -> None:
        await self.cluster.stop_sidecar(0)

    async def resume(self) -> None:
        await self.cluster.start_sidecar(0, ready=False)

    def check(self) -> None:
        self.cluster.check_processes()

    async def status(self) -> list[dict[str, Any]]:
        return [await self.cluster.status(index) for index in range(len(self.cluster.nodes))]

    def processes(self) -> dict[str, int]:
        running = {index: node.sidecar_process for index, node in enumerate(self.cluster.nodes)}
        return {f"sidecar {index}": process.pid for index, process in running.items() if process is not None}

    def memory_peak_bytes(self) -> dict[str, int]:
        """The highest resident memory of each sidecar so far."""
        found = {}
        for name, pid in self.processes().items():
            lines = Path(f"/proc/{pid}/status").read_text().splitlines()
            found[name] = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
        return found


def _processor_seconds(pid: int | None) -> float:
    """User and system time (proc(5), fields 14 and 15 of stat), with children that ended (16, 17)."""
    if pid is None:
        return 0.0
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return sum(int(field) for field in fields[11:15]) / os.sysconf("SC_CLK_TCK")
