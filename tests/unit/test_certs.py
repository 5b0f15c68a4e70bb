"""Certificates of an own authority: whom they name, what they are good for, who may read the keys, what is refused."""

from __future__ import annotations

import json
import ssl
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from sidecar.cli.main import main
from sidecar.errors import UsageError
from sidecar.peers.authority import LEEWAY, issue, make_authority


def certs(*arguments: str | Path) -> int:
    return main(["certs", *map(str, arguments)])


def certificate(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def names(path: Path) -> list[str]:
    found = certificate(path).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return [str(name.value) for name in found]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An authority."""
    assert certs("init", "--out", tmp_path / "ca") == 0
    return tmp_path / "ca"


def test_an_authority_keeps_its_key_to_itself(folder: Path) -> None:
    assert stat.S_IMODE((folder / "ca.key").stat().st_mode) == 0o600
    made = certificate(folder / "ca.pem")
    assert made.extensions.get_extension_for_class(x509.BasicConstraints).value == x509.BasicConstraints(True, 0)
    assert sorted(path.name for path in folder.iterdir()) == ["ca.key", "ca.pem"], "nothing temporary stays"


def test_a_second_authority_does_not_take_the_place_of_the_first(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (folder / "ca.key").read_bytes()
    assert certs("init", "--out", folder) == 2
    assert "there is an authority already; issue certificates with it" in capsys.readouterr().err
    assert (folder / "ca.key").read_bytes() == before


def test_a_certificate_names_its_node_and_serves_both_directions(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "deep" / "east"
    hosts = ("--host", "db1.Example.net", "--host", "10.0.0.1", "--host", "::1")
    assert certs("issue", "us-east", "--ca", folder, "--out", out, *hosts) == 0
    assert names(out / "us-east.pem") == ["us-east", "db1.example.net", "10.0.0.1", "::1"]
    usage = certificate(out / "us-east.pem").extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert set(usage) == {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}
    assert stat.S_IMODE((out / "us-east.key").stat().st_mode) == 0o600
    assert sorted(path.name for path in out.iterdir()) == ["ca.pem", "us-east.key", "us-east.pem"]
    assert (out / "ca.pem").read_bytes() == (folder / "ca.pem").read_bytes()
    context = ssl.create_default_context(cafile=str(out / "ca.pem"))
    context.load_cert_chain(out / "us-east.pem", out / "us-east.key")


def test_a_certificate_begins_before_it_is_made_and_ends_with_its_authority(tmp_path: Path) -> None:
    authority = make_authority(tmp_path, cluster="shop", days=10)
    made = issue("a", tmp_path, tmp_path, days=400)
    assert made.until == authority.until == certificate(made.certificate).not_valid_after_utc
    before = certificate(made.certificate).not_valid_before_utc
    assert abs(datetime.now(UTC) - LEEWAY - before) < timedelta(minutes=5)


def test_a_certificate_is_replaced_only_when_that_is_said(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert certs("issue", "a", "--ca", folder) == 0
    first = (folder / "a.pem").read_bytes()
    assert certs("issue", "a", "--ca", folder) == 2
    assert "--renew" in capsys.readouterr().err
    assert (folder / "a.pem").read_bytes() == first
    assert certs("issue", "a", "--ca", folder, "--renew", "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["certificate"] == str(folder / "a.pem")
    assert (folder / "a.pem").read_bytes() != first
    ssl.create_default_context().load_cert_chain(facts["certificate"], facts["key"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("issue", "US-East"), "'US-East' is not a node name; give the name from [node]"),
        (("issue", "ca"), "give the node another name"),
        (("issue", "a", "--host", "b"), "'b' is not a host; give an IP address, or a whole host name with a dot"),
        (("issue", "a", "--host", "*.example.net"), "is not a host"),
        (("issue", "a", "--days", "0"), "--days"),
        (("issue", "a", "--ca", "nowhere"), "there is no authority in nowhere: ca.pem is missing; make one with"),
        (("issue",), "NODE_NAME"),
        (("sign",), "sign"),
        ((), "no command was given"),
    ],
)
def test_wrong_usage_is_one_line(
    folder: Path,
    arguments: tuple[str, ...],
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(folder.parent)
    (folder / "a").mkdir()
    given = arguments if "--ca" in arguments or arguments[:1] != ("issue",) else (*arguments, "--ca", str(folder))
    assert certs(*given) == 2
    said = capsys.readouterr().err
    assert words in said
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    assert not list(folder.parent.glob("**/a.key"))


def test_files_that_do_not_belong_together_are_refused(folder: Path, tmp_path: Path) -> None:
    make_authority(tmp_path / "other", cluster="x")
    with pytest.raises(UsageError, match=r"is another authority's"):
        issue("a", folder, tmp_path / "other")
    (folder / "ca.key").write_bytes((tmp_path / "other" / "ca.key").read_bytes())
    with pytest.raises(UsageError, match="do not belong together"):
        issue("a", folder, folder)
    (folder / "ca.key").write_text("no key")
    with pytest.raises(UsageError, match="cannot read the authority"):
        issue("a", folder, folder)


def test_an_authority_that_ended_issues_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    later = datetime.now(UTC) + timedelta(days=20 * 365)
    monkeypatch.setattr("sidecar.peers.authority._now", lambda: later)
    with pytest.raises(UsageError, match="ended on"):
        issue("a", folder, folder)


def test_a_folder_that_cannot_be_made_is_a_failure(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert certs("issue", "a", "--ca", folder, "--out", folder / "ca.pem" / "deep") == 1
    assert "cannot make the folder" in capsys.readouterr().err
    assert certs("issue", "a", "--ca", folder, "--out", folder / "ca.pem") == 2
    assert "is not a folder" in capsys.readouterr().err
