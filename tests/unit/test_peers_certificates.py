"""Who is refused by TLS, on which side, with which words; and certificates that are replaced while links stand."""

from __future__ import annotations

import asyncio
import os
import shutil
import ssl
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import structlog
import trustme
import uvloop
from peer_lab import Lab, Node, make_part, until

from sidecar.core.wire.identity import Known
from sidecar.errors import ConfigurationError
from sidecar.peers import pacing, tls_files
from sidecar.peers.status import PeerPhase
from sidecar.peers.tls_files import TlsFiles
from sidecar.settings import TlsSettings, split_address

NOW = datetime.now(UTC)
DAY = timedelta(days=1)


def issue(folder: Path, authority: trustme.CA, name: str, *names: str, **times: Any) -> TlsSettings:
    """A node's files; the certificate is made for ``names`` if there are any, else for ``name``."""
    certificate = authority.issue_cert(*(names or (name,)), **times)
    folder.mkdir(exist_ok=True)
    files = TlsSettings(ca=folder / "ca.pem", cert=folder / f"{name}.pem", key=folder / f"{name}.key")
    authority.cert_pem.write_to_path(files.ca)
    certificate.cert_chain_pems[0].write_to_path(files.cert)
    certificate.private_key_pem.write_to_path(files.key)
    return files


@pytest.fixture
async def lab():
    lab = Lab()
    yield lab
    await lab.stop()


def logged(lines: list[dict[str, Any]], event: str) -> list[str]:
    return [str(line["reason"]) for line in lines if line["event"] == event]


Issue = Callable[[Path, trustme.CA, str], TlsSettings]

WRONG: dict[str, tuple[Issue, str, str, str]] = {
    "certificate_authority": (
        lambda folder, authority, name: _strange(folder, authority, name),
        "is not from an authority that is trusted here; name the same authority in [tls] ca of both",
        "it does not trust the authority of this node's certificate",
        "certificate_authority",
    ),
    "certificate_expired": (
        lambda folder, authority, name: issue(folder, authority, name, not_before=NOW - 9 * DAY, not_after=NOW - DAY),
        "has expired; issue it anew: sidecar certs issue NODE_NAME --renew",
        "this node's certificate has expired",
        "certificate_expired",
    ),
    "certificate_not_yet_valid": (
        lambda folder, authority, name: issue(folder, authority, name, not_before=NOW + DAY, not_after=NOW + 9 * DAY),
        "is not valid yet; check the clocks of both",
        "not valid yet",
        "certificate",
    ),
    "certificate_name": (
        lambda folder, authority, name: issue(folder, authority, name, "mallory"),
        "is made for mallory; issue a certificate with the subject alternative name DNS:",
        "is made for mallory",
        "by_peer",
    ),
}
"""Cause -> files of the wrong node; what the other one says; what the wrong one is told, and how it counts that."""


def _strange(folder: Path, authority: trustme.CA, name: str) -> TlsSettings:
    """A certificate of another authority, with the right authority to trust."""
    files = issue(folder, trustme.CA(), name)
    authority.cert_pem.write_to_path(files.ca)
    return files


async def _refused(lab: Lab, folder: Path, cause: str, wrong: str) -> None:
    authority = trustme.CA()
    make, says, hears, told_cause = WRONG[cause]
    files = {name: (make if name == wrong else issue)(folder / name, authority, name) for name in "ab"}
    b = lab.node("b", 2, tls=files["b"])
    a = lab.node("a", 1, tls=files["a"], peers={"b": b.listen})
    good, bad = (b, a) if wrong == "a" else (a, b)
    with structlog.testing.capture_logs() as lines:
        await lab.start(a, b)
        state = a.mesh.states["b"]
        dialler_says, listener_says = (hears, says) if wrong == "a" else (says, hears)
        # Each side finds out for itself; a link that breaks before it was told why is dialled again.
        await until(lambda: state.state is PeerPhase.REFUSED and dialler_says in (state.last_error or ""))
        await until(lambda: good.mesh.refusals[cause] and bad.mesh.refusals[told_cause])
        await until(lambda: any(dialler_says in line for line in logged(lines, "no_link")))
        await until(lambda: any(listener_says in line for line in logged(lines, "incoming_closed")))
    assert not a.events
    assert not b.events


@pytest.mark.parametrize("wrong", ["a", "b"])
@pytest.mark.parametrize("cause", WRONG)
async def test_a_wrong_certificate_is_refused_and_both_sides_say_why(
    lab: Lab, tmp_path: Path, cause: str, wrong: str
) -> None:
    await _refused(lab, tmp_path, cause, wrong)


def _on_uvloop(work: Callable[[Lab], Coroutine[Any, Any, None]]) -> None:
    async def run() -> None:
        lab = Lab()
        try:
            await work(lab)
        finally:
            await lab.stop()

    uvloop.run(run())


@pytest.mark.parametrize("wrong", ["a", "b"])
@pytest.mark.parametrize("cause", WRONG)
def test_the_same_on_the_loop_that_nodes_use(tmp_path: Path, cause: str, wrong: str) -> None:
    _on_uvloop(lambda lab: _refused(lab, tmp_path, cause, wrong))


def client(authority: trustme.CA, certificate: trustme.LeafCert | None = None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    authority.configure_trust(context)
    if certificate is not None:
        certificate.configure_cert(context)
    return context


async def visit(node: Node, context: ssl.SSLContext) -> bytes:
    """Connect, say nothing, and return what the node says."""
    reader, writer = await asyncio.open_connection(*split_address(node.listen), ssl=context)
    try:
        return await asyncio.wait_for(reader.read(), 10)
    finally:
        writer.transport.abort()


async def _without(lab: Lab, folder: Path) -> None:
    authority = trustme.CA()
    b = lab.node("b", 2, tls=issue(folder, authority, "b"))
    await lab.start(b)
    with structlog.testing.capture_logs() as lines, pytest.raises(ssl.SSLError) as caught:
        await visit(b, client(authority))
    assert caught.value.reason == "TLSV13_ALERT_CERTIFICATE_REQUIRED"
    await until(lambda: b.mesh.refusals)
    assert b.mesh.refusals == {"certificate_missing": 1}
    assert logged(lines, "incoming_closed") == ["the other end shows no certificate; give it a [tls] section"]


async def test_who_shows_no_certificate_is_told_so(lab: Lab, tmp_path: Path) -> None:
    await _without(lab, tmp_path)


def test_who_shows_no_certificate_is_told_so_on_the_loop_that_nodes_use(tmp_path: Path) -> None:
    _on_uvloop(lambda lab: _without(lab, tmp_path))


async def test_older_tls_is_refused(lab: Lab, tmp_path: Path) -> None:
    authority = trustme.CA()
    b = lab.node("b", 2, tls=issue(tmp_path, authority, "b"))
    await lab.start(b)
    context = client(authority, authority.issue_cert("a"))
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(ssl.SSLError, match=r"(?i)protocol.version"):
        await visit(b, context)
    await until(lambda: b.mesh.refusals == {"tls": 1})


async def test_no_session_is_resumed_without_its_certificate(lab: Lab, tmp_path: Path) -> None:
    """A ticket would let in, after the authority was replaced, who was let in once."""
    authority = trustme.CA()
    b = lab.node("b", 2, tls=issue(tmp_path, authority, "b"))
    a = lab.node("a", 1, tls=issue(tmp_path, authority, "a"), peers={"b": b.listen})
    await lab.linked(a, b)
    session = a.link("b")._connection.writer.get_extra_info("ssl_object").session
    assert not session.has_ticket


async def test_a_failed_handshake_holds_its_place_for_a_bounded_time(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sidecar.peers.listener.HANDSHAKE_S", 0.3)
    b = lab.node("b", 2, tls=issue(tmp_path, trustme.CA(), "b"))
    await lab.start(b)
    _, silent = await asyncio.open_connection(*split_address(b.listen))
    await until(lambda: b.mesh.refusals == {"timeout": 1})
    silent.close()
    # One that goes on talking after its alert is cut, not listened to.
    reader, writer = await asyncio.open_connection(*split_address(b.listen))
    writer.write(b"GET / HTTP/1.1\r\n\r\n")
    assert len(await asyncio.wait_for(reader.read(), 10)) < 100
    await until(lambda: b.mesh.refusals == {"timeout": 1, "tls": 1})
    writer.close()


async def test_an_id_of_another_node_is_refused_whatever_the_certificate(lab: Lab, tmp_path: Path) -> None:
    """A certificate names the node; its changes name the id. So b with c's id would speak for c."""
    authority = trustme.CA()
    a = lab.node("a", 1, tls=issue(tmp_path, authority, "a"))
    c = lab.node("c", 3, tls=issue(tmp_path, authority, "c"), peers={"a": a.listen})
    await lab.linked(a, c)
    await lab.stop_node(c)
    b = lab.node("b", 3, tls=issue(tmp_path, authority, "b"), peers={"a": a.listen})
    await lab.start(b)
    await until(lambda: b.mesh.states["a"].state is PeerPhase.REFUSED)
    assert "'b' says it is node 3, which is 'c' here" in (b.mesh.states["a"].last_error or "")
    assert a.mesh.refusals == {"id": 1}
    assert not a.mesh.links
    anew = lab.node("c", 4, tls=issue(tmp_path, authority, "c"), peers={"a": a.listen})
    await lab.start(anew)
    await until(lambda: anew.mesh.states["a"].state is PeerPhase.REFUSED)
    assert "'c' says it is node 4, and is node 3 here" in (anew.mesh.states["a"].last_error or "")
    await lab.stop_node(anew)
    a.nodes = {3: Known("c", removed=True)}
    await lab.linked(a, anew)


# -- replacing files ---------------------------------------------------------------------------------------------------


def replace(new: TlsSettings, old: TlsSettings) -> None:
    """Put the files of ``new`` in the place of those of ``old``, each at once."""
    for source, target in ((new.key, old.key), (new.cert, old.cert), (new.ca, old.ca)):
        beside = target.with_suffix(".new")
        shutil.copyfile(source, beside)
        os.replace(beside, target)


async def test_an_expired_certificate_is_replaced_without_a_restart(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pacing, "REFUSED_RETRY_MS", 50)
    authority = trustme.CA()
    old = issue(tmp_path / "old", authority, "a", not_before=NOW - 9 * DAY, not_after=NOW - DAY)
    b = lab.node("b", 2, tls=issue(tmp_path, authority, "b"))
    a = lab.node("a", 1, tls=old, peers={"b": b.listen})
    await lab.start(a, b)
    await until(lambda: a.mesh.states["b"].state is PeerPhase.REFUSED)
    (problem,) = a.mesh.problems()
    assert "has expired: peers refuse it; issue it anew: sidecar certs issue a --renew" in problem
    replace(issue(tmp_path / "new", authority, "a"), old)
    await lab.linked(a, b)
    assert a.mesh.problems() == []
    assert a.mesh.states["b"].last_error is None


async def test_links_stand_while_the_authority_is_replaced_and_new_ones_use_the_new_one(
    lab: Lab, tmp_path: Path
) -> None:
    first, second = trustme.CA(), trustme.CA()
    files = {name: issue(tmp_path / name, first, name) for name in "ab"}
    b = lab.node("b", 2, tls=files["b"])
    a = lab.node("a", 1, tls=files["a"], peers={"b": b.listen})
    await lab.linked(a, b)
    for name in "ab":
        replace(issue(tmp_path / f"{name}2", second, name), files[name])
    await a.link("b").send_part(make_part())
    await until(lambda: b.parts)
    assert a.count("down", "b") == 0, "a standing link is left alone"
    a.link("b").close("test")
    await until(lambda: a.count("up", "b") == 2)
    certificate = a.link("b")._connection.writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    assert certificate == ssl.PEM_cert_to_DER_cert(files["b"].cert.read_text())
    with pytest.raises(ssl.SSLError, match=r"(?i)unknown ca"):
        await visit(b, client(second, first.issue_cert("a")))


async def test_files_are_looked_at_without_a_connection(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sidecar.peers.mesh.LOOK_S", 0.02)
    files = issue(tmp_path, trustme.CA(), "a")
    a = lab.node("a", 1, tls=files)
    await lab.start(a)
    files.key.write_text("damaged")
    await until(a.mesh.problems)
    assert a.mesh.problems()[0].startswith("the files in force stay: cannot load the TLS files")


def test_files_that_cannot_be_used_leave_those_in_force(tmp_path: Path) -> None:
    authority = trustme.CA()
    files = issue(tmp_path / "a", authority, "a")
    present = TlsFiles(files, "a", now_ms=lambda: int(NOW.timestamp() * 1000))
    contexts = present.contexts()
    assert present.problem() is None
    new = issue(tmp_path / "new", authority, "a")
    shutil.copyfile(new.cert, files.cert)  # its key comes a moment later
    with structlog.testing.capture_logs() as lines:
        assert present.contexts() is contexts
        assert present.contexts() is contexts
    assert "the files in force stay" in str(present.problem())
    assert len(logged(lines, "certificate_problem")) == 1, "said once"
    shutil.copyfile(new.key, files.key)
    assert present.contexts() is not contexts
    assert present.problem() is None
    files.ca.unlink()
    present.contexts()
    assert "does not exist" in str(present.problem())


@pytest.mark.parametrize(
    ("days", "words"),
    [(60, None), (10, "expires in 9 days; issue it anew: sidecar certs issue a --renew"), (-1, "has expired")],
)
def test_a_certificate_that_ends_soon_is_a_problem(tmp_path: Path, days: int, words: str | None) -> None:
    files = issue(tmp_path, trustme.CA(), "a", not_before=NOW - 99 * DAY, not_after=NOW + days * DAY)
    present = TlsFiles(files, "a", now_ms=lambda: int(NOW.timestamp() * 1000) + 1000)
    assert present.problem() is None if words is None else words in str(present.problem())
    assert abs(present.ends_ms - (NOW + days * DAY).timestamp() * 1000) < 2000


def test_a_certificate_that_peers_will_refuse_is_a_problem(tmp_path: Path) -> None:
    files = issue(tmp_path / "a", trustme.CA(), "a")
    times = {"now_ms": lambda: int(NOW.timestamp() * 1000)}
    assert "is made for a, this node is z: peers refuse it" in str(TlsFiles(files, "z", **times).problem())
    early = TlsFiles(files, "a", now_ms=lambda: 0)
    assert "is not valid yet: peers refuse it; check this machine's clock" in str(early.problem())
    trustme.CA().cert_pem.write_to_path(files.ca)
    assert "is not from an authority in" in str(TlsFiles(files, "a", **times).problem())
    assert tls_files.EXPIRY_WARNING_DAYS == 14


def test_a_key_with_a_passphrase_is_refused_without_asking(tmp_path: Path) -> None:
    from cryptography.hazmat.primitives import serialization

    files = issue(tmp_path, trustme.CA(), "a")
    key = serialization.load_pem_private_key(files.key.read_bytes(), None)
    files.key.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    with pytest.raises(ConfigurationError) as caught:
        TlsFiles(files, "a", now_ms=lambda: 0)
    assert "the key has a passphrase; give PEM files in [tls]" in caught.value.line()
