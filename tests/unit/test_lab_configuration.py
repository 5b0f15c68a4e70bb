"""What of a lab cluster can be told without servers: configuration, HTTP probe, positions."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from sidecar import settings
from sidecar.errors import SidecarError
from sidecar.lab.cluster import LabCluster, http_get
from sidecar.lab.convergence import end_of_wal, parse_lsn


@pytest.fixture
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in settings.environment_names():
        if not name.startswith(("SIDECAR_TEST", "SIDECAR_LAB")):
            monkeypatch.delenv(name)


@pytest.mark.usefixtures("no_environment")
@pytest.mark.parametrize("proxied", [False, True])
async def test_configurations_are_valid_and_dial_through_proxies(tmp_path: Path, proxied: bool) -> None:
    sections = {"timing": {"heartbeat_ms": 50}, "node": {"cluster": "demo"}}
    cluster = LabCluster(3, tmp_path, proxied=proxied, sections=sections)
    for node in cluster.nodes:
        node.dsn = node.server.dsn("app")
    try:
        await cluster._write_configurations()
        for index, node in enumerate(cluster.nodes):
            read = settings.load(node.config_path)
            assert (read.node.name, read.node.id, read.node.dsn) == (node.name, index + 1, node.dsn)
            assert (read.node.cluster, read.node.insecure, read.timing.heartbeat_ms) == ("demo", True, 50)
            others = {peer.name: peer for peer in cluster.nodes if peer is not node}
            assert {peer.name for peer in read.peers} == set(others)
            for peer in read.peers:
                wanted = node.proxies[peer.name].address if proxied else others[peer.name].listen
                assert peer.address == wanted
        ports = [address for node in cluster.nodes for address in (node.listen, node.http_listen)]
        assert len(set(ports)) == 6
    finally:
        await cluster.stop()


@pytest.mark.parametrize("size", [0, 6])
def test_sizes_without_names_are_refused(tmp_path: Path, size: int) -> None:
    with pytest.raises(SidecarError, match="1 to 5 nodes"):
        LabCluster(size, tmp_path)


def test_a_detached_cluster_has_no_proxies(tmp_path: Path) -> None:
    with pytest.raises(SidecarError, match="proxies end"):
        LabCluster(2, tmp_path, detached=True)


def test_links_without_proxies_are_refused_by_a_line(tmp_path: Path) -> None:
    cluster = LabCluster(2, tmp_path, proxied=False)
    with pytest.raises(SidecarError, match="no proxy"):
        cluster.link(0, 1)


@pytest.mark.parametrize(
    ("insert", "end"),
    [
        ("0/3000028", "0/3000000"),
        ("0/3002018", "0/3002000"),
        ("0/3002030", "0/3002030"),
        ("A/0", "A/0"),
        ("1/B374D848", "1/B374D848"),
    ],
)
def test_a_page_header_that_nothing_follows_is_not_waited_for(insert: str, end: str) -> None:
    assert end_of_wal(parse_lsn(insert)) == parse_lsn(end)


async def test_http_get_reads_status_and_body_and_says_what_is_no_http() -> None:
    answers = [b"HTTP/1.1 503 Service Unavailable\r\nX: y\r\n\r\n{}", b"220 mail\r\n"]

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answers.pop(0))
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    assert await http_get(address, "/readyz") == (503, b"{}")
    with pytest.raises(ConnectionError, match="HTTP"):
        await http_get(address, "/readyz")
    server.close()
