"""The files of ``[tls]``: read anew when they change, so that a certificate is replaced without a restart."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import structlog

from sidecar.errors import ConfigurationError
from sidecar.peers.tls import TlsContexts, load_contexts
from sidecar.settings import TlsSettings

log = structlog.get_logger(__name__)

LOOK_S = 10.0
"""How often the files are looked at without a new connection, so that a wrong one is found when it is put there."""

EXPIRY_WARNING_DAYS = 14
"""A certificate that ends sooner is a problem: time for two weekends and a slow approval."""

DAY_MS = 86_400_000

Stamp = tuple[tuple[int, int, int], ...]


@dataclass(frozen=True, slots=True)
class Facts:
    """What this node's certificate says; times are Unix milliseconds."""

    names: tuple[str, ...]
    begins_ms: int
    ends_ms: int
    trusted: bool


class TlsFiles:
    """Contexts for new connections. ``now_ms``: wall clock. Raises :class:`ConfigurationError` when the files cannot be
    used at the start; later ones that cannot be used leave those in force."""

    def __init__(self, settings: TlsSettings, name: str, *, now_ms: Callable[[], int]) -> None:
        self._settings = settings
        self._name = name
        self._now_ms = now_ms
        self._stamp = self._look()
        self._contexts = load_contexts(settings)
        self._facts = _facts(settings)
        self._fault: str | None = None
        self._told: str | None = None

    def contexts(self) -> TlsContexts:
        """For one new connection: of the files as they are now. Three calls of stat(2) when nothing changed."""
        stamp = self._look()
        if stamp != self._stamp:
            self._stamp = stamp
            try:
                self._contexts = load_contexts(self._settings)
                self._facts = _facts(self._settings)
            except ConfigurationError as error:
                self._fault = f"the files in force stay: {error.line()}"
            else:
                self._fault = None
                log.info("certificate_loaded", certificate=str(self._settings.cert), names=list(self._facts.names))
        self._tell()
        return self._contexts

    @property
    def ends_ms(self) -> int:
        """End of this node's certificate, Unix milliseconds."""
        return self._facts.ends_ms

    def problem(self) -> str | None:
        """What somebody should mend about the files; peers refuse, or soon will."""
        if self._fault is not None:
            return self._fault
        facts, now_ms, mend = self._facts, self._now_ms(), f"sidecar certs issue {self._name} --renew"
        certificate = f"the certificate {self._settings.cert}"
        if self._name not in facts.names:
            made_for = ", ".join(facts.names) or "no name"
            return f"{certificate} is made for {made_for}, this node is {self._name}: peers refuse it; issue its own"
        if not facts.trusted:
            return f"{certificate} is not from an authority in {self._settings.ca}: peers refuse it; correct [tls]"
        if now_ms < facts.begins_ms:
            return f"{certificate} is not valid yet: peers refuse it; check this machine's clock"
        left_days = (facts.ends_ms - now_ms) // DAY_MS
        if now_ms >= facts.ends_ms:
            return f"{certificate} has expired: peers refuse it; issue it anew: {mend}"
        if left_days < EXPIRY_WARNING_DAYS:
            return f"{certificate} expires in {left_days} days; issue it anew: {mend}"
        return None

    def _look(self) -> Stamp:
        """What changes when a file is replaced or written; a missing file is zeros."""
        stamp = []
        for path in (self._settings.ca, self._settings.cert, self._settings.key):
            facts = (0, 0, 0)
            with contextlib.suppress(OSError):
                status = path.stat()
                facts = (status.st_mtime_ns, status.st_size, status.st_ino)
            stamp.append(facts)
        return tuple(stamp)

    def _tell(self) -> None:
        problem = self.problem()
        if problem is not None and problem != self._told:
            log.warning("certificate_problem", reason=problem)
        self._told = problem


def _facts(settings: TlsSettings) -> Facts:
    """Raises :class:`ConfigurationError`; the files loaded before, so this is for what OpenSSL lets pass."""
    from cryptography import x509  # a quarter of the start-up time, for nodes with TLS only

    try:
        own, *chain = x509.load_pem_x509_certificates(settings.cert.read_bytes())
        issuers = [*chain, *x509.load_pem_x509_certificates(settings.ca.read_bytes())]
        names: tuple[str, ...] = ()
        with contextlib.suppress(x509.ExtensionNotFound):
            alternatives = own.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
            names = tuple(alternatives.get_values_for_type(x509.DNSName))
    except (OSError, ValueError) as error:
        raise _unreadable(settings.cert, error) from None
    return Facts(
        names=names,
        begins_ms=int(own.not_valid_before_utc.timestamp() * 1000),
        ends_ms=int(own.not_valid_after_utc.timestamp() * 1000),
        trusted=any(_issued(own, issuer) for issuer in issuers),
    )


def _issued(own: object, issuer: object) -> bool:
    from cryptography import x509
    from cryptography.exceptions import InvalidSignature

    assert isinstance(own, x509.Certificate)
    assert isinstance(issuer, x509.Certificate)
    try:
        own.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _unreadable(path: Path, error: Exception) -> ConfigurationError:
    return ConfigurationError(f"cannot read the certificate {path}: {error}", mend="give PEM files in [tls]")
