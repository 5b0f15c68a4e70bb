"""How long a client waits that writes in one region and reads its write in another."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Mapping
from dataclasses import dataclass

import asyncpg

from sidecar.errors import SidecarError
from sidecar.lab.wan import one_way_ms

PAUSE_S = 0.15
"""Between two requests of a region, so that an idle system is idle when the next one comes."""

WAIT_S_MAX = 60
"""A machine that is busy with other things may take seconds: that is measured, and what takes longer is an error."""


@dataclass(frozen=True, slots=True)
class TokenSample:
    """One write in ``origin`` that was read in ``reader``, milliseconds: taking the token, then waiting for it."""

    origin: str
    reader: str
    token_ms: float
    wait_ms: float

    @property
    def wait_excess_ms(self) -> float:
        """What crdt.wait_for took beyond the one-way delay."""
        return max(0.0, self.wait_ms - one_way_ms(self.origin, self.reader))


class TokenMeter:
    """``regions``: name to DSN. Each region's client reads in the other regions by turns."""

    def __init__(self, regions: Mapping[str, str]) -> None:
        self._regions = dict(regions)

    async def run(self, stop: asyncio.Event) -> list[TokenSample]:
        """Until ``stop``; raises :class:`SidecarError` when a token was not covered or its write not seen."""
        async with asyncio.TaskGroup() as group:
            clients = [group.create_task(self._client(name, stop)) for name in self._regions]
        return [sample for client in clients for sample in client.result()]

    async def _client(self, origin: str, stop: asyncio.Event) -> list[TokenSample]:
        samples = []
        sessions = {
            name: await asyncpg.connect(dsn, command_timeout=2 * WAIT_S_MAX) for name, dsn in self._regions.items()
        }
        try:
            for reader in itertools.cycle(name for name in self._regions if name != origin):
                samples.append(await self._sample(origin, reader, sessions))
                try:
                    async with asyncio.timeout(PAUSE_S):
                        await stop.wait()
                except TimeoutError:
                    continue
                break
        finally:
            for session in sessions.values():
                session.terminate()
        return samples

    async def _sample(self, origin: str, reader: str, sessions: Mapping[str, asyncpg.Connection]) -> TokenSample:
        post = await sessions[origin].fetchval(
            "INSERT INTO posts (region, title) VALUES ($1, 'token') RETURNING id", origin
        )
        began = time.monotonic()
        token = await sessions[origin].fetchval("SELECT crdt.token($1::text)", f"{WAIT_S_MAX} s")
        taken = time.monotonic()
        covered = await sessions[reader].fetchval("SELECT crdt.wait_for($1, $2::text)", token, f"{WAIT_S_MAX} s")
        ended = time.monotonic()
        if not covered:
            raise SidecarError(f"{reader} did not have what {origin} had committed within {WAIT_S_MAX} s")
        if not await sessions[reader].fetchval("SELECT EXISTS (SELECT FROM posts WHERE id = $1)", post):
            raise SidecarError(f"{reader} covered a token of {origin} without its write")
        await sessions[origin].execute("DELETE FROM posts WHERE id = $1", post)
        return TokenSample(origin, reader, (taken - began) * 1000, (ended - taken) * 1000)
