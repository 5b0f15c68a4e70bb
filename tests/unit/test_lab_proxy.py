"""The link proxy against an echo server."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from sidecar.errors import SidecarError
from sidecar.lab.damage import ChunkFaults
from sidecar.lab.proxy import Direction, LinkProxy
from sidecar.lab.waiting import wait_until

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
DEADLINE_S = 60.0


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        pass
    finally:
        writer.close()


@pytest.fixture
async def proxy() -> AsyncIterator[LinkProxy]:
    server = await asyncio.start_server(_echo, "127.0.0.1", 0)
    made = LinkProxy(server.sockets[0].getsockname()[:2])
    await made.start()
    yield made
    await made.stop()
    server.close()


async def dial(proxy: LinkProxy) -> Streams:
    return await asyncio.open_connection("127.0.0.1", proxy.port)


async def echo(streams: Streams, data: bytes) -> bytes:
    streams[1].write(data)
    return await asyncio.wait_for(streams[0].readexactly(len(data)), DEADLINE_S)


async def assert_ends(reader: asyncio.StreamReader) -> None:
    try:
        assert await asyncio.wait_for(reader.read(), DEADLINE_S) == b""
    except ConnectionResetError:
        return


async def test_bytes_pass_unchanged_and_are_counted(proxy: LinkProxy) -> None:
    streams = await dial(proxy)
    data = bytes(range(256)) * 8192
    assert await echo(streams, data) == data
    streams[1].write_eof()
    await assert_ends(streams[0])
    await wait_until(lambda: proxy.connections == 0, DEADLINE_S, "the end of the connection")
    assert proxy.bytes_forwarded == dict.fromkeys(Direction, len(data))


async def test_delay_applies_to_each_direction_and_can_change(proxy: LinkProxy) -> None:
    streams = await dial(proxy)
    proxy.delay_ms = 50
    began = time.monotonic()
    await echo(streams, b"slow")
    assert time.monotonic() - began >= 0.1
    proxy.delay_ms = 0
    proxy.jitter_ms = 5
    for number in range(20):
        await echo(streams, str(number).encode())


async def test_jitter_never_reorders(proxy: LinkProxy) -> None:
    proxy.jitter_ms = 10
    streams = await dial(proxy)
    words = [f"{number:04d}".encode() for number in range(200)]
    for word in words:
        streams[1].write(word)
        await asyncio.sleep(0)
    assert await asyncio.wait_for(streams[0].readexactly(800), DEADLINE_S) == b"".join(words)


async def test_bandwidth_is_limited(proxy: LinkProxy) -> None:
    proxy.bytes_per_s = 1_000_000
    streams = await dial(proxy)
    began = time.monotonic()
    await echo(streams, bytes(300_000))
    assert time.monotonic() - began >= 0.25


async def test_cut_resets_connections_and_refuses_new_ones_until_healed(proxy: LinkProxy) -> None:
    streams = await dial(proxy)
    assert await echo(streams, b"before") == b"before"
    await proxy.cut()
    assert not proxy.healthy
    await assert_ends(streams[0])
    await assert_ends((await dial(proxy))[0])
    proxy.heal()
    assert proxy.healthy
    assert await echo(await dial(proxy), b"after") == b"after"


async def test_dropped_connections_may_come_back_at_once(proxy: LinkProxy) -> None:
    streams = await dial(proxy)
    await echo(streams, b"one")
    await proxy.drop_connections()
    await assert_ends(streams[0])
    assert await echo(await dial(proxy), b"two") == b"two"
    assert proxy.connections_total == 2


@pytest.mark.parametrize("directions", [(), (Direction.TO_TARGET,), (Direction.TO_CLIENT,)])
async def test_a_black_hole_keeps_the_connection_and_delivers_late(
    proxy: LinkProxy, directions: tuple[Direction, ...]
) -> None:
    streams = await dial(proxy)
    await echo(streams, b"before")
    proxy.black_hole(*directions)
    streams[1].write(b"in the hole")
    reading = asyncio.create_task(streams[0].readexactly(11))
    forwarded = 6 + (11 if Direction.TO_TARGET not in (directions or Direction) else 0)
    await wait_until(
        lambda: proxy.bytes_forwarded[Direction.TO_TARGET] == forwarded, DEADLINE_S, "bytes up to the black hole"
    )
    done, _ = await asyncio.wait([reading], timeout=0.05)
    assert not done
    proxy.heal()
    assert await asyncio.wait_for(reading, DEADLINE_S) == b"in the hole"


async def test_faults_happen_until_healed(proxy: LinkProxy) -> None:
    proxy.faults = ChunkFaults(duplicated=1.0)
    assert not proxy.healthy
    streams = await dial(proxy)
    streams[1].write(b"word")
    assert await asyncio.wait_for(streams[0].readexactly(16), DEADLINE_S) == b"word" * 4, "doubled on both ways"
    assert proxy.damaged["duplicated"] >= 2
    proxy.heal()
    assert proxy.healthy
    assert await echo(streams, b"whole") == b"whole"


async def test_an_absent_target_closes_the_connection() -> None:
    proxy = LinkProxy(("127.0.0.1", 1))
    await proxy.start()
    await assert_ends((await dial(proxy))[0])
    await proxy.stop()


async def test_a_taken_port_is_one_line(proxy: LinkProxy) -> None:
    with pytest.raises(SidecarError, match="cannot listen"):
        await LinkProxy(("127.0.0.1", 1), port=proxy.port).start()


async def test_stop_ends_open_connections(proxy: LinkProxy) -> None:
    streams = await dial(proxy)
    await echo(streams, b"x")
    await proxy.stop()
    await assert_ends(streams[0])
    with pytest.raises(ConnectionRefusedError):
        await dial(proxy)
