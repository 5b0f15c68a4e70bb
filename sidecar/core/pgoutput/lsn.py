"""WAL positions: an ``int`` inside, ``0/16B3748`` outside
(https://www.postgresql.org/docs/current/datatype-pg-lsn.html).
"""

from __future__ import annotations

import re

from sidecar.errors import DecodeError

INVALID_LSN = 0
_PATTERN = re.compile(r"([0-9A-Fa-f]{1,8})/([0-9A-Fa-f]{1,8})")


def show_lsn(lsn: int) -> str:
    """The text form, e.g. ``0/16B3748``."""
    return f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}"


def parse_lsn(text: str) -> int:
    """The value of a text form; :class:`DecodeError` when it is none."""
    match = _PATTERN.fullmatch(text)
    if match is None:
        raise DecodeError(f"{text!r} is not a WAL position such as 0/16B3748")
    return int(match[1], 16) << 32 | int(match[2], 16)
