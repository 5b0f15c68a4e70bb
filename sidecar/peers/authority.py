"""Makes certificates: an authority for a cluster of one's own, and one certificate per node, as PEM files.

A certificate names its node: the node's name is a subject alternative name of the kind DNS (RFC 5280, section
4.2.1.6), which is what :mod:`sidecar.peers.tls` looks for on both sides of a link. Hosts may stand beside it, for tools
that check an address; they are numbers or names with a dot, so that no host is ever another node's name (which has no
dot).
"""

from __future__ import annotations

import datetime
import ipaddress
import os
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from sidecar.errors import SidecarError, UsageError
from sidecar.settings import NAME_PATTERN

AUTHORITY_DAYS = 3650
"""Validity of an authority: a cluster outlives its certificates, and changing the authority touches every node."""

NODE_DAYS = 365
"""Validity of a node's certificate: renewing it needs no restart, so once a year is little work."""

DAYS_MAX = 36_500
"""A century; anything above is a slip."""

LEEWAY = datetime.timedelta(hours=1)
"""Certificates begin this long before they are made, for nodes whose clocks are behind."""

AUTHORITY_CERTIFICATE = "ca.pem"
AUTHORITY_KEY = "ca.key"

PRIVATE_MODE = 0o600
"""Of key files: their owner alone."""

PUBLIC_MODE = 0o644
"""Of certificates, which are shown to every peer anyway."""

_HOST_NAME = re.compile(
    r"(?=.{1,253}\Z)(?:[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?\.)+[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
)


@dataclass(frozen=True, slots=True)
class Made:
    """Files that were written, and until when the certificate is valid (UTC)."""

    certificate: Path
    key: Path
    until: datetime.datetime


@dataclass(frozen=True, slots=True)
class _Authority:
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


def make_authority(folder: Path, *, cluster: str, days: int = AUTHORITY_DAYS) -> Made:
    """Write ``ca.pem`` and ``ca.key`` into ``folder``, which is made when it is missing.

    Raises :class:`UsageError` when there is an authority already: nodes that trust it would lose each other.
    """
    _check_days(days)
    made = Made(folder / AUTHORITY_CERTIFICATE, folder / AUTHORITY_KEY, _now() + datetime.timedelta(days=days))
    for path in (made.certificate, made.key):
        if path.exists():
            raise UsageError(
                f"{path} exists: there is an authority already",
                mend="issue certificates with it (sidecar certs issue), or give another folder with --out",
            )
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"sidecar authority {cluster}"[:64])])
    certificate = (
        _builder(name, name, key.public_key(), made.until)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(authority=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    _make_folder(folder)
    _write(made.key, _key_pem(key), PRIVATE_MODE)
    _write(made.certificate, _pem(certificate), PUBLIC_MODE)
    return made


def issue(
    name: str,
    authority_folder: Path,
    folder: Path,
    *,
    hosts: Sequence[str] = (),
    days: int = NODE_DAYS,
    renew: bool = False,
) -> Made:
    """Write ``<name>.pem`` and ``<name>.key`` for both directions of a link into ``folder``, ``ca.pem`` beside them.

    The certificate ends with its authority at the latest. ``renew`` replaces files that are there; a running sidecar
    takes them up. Raises :class:`UsageError` for a wrong name, host or folder.
    """
    if NAME_PATTERN.fullmatch(name) is None:
        raise UsageError(
            f"{name!r} is not a node name",
            mend="give the name from [node]: 1 to 63 of a-z, 0-9, _ and -, beginning with a letter or digit",
        )
    if name == "ca":
        raise UsageError("a node called 'ca' would overwrite the authority's files", mend="give the node another name")
    _check_days(days)
    alternatives = [x509.DNSName(name), *(_host(host) for host in hosts)]
    authority = _load(authority_folder)
    until = min(_now() + datetime.timedelta(days=days), authority.certificate.not_valid_after_utc)
    made = Made(folder / f"{name}.pem", folder / f"{name}.key", until)
    if not renew and (made.certificate.exists() or made.key.exists()):
        raise UsageError(f"{made.certificate} exists already", mend="replace it with --renew, or give another --out")
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = (
        _builder(
            x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]),
            authority.certificate.subject,
            key.public_key(),
            until,
        )
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(authority=False), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False
        )
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key()),
            critical=False,
        )
        .sign(authority.key, hashes.SHA256())
    )
    _make_folder(folder)
    _copy_authority(authority, folder)
    _write(made.key, _key_pem(key), PRIVATE_MODE)
    _write(made.certificate, _pem(certificate), PUBLIC_MODE)
    return made


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC).replace(microsecond=0)


def _check_days(days: int) -> None:
    if not 1 <= days <= DAYS_MAX:
        raise UsageError(f"a validity of {days} days", mend=f"give 1 to {DAYS_MAX} days")


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, until: datetime.datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(_now() - LEEWAY)
        .not_valid_after(until)
    )


def _usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        key_cert_sign=authority,
        crl_sign=authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _host(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        pass  # a name then
    if _HOST_NAME.fullmatch(text.lower()) is None:
        raise UsageError(
            f"{text!r} is not a host", mend="give an IP address, or a whole host name with a dot (db1.example.net)"
        )
    return x509.DNSName(text.lower())


def _load(folder: Path) -> _Authority:
    """The authority in a folder; raises :class:`UsageError` when it cannot be used now."""
    mend = "make one with sidecar certs init, or give its folder with --ca"
    paths = (folder / AUTHORITY_CERTIFICATE, folder / AUTHORITY_KEY)
    texts = []
    for path in paths:
        try:
            texts.append(path.read_bytes())
        except FileNotFoundError:
            raise UsageError(f"there is no authority in {folder}: {path.name} is missing", mend=mend) from None
        except OSError as error:
            raise UsageError(f"cannot read {path}: {_reason(error)}", mend=mend) from None
    try:
        certificate = x509.load_pem_x509_certificate(texts[0])
        key = serialization.load_pem_private_key(texts[1], password=None)
    except (ValueError, TypeError) as error:
        raise UsageError(f"cannot read the authority in {folder}: {error}", mend=mend) from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise UsageError(f"the key in {folder} is of another kind than sidecar certs init makes", mend=mend)
    if key.public_key() != certificate.public_key():
        raise UsageError(f"{paths[0]} and {paths[1]} do not belong together", mend=mend)
    if certificate.not_valid_after_utc <= _now():
        raise UsageError(
            f"the authority in {folder} ended on {certificate.not_valid_after_utc:%Y-%m-%d}",
            mend="make a new one in another folder (sidecar certs init --out) and issue every node's certificate anew",
        )
    return _Authority(certificate, key)


def _copy_authority(authority: _Authority, folder: Path) -> None:
    """A node needs the authority's certificate beside its own."""
    path = folder / AUTHORITY_CERTIFICATE
    pem = _pem(authority.certificate)
    if path.exists():
        if pem.strip() not in path.read_bytes():
            raise UsageError(
                f"{path} is another authority's", mend="give another folder with --out, or add this authority to it"
            )
        return
    _write(path, pem, PUBLIC_MODE)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise UsageError(f"{folder} is not a folder", mend="give a folder with --out") from None
    except OSError as error:
        raise SidecarError(f"cannot make the folder {folder}: {_reason(error)}", mend="give another --out") from None


def _write(path: Path, data: bytes, mode: int) -> None:
    """All or nothing, with these rights from the beginning: nobody ever reads half a file, or a key that is not his."""
    temporary = ""
    try:
        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(descriptor, mode)
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        os.replace(temporary, path)
    except OSError as error:
        if temporary:
            Path(temporary).unlink(missing_ok=True)
        raise SidecarError(f"cannot write {path}: {_reason(error)}", mend="give another folder with --out") from None


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
