"""The HTTP listener: ``/healthz``, ``/readyz``, ``/metrics``, ``/status``, ``/wait``. Read-only, from memory."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator

import msgspec
import uvicorn
from prometheus_client.exposition import choose_encoder
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from sidecar.core.addresses import split_address
from sidecar.core.status import StatusSource
from sidecar.errors import ConfigurationError
from sidecar.http.metrics import registry_of
from sidecar.http.wait import TokenWaits, WaitPage

CONNECTIONS_MAX = 64
"""Requests answered at a time, 503 beyond: scrapers and probes need one each, and memory stays bounded."""

CLOSE_SECONDS_MAX = 1
"""A stop waits this long for open requests; all answers come from memory, so only a stalled reader needs longer, and
those who wait for a token, who are cut."""


def application(source: StatusSource, waits: TokenWaits) -> Starlette:
    """The pages over one source."""
    registry = registry_of(source)

    async def healthz(_request: Request) -> Response:
        return _verdict(source.snapshot().unhealthy())

    async def readyz(_request: Request) -> Response:
        return _verdict(source.snapshot().unready())

    async def metrics(request: Request) -> Response:
        encoder, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encoder(registry), media_type=None, headers={"Content-Type": content_type})

    async def status(_request: Request) -> Response:
        return _json(source.snapshot())

    wait = WaitPage(waits).answer
    pages = {"/healthz": healthz, "/readyz": readyz, "/metrics": metrics, "/status": status, "/wait": wait}
    return Starlette(routes=[Route(path, page, methods=["GET"]) for path, page in pages.items()])


def _json(value: object, code: int = 200) -> Response:
    return Response(msgspec.json.encode(value), status_code=code, media_type="application/json")


def _verdict(reasons: list[str]) -> Response:
    return _json({"ok": not reasons, "reasons": reasons}, 503 if reasons else 200)


class _Embedded(uvicorn.Server):
    """A uvicorn server inside another program's loop: signals stay with that program."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.up = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        self.up.set()


class StatusServer:
    """Serves a :class:`StatusSource` at ``listen`` (``host:port``) between :meth:`start` and :meth:`stop`."""

    def __init__(self, listen: str, source: StatusSource, waits: TokenWaits) -> None:
        self._listen = listen
        self._source = source
        self._waits = waits
        self._server: _Embedded | None = None
        self._task: asyncio.Task[None] | None = None
        self.address = listen
        """Where it listens; with port 0 the port the system chose, once started."""

    async def start(self) -> None:
        """Bind and answer. Raises :class:`ConfigurationError` when the address cannot be had."""
        listener = _bind(self._listen)
        self.address = f"{self._listen.rpartition(':')[0]}:{listener.getsockname()[1]}"
        config = uvicorn.Config(
            application(self._source, self._waits),
            http="h11",
            ws="none",
            lifespan="off",
            access_log=False,
            log_config=None,
            server_header=False,
            limit_concurrency=CONNECTIONS_MAX,
            timeout_graceful_shutdown=CLOSE_SECONDS_MAX,
        )
        self._server = _Embedded(config)
        self._task = asyncio.create_task(self._server.serve(sockets=[listener]), name="http")
        up = asyncio.create_task(self._server.up.wait())
        try:
            await asyncio.wait({self._task, up}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            up.cancel()
        if self._task.done():
            self._task.result()

    async def stop(self) -> None:
        """Stop listening and wait for open requests (bounded). May be called when never started."""
        if self._server is None or self._task is None:
            return
        self._server.should_exit = True
        await self._task
        self._server = self._task = None


def _bind(listen: str) -> socket.socket:
    host, port = split_address(listen)
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise ConfigurationError(
            f"http.listen: cannot listen on {listen}: {(error.strerror or str(error)).lower()}",
            mend="stop the program that has the port, or choose another address",
        ) from None
