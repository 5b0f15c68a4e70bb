"""The running node's view of the catalogue: attaches what is newly annotated, cheap when nothing changed."""

from __future__ import annotations

import asyncio
from typing import Any

import psycopg

from sidecar.core.catalog import TableSpec
from sidecar.errors import TransientError
from sidecar.postgres.admin import connect
from sidecar.postgres.catalogue import catalogue_version
from sidecar.postgres.migrations import migrate
from sidecar.postgres.problem import Problem
from sidecar.postgres.publication import publication_problems
from sidecar.postgres.table_attach import attach_tables
from sidecar.settings import Settings


class CatalogueSession:
    """One psycopg session; :meth:`refresh` may be called by several loops."""

    def __init__(self, settings: Settings, connection: psycopg.AsyncConnection[Any]) -> None:
        self._settings = settings
        self._connection = connection
        self._version = ""
        self._looked = False
        self.busy: frozenset[str] = frozenset()
        """Tables that wait for a lock before what is annotated is in force."""
        self._lock = asyncio.Lock()

    @classmethod
    async def open(cls, settings: Settings) -> CatalogueSession:
        """Connect, and bring the schema up to date."""
        connection = await connect(settings.node.dsn, waiting=True)
        try:
            await migrate(connection)
        except BaseException:
            await connection.close()
            raise
        return cls(settings, connection)

    async def refresh(self) -> tuple[tuple[TableSpec, ...] | None, list[Problem]]:
        """The tables in force and all present problems; ``None`` when nothing changed since."""
        async with self._lock:
            try:
                if self._version and await catalogue_version(self._connection) == self._version:
                    return None, []
                # Before the stream is opened, a publication that is missing is for sidecar init to make.
                problems = await publication_problems(self._connection, create=self._looked)
                self._looked = True
                result = await attach_tables(self._connection, self._settings)
            except psycopg.OperationalError as error:
                raise TransientError(f"the database connection failed: {error}") from None
            self._version = result.version
            self.busy = frozenset(result.busy)
            return result.tables, [*problems, *result.problems]

    async def close(self) -> None:
        """Close the session."""
        await self._connection.close()
