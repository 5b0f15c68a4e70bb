"""Mutual TLS 1.3 between peers: both ends show a certificate of the cluster's authority whose subject alternative name
(DNS) is the node's name (https://docs.python.org/3/library/ssl.html).

The event loops of Python drop what a failed handshake would have told the other end, which then sees a connection that
just ends. A :class:`Handshake` around the making of a connection keeps the reason here and lets the alert go out.
"""

from __future__ import annotations

import ssl
from asyncio import StreamWriter
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from sidecar.errors import ConfigurationError, LinkRefusedError
from sidecar.settings import TlsSettings

READS_AFTER_FAILURE = 8
"""Reads that a failed handshake waits for the other end to take its alert and close: it may have sent its Hello
already, and a connection that is cut with something unread takes the alert with it."""


@dataclass(frozen=True, slots=True)
class TlsContexts:
    """One context per direction."""

    server: ssl.SSLContext
    client: ssl.SSLContext


def load_contexts(settings: TlsSettings) -> TlsContexts:
    """The contexts for the configured files; raises :class:`ConfigurationError`."""
    return TlsContexts(_context(settings, ssl.PROTOCOL_TLS_SERVER), _context(settings, ssl.PROTOCOL_TLS_CLIENT))


def _context(settings: TlsSettings, protocol: ssl._SSLMethod) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False  # addresses may be numbers; the node's name is checked by check_certificate
    context.verify_mode = ssl.CERT_REQUIRED
    context.sslobject_class = _TellingObject
    if protocol is ssl.PROTOCOL_TLS_SERVER:
        context.num_tickets = 0  # a resumed session would not look at the certificate again
    for path in (settings.ca, settings.cert, settings.key):
        if not path.is_file():
            raise ConfigurationError(f"TLS file {path} does not exist", mend="correct the path in [tls]")
    try:
        context.load_verify_locations(settings.ca)
        context.load_cert_chain(settings.cert, settings.key, password=_no_password)
    except (ssl.SSLError, OSError, ValueError) as error:
        raise ConfigurationError(
            f"cannot load the TLS files {settings.ca}, {settings.cert}, {settings.key}: {error}",
            mend="give PEM files in [tls], and the key that belongs to the certificate, without a passphrase",
        ) from None
    return context


def _no_password() -> str:
    """A key with a passphrase would otherwise be asked for on a terminal."""
    raise ValueError("the key has a passphrase")


# -- names -------------------------------------------------------------------------------------------------------------


def certificate_names(writer: StreamWriter) -> tuple[str, ...]:
    """The DNS names in the peer's certificate, which was verified in the handshake; none without TLS. For a connection
    that is open."""
    certificate = writer.get_extra_info("peercert") or {}
    return tuple(value for kind, value in certificate.get("subjectAltName", ()) if kind == "DNS")


def check_certificate(names: Collection[str], name: str) -> None:
    """Whether a certificate with these names was made for the node ``name``; raises :class:`LinkRefusedError`."""
    if name not in names:
        raise LinkRefusedError(
            f"the certificate of {name!r} is made for {', '.join(names) or 'no name'}",
            mend=f"issue a certificate with the subject alternative name DNS:{name}",
            cause="certificate_name",
        )


# -- handshakes --------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Handshake:
    """Why the TLS handshake of one connection failed; None while it did not."""

    failure: ssl.SSLError | None = None


_under_way: ContextVar[Handshake | None] = ContextVar("tls_handshake", default=None)


@contextmanager
def handshake() -> Iterator[Handshake]:
    """Put it around the making of one connection."""
    note = Handshake()
    token = _under_way.set(note)
    try:
        yield note
    finally:
        _under_way.reset(token)


class _TellingObject(ssl.SSLObject):
    """Behaves after a failure as if it needed more data: the event loop then sends what there is to send, the alert,
    and waits for the other end, which closes. It never says that a failed handshake succeeded."""

    _note: Handshake | None = None
    _reads_left = READS_AFTER_FAILURE

    def do_handshake(self) -> None:
        if self._note is None:
            # The first step is taken in a copy of the connecting task's context.
            self._note = _under_way.get() or Handshake()
        failure = self._note.failure
        if failure is not None:
            self._reads_left -= 1
            if self._reads_left <= 0:
                raise failure
            raise ssl.SSLWantReadError
        try:
            super().do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError, ssl.SSLSyscallError):
            raise
        except ssl.SSLError as error:
            self._note.failure = error
            if _alert(error) is not None:
                raise  # the other end has told why, and waits for nothing
            raise ssl.SSLWantReadError from None


# Verification errors of OpenSSL (x509_vfy.h): what they say, what mends it, and the word they are counted under.
_NO_AUTHORITY = ("is not from an authority that is trusted here", "name the same authority in [tls] ca of both")
_VERIFICATION: dict[int, tuple[tuple[str, str], str]] = {
    **dict.fromkeys((2, 7, 18, 19, 20, 21, 24), (_NO_AUTHORITY, "certificate_authority")),
    9: (("is not valid yet", "check the clocks of both, or issue it anew"), "certificate_not_yet_valid"),
    10: (("has expired", "issue it anew: sidecar certs issue NODE_NAME --renew"), "certificate_expired"),
    26: (("is not meant for this use", "issue one for server and client authentication"), "certificate_purpose"),
}
_OTHER_FAULT = (("cannot be verified", "issue it anew"), "certificate")

# Alerts (RFC 8446, section 6.2) by the end of OpenSSL's name for them: the other end refused what this one showed.
_ALERTS: dict[str, tuple[str, str]] = {
    "UNKNOWN_CA": ("it does not trust the authority of this node's certificate", "certificate_authority"),
    "CERTIFICATE_EXPIRED": ("this node's certificate has expired, by its clock", "certificate_expired"),
    "BAD_CERTIFICATE": ("it takes this node's certificate for damaged or not valid yet", "certificate"),
    "UNSUPPORTED_CERTIFICATE": ("this node's certificate is not meant for this use", "certificate_purpose"),
    "CERTIFICATE_UNKNOWN": ("it cannot verify this node's certificate", "certificate"),
    "CERTIFICATE_REQUIRED": ("it wants a certificate", "certificate_missing"),
    "DECRYPT_ERROR": ("it cannot verify this node's signature", "certificate"),
    "PROTOCOL_VERSION": ("it does not speak TLS 1.3", "tls"),
    "HANDSHAKE_FAILURE": ("no agreement in the TLS handshake", "tls"),
}


def _alert(error: ssl.SSLError) -> tuple[str, str] | None:
    reason = error.reason or ""
    if "ALERT" not in reason:
        return None
    found = (told for end, told in _ALERTS.items() if reason.endswith(f"_{end}"))
    return next(found, (f"TLS alert {reason.rpartition('ALERT_')[2].lower().replace('_', ' ')}", "tls"))


def told(error: OSError, whom: str) -> LinkRefusedError | None:
    """The refusal that an alert from ``whom`` means; None when the error is none."""
    alert = _alert(error) if isinstance(error, ssl.SSLError) else None
    if alert is None:
        return None
    return LinkRefusedError(
        f"refused by {whom}: {alert[0]}", mend="compare [tls] of both nodes; its log says more", cause=alert[1]
    )


def refusal(error: ssl.SSLError, whom: str) -> LinkRefusedError:
    """Why a TLS handshake with ``whom`` failed."""
    alert = told(error, whom)
    if alert is not None:
        return alert
    if isinstance(error, ssl.SSLCertVerificationError):
        (what, mend), cause = _VERIFICATION.get(error.verify_code, _OTHER_FAULT)
        detail = f" ({error.verify_message})" if error.verify_code not in _VERIFICATION else ""
        return LinkRefusedError(f"the certificate of {whom} {what}{detail}", mend=mend, cause=cause)
    reason = error.reason or str(error)
    if reason == "PEER_DID_NOT_RETURN_A_CERTIFICATE":
        return LinkRefusedError(
            f"{whom} shows no certificate", mend="give it a [tls] section", cause="certificate_missing"
        )
    return LinkRefusedError(
        f"no TLS 1.3 with {whom} ({reason.lower().replace('_', ' ')})",
        mend="both sides need a [tls] section",
        cause="tls",
    )
