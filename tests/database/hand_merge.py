"""Merges of hand-made change sets into one database, without capture: what other nodes say is what a test says."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import asyncpg

from sidecar.core.arrays import int_array, text_array
from sidecar.core.catalog import ColumnSpec, TableSpec
from sidecar.core.changes import MASK_BITS, ChangeSetHeader, TableChanges
from sidecar.core.merge.state_tables import state_ddl
from sidecar.errors import DirtyRowsError
from sidecar.node.rewrite import touch
from sidecar.postgres.merge import Merger, MergeResult, UniqueSwapError
from sidecar.postgres.merge_batch import MergeSet
from sidecar.postgres.overtaken import Overtaking
from sidecar.postgres.session import Session
from tests.database.node_harness import migrated_template

_names = itertools.count(1)


@dataclass(frozen=True)
class Row:
    """One row change. ``values``: column -> text image, JSON text of a change, or a dict that becomes one; ``late``:
    column -> its own hlc where it is below ``hlc``."""

    key: int
    hlc: int
    values: dict[str, Any] = field(default_factory=dict)
    op: str = "U"
    inserted: int | None = None
    late: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Write:
    """One change set of ``origin`` that ends at ``hlc``; ``context`` is what it had seen of other nodes."""

    origin: int
    hlc: int
    context: dict[int, int]
    rows: tuple[Row, ...]


def _text(value: Any) -> bytes | None:
    if value is None:
        return None
    return (value if isinstance(value, str) else json.dumps(value)).encode()


def table_changes(spec: TableSpec, rows: Sequence[Row]) -> TableChanges:
    """The columnar form, with the columns that any row carries."""
    full = any(row.op in "IR" for row in rows)
    columns = [c.name for c in spec.columns if full or any(c.name in row.values for row in rows)]

    def numbers(values: list[int | None]) -> bytes:
        return int_array([None if value is None else b"%d" % value for value in values])

    def mask(first: int) -> bytes:
        word = columns[first : first + MASK_BITS]
        return numbers([sum(1 << i for i, name in enumerate(word) if name in row.values) for row in rows])

    return TableChanges(
        schema=spec.schema,
        name=spec.name,
        key_columns=[c.name for c in spec.key],
        columns=columns,
        rows=len(rows),
        ops=b"{" + ",".join(row.op for row in rows).encode() + b"}",
        hlcs=numbers([row.hlc for row in rows]),
        inserted=numbers([row.hlc if row.op in "IR" and row.inserted is None else row.inserted for row in rows]),
        masks=[mask(first) for first in range(0, max(1, len(columns)), MASK_BITS)],
        keys=[text_array([b"%d" % row.key for row in rows])],
        values=[text_array([_text(row.values.get(name)) for row in rows]) for name in columns],
        late=[numbers([row.late.get(name) for row in rows]) for name in columns],
        seen=[b""] * len(columns),
    )


class _Captured:
    async def captured(self, lsn: int, timeout_s: float) -> bool:
        return True


@dataclass
class HandNode:
    """A database into which changes of others are merged; it writes nothing itself."""

    spec: TableSpec
    app: asyncpg.Connection
    merger: Merger
    clock: dict[int, int] = field(default_factory=dict)

    @property
    def catalogue(self) -> dict[str, TableSpec]:
        return {self.spec.qualified: self.spec}

    async def merge(self, *writes: Write, isolate: bool = False) -> MergeResult:
        """One transaction; several writes are combined as a node under load does it. ``isolate``: rows that cannot
        apply go to quarantine."""
        sets, ends = [], dict(self.clock)
        for write in writes:
            header = ChangeSetHeader(
                origin=write.origin,
                from_hlc=ends.get(write.origin, 0),
                to_hlc=write.hlc,
                context=write.context,
            )
            changes = table_changes(self.spec, write.rows)
            ends[write.origin] = write.hlc
            sets.append(MergeSet(header, lambda changes=changes: iter([changes]), self.catalogue))  # type: ignore[misc]
        result = await self._tried(sets, isolate=isolate)
        self.clock |= {write.origin: write.hlc for write in writes}
        return result

    async def _tried(self, sets: list[MergeSet], *, isolate: bool) -> MergeResult:
        """Rows of genesis are known at the second try, once capture has passed the log; unique values may swap from the
        try on after they clashed."""
        try:
            return await self.merger.merge(sets, lambda header: None)
        except (DirtyRowsError, UniqueSwapError):
            pass
        except asyncpg.DataError:
            if not isolate:
                raise
        try:
            return await self.merger.merge_locked(sets, lambda header: None, isolate=isolate)
        except UniqueSwapError:
            return await self.merger.merge_locked(sets, lambda header: None, isolate=isolate)

    async def reset(self, *genesis: str) -> None:
        """Back to genesis."""
        row = f"crdt_state.row_{self.spec.table_id}"
        await self.app.execute(f"TRUNCATE {self.spec.name}, {row}, crdt_state.clock, crdt_state.conflict")
        await self.app.execute("TRUNCATE crdt_state.quarantine")
        for statement in genesis:
            await self.app.execute(statement)
        self.clock.clear()

    async def touch(self, *keys: int) -> None:
        """What the rewrite queue does with these rows."""
        header = ChangeSetHeader(origin=9, from_hlc=0, to_hlc=0, context={})
        changes = touch(self.spec, [[str(key)] for key in keys])
        await self.merger.rewrite(MergeSet(header, lambda: iter([changes]), self.catalogue), [])

    async def shown(self, column: str, key: int = 1) -> Any:
        """The text image of a value; None also where there is no row."""
        return await self.app.fetchval(f'SELECT "{column}"::text FROM {self.spec.name} WHERE id = $1', key)

    async def state(self) -> list[dict[str, Any]]:
        """The row states, without what differs between databases."""
        rows = await self.app.fetch(f"SELECT * FROM crdt_state.row_{self.spec.table_id} ORDER BY 1")
        return [{k: v for k, v in row.items() if k != "row_xmin"} for row in rows]

    async def conflicts(self) -> list[dict[str, Any]]:
        rows = await self.app.fetch("SELECT * FROM crdt_state.conflict ORDER BY id")
        return [{k: v for k, v in row.items() if k != "detected"} for row in rows]


def table(*columns: tuple[str, str, str], **more: Any) -> TableSpec:
    """A table ``t`` with key ``id int`` and columns (name, type, word); ``merge:fn`` is the word with its argument."""
    specs = []
    for attnum, (name, type_name, word) in enumerate(columns, 2):
        crdt, _, argument = word.partition(":")
        specs.append(ColumnSpec(name, attnum, type_name, type_name.split("(")[0], crdt, argument or None))
    key = (ColumnSpec("id", 1, "integer", "integer", not_null=True),)
    return TableSpec(1, "public", "t", key=key, columns=tuple(specs), key_index="t_pkey", **more)


@asynccontextmanager
async def hand_node(
    server: Any, spec: TableSpec, *statements: str, function_ms_max: int = 60_000
) -> AsyncIterator[HandNode]:
    """A fresh database with the table; ``statements`` make its genesis."""
    name = f"hand_{next(_names)}"
    dsn = server.create_database(name, await migrated_template(server))
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(server.drop_database, name)
        app = await asyncpg.connect(dsn, server_settings={"timezone": "UTC"})
        stack.push_async_callback(app.close)
        await app.set_type_codec("jsonb", encoder=json.dumps, decoder=json.loads, schema="pg_catalog")
        columns = ", ".join(f'"{c.name}" {c.type_name}' for c in spec.columns)
        for statement in (f"CREATE TABLE t (id int PRIMARY KEY, {columns})", *state_ddl(spec), *statements):
            await app.execute(statement)
        session = await Session.open(dsn, purpose="merge", origin=False)
        stack.push_async_callback(session.close)
        limits = {"wait_locked_ms": 50, "function_ms_max": function_ms_max}
        yield HandNode(spec, app, Merger(session, _Captured(), asyncio.Lock(), Overtaking(), **limits))
