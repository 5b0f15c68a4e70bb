"""Row messages read by one regular expression instead of column by column, in half the time.

A row message in text format is a fixed head and, per column, ``t``, four bytes of length and the text, or ``n``. Texts
are C strings on the server, so none of them contains a NUL; a length in a message below 64 KiB has two NULs in front.
Hence a text ends right before the next ``t\\0`` (or the ``N\\0`` of the second tuple), and one expression for a given
number of columns cuts the whole message. Why it cannot cut wrongly:

- the search for the end of a text stops at the first NUL, which belongs to the next head; so heads are met one by one,
  and a message with fewer texts than expected runs out of them and does not match;
- a text may end in ``n``, so where NULL columns follow a text, its length is compared;
- the last length is compared too, so a message that is cut off, or has bytes too many, does not match.

What does not match is decoded column by column, which also says what is wrong with it. The lengths in between are not
looked at: that they agree with the texts is up to the server, and to TCP.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Sequence

from sidecar.core.pgoutput.decoder import decode
from sidecar.core.pgoutput.messages import UNCHANGED, Delete, Insert, TupleData, Update
from sidecar.errors import DecodeError

MESSAGE_BYTES_MAX = 0xFFFF
"""Longer messages are left to the decoder: their lengths may have more than two bytes that matter."""

COLUMNS_MAX = 255
"""So that the head of a tuple has one NUL, right after its letter. Wider tables are left to the decoder."""

LAYOUTS_MAX = 4
"""Layouts (which columns are NULL) tried per kind of message and table. A trial that fails costs some 0.3 microseconds,
a tenth of what decoding costs."""

KINDS_MAX = 1024
"""Kinds of message and table remembered; with more of them all are learned anew."""

MISSES_MAX = 1000
"""After so many messages of a kind that none of its layouts fitted they are learned anew: rows change their habits, and
compiling costs as much as decoding a hundred rows."""

HEAD_BYTES = 8
"""Type of the message, relation oid, letter and number of columns of its first tuple: what makes a kind."""

_TEXT = rb"t\0\0..([^\0]*)"
_NULL = rb"n(?:(?!)())?"  # a group that never takes part, so that the column's value is None

_KEY = ord("K")

Layout = tuple[Callable[[bytes, int], re.Match[bytes] | None], tuple[int, ...], int]
"""Which columns of a message's tuples are NULL: the compiled expression, its groups whose lengths are compared, the
columns of the old tuple. A plain tuple, because it is taken apart for every message."""

Tuples = tuple[TupleData | None, TupleData | None]
"""The old and the new row; ``None`` where the message has none."""


class RowReader:
    """Reads the tuples of row messages, and remembers the layouts met so far.

    A memory only: what :meth:`read` answers is a function of the message.
    """

    __slots__ = ("_layouts", "_misses")

    def __init__(self) -> None:
        self._layouts: dict[bytes, list[Layout]] = {}
        self._misses: dict[bytes, int] = {}

    def read(self, data: bytes, offset: int) -> Tuples:
        """The tuples of the Insert, Update or Delete from ``offset`` to the end of ``data``; :class:`DecodeError` as
        from :func:`decode`. An old key alone is no old row."""
        layouts = self._layouts.get(data[offset : offset + HEAD_BYTES])
        if layouts is None or len(data) - offset > MESSAGE_BYTES_MAX:
            return self._decode(data, offset)
        start = offset + HEAD_BYTES
        for match_whole, compared, old_columns in layouts:
            match = match_whole(data, start)
            if match is None:
                continue
            for group in compared:
                begin, end = match.span(group)
                if data[begin - 2] << 8 | data[begin - 1] != end - begin:
                    break
            else:
                values = match.groups()
                return list(values[:old_columns]) or None, list(values[old_columns:]) or None
        return self._decode(data, offset)

    def _decode(self, data: bytes, offset: int) -> Tuples:
        message = decode(data, offset)
        if isinstance(message, Insert):
            tuples: Tuples = None, message.new
        elif isinstance(message, Update):
            tuples = message.old, message.new
        elif isinstance(message, Delete):
            tuples = message.old, None
        else:
            raise DecodeError(f"message of type {data[offset]:#04x} is not a row change", offset=offset)
        if len(data) - offset <= MESSAGE_BYTES_MAX and data[offset + 5] != _KEY:
            self._learn(data[offset : offset + HEAD_BYTES], *tuples)
        return tuples

    def _learn(self, kind: bytes, old: TupleData | None, new: TupleData | None) -> None:
        """Remember the layout of a message that no known one fitted."""
        tuples = [one for one in (old, new) if one is not None]
        width = len(tuples[0])
        if not 0 < width <= COLUMNS_MAX or any(len(one) != width or UNCHANGED in one for one in tuples):
            return
        if len(self._layouts) >= KINDS_MAX:
            self._layouts.clear()
            self._misses.clear()
        layouts = self._layouts.setdefault(kind, [])
        self._misses[kind] = misses = self._misses.get(kind, 0) + 1
        if misses % MISSES_MAX == 0:
            layouts.clear()
        if len(layouts) < LAYOUTS_MAX:
            layouts.append(_layout(tuples, len(old or ())))


def _layout(tuples: Sequence[TupleData], old_columns: int) -> Layout:
    """The layout of a message with these tuples, all of the same width."""
    nulls = [value is None for one in tuples for value in one]
    columns = [b"".join([_NULL if value is None else _TEXT for value in one]) for one in tuples]
    between = re.escape(struct.pack(">cH", b"N", len(tuples[0])))
    last = len(nulls) - 1
    compared = tuple(i + 1 for i in range(last + 1) if not nulls[i] and (i == last or nulls[i + 1]))
    return re.compile(between.join(columns), re.DOTALL).fullmatch, compared, old_columns
