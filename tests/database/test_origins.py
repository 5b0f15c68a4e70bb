"""Replication origins: a server has room for few, so those of dropped databases go, and a node can do without."""

from __future__ import annotations

from typing import Any

import asyncpg

from sidecar.postgres.session import Session, _origin

LEFT = "crdt_4294967295_merge"
NAMES = "SELECT roname FROM pg_replication_origin WHERE roname = ANY ($1) ORDER BY 1"


async def test_origins_of_dropped_databases_go_and_nobody_elses(database: str) -> None:
    app = await asyncpg.connect(database)
    other = await app.fetchval("SELECT format('crdt_%s_kept', oid) FROM pg_database WHERE datname = 'postgres'")
    foreign = "another_tools_4294967295_merge"
    try:
        for name in (LEFT, other, foreign):
            await app.execute("SELECT pg_replication_origin_create($1)", name)
        session = await Session.open(database, purpose="room", origin=True)
        assert session.privileges.origin
        assert [row["roname"] for row in await app.fetch(NAMES, [LEFT, other, foreign])] == [foreign, other]
        await session.close()
    finally:
        await app.execute(
            "SELECT pg_replication_origin_drop(roname) FROM pg_replication_origin"
            " WHERE roname = ANY ($1) OR roname LIKE '%room'",
            [LEFT, other, foreign],
        )
        await app.close()


class Full:
    """A server that knows the origin and has no room to use it."""

    async def fetchval(self, query: str, *arguments: Any) -> int:
        return 1

    async def execute(self, query: str, *arguments: Any) -> None:
        raise asyncpg.ConfigurationLimitExceededError("could not find free replication state slot")


async def test_where_there_is_no_room_the_session_goes_without() -> None:
    connection: Any = Full()
    assert await _origin(connection, "merge") == ""
