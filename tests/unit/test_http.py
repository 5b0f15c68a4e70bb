"""Health, metrics and status: what each page answers for a given state, and the listener's life."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from dataclasses import dataclass, field, replace

import httpx
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from sidecar.core.status import (
    DURATION_BOUNDS_SECONDS,
    CaptureStatus,
    Counters,
    Histogram,
    LoopStatus,
    MergeStatus,
    NodeStatus,
    PeerStatus,
    StatusSnapshot,
    TableStatus,
)
from sidecar.core.versions import dominates
from sidecar.errors import ConfigurationError, UsageError
from sidecar.http.metrics import METRICS
from sidecar.http.server import CONNECTIONS_MAX, StatusServer, application
from sidecar.http.wait import TIMEOUT_MS_DEFAULT, TIMEOUT_MS_MAX, WAITERS_MAX
from sidecar.lab.waiting import wait_until


def _histogram(*seconds: float) -> Histogram:
    out = Histogram()
    for value in seconds:
        out.observe(value)
    return out


WELL = StatusSnapshot(
    node=NodeStatus("us-east", 1, "shop", "0.1.0", 1_700_000_000.5),
    capture=CaptureStatus("streaming", 2048, 1500.0, "0/16B3748", 10, 20, 3),
    merge=MergeStatus(
        rows=100,
        change_sets=7,
        conflicts=5,
        quarantined_rows=1,
        retries={"lock_timeout": 2, "dirty_rows": 9},
        waiting_change_sets=4,
        duration=_histogram(0.001, 0.02, 0.3, 60.0),
    ),
    peers=(
        PeerStatus("eu-west", 2, "connected", None, 250.0, 6, 1000, 2000, 30, 40, 12.5, -3.0),
        PeerStatus("ap", last_error='refused: "cluster"\nother'),
    ),
    tables=(TableStatus("public.posts", "lww", {"likes": "pn_counter", "title": "lww_register"}),),
    loops=(LoopStatus("capture", 10.0, 1000.0),),
    journal_bytes=4096,
)


@dataclass
class Source:
    """A StatusSource whose state the test sets."""

    state: StatusSnapshot = WELL

    def snapshot(self) -> StatusSnapshot:
        return self.state


@pytest.fixture
def source() -> Source:
    return Source()


@dataclass
class Waits:
    """A TokenWaits whose clock the test moves."""

    clock: dict[int, int] = field(default_factory=dict)
    asked: list[tuple[dict[int, int], float]] = field(default_factory=list)
    moved: asyncio.Event = field(default_factory=asyncio.Event)

    async def until_covered(self, clock: dict[int, int], timeout_s: float) -> bool:
        self.asked.append((clock, timeout_s))
        if 99 in clock:
            raise UsageError("the token speaks of node 99, which is not known here", mend="is it from this cluster?")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while not dominates(self.clock, clock):
                    await self.moved.wait()
                return True
        return False


@pytest.fixture
def waits() -> Waits:
    return Waits()


@pytest.fixture
def client(source: Source, waits: Waits) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(application(source, waits)), base_url="http://sidecar")


async def test_well_and_ready(client: httpx.AsyncClient) -> None:
    for page in ("/healthz", "/readyz"):
        answer = await client.get(page)
        assert (answer.status_code, answer.json()) == (200, {"ok": True, "reasons": []})


async def test_a_stuck_loop_is_not_healthy(client: httpx.AsyncClient, source: Source) -> None:
    source.state = replace(WELL, loops=(*WELL.loops, LoopStatus("apply", 1001.0, 1000.0)))
    answer = await client.get("/healthz")
    assert answer.status_code == 503
    assert [reason for reason in answer.json()["reasons"] if "apply" in reason]
    assert len(answer.json()["reasons"]) == 1
    # Whether it replicates is another question.
    assert (await client.get("/readyz")).status_code == 200


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"capture": CaptureStatus("retrying", last_error="slot is active")}, "slot is active"),
        ({"capture": CaptureStatus()}, "starting"),
        ({"database_error": "connection refused"}, "connection refused"),
    ],
)
async def test_not_ready_says_why(
    client: httpx.AsyncClient, source: Source, change: dict[str, object], words: str
) -> None:
    source.state = replace(WELL, **change)  # type: ignore[arg-type]
    answer = await client.get("/readyz")
    assert answer.status_code == 503
    assert words in " ".join(answer.json()["reasons"])
    assert (await client.get("/healthz")).status_code == 200


async def test_a_peer_that_is_away_is_no_reason(client: httpx.AsyncClient, source: Source) -> None:
    source.state = replace(WELL, peers=(PeerStatus("eu-west", 2, "down"),))
    assert (await client.get("/readyz")).status_code == 200


async def test_status_comes_back_as_it_was(client: httpx.AsyncClient) -> None:
    answer = await client.get("/status")
    assert answer.headers["content-type"] == "application/json"
    assert msgspec.json.decode(answer.content, type=StatusSnapshot) == WELL


async def test_only_reading_is_possible(client: httpx.AsyncClient) -> None:
    assert (await client.post("/status")).status_code == 405
    assert (await client.get("/")).status_code == 404


Sample = tuple[str, tuple[tuple[str, str], ...]]


async def scrape(client: httpx.AsyncClient) -> dict[Sample, float]:
    answer = await client.get("/metrics")
    assert answer.status_code == 200
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


async def test_metrics(client: httpx.AsyncClient) -> None:
    samples = await scrape(client)
    peer = (("peer", "eu-west"),)
    expected: dict[Sample, float] = {
        ("sidecar_capture_lag_bytes", ()): 2048,
        ("sidecar_capture_lag_seconds", ()): 1.5,
        ("sidecar_capture_streaming", ()): 1,
        ("sidecar_captured_transactions_total", ()): 10,
        ("sidecar_captured_changes_total", ()): 20,
        ("sidecar_captured_change_sets_total", ()): 3,
        ("sidecar_journal_bytes", ()): 4096,
        ("sidecar_merged_rows_total", ()): 100,
        ("sidecar_merged_change_sets_total", ()): 7,
        ("sidecar_waiting_change_sets", ()): 4,
        ("sidecar_conflicts_total", ()): 5,
        ("sidecar_quarantined_rows_total", ()): 1,
        ("sidecar_peer_connected", peer): 1,
        ("sidecar_peer_connected", (("peer", "ap"),)): 0,
        ("sidecar_peer_lag_seconds", peer): 0.25,
        ("sidecar_peer_round_trip_seconds", peer): 0.0125,
        ("sidecar_clock_offset_seconds", peer): -0.003,
        ("sidecar_peer_unacknowledged_change_sets", peer): 6,
        ("sidecar_peer_bytes_total", (("direction", "in"), *peer)): 1000,
        ("sidecar_peer_bytes_total", (("direction", "out"), *peer)): 2000,
        ("sidecar_peer_change_sets_total", (("direction", "in"), *peer)): 30,
        ("sidecar_peer_change_sets_total", (("direction", "out"), *peer)): 40,
        ("sidecar_retries_total", (("cause", "lock_timeout"),)): 2,
        ("sidecar_retries_total", (("cause", "dirty_rows"),)): 9,
        ("sidecar_merge_duration_seconds_count", ()): 4,
        ("sidecar_merge_duration_seconds_sum", ()): 60.321,
        ("sidecar_merge_duration_seconds_bucket", (("le", "0.001"),)): 1,
        ("sidecar_merge_duration_seconds_bucket", (("le", "0.02"),)): 2,
        ("sidecar_merge_duration_seconds_bucket", (("le", "10.0"),)): 3,
        ("sidecar_merge_duration_seconds_bucket", (("le", "+Inf"),)): 4,
        ("sidecar_build_info", (("cluster", "shop"), ("node", "us-east"), ("version", "0.1.0"))): 1,
    }
    assert {key: samples.get(key) for key in expected} == pytest.approx(expected)
    # What is not known has no sample, rather than a zero.
    assert ("sidecar_peer_lag_seconds", (("peer", "ap"),)) not in samples


async def test_unknown_values_are_left_out(client: httpx.AsyncClient, source: Source) -> None:
    source.state = StatusSnapshot(WELL.node, CaptureStatus(), MergeStatus())
    names = {name for name, _ in await scrape(client)}
    assert "sidecar_capture_lag_bytes" not in names
    assert "sidecar_captured_changes_total" in names


def test_metric_names_say_their_unit_once() -> None:
    names = [metric.name for metric in METRICS]
    assert len(names) == len(set(names))
    assert all(name.startswith("sidecar_") and not name.endswith(("_ms", "_milliseconds")) for name in names)


@given(st.lists(st.floats(0, 100), max_size=50))
def test_histogram_counts_each_observation_in_the_first_bound_that_holds_it(values: list[float]) -> None:
    histogram = _histogram(*values)
    for index, count in enumerate(histogram.counts):
        low = DURATION_BOUNDS_SECONDS[index - 1] if index else -1.0
        high = DURATION_BOUNDS_SECONDS[index] if index < len(DURATION_BOUNDS_SECONDS) else float("inf")
        assert count == sum(low < value <= high for value in values)
    assert histogram.total == len(values)
    assert histogram.sum_seconds == pytest.approx(sum(values))


def test_a_copied_histogram_stands_still() -> None:
    histogram = _histogram(0.1)
    copy = histogram.copy()
    histogram.observe(0.1)
    assert (copy.total, histogram.total) == (1, 2)


def test_counters_make_their_entries_at_first_use() -> None:
    counters = Counters()
    counters.retry("dirty_rows")
    counters.retry("dirty_rows")
    counters.link(2).bytes_in += 5
    counters.link(2).bytes_in += 5
    assert counters.retries == {"dirty_rows": 2}
    assert counters.links[2].bytes_in == 10


async def test_the_listener_starts_answers_and_stops(source: Source) -> None:
    before = signal.getsignal(signal.SIGTERM)
    server = StatusServer("127.0.0.1:0", source, Waits())
    await server.start()
    try:
        assert signal.getsignal(signal.SIGTERM) is before
        async with httpx.AsyncClient(trust_env=False) as client:
            answer = await client.get(f"http://{server.address}/status")
            assert answer.json()["node"]["name"] == "us-east"
    finally:
        await server.stop()
    host, port = server.address.split(":")
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(host, int(port))
    await server.stop()


async def test_a_taken_port_is_one_line(source: Source) -> None:
    first = StatusServer("127.0.0.1:0", source, Waits())
    await first.start()
    try:
        with pytest.raises(ConfigurationError) as caught:
            await StatusServer(first.address, source, Waits()).start()
        assert first.address in caught.value.line()
        assert "already in use" in caught.value.line()
    finally:
        await first.stop()


async def test_an_address_of_another_machine_is_one_line(source: Source) -> None:
    with pytest.raises(ConfigurationError, match="cannot listen on"):
        await StatusServer("192.0.2.1:8101", source, Waits()).start()


async def test_requests_beyond_the_bound_are_refused(source: Source) -> None:
    server = StatusServer("127.0.0.1:0", source, Waits())
    await server.start()
    host, port = server.address.split(":")
    idle = []
    try:
        for _ in range(CONNECTIONS_MAX):
            idle.append(await asyncio.open_connection(host, int(port)))
        async with httpx.AsyncClient(trust_env=False) as client:
            assert (await client.get(f"http://{server.address}/healthz")).status_code == 503
    finally:
        for _, writer in idle:
            writer.close()
        await server.stop()


# -- /wait -------------------------------------------------------------------------------------------------------------


async def test_a_covered_token_is_answered_at_once(client: httpx.AsyncClient, waits: Waits) -> None:
    waits.clock = {1: 16, 2: 5}
    answer = await client.get("/wait?token=v1.1-10")
    assert (answer.status_code, answer.json()) == (200, {"covered": True})
    assert waits.asked == [({1: 16}, TIMEOUT_MS_DEFAULT / 1000)]
    assert (await client.get("/wait?token=v1")).status_code == 200, "nothing was ever committed there"


async def test_a_token_is_waited_for(client: httpx.AsyncClient, waits: Waits) -> None:
    waiting = asyncio.create_task(client.get("/wait?token=v1.1-10&timeout_ms=30000"))
    await wait_until(lambda: waits.asked, 5, "the question")
    waits.clock = {1: 16}
    waits.moved.set()
    assert (await waiting).status_code == 200
    assert waits.asked == [({1: 16}, 30.0)]


async def test_a_token_that_is_not_covered_in_time_is_504(client: httpx.AsyncClient) -> None:
    answer = await client.get("/wait?token=v1.1-10&timeout_ms=20")
    assert answer.status_code == 504
    assert answer.json() == {"covered": False, "reason": "not merged here within 20 ms"}


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("", "'' is not a token"),
        ("token=v2.1-10", "not a token"),
        ("token=v1.1-10&timeout_ms=-1", "timeout_ms is '-1'"),
        ("token=v1.1-10&timeout_ms=" + "9" * 5000, "timeout_ms"),
        (f"token=v1.1-10&timeout_ms={TIMEOUT_MS_MAX + 1}", f"at most {TIMEOUT_MS_MAX}"),
        ("token=v1.99-10", "node 99"),
    ],
)
async def test_what_cannot_be_waited_for_is_400(client: httpx.AsyncClient, query: str, words: str) -> None:
    answer = await client.get(f"/wait?{query}")
    assert answer.status_code == 400
    assert words in answer.json()["reason"]
    assert answer.json()["covered"] is False


async def test_the_number_of_waiters_is_bounded(client: httpx.AsyncClient, waits: Waits) -> None:
    waiting = [asyncio.create_task(client.get("/wait?token=v1.1-10")) for _ in range(WAITERS_MAX)]
    await wait_until(lambda: len(waits.asked) == WAITERS_MAX, 5, "all of them")
    answer = await client.get("/wait?token=v1.1-10")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert len(waits.asked) == WAITERS_MAX
    waits.clock = {1: 16}
    waits.moved.set()
    assert {one.status_code for one in await asyncio.gather(*waiting)} == {200}
    assert (await client.get("/wait?token=v1.1-10")).status_code == 200, "their places are free again"


async def test_a_client_that_leaves_frees_its_place_and_a_stop_waits_for_nobody() -> None:
    waits = Waits()
    server = StatusServer("127.0.0.1:0", Source(), waits)
    await server.start()
    host, _, port = server.address.rpartition(":")
    for _ in range(WAITERS_MAX + 1):
        asked = len(waits.asked)
        _, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"GET /wait?token=v1.1-10&timeout_ms=60000 HTTP/1.1\r\nHost: x\r\n\r\n")
        await wait_until(lambda before=asked: len(waits.asked) > before, 5, "a place")
        writer.close()
    _, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"GET /wait?token=v1.1-10&timeout_ms=60000 HTTP/1.1\r\nHost: x\r\n\r\n")
    await wait_until(lambda: len(waits.asked) == WAITERS_MAX + 2, 5, "the last one")
    await asyncio.wait_for(server.stop(), 10)
    writer.close()
