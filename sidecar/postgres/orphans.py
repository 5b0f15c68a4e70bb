"""Rows whose foreign keys point at nothing, for ``sidecar check``: merging does not look at foreign keys."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import psycopg

from sidecar.core.catalog import TableSpec, quote_table
from sidecar.postgres.problem import Problem
from sidecar.postgres.statements import load

ORPHANS_MAX = 100
"""Rows counted of a constraint; more are as many as anybody wants to look through by hand."""

TABLE_TIMEOUT_MS = 5_000
"""For the foreign keys of one table. The search reads the whole table, and checking has to end; crdt.orphans itself
takes the time that it is given."""


async def find_orphans(
    conn: psycopg.AsyncConnection[Any], tables: Iterable[TableSpec], timeout_ms: int = TABLE_TIMEOUT_MS
) -> list[Problem]:
    """A warning for each constraint with orphans, and for each table that could not be looked through. ``conn``: in
    autocommit. Nothing where ``sidecar init`` has not been run."""
    statements = load("cli")
    if not (await (await conn.execute(statements["read_orphans_known"])).fetchall())[0][0]:
        return []
    found: list[Problem] = []
    for table in tables:
        name = quote_table(table.schema, table.name)
        try:
            async with conn.transaction():
                await conn.execute(statements["limit_time"], [str(timeout_ms)])
                rows = await (await conn.execute(statements["read_orphans"], [name, ORPHANS_MAX])).fetchall()
        except (psycopg.errors.QueryCanceled, psycopg.errors.InsufficientPrivilege) as error:
            reason = error.diag.message_primary or type(error).__name__
            mend = f"SELECT * FROM crdt.orphans('{name}') as a role that may, when there is time"
            found.append(Problem("warning", f"not searched for orphans: {reason}", mend, table.qualified))
            continue
        found += [_warning(table, *row) for row in rows]
    return found


def _warning(table: TableSpec, constraint: str, points_at: str, count: int, key: str) -> Problem:
    many = (
        f"{count} or more rows point"
        if count >= ORPHANS_MAX
        else f"{count} rows point"
        if count > 1
        else "1 row points"
    )
    message = f"{many} at nothing in {points_at} (foreign key {constraint!r}), such as {key}"
    search = f"SELECT * FROM crdt.orphans('{quote_table(table.schema, table.name)}')"
    return Problem("warning", message, f"bring the parents back or delete the rows: {search}", table.qualified)
