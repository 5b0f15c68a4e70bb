"""``/wait?token=...``: answers when this node has merged what a token names, for clients that route reads by HTTP."""

from __future__ import annotations

import asyncio
from typing import Protocol

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from sidecar.core.token import decode_token
from sidecar.core.versions import VersionVector
from sidecar.errors import UsageError

TIMEOUT_MS_DEFAULT = 5_000
"""As crdt.wait_for: a healthy cluster needs a fraction of it."""

TIMEOUT_MS_MAX = 60_000
"""Longer waits belong into the client, which asks again: a connection that is silent for longer is cut by what stands
in between."""

WAITERS_MAX = 32
"""Half of the connections that are answered at a time: probes and scrapers get through, however many wait."""


class TokenWaits(Protocol):
    """What the node offers."""

    async def until_covered(self, clock: VersionVector, timeout_s: float) -> bool:
        """True as soon as everything up to ``clock`` is durably merged here, False after ``timeout_s``; raises
        :class:`UsageError` for a clock that names an unknown node."""
        ...


class WaitPage:
    """The page; counts who waits."""

    def __init__(self, waits: TokenWaits) -> None:
        self._waits = waits
        self._waiting = 0

    async def answer(self, request: Request) -> Response:
        """200 covered, 504 not in time, 400 a token or timeout that cannot be read, 503 too many wait."""
        try:
            clock = decode_token(request.query_params.get("token", ""))
            timeout_s = _timeout_s(request.query_params.get("timeout_ms"))
        except UsageError as error:
            return _refused(error)
        if self._waiting >= WAITERS_MAX:
            reason = f"{WAITERS_MAX} requests wait already"
            return _json(503, {"covered": False, "reason": reason}, {"Retry-After": "1"})
        self._waiting += 1
        try:
            covered = await self._until_covered(request, clock, timeout_s)
        except UsageError as error:
            return _refused(error)
        finally:
            self._waiting -= 1
        if covered:
            return _json(200, {"covered": True})
        return _json(504, {"covered": False, "reason": f"not merged here within {timeout_s * 1000:.0f} ms"})

    async def _until_covered(self, request: Request, clock: VersionVector, timeout_s: float) -> bool:
        """Ends early when the client goes away: its place is needed."""
        waiting = asyncio.ensure_future(self._waits.until_covered(clock, timeout_s))
        leaving = asyncio.ensure_future(_left(request))
        try:
            await asyncio.wait({waiting, leaving}, return_when=asyncio.FIRST_COMPLETED)
            return waiting.result() if waiting.done() else False
        finally:
            waiting.cancel()
            leaving.cancel()
            await asyncio.wait({waiting, leaving})


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _timeout_s(text: str | None) -> float:
    if text is None:
        return TIMEOUT_MS_DEFAULT / 1000
    if not (text.isascii() and text.isdigit()) or len(text) > len(str(TIMEOUT_MS_MAX)) or int(text) > TIMEOUT_MS_MAX:
        raise UsageError(f"timeout_ms is {text[:20]!r}", mend=f"give whole milliseconds, at most {TIMEOUT_MS_MAX}")
    return int(text) / 1000


def _refused(error: UsageError) -> Response:
    return _json(400, {"covered": False, "reason": error.line()})


def _json(code: int, value: object, headers: dict[str, str] | None = None) -> Response:
    return Response(msgspec.json.encode(value), code, headers, media_type="application/json")
