"""Runs the statements of a TRUNCATE (:mod:`sidecar.core.merge.truncate`) in chunks, so that memory stays bounded."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from typing import Any

import asyncpg

from sidecar.core.catalog import TableSpec
from sidecar.core.changes import LocalChanges, TableChanges
from sidecar.core.merge import truncate

Key = tuple[list[str], list[Any]]
"""Text images of a key, and what else the query says of its row."""


@asynccontextmanager
async def _cursor(
    connection: asyncpg.Connection, spec: TableSpec, query: str
) -> AsyncIterator[AsyncIterator[list[Key]]]:
    """The rows of a query, CHUNK_ROWS at a time, within the transaction under way."""
    name = truncate.cursor_name(spec)
    await connection.execute(truncate.declare_cursor(spec, query))

    async def chunks() -> AsyncIterator[list[Key]]:
        while rows := await connection.fetch(f"FETCH {truncate.CHUNK_ROWS} FROM {name}"):
            yield [(row["key"], row["old"]) for row in rows]

    yield chunks()
    await connection.execute(f"CLOSE {name}")


async def seen_deletes(
    connection: asyncpg.Connection, spec: TableSpec, local: LocalChanges, node_id: int
) -> AsyncIterator[LocalChanges]:
    """At the origin, within the transaction that captures it: the rows that a TRUNCATE saw, as deletes to capture."""
    hlc = hlc_of(local.changes)
    async with _cursor(connection, spec, truncate.seen_rows(spec, int(local.xids[1:-1]))) as chunks:
        async for rows in chunks:
            yield truncate.seen_deletes(spec, rows, hlc)
    await connection.execute(truncate.note_statement(spec), node_id, hlc)
    await _forget_genesis(connection, spec, shown=False)


async def genesis_deletes(
    connection: asyncpg.Connection, spec: TableSpec, changes: TableChanges, origin: int
) -> AsyncIterator[tuple[TableChanges, dict[int, str]]]:
    """At a receiver, with the table locked and everything captured: the genesis rows as deletes to merge, with the xmin
    of each by position."""
    await connection.execute(truncate.adopt_statement(spec))
    await connection.execute(truncate.note_statement(spec), origin, hlc_of(changes))
    await _forget_genesis(connection, spec, shown=True)
    async with _cursor(connection, spec, truncate.genesis_rows(spec)) as chunks:
        async for rows in chunks:
            accepted = {i: xmin or "" for i, (_, (_, xmin)) in zip(count(1), rows, strict=False)}
            ops = [op for _, (op, _) in rows]
            keys, shown = [key for key, _ in rows], truncate.stamped(spec)
            yield truncate.deletes(spec, keys, truncate.GENESIS_HLC, ops, shown=shown), accepted


async def _forget_genesis(connection: asyncpg.Connection, spec: TableSpec, *, shown: bool) -> None:
    """What genesis held beside the rows themselves."""
    if spec.counters:
        await connection.execute(truncate.genesis_counters_statement(spec, shown=shown))
    if truncate.stamped(spec):
        await connection.execute(truncate.genesis_elements_statement(spec))


def hlc_of(changes: TableChanges) -> int:
    """The hlc of a TRUNCATE."""
    return int(changes.hlcs[1:-1])
