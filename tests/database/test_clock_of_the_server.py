"""A server whose wall clock is set, in earnest: a shim between it and the C library adds what a file says."""

from __future__ import annotations

import shutil
import struct
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import LiteralString

import pytest
from node_harness import open_node

from sidecar.core.hlc import to_ms
from sidecar.lab.embedded import FAST_SETTINGS, EmbeddedPostgres
from sidecar.lab.folders import cache_folder
from sidecar.postgres.admin import connect
from sidecar.postgres.migrations import migrate

COMPILER = shutil.which("cc") or shutil.which("gcc")

SHIM = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
static volatile long *ahead_s;
static int (*real)(clockid_t, struct timespec *);
__attribute__((constructor)) static void begin(void) {
    int file = open(getenv("CLOCK_AHEAD_FILE"), O_RDONLY);
    real = dlsym(RTLD_NEXT, "clock_gettime");
    ahead_s = mmap(0, sizeof(long), PROT_READ, MAP_SHARED, file, 0);
}
int clock_gettime(clockid_t clock, struct timespec *now) {
    int answer = real(clock, now);
    if (answer == 0 && clock == CLOCK_REALTIME) now->tv_sec += *ahead_s;
    return answer;
}
int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    struct timespec exact;
    int answer = clock_gettime(CLOCK_REALTIME, &exact);
    now->tv_sec = exact.tv_sec;
    now->tv_usec = exact.tv_nsec / 1000;
    return answer;
}
"""

pytestmark = pytest.mark.skipif(COMPILER is None, reason="needs a C compiler")


class SetClock:
    """``ahead(seconds)`` holds at once, for every process of the server."""

    def __init__(self, path: Path) -> None:
        self._path = path
        path.write_bytes(bytes(8))
        path.chmod(0o644)

    def ahead(self, seconds: int) -> None:
        with self._path.open("r+b") as file:
            file.write(struct.pack("@q", seconds))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[SetClock]:
    assert COMPILER is not None
    # The server may run as another user, whom the folders of the tests are closed to; and programs may lie here.
    with tempfile.TemporaryDirectory(prefix="clock-", dir=cache_folder()) as name:
        folder = Path(name)
        folder.chmod(0o755)
        source, library = folder / "shim.c", folder / "shim.so"
        source.write_text(SHIM)
        subprocess.run([COMPILER, "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True, timeout=60)
        made = SetClock(folder / "ahead")
        monkeypatch.setenv("CLOCK_AHEAD_FILE", str(folder / "ahead"))
        monkeypatch.setenv("LD_PRELOAD", str(library))
        yield made


@pytest.fixture
def server(clock: SetClock, tmp_path: Path) -> Iterator[EmbeddedPostgres]:
    # A walsender takes a jump for a silence, and cuts the stream; a node then connects anew, a test by hand cannot.
    settings = {**FAST_SETTINGS, "wal_sender_timeout": "0"}
    with EmbeddedPostgres(tmp_path / "server", settings=settings) as made:
        yield made


async def test_keys_rise_within_a_session_when_the_clock_steps_back(clock: SetClock, server: EmbeddedPostgres) -> None:
    async with await connect(server.create_database("keys"), autocommit=True) as connection:
        await migrate(connection)

        async def column(query: LiteralString) -> list[str]:
            return [str(value) for (value,) in await (await connection.execute(query)).fetchall()]

        clock.ahead(3600)
        (before,) = await column("SELECT extract(epoch FROM clock_timestamp())")
        first = await column("SELECT crdt.uuidv7() FROM generate_series(1, 100)")
        clock.ahead(-3600)
        (after,) = await column("SELECT extract(epoch FROM clock_timestamp())")
        assert float(after) < float(before) - 7000, "the clock of the server was set back"
        second = await column("SELECT crdt.uuidv7() FROM generate_series(1, 100)")
    assert first + second == sorted(first + second)
    assert len(set(first + second)) == 200


async def test_versions_are_not_of_a_future_that_only_the_server_sees(
    clock: SetClock, server: EmbeddedPostgres
) -> None:
    """Peers compare the clocks of the sidecars; a commit time beyond its sidecar's clock counts as now. A clock that
    goes back makes no version that is lower."""
    schema = "CREATE TABLE t (id int PRIMARY KEY, n int); COMMENT ON TABLE t IS '@crdt'"
    async with open_node(server.create_database("versions"), 1, schema) as node:
        clock.ahead(86_400)
        await node.sql("INSERT INTO t VALUES (1, 1)")
        assert await node.value("SELECT now() > to_timestamp($1)", time.time() + 80_000)
        await node.captured()
        last = to_hlc = await node.value("SELECT max(to_hlc) FROM crdt_state.journal")
        assert abs(to_ms(to_hlc) - time.time() * 1000) < 60_000
        for seconds in (-86_400, 0):
            clock.ahead(seconds)
            await node.sql("UPDATE t SET n = n + 1")
            await node.captured()
            to_hlc = await node.value("SELECT max(to_hlc) FROM crdt_state.journal")
            assert to_hlc > last
            last = to_hlc
