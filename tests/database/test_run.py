"""Two running nodes: what they say of themselves compared with SQL, and what they do when PostgreSQL goes away."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from typing import Any

import psycopg
import pytest
import pytest_asyncio
from prometheus_client.parser import text_string_to_metric_families

from sidecar.lab.cluster import LabCluster, LabNode, http_get
from sidecar.lab.embedded import FAST_SETTINGS
from sidecar.lab.waiting import wait_until

pytestmark = pytest.mark.asyncio(loop_scope="module")

DEADLINE_S = 60.0
SCHEMA = """
CREATE TABLE posts (id int PRIMARY KEY, title text, likes bigint NOT NULL DEFAULT 0);
COMMENT ON TABLE posts IS '@crdt';
COMMENT ON COLUMN posts.likes IS '@crdt(pn_counter)';
"""
METRICS = """
sidecar_capture_lag_bytes sidecar_capture_lag_seconds sidecar_capture_streaming sidecar_captured_transactions_total
sidecar_captured_changes_total sidecar_captured_change_sets_total sidecar_journal_bytes sidecar_merged_rows_total
sidecar_merged_change_sets_total sidecar_waiting_change_sets sidecar_merge_held sidecar_conflicts_total
sidecar_quarantined_rows_total sidecar_database_reachable sidecar_problems sidecar_start_time_seconds
sidecar_peer_connected sidecar_peer_lag_seconds sidecar_peer_round_trip_seconds sidecar_clock_offset_seconds
sidecar_peer_unacknowledged_change_sets sidecar_peer_bytes_total sidecar_peer_change_sets_total
sidecar_merge_duration_seconds_bucket sidecar_merge_duration_seconds_sum sidecar_merge_duration_seconds_count
sidecar_build_info
"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[LabCluster]:
    made = LabCluster(
        2,
        tmp_path_factory.mktemp("run"),
        schema_sql=SCHEMA,
        server_settings=FAST_SETTINGS,
        sections={
            "timing": {
                "reconnect_ms_max": 300,
                "retry_ms_max": 1000,
                "loop_silent_ms_max": 4000,
            },
            "limits": {"journal_partition_rows": 16},
        },
    )
    async with made:
        await made.wait_linked()
        yield made


def query(node: LabNode, text: str, *parameters: object) -> list[tuple[Any, ...]]:
    with psycopg.connect(node.dsn, autocommit=True) as connection:
        cursor = connection.execute(text.encode(), parameters)
        return cursor.fetchall() if cursor.description else []


async def metrics(node: LabNode) -> dict[tuple[str, ...], float]:
    """Name and label values (but those of build_info) to value."""
    code, body = await http_get(node.http_listen, "/metrics")
    assert code == 200
    found = {}
    for family in text_string_to_metric_families(body.decode()):
        for sample in family.samples:
            labels = sample.labels.values() if sample.name != "sidecar_build_info" else ()
            found[(sample.name, *sorted(labels))] = sample.value
    return found


async def reasons(node: LabNode, page: str) -> list[str]:
    """Why the page says 503; empty for 200."""
    code, body = await http_get(node.http_listen, page)
    answer = json.loads(body)
    assert (code == 200) is answer["ok"] is (not answer["reasons"])
    return list(answer["reasons"])


async def becomes(node: LabNode, page: str, word: str) -> str:
    """Wait for a 503 whose reasons hold ``word``, or for a 200 when it is empty."""

    async def said() -> str | None:
        found = await reasons(node, page)
        return next((r for r in found if word in r), None) if word else (None if found else "ok")

    return str(await wait_until(said, DEADLINE_S, f"{node.name}: {page} {word or 'well'}", tolerate=(OSError,)))


def log_since(node: LabNode, position: int) -> list[dict[str, Any]]:
    """The log's lines, each of which must be JSON."""
    with node.log_path.open() as log:
        log.seek(position)
        return [json.loads(line) for line in log]


async def same(cluster: LabCluster) -> None:
    await cluster.wait_linked()
    await cluster.wait_converged(DEADLINE_S)
    assert len(set((await cluster.checksums("posts")).values())) == 1


# -- status --------------------------------------------------------------------------------------------------------


async def test_every_metric_is_there_and_agrees_with_the_database(cluster: LabCluster) -> None:
    east, west = cluster.nodes
    before = await metrics(east)
    for key in range(20):
        query(east, "INSERT INTO posts VALUES (%s, 'east')", key)
    await same(cluster)
    await cluster.cut(0, 1)
    query(east, "UPDATE posts SET title = 'east again' WHERE id < 5")
    query(west, "UPDATE posts SET title = 'west' WHERE id < 5")
    query(west, "INSERT INTO posts SELECT i, 'west' FROM generate_series(100, 129) AS i")
    cluster.heal()
    await same(cluster)

    async def settled() -> dict[tuple[str, ...], float] | None:
        found = await metrics(east)
        acknowledged = found["sidecar_peer_unacknowledged_change_sets", "eu-west"] == 0
        near = (
            0 <= found.get(("sidecar_peer_lag_seconds", "eu-west"), 99) < 5
            and 0 <= found.get(("sidecar_peer_round_trip_seconds", "eu-west"), 99) < 1
            and abs(found.get(("sidecar_clock_offset_seconds", "eu-west"), 99)) < 1
        )
        return found if acknowledged and near and found.get(("sidecar_journal_bytes",), 0) > 0 else None

    after = await wait_until(settled, DEADLINE_S, "everything acknowledged, the journal measured, the peer near")
    assert after is not None
    assert set(METRICS.split()) <= {name for name, *_ in after}

    def grown(*name: str) -> float:
        return after[name] - before[name]

    assert grown("sidecar_captured_changes_total") == 25
    assert grown("sidecar_captured_transactions_total") == 21
    assert grown("sidecar_merged_rows_total") == 35
    assert grown("sidecar_conflicts_total") == 5
    assert query(east, "SELECT count(*) FROM crdt.conflicts") == [(after["sidecar_conflicts_total",],)]
    sent = grown("sidecar_peer_change_sets_total", "eu-west", "out")
    assert 1 < sent <= grown("sidecar_captured_change_sets_total") <= 21
    assert grown("sidecar_peer_bytes_total", "eu-west", "out") > 25 * 8
    assert grown("sidecar_merge_duration_seconds_count") >= 1
    assert 0 < grown("sidecar_merge_duration_seconds_sum") < 10
    assert after["sidecar_merge_duration_seconds_bucket", "+Inf"] == after["sidecar_merge_duration_seconds_count",]
    assert after["sidecar_capture_streaming",] == after["sidecar_database_reachable",] == 1
    assert after["sidecar_peer_connected", "eu-west"] == 1


async def test_what_a_peer_has_not_acknowledged_is_counted_also_after_a_restart(cluster: LabCluster) -> None:
    east, west = cluster.nodes
    await same(cluster)
    await cluster.cut(0, 1)

    async def counted(least: int) -> None:
        async def agrees() -> bool:
            said = (await cluster.status(0))["peers"][0]
            ((known,),) = query(east, "SELECT unacknowledged_change_sets FROM crdt.lag WHERE NOT is_local")
            return bool(said["unacknowledged_change_sets"] == known >= least and said["id"] == west.id)

        await wait_until(agrees, DEADLINE_S, f"{least} unacknowledged change sets or more, as crdt.lag says")

    # Each ten transactions are one change set at least.
    for least, restart in ((1, False), (2, True)):
        for _ in range(10):
            query(east, "UPDATE posts SET likes = likes + 1 WHERE id = 7")
        await counted(least)
        if restart:
            await cluster.stop_sidecar(0)
            await cluster.start_sidecar(0)
            await counted(least)
    cluster.heal()
    await same(cluster)
    await counted(0)
    assert (await cluster.status(0))["peers"][0]["unacknowledged_change_sets"] == 0


# -- health --------------------------------------------------------------------------------------------------------


@contextmanager
def frozen(node: LabNode, session: str) -> Iterator[None]:
    """The server process of one session of the sidecar does not answer."""
    ((pid,),) = query(node, "SELECT pid FROM pg_stat_activity WHERE application_name = %s", f"sidecar/{session}")
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@pytest.mark.parametrize("loop", ["merge", "capture"])
async def test_a_stuck_loop_is_unhealthy_until_it_goes_on(cluster: LabCluster, loop: str) -> None:
    east, west = cluster.nodes
    await becomes(east, "/healthz", "")
    with frozen(east, loop):
        for node in (east, west):
            # By itself, this test finds no rows.
            query(node, "INSERT INTO posts (id) VALUES (8) ON CONFLICT (id) DO UPDATE SET likes = posts.likes + 1")
        reason = await becomes(east, "/healthz", f"loop {loop}")
        assert "its bound is 4000 ms" in reason
    await becomes(east, "/healthz", "")
    await same(cluster)


async def test_a_column_added_on_one_node_after_the_other_is_no_problem_in_the_end(cluster: LabCluster) -> None:
    async def problems(index: int) -> list[str]:
        return [str(problem) for problem in (await cluster.status(index))["problems"]]

    async def both(differ: bool) -> bool:
        return all([any("differs" in line for line in await problems(i)) is differ for i in (0, 1)])

    for node, differ in zip(cluster.nodes, (True, False), strict=True):
        query(node, "ALTER TABLE posts ADD COLUMN added int")
        await wait_until(partial(both, differ), 60, f"posts told to differ: {differ}")


# -- PostgreSQL goes away ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["fast", "immediate", "kill"])
async def test_postgres_restarts_and_the_sidecar_goes_on_by_itself(cluster: LabCluster, how: str) -> None:
    east, west = cluster.nodes
    await same(cluster)
    position = east.log_path.stat().st_size
    query(east, "UPDATE posts SET likes = likes + 1, title = %s WHERE id < 10", how)
    ((likes,),) = query(east, "SELECT likes FROM posts WHERE id = 9")
    if how == "kill":
        await cluster.kill_server(0)
    else:
        await asyncio.to_thread(east.server.stop, how)
    reason = await becomes(east, "/readyz", "cannot connect to PostgreSQL")
    assert str(east.server.port) in reason
    assert await reasons(east, "/healthz") == [], "a restart of the process would not bring the database back"
    away = await metrics(east)
    assert away["sidecar_database_reachable",] == away["sidecar_capture_streaming",] == 0
    assert ("sidecar_capture_lag_seconds",) not in away, "nobody knows"
    query(west, "UPDATE posts SET likes = likes + 10 WHERE id = 9")
    await cluster.start_server(0)
    await becomes(east, "/readyz", "")
    assert (await cluster.status(0))["problems"] == []
    await same(cluster)
    for node in (east, west):
        assert query(node, "SELECT title, likes FROM posts WHERE id = 9") == [(how, likes + 10)]

    lines = log_since(east, position)
    of_database = [line for line in lines if line["event"] == "replicating" or line.get("problem") == "database"]
    assert [line["event"] for line in of_database] == ["problem", "replicating"], "one line per change"
    assert "cannot switch to state" not in of_database[0]["reason"]
    assert not [line for line in lines if line["level"] in ("error", "critical")]


async def test_links_stand_while_the_database_is_away(cluster: LabCluster) -> None:
    east, west = cluster.nodes
    await same(cluster)
    await cluster.kill_server(0)
    await becomes(east, "/readyz", "database")
    positions = [node.log_path.stat().st_size for node in cluster.nodes]
    for proxy in cluster.links(0, 1):
        await proxy.drop_connections()

    async def linked_again() -> bool:
        return any(line["event"] == "link_up" for line in log_since(west, positions[1]))

    await wait_until(linked_again, DEADLINE_S, "a new link")
    query(west, "UPDATE posts SET title = 'meanwhile' WHERE id = 3")

    async def waits() -> bool:
        status = await cluster.status(0)
        return bool(status["merge"]["waiting_change_sets"] and status["peers"][0]["state"] == "connected")

    await wait_until(waits, DEADLINE_S, "a change set that waits for the database")
    await cluster.start_server(0)
    await same(cluster)
    for node, position in zip(cluster.nodes, positions, strict=True):
        events = Counter(line["event"] for line in log_since(node, position))
        assert events["link_up"] <= 2, "a link is not given up because the database is away"


async def test_a_restarted_node_asks_for_what_it_lacks_and_not_for_the_beginning(cluster: LabCluster) -> None:
    east = cluster.nodes[0]
    for key in range(200, 240):
        query(east, "INSERT INTO posts VALUES (%s, 'trimmed')", key)
    await same(cluster)
    await cluster.stop_sidecar(0)
    await cluster.start_sidecar(0)  # trims soon after its start

    def trimmed() -> bool:
        return query(east, "SELECT dropped_hlc > 0 FROM crdt_state.position") == [(True,)]

    await wait_until(trimmed, DEADLINE_S, "a trimmed journal")
    position = east.log_path.stat().st_size
    sent = (await metrics(east))["sidecar_peer_change_sets_total", "eu-west", "out"]
    await cluster.stop_sidecar(1)
    await cluster.start_sidecar(1)
    await same(cluster)
    assert [line for line in log_since(east, position) if line["event"] == "problem"] == []
    assert (await metrics(east))["sidecar_peer_change_sets_total", "eu-west", "out"] == sent


async def test_the_log_has_one_line_per_event_and_one_style(cluster: LabCluster) -> None:
    await same(cluster)
    for index in range(2):
        await cluster.stop_sidecar(index)
    for node in cluster.nodes:
        lines = log_since(node, 0)
        for line in lines:
            assert {"event", "level", "timestamp", "node"} <= set(line)
            assert line["event"] == line["event"].lower().replace(" ", "_"), line
            assert line["level"] in ("info", "warning"), line
            assert "postgresql://" not in json.dumps(line)
        events = Counter(line["event"] for line in lines)
        assert events["starting"] == events["stopping"] == events["stopped"]
        assert events["link_up"] == events["link_down"] + events["link_closed"]
        twice = Counter((line["timestamp"], line["event"], line.get("peer")) for line in lines).most_common(1)
        assert twice[0][1] == 1, twice
    for index in range(2):
        await cluster.start_sidecar(index)


async def test_no_idle_session_keeps_a_snapshot_for_long(cluster: LabCluster) -> None:
    """A query that waited for a second kept every page in the database from being pruned: nine of ten updates of rows
    that are written often stay in their pages otherwise, then seven of ten."""
    own = "SELECT query_start FROM pg_stat_activity WHERE datname = current_database() AND application_name = %s"
    starts: set[Any] = set()

    async def several() -> bool:
        starts.update(start for (start,) in query(cluster.nodes[0], own, "sidecar/waits"))
        return len(starts) >= 5

    await wait_until(several, DEADLINE_S, "five looks at the waiting sessions")
    begun = sorted(starts)
    shortest = min(later - earlier for earlier, later in pairwise(begun))
    assert shortest.total_seconds() < 0.5
