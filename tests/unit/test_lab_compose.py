"""The container example: its configurations load, its certificates fit them and each other."""

from __future__ import annotations

import os
import shutil
import ssl
import subprocess
from pathlib import Path

import pytest

from sidecar import settings

FOLDER = Path(__file__).parents[2] / "deploy" / "compose"
NAMES = ("us-east", "eu-west", "ap-south")


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("openssl") is None:
        pytest.skip("no openssl here")
    folder = tmp_path_factory.mktemp("certs")
    for _ in range(2):  # a second start keeps what is there
        done = subprocess.run(
            ["sh", str(FOLDER / "certificates.sh"), *NAMES],
            env={**os.environ, "CERTS": str(folder)},
            capture_output=True,
            text=True,
            check=True,
        )
    assert done.stdout == ""
    return folder


def load(name: str, certificates: Path, tmp_path: Path) -> settings.Settings:
    path = tmp_path / f"{name}.toml"
    path.write_text((FOLDER / f"{name}.toml").read_text().replace("/certs/", f"{certificates}/"))
    return settings.load(path)


def test_every_node_lists_the_others(certificates: Path, tmp_path: Path) -> None:
    nodes = [load(name, certificates, tmp_path) for name in NAMES]
    assert [node.node.name for node in nodes] == list(NAMES)
    assert [node.node.id for node in nodes] == [1, 2, 3]
    for node in nodes:
        assert {peer.name for peer in node.peers} == set(NAMES) - {node.node.name}
        assert not node.node.insecure


def test_certificates_pass_strict_mutual_verification(certificates: Path) -> None:
    def context(name: str, protocol: ssl._SSLMethod) -> ssl.SSLContext:
        made = ssl.SSLContext(protocol)
        made.verify_mode = ssl.CERT_REQUIRED
        made.verify_flags |= ssl.VERIFY_X509_STRICT
        made.load_verify_locations(certificates / "ca.pem")
        made.load_cert_chain(certificates / f"{name}.pem", certificates / f"{name}.key")
        return made

    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context("us-east", ssl.PROTOCOL_TLS_CLIENT).wrap_bio(to_client, to_server, server_hostname="eu-west")
    server = context("eu-west", ssl.PROTOCOL_TLS_SERVER).wrap_bio(to_server, to_client, server_side=True)
    finished = set()
    for _ in range(4):
        for side in (client, server):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
            finished.add(side)
    assert finished == {client, server}
    names = server.getpeercert()
    assert names is not None
    assert names["subjectAltName"] == (("DNS", "us-east"),)
