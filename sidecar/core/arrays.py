"""PostgreSQL array literals: the one columnar form in which values travel.

A column of n values is the text of a one-dimensional ``text[]`` literal, ``{"a","b",NULL}``
(https://www.postgresql.org/docs/current/arrays.html#ARRAYS-IO). The origin writes it once; the journal, the wire, the
capture statement and the merge statement carry the same bytes, so a value is touched by Python on one side only.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

# 0xFF is in no valid UTF-8 text, and the replication connection speaks UTF-8, so it can stand for NULL while the
# whole column is quoted by a few C-speed replacements instead of value by value.
NULL_MARK = b"\xff"
EMPTY = b"{}"
_ELEMENT = re.compile(rb'"|NULL|-?[0-9]+(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?')


def text_array(values: Sequence[bytes | None]) -> bytes:
    """The array literal of UTF-8 values without NUL bytes; ``None`` is NULL."""
    if not values:
        return EMPTY
    if None in values:
        marked = [NULL_MARK if value is None else value for value in values]
        return _quoted(marked).replace(b'"\xff"', b"NULL")
    return _quoted(values)  # type: ignore[arg-type]


def _quoted(values: Sequence[bytes]) -> bytes:
    body = b"\0".join(values)
    if b"\\" in body:
        body = body.replace(b"\\", b"\\\\")
    if b'"' in body:
        body = body.replace(b'"', b'\\"')
    return b'{"' + body.replace(b"\0", b'","') + b'"}'


def int_array(values: Sequence[bytes | None]) -> bytes:
    """The array literal of integers given as decimal text; ``None`` is NULL."""
    if None in values:
        return b"{" + b",".join([b"NULL" if value is None else value for value in values]) + b"}"
    return b"{" + b",".join(values) + b"}"  # type: ignore[arg-type]


def number_array(values: Sequence[int | None]) -> bytes:
    """The array literal of integers; ``None`` is NULL. Python prints a whole list at C speed."""
    text = str(list(values))[1:-1].replace(" ", "")
    return b"{" + text.replace("None", "NULL").encode() + b"}"


def element_count(literal: bytes) -> int:
    """How many elements a server will find in the literal of quoted texts, NULLs and bare numbers (deltas of counters);
    -1 when it is none. Not a count of separators: whoever wrote the literal may want one to be taken for more elements,
    or fewer, than it has."""
    if b"\\" in literal:
        literal = literal.replace(b"\\\\", b"").replace(b'\\"', b"")
    pieces = literal.split(b'"')
    if len(pieces) % 2 == 0:
        return -1
    skeleton = b'"'.join(pieces[::2])  # every quoted text as one quote
    if len(skeleton) < 3 or skeleton[:1] != b"{" or skeleton[-1:] != b"}":
        return -1
    elements = skeleton[1:-1].split(b",")
    if elements.count(b'"') + elements.count(b"NULL") == len(elements):
        return len(elements)
    return len(elements) if all(map(_ELEMENT.fullmatch, elements)) else -1


class ArrayRuns:
    """An array literal in the making: bodies (literals without braces) of runs of elements."""

    __slots__ = ("filled", "runs")

    def __init__(self) -> None:
        self.runs: list[bytes] = []
        self.filled = False

    def add(self, literal: bytes) -> None:
        """A run of elements, of which some may be NULL."""
        self.runs.append(literal[1:-1])
        self.filled = True

    def repeat(self, element: bytes, count: int) -> None:
        """So many equal elements, at least one."""
        self.runs.append((element + b",") * (count - 1) + element)
        self.filled = True

    def nulls(self, count: int) -> None:
        """So many NULLs, at least one."""
        self.runs.append(b"NULL," * (count - 1) + b"NULL")

    def literal(self) -> bytes:
        """``b""`` when every element is NULL."""
        return b"{" + b",".join(self.runs) + b"}" if self.filled else b""
