"""Texts people write in settings: addresses, DSNs, durations. Read, checked, and shown without their secrets."""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import urlsplit

DURATION_UNITS_MS = {"ms": 1, "s": 1000, "m": 60_000, "min": 60_000, "h": 3_600_000, "d": 86_400_000}
_DURATION = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*(ms|s|min|m|h|d)\s*$")

# Greedy up to the last @: a password may hold one unescaped, and hiding too much is the safe side.
_URI_PASSWORD = re.compile(r"(\w+://[^:/@\s]*):[^\s]*@")
_KEYWORD_PASSWORD = re.compile(r"((?:ssl)?password\s*=\s*)('(?:[^'\\]|\\.)*'|[^\s&']+)", re.IGNORECASE)


def redact_dsn(dsn: str) -> str:
    """The text with every password in a URI or a ``password=`` keyword replaced by ``***``; safe on any text."""
    return _KEYWORD_PASSWORD.sub(r"\1***", _URI_PASSWORD.sub(r"\1:***@", dsn))


def is_duration(text: str) -> bool:
    """Whether :func:`duration_ms` reads the text."""
    return _DURATION.match(text) is not None


def duration_ms(text: str) -> int:
    """Milliseconds of ``500ms``, ``1.5s``, ``10m``, ``1h`` or ``7d``; raises ValueError."""
    match = _DURATION.match(text)
    if match is None:
        raise ValueError("a duration is a number with a unit: 500ms, 1.5s, 10m, 1h, 7d")
    return round(float(match[1]) * DURATION_UNITS_MS[match[2]])


def checked_address(text: str) -> str:
    """The text itself when it is ``host:port`` (IPv6 in brackets, port 1 to 65535); raises ValueError."""
    match = re.fullmatch(r"(\[[0-9a-fA-F:.%\w]+\]|[^:\s\[\]]+):(\d{1,5})", text)
    if match is None:
        raise ValueError("must be host:port, with an IPv6 host in brackets")
    if not 1 <= int(match[2]) <= 65_535:
        raise ValueError("the port must be 1 to 65535")
    return text


def checked_dsn(text: str) -> str:
    """The text when it is a ``postgresql://`` URI, also with several hosts; raises ValueError that shows none of it."""
    mend = "write it as postgresql://user@host:5432/database"
    if re.match(r"postgres(ql)?://", text) is None:
        raise ValueError(f"must be a postgresql:// URI; {mend}")
    try:
        netloc = urlsplit(text).netloc
    except ValueError:
        raise ValueError(f"is not a valid URI; {mend}") from None
    for host in netloc.rpartition("@")[2].split(","):
        if re.fullmatch(r"(\[[^\]]*\]|[^:\[\]]*)(:\d{1,5})?", host) is None:
            raise ValueError(f"has a host or port that cannot be read; {mend}")
    return text


def split_address(address: str) -> tuple[str, int]:
    """``host:port`` to its parts."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def is_loopback(host: str) -> bool:
    """Whether the host is this machine; names other than localhost count as remote."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
