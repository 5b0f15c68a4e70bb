"""Whose a comment is: the rules by which a comment in a DDL file belongs to a table or a column.

A trailing comment belongs to what stands before it on its line, also behind the comma; a comment on lines of its own
belongs to what follows, and to the last column when nothing follows; line comments aligned below a trailing one go
on with it. Statements other than ``CREATE TABLE`` and ``ALTER TABLE`` own nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from sidecar.core.ddl_source import STRING_TOKENS, Comment, Source, Token, identifier, read_name

_TABLE_KINDS = frozenset({"GLOBAL", "LOCAL", "TEMP", "TEMPORARY", "UNLOGGED"})
_CONSTRAINT_WORDS = frozenset({"CONSTRAINT", "PRIMARY", "UNIQUE", "CHECK", "FOREIGN", "LIKE", "NOT"})


class Target(NamedTuple):
    """A table (``column`` is ``None``) or a column; names as PostgreSQL stores them, unquoted."""

    schema: str | None
    table: str
    column: str | None

    def __str__(self) -> str:
        return ".".join(part for part in self if part is not None)


@dataclass(frozen=True)
class Entry:
    """What comments can belong to; ``target`` is ``None`` for a table constraint."""

    target: Target | None
    table: Target


@dataclass
class Owners:
    """Which token belongs to which table or column, and from that, which comment does.

    ``owner`` has one entry per token. ``separators``, ``opening`` and ``closing`` are the indexes of the commas and
    parentheses of column lists, ``beginnings`` those of the statements' first tokens.
    """

    source: Source
    tokens: list[Token]
    statements: list[list[Token]] = field(default_factory=list)
    owner: list[Entry | None] = field(default_factory=list)
    separators: set[int] = field(default_factory=set)
    opening: set[int] = field(default_factory=set)
    closing: set[int] = field(default_factory=set)
    beginnings: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.owner = [None] * len(self.tokens)
        start = 0
        for index, token in enumerate(self.tokens):
            if token.kind == "SEMICOLON" or index == len(self.tokens) - 1:
                self.beginnings.add(start)
                self.statements.append(self.tokens[start : index + 1])
                self._read_create(start, index + 1)
                self._read_alter(start, index + 1)
                start = index + 1

    # Reading statements.

    def _word(self, index: int) -> str:
        """The token's first word in upper case; nothing for a quoted identifier or past the end."""
        if index >= len(self.tokens) or self.tokens[index].kind in ("IDENTIFIER", *STRING_TOKENS):
            return ""
        token = self.tokens[index]
        return self.source.text[token.start : token.end].split()[0].upper()

    def _skip(self, index: int, *words: str) -> int:
        """The index behind the words, or the same index if they are not all there."""
        here = all(self._word(index + i) == word for i, word in enumerate(words))
        return index + len(words) if here else index

    def _read_create(self, start: int, stop: int) -> None:
        """``CREATE [kind] TABLE [IF NOT EXISTS] name ( entries ) ...``: owners of its tokens."""
        if self._word(start) != "CREATE":
            return
        index = start + 1
        while self._word(index) in _TABLE_KINDS:
            index += 1
        if self._word(index) != "TABLE":
            return
        index = self._skip(index + 1, "IF", "NOT", "EXISTS")
        parts, index = read_name(self.source.text, self.tokens, index)
        if not parts:
            return
        table = Target(parts[-2] if len(parts) > 1 else None, parts[-1], None)
        self.owner[start:stop] = [Entry(table, table)] * (stop - start)
        if self._word(index) == "PARTITION" or self._word(index) == "OF":
            _, index = read_name(self.source.text, self.tokens, self._skip(self._skip(index, "PARTITION"), "OF"))
        # A parenthesis further on, as in CREATE TABLE ... AS SELECT (...), is no column list.
        if index < stop and self.tokens[index].kind == "L_PAREN":
            self._read_entries(table, index, stop)

    def _read_entries(self, table: Target, opened: int, stop: int) -> None:
        depth, begin = 0, opened + 1
        for index in range(opened, stop):
            kind = self.tokens[index].kind
            depth += {"L_PAREN": 1, "R_PAREN": -1}.get(kind, 0)
            if depth == 0 or (depth == 1 and kind == "COMMA"):
                self._own_entry(table, begin, index)
                begin = index + 1
                (self.closing if depth == 0 else self.separators).add(index)
            if depth == 0:
                break
        self.opening.add(opened)

    def _own_entry(self, table: Target, begin: int, end: int) -> None:
        if begin >= end:
            return
        column = identifier(self.source.text, self.tokens[begin])
        target = None if self._is_constraint(begin) else table._replace(column=column)
        self.owner[begin:end] = [Entry(target, table)] * (end - begin)

    def _is_constraint(self, index: int) -> bool:
        """Whether a table constraint (or ``LIKE``) begins here; EXCLUDE is also a column's name."""
        if self._word(index) == "EXCLUDE":
            return self._word(index + 1) in ("USING", "(")
        return self._word(index) in _CONSTRAINT_WORDS

    def _read_alter(self, start: int, stop: int) -> None:
        """``ALTER TABLE [IF EXISTS] [ONLY] name action, ...``: ``ADD`` and ``ALTER COLUMN`` own their tokens."""
        if self._skip(start, "ALTER", "TABLE") == start:
            return
        index = self._skip(self._skip(start + 2, "IF", "EXISTS"), "ONLY")
        parts, index = read_name(self.source.text, self.tokens, index)
        if not parts:
            return
        table = Target(parts[-2] if len(parts) > 1 else None, parts[-1], None)
        self.owner[start:stop] = [Entry(table, table)] * (stop - start)
        depth, begin, actions = 0, index, 0
        for end in range(index, stop):
            kind = self.tokens[end].kind
            depth += {"L_PAREN": 1, "R_PAREN": -1}.get(kind, 0)
            if depth == 0 and kind in ("COMMA", "SEMICOLON"):
                self._own_action(table, begin, end)
                begin, actions = end + 1, actions + 1
                if kind == "COMMA":
                    self.separators.add(end)
        if begin < stop:
            self._own_action(table, begin, stop)
            actions += 1
        if self.tokens[stop - 1].kind == "SEMICOLON":
            self.owner[stop - 1] = self.owner[stop - 2]
        if actions == 1:  # a comment above a one-column ALTER TABLE is about the column
            self.owner[start:index] = [self.owner[index]] * (index - start)

    def _own_action(self, table: Target, begin: int, end: int) -> None:
        if self._word(begin) not in ("ADD", "ALTER") or self._is_constraint(begin + 1):
            return
        name = self._skip(self._skip(begin + 1, "COLUMN"), "IF", "NOT", "EXISTS")
        if name < end:
            column = identifier(self.source.text, self.tokens[name])
            self.owner[begin:end] = [Entry(table._replace(column=column), table)] * (end - begin)

    # Assigning comments.

    def assign(self, comments: Iterable[Comment]) -> Iterator[tuple[Comment, Entry | None]]:
        """Each comment with what it belongs to, if anything."""
        last: tuple[Comment, Entry | None] | None = None
        for comment in comments:
            trailing = comment.before >= 0 and self._same_line(self.tokens[comment.before].end - 1, comment.start)
            if last is not None and not trailing and self._continues(last[0], comment):
                owner = last[1]
            else:
                owner = self._trailing(comment) if trailing else self._own_line(comment)
            last = (comment, owner)
            yield comment, owner

    def _same_line(self, a: int, b: int) -> bool:
        return self.source.line(a) == self.source.line(b)

    def _continues(self, previous: Comment, comment: Comment) -> bool:
        """A line comment right below another one, in the same column of the screen."""
        if not (previous.is_line and comment.is_line and previous.before == comment.before):
            return False
        if self.source.line(comment.start) != self.source.line(previous.start) + 1:
            return False
        pairs = zip(self.source.indent(previous.start), self.source.indent(comment.start), strict=True)
        return any(a == b for a, b in pairs)

    def _leads(self, comment: Comment) -> bool:
        """Whether the next token stands on the line where the (block) comment ends."""
        after = comment.before + 1
        return after < len(self.tokens) and self._same_line(comment.end, self.tokens[after].start)

    def _trailing(self, comment: Comment) -> Entry | None:
        before, after = comment.before, comment.before + 1
        starts_next = before in self.separators or before in self.opening or self.tokens[before].kind == "SEMICOLON"
        if starts_next and self._leads(comment) and after not in self.closing:
            return self.owner[after]
        if before in self.separators:
            entry_on_line = self._same_line(self.tokens[before - 1].end - 1, comment.start)
            return self.owner[before - 1 if entry_on_line or after in self.closing else after]
        return self.owner[before]

    def _own_line(self, comment: Comment) -> Entry | None:
        before, after = comment.before, comment.before + 1
        if after >= len(self.tokens):
            return None if before < 0 or self.tokens[before].kind == "SEMICOLON" else self.owner[before]
        if after in self.beginnings:
            return self.owner[after] if self._adjoins(comment, after) else None
        if before in self.separators or before in self.opening:
            return self.owner[before - 1 if after in self.closing else after]
        if after in self.separators and after + 1 < len(self.tokens):
            leading_comma = self._same_line(self.tokens[after].start, self.tokens[after + 1].start)
            return self.owner[after + 1 if leading_comma else before]
        return self.owner[before]

    def _adjoins(self, comment: Comment, after: int) -> bool:
        """Whether no blank line stands between the comment and the statement that follows."""
        between = self.source.text[comment.end : self.tokens[after].start]
        return re.search(r"\n[ \t\r]*\n", between) is None
