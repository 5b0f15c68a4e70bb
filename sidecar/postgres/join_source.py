"""The other side of a join: a node's database, read in one exported snapshot by several sessions."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from sidecar.core.catalog import TableSpec
from sidecar.core.merge.state_rows import keys_source
from sidecar.core.merge.state_tables import counter_table, qualified_user_table, row_table
from sidecar.core.versions import VersionVector
from sidecar.errors import ConfigurationError, TransientError
from sidecar.postgres.admin import connect
from sidecar.postgres.catalogue import read_catalogue
from sidecar.postgres.in_force import tables_in_force
from sidecar.postgres.session import PLANNER_SETTINGS, Session
from sidecar.postgres.statements import load

SCANS = {name: "on" for name, value in PLANNER_SETTINGS.items() if value == "off" and name.startswith("enable_")}
"""Whole tables are read here, where the merge's sessions look rows up by key."""

LOCK_TIMEOUT = "200ms"
"""Well below deadlock_timeout (1 s), so that the application never is the one to give way, here or over there."""

PIPED_CHUNKS = 16
"""Pieces of COPY data (some 100 kB each) read ahead of what is written."""

CAPTURE_WAIT_S = 30.0
"""How long the other node's capture may stand still before a position; heartbeats move it several times a second."""

POLL_S = 0.05
"""How often its position is looked at meanwhile."""

_SQL = load("join")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What the states of the snapshot have merged: ``clock``, and ``ends``, the last change set of each node.
    ``floor``: transactions below this xid were captured before it."""

    name: str
    node_id: int
    clock: VersionVector
    ends: VersionVector
    floor: int
    truncations: list[tuple[int, int, int]]
    """Table id over there, node, hlc."""


class JoinSource:
    """Opens with :meth:`open`. Sessions that read the snapshot come from :meth:`reader`."""

    def __init__(self, dsn: str, session: Session, tables: dict[str, TableSpec], name: str, node_id: int) -> None:
        self._dsn = dsn
        self._session = session
        self.tables = tables
        self.name = name
        self.node_id = node_id
        self.now = asyncio.Lock()
        """Held while the session is in use that reads rows as they are now."""

    @classmethod
    @asynccontextmanager
    async def open(cls, dsn: str, *, name: str, cluster: str) -> AsyncIterator[JoinSource]:
        """Connect and check that this is the node meant; :class:`ConfigurationError` if not."""
        async with await connect(dsn) as admin:
            if not await _attached(admin):
                raise ConfigurationError(f"the database of {name} is not attached to a node", mend="correct its DSN")
            found = await (await admin.execute(_SQL["read_source"])).fetchone()
            assert found is not None
            await admin.rollback()
            specs = tables_in_force(await read_catalogue(admin), [])
        node_id, node_name, node_cluster, joining = found
        if (node_name, node_cluster) != (name, cluster):
            raise ConfigurationError(
                f"the DSN of {name} (cluster {cluster!r}) leads to {node_name!r} of cluster {node_cluster!r}",
                mend="correct the DSN, or the name after --from",
            )
        if joining:
            raise ConfigurationError(f"{name} is itself joining from {joining}", mend="join from a finished node")
        session = await Session.open(
            dsn, purpose="join", origin=False, settings={**SCANS, "lock_timeout": LOCK_TIMEOUT}
        )
        try:
            yield cls(dsn, session, {spec.qualified: spec for spec in specs}, name, node_id)
        finally:
            await session.close()

    async def captured(self) -> None:
        """Wait until everything committed there by now is captured; :class:`TransientError` when nobody captures."""
        lsn = await self._session.connection.fetchval(load("journal")["insert_lsn"])
        loop = asyncio.get_running_loop()
        seen, moved_at = "", loop.time()
        while True:
            [found] = await self._session.connection.fetch(_SQL["captured"], lsn)
            if found["enough"]:
                return
            if found["lsn"] != seen:
                seen, moved_at = found["lsn"], loop.time()
            if loop.time() - moved_at > CAPTURE_WAIT_S:
                raise TransientError(
                    f"{self.name} does not capture what is committed there",
                    mend="is its sidecar running? See its status",
                )
            await asyncio.sleep(POLL_S)  # it is another process on another database

    async def clock(self) -> VersionVector:
        """Its clock as of now, with everything committed there by now."""
        await self.captured()
        return {row["node"]: row["hlc"] for row in await self._session.connection.fetch(_SQL["read_clock"])}

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[Snapshot]:
        """One snapshot, held until the end; when it is there, everything that it shows is captured."""
        connection = self._session.connection
        floor = await connection.fetchval(_SQL["xid_floor"])
        await self.captured()
        holder = await Session.open(self._dsn, purpose="join", origin=False)
        try:
            await holder.connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            rows = await holder.connection.fetch(_SQL["read_clock"])
            truncations = [tuple(row) for row in await holder.connection.fetch(_SQL["read_truncations"])]
            name = await holder.connection.fetchval("SELECT pg_export_snapshot()")
            await self.captured()
            clock = {row["node"]: row["hlc"] for row in rows}
            ends = {row["node"]: row["change_hlc"] for row in rows}
            yield Snapshot(name, self.node_id, clock, ends, floor, truncations)
        finally:
            await holder.close()

    @asynccontextmanager
    async def reader(self, snapshot: Snapshot) -> AsyncIterator[Session]:
        """A session that sees the snapshot."""
        session = await Session.open(self._dsn, purpose="join", origin=False, settings=SCANS)
        try:
            await session.connection.execute(
                f"BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET TRANSACTION SNAPSHOT '{snapshot.name}'"
            )
            yield session
        finally:
            await session.close()

    async def sizes(self, spec: TableSpec) -> tuple[tuple[int, int, int], int]:
        """Pages of the user's table, its row states and counters, and how many rows the server believes there are."""
        fetch = self._session.connection.fetch
        [user] = await fetch(_SQL["table_size"], qualified_user_table(spec))
        [states] = await fetch(_SQL["table_size"], row_table(spec))
        sums = (await fetch(_SQL["table_size"], counter_table(spec)))[0]["pages"] if spec.counters else 0
        return (user["pages"], states["pages"], sums), max(0, user["rows"])

    @asynccontextmanager
    async def locked(self, spec: TableSpec, keys: list[list[str]]) -> AsyncIterator[None]:
        """With user rows locked there, so that their commits can be captured."""
        connection = self._session.connection
        async with connection.transaction():
            await connection.execute(
                f"SELECT FROM {qualified_user_table(spec)} AS t JOIN (SELECT t.ctid {keys_source(spec, keys)}) AS k"
                " ON k.ctid = t.ctid FOR NO KEY UPDATE OF t"
            )
            yield

    async def rows_now(self, query: str, write: Callable[[AsyncIterable[bytes]], Awaitable[int]]) -> int:
        """The rows of a query as they are now, as COPY data."""
        return await pipe(self._session, query, write)

    async def fetch(self, query: str, *arguments: object) -> list[tuple[object, ...]]:
        """The rows of a query as they are now."""
        return [tuple(row) for row in await self._session.connection.fetch(query, *arguments)]


async def _attached(admin: object) -> bool:
    cursor = await admin.execute("SELECT to_regclass('crdt_state.node') IS NOT NULL")  # type: ignore[attr-defined]
    row = await cursor.fetchone()
    return bool(row[0])


async def pipe(reader: Session, query: str, write: Callable[[AsyncIterable[bytes]], Awaitable[int]]) -> int:
    """COPY data of a query, as it comes, into ``write``; returns what that returns. When writing fails the rest is read
    and dropped, so that the reading session keeps its snapshot."""
    queue: asyncio.Queue[bytes | None] = asyncio.Queue(PIPED_CHUNKS)

    async def read() -> None:
        try:
            await reader.connection.copy_from_query(query, output=queue.put)
        finally:
            await queue.put(None)

    async def pieces() -> AsyncIterator[bytes]:
        while (data := await queue.get()) is not None:
            yield data

    reading = asyncio.create_task(read(), name="join reads")
    try:
        written = await write(pieces())
    except BaseException:
        while not reading.done():
            with contextlib.suppress(asyncio.QueueEmpty):
                queue.get_nowait()
            await asyncio.sleep(0)
        raise
    await reading
    return written
