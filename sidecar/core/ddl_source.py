"""A DDL file as sqlglot's PostgreSQL tokens and the comments between them, each at its exact place.

The parser is not used: it moves comments to other nodes and stops at statements it does not know. What stands between
two tokens is white space and comments. psql's ``\\`` lines and the data of ``COPY ... FROM stdin``, which pg_dump
writes, are no SQL and are blanked first.
"""

from __future__ import annotations

import bisect
import re
import string
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from sqlglot.dialects.postgres import Postgres
from sqlglot.errors import TokenError

from sidecar.errors import AnnotationError

_COMMENT = re.compile(r"--[^\r\n]*|/\*")
_BLOCK_EDGE = re.compile(r"/\*|\*/")
# pg_dump writes table data and psql's own commands between the statements; neither is SQL.
_COPY_DATA = re.compile(r"^(COPY\s[^;]*?\sFROM\s+stdin\b[^;]*;)(.*?)^\\\.", re.MULTILINE | re.DOTALL | re.IGNORECASE)
_PSQL_LINE = re.compile(r"^[ \t]*\\[^\r\n]*", re.MULTILINE)
_UNCLOSED_AT = re.compile(r"from \d+:(\d+)$")

# PostgreSQL folds unquoted identifiers in ASCII only when the server encoding is multi-byte (manual, 4.1.1).
_FOLD = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)

STRING_TOKENS = frozenset({"STRING", "HEREDOC_STRING", "BYTE_STRING", "NATIONAL_STRING", "RAW_STRING"})

# The tokenizer takes the rest of these statements as one opaque text, whose beginning it does not tell.
_COMMAND_TOKENS = frozenset({"COMMAND", "EXECUTE", "FETCH", "RENAME", "SHOW"})

# Positions with different tab widths: two comments stand one below the other if they do so under either.
_TAB_WIDTHS = (8, 4)


class Token(NamedTuple):
    """A token at ``[start, end)`` of the source; ``text`` is unquoted, ``kind`` is sqlglot's token type."""

    kind: str
    text: str
    start: int
    end: int


class Comment(NamedTuple):
    """A comment at ``[start, end)``; ``before`` is the index of the last token before it, or -1."""

    start: int
    end: int
    body_start: int
    body_end: int
    before: int

    @property
    def is_line(self) -> bool:
        return self.body_end == self.end


@dataclass(frozen=True)
class Source:
    """The file's text with what is no SQL blanked, and its name for messages. Offsets count characters from 0."""

    text: str
    file: str

    @classmethod
    def of(cls, text: str, file: str) -> Source:
        """The source of a file as read (a byte order mark is dropped)."""
        text = _COPY_DATA.sub(_blank, text.removeprefix("\ufeff"))
        return cls(_PSQL_LINE.sub(_blank, text), file)

    @cached_property
    def _line_starts(self) -> list[int]:
        return [0, *(match.end() for match in re.finditer("\n", self.text))]

    def line(self, offset: int) -> int:
        """The 1-based line of an offset."""
        return bisect.bisect_right(self._line_starts, offset)

    def indent(self, offset: int) -> tuple[int, ...]:
        """The column of an offset on the screen, one per tab width."""
        before = self.text[self._line_starts[self.line(offset) - 1] : offset]
        return tuple(len(before.expandtabs(width)) for width in _TAB_WIDTHS)

    def error(self, offset: int, message: str, mend: str) -> AnnotationError:
        line = self.line(offset)
        column = offset - self._line_starts[line - 1] + 1
        return AnnotationError(f"{self.file}:{line}:{column}: {message}", position=offset, mend=mend)


def _blank(match: re.Match[str]) -> str:
    """White space of the same shape, so that offsets stay."""
    return re.sub(r"[^\r\n]", " ", match.group())


def tokenize(source: Source) -> list[Token]:
    """The tokens; raises :class:`AnnotationError` where a quote or a comment is never closed."""
    try:
        found: list[Any] = Postgres().tokenize(source.text)
    except TokenError as error:
        at = _UNCLOSED_AT.search(str(error.__cause__))
        raise source.error(
            int(at.group(1)) if at else max(source.text.rfind("/*"), 0),
            "a quote or a comment is opened and never closed",
            "close it; the file must be SQL that psql accepts",
        ) from None
    return [Token(t.token_type.name, t.text, t.start, t.end + 1) for t in found]


def comments_between(source: Source, tokens: list[Token]) -> Iterator[Comment]:
    """The comments in the gaps between the tokens, in file order."""
    text = source.text
    starts = [*(token.start for token in tokens), len(text)]
    for before, stop in enumerate(starts, start=-1):
        if before >= 0 and tokens[before].kind in _COMMAND_TOKENS:
            continue
        position = tokens[before].end if before >= 0 else 0
        while (opened := _COMMENT.search(text, position, stop)) is not None:
            if opened.group() != "/*":
                yield Comment(opened.start(), opened.end(), opened.start() + 2, opened.end(), before)
                position = opened.end()
                continue
            depth, position = 1, opened.end()
            while depth and (edge := _BLOCK_EDGE.search(text, position, stop)) is not None:
                depth += 1 if edge.group() == "/*" else -1
                position = edge.end()
            if depth:
                break
            yield Comment(opened.start(), position, opened.end(), position - 2, before)


def identifier(text: str, token: Token) -> str:
    """The name a token stands for, folded as PostgreSQL folds it."""
    if token.kind == "IDENTIFIER":
        return token.text
    return text[token.start : token.end].split()[0].translate(_FOLD)


def read_name(text: str, tokens: list[Token], index: int) -> tuple[list[str], int]:
    """``a``, ``a.b`` or ``a.b.c`` at the index: its parts and the index behind; no parts if no name stands there."""
    parts: list[str] = []
    while index < len(tokens):
        token = tokens[index]
        if token.kind != "IDENTIFIER" and not (text[token.start].isalpha() or text[token.start] == "_"):
            break
        parts.append(identifier(text, token))
        index += 1
        if index >= len(tokens) or tokens[index].kind != "DOT":
            break
        index += 1
    return parts, index
