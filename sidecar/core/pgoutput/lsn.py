"""WAL positions: an ``int`` inside, ``0/16B3748`` outside
(https://www.postgresql.org/docs/current/datatype-pg-lsn.html).
"""

from __future__ import annotations

import re

from sidecar.errors import DecodeError

INVALID_LSN = 0
WAL_PAGE_BYTES = 8192
WAL_SEGMENT_BYTES = 16 * 1024 * 1024
_PAGE_HEADER_BYTES = 24
_SEGMENT_HEADER_BYTES = 40
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


def record_end(insert_lsn: int, segment_bytes: int = WAL_SEGMENT_BYTES) -> int:
    """The end of the last record before an insert position.

    They differ when that record ends with its page: ``pg_current_wal_insert_lsn()`` then stands behind the next page's
    header, a position that decoding does not reach before the next record is written. No record ends there: what
    continues on a page has at least eight bytes after the header.
    """
    header = _SEGMENT_HEADER_BYTES if insert_lsn % segment_bytes < WAL_PAGE_BYTES else _PAGE_HEADER_BYTES
    return insert_lsn - header if insert_lsn % WAL_PAGE_BYTES == header else insert_lsn
