"""Mutual TLS 1.3 between peers: both ends show a certificate of the cluster's authority whose subject alternative name
(DNS) is the node's name (https://docs.python.org/3/library/ssl.html)."""

from __future__ import annotations

import ssl
from asyncio import StreamWriter
from dataclasses import dataclass

from sidecar.errors import ConfigurationError, LinkRefusedError
from sidecar.settings import TlsSettings


@dataclass(frozen=True, slots=True)
class TlsContexts:
    """One context per direction."""

    server: ssl.SSLContext
    client: ssl.SSLContext


def load_contexts(settings: TlsSettings | None) -> TlsContexts | None:
    """The contexts for the configured files, None without them; raises :class:`ConfigurationError`."""
    if settings is None:
        return None
    return TlsContexts(_context(settings, ssl.PROTOCOL_TLS_SERVER), _context(settings, ssl.PROTOCOL_TLS_CLIENT))


def _context(settings: TlsSettings, protocol: ssl._SSLMethod) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False  # addresses may be numbers; the node's name is checked by check_certificate
    context.verify_mode = ssl.CERT_REQUIRED
    for path in (settings.ca, settings.cert, settings.key):
        if not path.is_file():
            raise ConfigurationError(f"TLS file {path} does not exist", mend="correct the path in [tls]")
    try:
        context.load_verify_locations(settings.ca)
        context.load_cert_chain(settings.cert, settings.key)
    except (ssl.SSLError, OSError) as error:
        raise ConfigurationError(
            f"cannot load the TLS files {settings.ca}, {settings.cert}, {settings.key}: {error}",
            mend="give PEM files in [tls], and the key that belongs to the certificate",
        ) from None
    return context


def certificate_names(writer: StreamWriter) -> list[str]:
    """The DNS names in the peer's certificate."""
    certificate = writer.get_extra_info("peercert") or {}
    return [value for kind, value in certificate.get("subjectAltName", ()) if kind == "DNS"]


def check_certificate(writer: StreamWriter, name: str) -> None:
    """Whether the peer's certificate was made for the node ``name``; raises :class:`LinkRefusedError`."""
    names = certificate_names(writer)
    if name not in names:
        raise LinkRefusedError(
            f"the certificate of {name!r} is made for {', '.join(names) or 'no name'}",
            mend=f"issue a certificate with the subject alternative name DNS:{name}",
        )
