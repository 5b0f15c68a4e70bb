"""The commands' side of what ``sidecar leave`` and ``sidecar remove`` ask of the running sidecar."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import psycopg

from sidecar.core.membership import told
from sidecar.core.wire.messages import Departure
from sidecar.errors import ConfigurationError, TransientError
from sidecar.postgres.admin import own_transaction
from sidecar.postgres.migrations import migrate
from sidecar.postgres.statements import load

POLL_S = 0.1
"""How often a command looks how far its request is."""

GRACE_S = 15.0
"""How much longer than the request's own time a command waits for the sidecar's last word."""

Report = Callable[[str, int | None], None]
"""What is being done, and what is still lacking (``None``: not known)."""

_SQL = load("requests")


@dataclass(frozen=True, slots=True)
class Self:
    """The node of this database."""

    id: int
    name: str
    cluster: str


@dataclass(frozen=True, slots=True)
class Known:
    """Another node. ``departed``: ``left``, ``removed``, or ``None`` for a member."""

    id: int
    name: str
    departed: str | None
    departed_ms: int | None
    departed_by: str | None

    def told(self) -> str:
        """Of one that is departed: when and by whom."""
        return told(
            Departure(
                node=self.id,
                name=self.name,
                kind="removed" if self.departed == "removed" else "left",
                at_ms=self.departed_ms or 0,
                by=self.departed_by or self.name,
                holder=self.id,
                change_hlc=0,
                hlc=0,
            )
        )


@dataclass(frozen=True, slots=True)
class Answer:
    """The end of a request: whether it was done, in words, and what is to be done if not."""

    done: bool
    text: str
    mend: str


class Requests:
    """On a connection in autocommit mode."""

    def __init__(self, conn: psycopg.AsyncConnection[Any]) -> None:
        self._conn = conn

    async def own(self) -> Self | None:
        """The node of this database, brought to this release; ``None`` when there is none."""
        if not (await self._row("is_attached"))[0]:
            return None
        await migrate(self._conn)
        row = await (await self._conn.execute(_SQL["read_self"])).fetchone()
        return Self(*row) if row is not None else None

    async def former(self) -> tuple[str, int, str, str] | None:
        """Of a database without a node: name, id and cluster of the one it was, and when it left."""
        sql = load("membership")
        row = await (await self._conn.execute(sql["has_former"])).fetchone()
        if row is None or not row[0]:
            return None
        return await (await self._conn.execute(sql["read_former"])).fetchone()

    async def is_running(self) -> bool:
        """Whether a sidecar (or a command that stands for it) runs on this database."""
        return bool((await self._row("is_running"))[0])

    async def find(self, name: str) -> Known:
        """Another node by its name or, when nobody is called so, its id; :class:`ConfigurationError` for a stranger."""
        number = int(name) if name.isdecimal() and len(name) <= 4 else None
        cursor = await self._conn.execute(_SQL["find_node"], {"name": name, "id": number})
        found = [Known(*row) for row in await cursor.fetchall()]
        if not found:
            raise ConfigurationError(f"no node {name!r} is known here", mend="crdt.nodes lists those that are")
        return next((known for known in found if known.name == name), found[0])

    async def ask(self, kind: str, node: int, *, forced: bool, seconds: float) -> int:
        """Ask the running sidecar, or the one that starts within the time; :class:`TransientError` while it is busy
        with another request."""
        parameters = {"kind": kind, "node": node, "forced": forced, "seconds": seconds}
        async with own_transaction(self._conn):
            row = await (await self._conn.execute(_SQL["ask"], parameters)).fetchone()
        if row is None:
            raise TransientError("another sidecar leave or sidecar remove is under way here", mend="wait for its end")
        return int(row[0])

    async def follow(self, request: int, *, seconds: float, report: Report) -> Answer:
        """Wait for the end of a request; withdrawn when this is cut short."""
        loop = asyncio.get_running_loop()
        ends = loop.time() + seconds + GRACE_S
        try:
            while loop.time() < ends:
                row = await (await self._conn.execute(_SQL["look"], (request,))).fetchone()
                if row is None:
                    raise TransientError("the request is no longer there", mend="start the command again")
                outcome, progress, lacking, mend = row
                if outcome is not None:
                    return Answer(outcome == "done", progress, mend)
                if progress:
                    report(progress, lacking)
                await asyncio.sleep(POLL_S)
        finally:
            with contextlib.suppress(psycopg.Error):
                await self._conn.execute(_SQL["withdraw"], (request,))
        raise TransientError(
            f"the sidecar did not answer within {seconds + GRACE_S:.0f} s", mend="is it well? See sidecar status"
        )

    async def remove(self, node: Known) -> None:
        """Write a removal down as it is known here, without asking anybody."""
        async with own_transaction(self._conn):
            await self._conn.execute(_SQL["remove"], {"id": node.id, "name": node.name})

    async def _row(self, statement: str) -> tuple[Any, ...]:
        row = await (await self._conn.execute(_SQL[statement])).fetchone()
        assert row is not None
        return tuple(row)
