"""Mutual TLS between meshes."""

from __future__ import annotations

from pathlib import Path

import pytest
import trustme
from peer_lab import Lab, make_part, until

from sidecar.errors import ConfigurationError
from sidecar.peers.status import PeerPhase
from sidecar.peers.tls import load_contexts
from sidecar.settings import TlsSettings


@pytest.fixture
async def lab():
    lab = Lab()
    yield lab
    await lab.stop()


def issue(folder: Path, authority: trustme.CA, name: str) -> TlsSettings:
    certificate = authority.issue_cert(name)
    folder.mkdir(exist_ok=True)
    files = TlsSettings(ca=folder / "ca.pem", cert=folder / f"{name}.pem", key=folder / f"{name}.key")
    authority.cert_pem.write_to_path(files.ca)
    certificate.cert_chain_pems[0].write_to_path(files.cert)
    certificate.private_key_pem.write_to_path(files.key)
    return files


async def test_nodes_with_their_certificates_link(lab: Lab, tmp_path: Path) -> None:
    authority = trustme.CA()
    b = lab.node("b", 2, tls=issue(tmp_path, authority, "b"))
    a = lab.node("a", 1, tls=issue(tmp_path, authority, "a"), peers={"b": b.listen})
    await lab.linked(a, b)
    assert a.link("b")._connection.writer.get_extra_info("ssl_object").version() == "TLSv1.3"
    big = make_part(body=bytes(5 << 20))
    await a.link("b").send_part(big)
    await b.link("a").send_part(make_part(origin=2))
    await until(lambda: a.parts and b.parts)
    assert b.parts[0][1] == big


@pytest.mark.parametrize("wrong", ["a", "b"])
async def test_a_certificate_of_another_name_is_refused(lab: Lab, tmp_path: Path, wrong: str) -> None:
    authority = trustme.CA()
    names = {name: "mallory" if name == wrong else name for name in "ab"}
    b = lab.node("b", 2, tls=issue(tmp_path, authority, names["b"]))
    a = lab.node("a", 1, tls=issue(tmp_path, authority, names["a"]), peers={"b": b.listen})
    await lab.start(a, b)
    await until(lambda: a.mesh.states["b"].state is PeerPhase.REFUSED)
    assert f"the certificate of '{wrong}' is made for mallory" in (a.mesh.states["b"].last_error or "")
    assert not b.events


async def test_a_certificate_of_another_authority_is_refused(lab: Lab, tmp_path: Path) -> None:
    b = lab.node("b", 2, tls=issue(tmp_path / "b", trustme.CA(), "b"))
    a = lab.node("a", 1, tls=issue(tmp_path / "a", trustme.CA(), "a"), peers={"b": b.listen})
    await lab.start(a, b)
    await until(lambda: a.mesh.states["b"].last_error is not None)
    assert "certificate" in (a.mesh.states["b"].last_error or "").lower()
    assert not b.events


@pytest.mark.parametrize("plain", ["a", "b"])
async def test_plaintext_does_not_reach_a_tls_port_and_the_reverse(lab: Lab, tmp_path: Path, plain: str) -> None:
    files = issue(tmp_path, trustme.CA(), "ab".replace(plain, ""))
    b = lab.node("b", 2, tls=None if plain == "b" else files)
    a = lab.node("a", 1, tls=None if plain == "a" else files, peers={"b": b.listen})
    await lab.start(a, b)
    await until(lambda: a.mesh.states["b"].last_error is not None)
    assert not a.events
    assert not b.events


def test_missing_and_wrong_files_are_configuration_errors(tmp_path: Path) -> None:
    authority = trustme.CA()
    files = issue(tmp_path, authority, "a")
    other = issue(tmp_path, authority, "b")
    assert load_contexts(files) is not None
    for wrong in (
        TlsSettings(ca=tmp_path / "none.pem", cert=files.cert, key=files.key),
        TlsSettings(ca=files.ca, cert=files.cert, key=other.key),
        TlsSettings(ca=files.ca, cert=files.key, key=files.key),
    ):
        with pytest.raises(ConfigurationError) as caught:
            load_contexts(wrong)
        assert "[tls]" in caught.value.mend
