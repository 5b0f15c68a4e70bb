"""Wrong clocks on real nodes: no version is poisoned, the status says whose clock it is, and what to do."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psycopg

from sidecar.lab.cluster import LabCluster
from sidecar.lab.embedded import FAST_SETTINGS
from sidecar.lab.waiting import wait_until
from tests.prepared import PreparedCluster

DEADLINE_S = 60.0
YEARS_MS = 5 * 365 * 86_400_000
DAY_MS = 86_400_000
HOUR_MS = 3_600_000

SCHEMA = """
CREATE TABLE notes (id int PRIMARY KEY, text text, n bigint NOT NULL DEFAULT 0);
COMMENT ON COLUMN notes.n IS '@crdt(pn_counter)';
"""


@contextlib.asynccontextmanager
async def lab(folder: Path, size: int, wrong: dict[int, int]) -> AsyncIterator[LabCluster]:
    """A cluster whose node ``index`` is ``wrong[index]`` ms off from the start; the nodes are attached, not started."""
    cluster = PreparedCluster(
        size, folder, schema_sql=SCHEMA, server_settings=FAST_SETTINGS, sections={"timing": {"reconnect_ms_max": 300}}
    )
    start_sidecar = cluster.start_sidecar

    async def not_yet(index: int, *, ready: bool = True) -> None:
        """What start() would do last."""

    cluster.start_sidecar = not_yet  # type: ignore[method-assign]
    async with cluster:
        cluster.start_sidecar = start_sidecar  # type: ignore[method-assign]
        for index, skew_ms in wrong.items():
            cluster.configure(index, {"lab": {"clock_skew_ms": skew_ms}})
        yield cluster


async def restart(cluster: LabCluster, index: int, skew_ms: int) -> None:
    await cluster.stop_sidecar(index)
    cluster.configure(index, {"lab": {"clock_skew_ms": skew_ms}})
    await cluster.start_sidecar(index)


def execute(dsn: str, statement: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(statement)  # type: ignore[call-overload]


def one(dsn: str, query: str) -> Any:
    with psycopg.connect(dsn, autocommit=True) as connection:
        row = connection.execute(query).fetchone()  # type: ignore[call-overload]
        return None if row is None else row[0]


def newest_ms(dsn: str) -> int:
    """The newest version that a node has issued or seen."""
    return int(
        one(
            dsn,
            "SELECT greatest((SELECT max(hlc) FROM crdt_state.node), (SELECT max(hlc) FROM crdt_state.clock)) >> 16",
        )
    )


async def problem(cluster: LabCluster, index: int, words: str) -> dict[str, Any]:
    """The status in which a problem with these words stands."""
    found: dict[str, Any] = {}

    async def there() -> bool:
        found.update(await cluster.status(index))
        return any(words in line for line in found["problems"])

    await wait_until(there, DEADLINE_S, f"{cluster.nodes[index].name}: {words}", tolerate=(OSError,))
    return found


async def row(cluster: LabCluster, index: int, text: str) -> None:
    dsn = cluster.nodes[index].dsn
    query = f"SELECT count(*) FROM notes WHERE text = '{text}'"
    await wait_until(lambda: one(dsn, query), DEADLINE_S, f"{cluster.nodes[index].name} has {text!r}")


def now_ms() -> int:
    return time.time_ns() // 1_000_000


async def test_a_node_that_starts_years_ahead_issues_nothing_and_recovers_by_its_clock(tmp_path: Path) -> None:
    async with lab(tmp_path, 3, {0: YEARS_MS}) as cluster:
        wrong, second, third = cluster.nodes
        for index in range(3):
            await cluster.start_sidecar(index)
        execute(wrong.dsn, "INSERT INTO notes VALUES (1, 'from the wrong one', 5)")
        execute(second.dsn, "INSERT INTO notes VALUES (2, 'from the second', 7)")
        status = await problem(cluster, 0, "ahead of most of its peers': its changes are not captured")
        assert any("1825 days ahead of most" in line for line in status["problems"]), status["problems"]
        said = await problem(cluster, 1, f"the clock of {wrong.name} is 1825 days ahead of this node's")
        (peer,) = [peer for peer in said["peers"] if peer["name"] == wrong.name]
        assert peer["state"] == "held"
        assert "its changes wait" in peer["last_error"]
        assert peer["clock_alarm"]
        await row(cluster, 0, "from the second")
        await row(cluster, 2, "from the second")
        assert one(second.dsn, "SELECT count(*) FROM notes WHERE id = 1") == 0
        for node in cluster.nodes:
            assert abs(newest_ms(node.dsn) - now_ms()) < DEADLINE_S * 1000, f"{node.name}: no version is ahead"
        await restart(cluster, 0, 0)
        for index in range(3):
            await row(cluster, index, "from the wrong one")
        execute(wrong.dsn, "UPDATE notes SET n = n + 1, text = 'mended' WHERE id = 2")
        await cluster.wait_converged(DEADLINE_S)
        assert len(set((await cluster.checksums("notes")).values())) == 1
        assert one(third.dsn, "SELECT n FROM notes WHERE id = 2") == 8
        assert not any("clock" in line for line in (await cluster.status(0))["problems"])


async def test_a_node_that_was_alone_while_ahead_is_held_off_and_says_what_to_do(tmp_path: Path) -> None:
    """Nobody could tell it, so its versions are ahead: the others are not poisoned, and the status says the way out."""
    async with lab(tmp_path, 2, {0: DAY_MS}) as cluster:
        wrong, other = cluster.nodes
        await cluster.start_sidecar(0)
        execute(wrong.dsn, "INSERT INTO notes VALUES (1, 'ahead', 1)")
        await wait_until(lambda: newest_ms(wrong.dsn) > now_ms() + DAY_MS / 2, DEADLINE_S, "a version of tomorrow")
        await restart(cluster, 0, 0)
        await cluster.start_sidecar(1)
        execute(other.dsn, "INSERT INTO notes VALUES (2, 'right', 2)")
        await row(cluster, 0, "right")
        status = await problem(cluster, 0, "this node has issued versions 24 hours ahead of its clock")
        assert any("see docs/operations.md, A clock that was ahead" in line for line in status["problems"])
        held = await problem(cluster, 1, "its changes wait")
        (peer,) = held["peers"]
        assert peer["state"] == "held"
        assert one(other.dsn, "SELECT count(*) FROM notes WHERE id = 1") == 0
        assert newest_ms(other.dsn) < now_ms() + 1000, "not poisoned"


async def test_a_clock_that_steps_back_keeps_versions_rising(tmp_path: Path) -> None:
    async with lab(tmp_path, 2, {0: 300}) as cluster:
        stepping, other = cluster.nodes
        for index in range(2):
            await cluster.start_sidecar(index)
        await cluster.wait_linked()
        execute(stepping.dsn, "INSERT INTO notes VALUES (1, 'a', 1)")
        await row(cluster, 1, "a")
        before = one(stepping.dsn, "SELECT hlc FROM crdt_state.node")
        await restart(cluster, 0, -HOUR_MS)
        execute(stepping.dsn, "UPDATE notes SET text = 'b', n = n + 1 WHERE id = 1")
        await row(cluster, 1, "b")
        await problem(cluster, 0, "behind")
        last = one(stepping.dsn, "SELECT max(to_hlc) FROM crdt_state.journal")
        assert last > before
        execute(stepping.dsn, "UPDATE notes SET text = 'c' WHERE id = 1")
        await row(cluster, 1, "c")
        assert one(stepping.dsn, "SELECT max(to_hlc) FROM crdt_state.journal") > last
        assert one(other.dsn, "SELECT n FROM notes WHERE id = 1") == 2
        await restart(cluster, 0, 0)
        execute(other.dsn, "UPDATE notes SET text = 'd' WHERE id = 1")
        await row(cluster, 0, "d")
        await cluster.wait_converged(DEADLINE_S)
        assert len(set((await cluster.checksums("notes")).values())) == 1
