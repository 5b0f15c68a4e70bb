"""Annotations in a DDL file's SQL comments, turned into ``COMMENT ON`` statements.

Statements other than ``CREATE TABLE``, ``ALTER TABLE`` and ``COMMENT ON`` are passed over, whatever they hold. An
annotation in a comment that belongs to no table or column is an error, never silently lost.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from sidecar.core.annotations import MARKER, annotation_words, parse_column_comment, parse_table_comment, set_annotation
from sidecar.core.catalog import quote, quote_literal, quote_table
from sidecar.core.ddl_owners import Entry, Owners, Target
from sidecar.core.ddl_source import STRING_TOKENS, Comment, Source, Token, comments_between, read_name, tokenize
from sidecar.errors import AnnotationError

# Leading white space, with the asterisk that block comments put in front of each line.
_BLOCK_MARGIN = re.compile(r"^[ \t]*\*?[ \t]*", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class CommentStatement:
    """One ``COMMENT ON TABLE`` (``column`` is ``None``) or ``COMMENT ON COLUMN``.

    ``schema`` is ``None`` where the file leaves it to the search path. ``comment`` is the whole new text; ``words`` is
    what the annotation's parentheses hold (empty: a bare ``@crdt``), to be put into an existing comment with
    :func:`sidecar.core.annotations.set_annotation`. ``line`` is the 1-based line of the annotation in the file.
    """

    schema: str | None
    table: str
    column: str | None
    comment: str
    words: str = ""
    line: int = 0

    def sql(self) -> str:
        """The statement, with its semicolon."""
        table = quote_table(self.schema, self.table) if self.schema else quote(self.table)
        target = f"TABLE {table}" if self.column is None else f"COLUMN {table}.{quote(self.column)}"
        return f"COMMENT ON {target} IS {quote_literal(self.comment)};"


def render(statements: Iterable[CommentStatement]) -> str:
    """The statements, one per line."""
    return "".join(statement.sql() + "\n" for statement in statements)


def read_annotations(sql_text: str, *, file: str = "schema.sql") -> list[CommentStatement]:
    """Every annotation of the file, in file order, tables and columns each once.

    The human text of a ``COMMENT ON`` in the file is kept. Raises :class:`AnnotationError` whose message begins with
    ``file:line:column`` (1-based) and whose ``position`` is the 0-based offset in the file.
    """
    source = Source.of(sql_text, file)
    tokens = tokenize(source)
    owners = Owners(source, tokens)
    written: dict[Target, _Annotation] = {}
    for comment, owner in owners.assign(comments_between(source, tokens)):
        annotation = _from_sql_comment(source, comment, owner)
        if annotation is not None:
            _put(source, written, annotation)
    existing: dict[Target, tuple[str, _Annotation | None]] = {}
    for statement in owners.statements:
        found = _from_comment_on(source, statement)
        if found is not None:
            existing[found[0]] = found[1:]
    return _combined(source, written, existing)


class _Annotation(NamedTuple):
    """An annotation found: ``meaning`` compares equal for equal annotations, whatever text stands around."""

    target: Target
    comment: str
    words: str
    meaning: tuple[str, str | None]
    offset: int


def _parse(source: Source, target: Target, text: str, offset: int, comment: str) -> _Annotation | None:
    """Parse ``text``, whose first character is at the file offset; raises with the place in the file."""
    try:
        words = annotation_words(text)
        if words is None:
            return None
        if target.column is None:
            table = parse_table_comment(text)
            assert table is not None
            return _Annotation(target, comment, words, (table.row_rule, None), offset + table.position)
        column = parse_column_comment(text)
        assert column is not None
        return _Annotation(target, comment, words, (column.word, column.argument), offset + column.position)
    except AnnotationError as error:
        raise source.error(offset + error.position, error.message, error.mend) from None


def _from_sql_comment(source: Source, comment: Comment, owner: Entry | None) -> _Annotation | None:
    text = source.text[comment.body_start : comment.body_end]
    if owner is not None and owner.target is not None:
        human = text if comment.is_line else _BLOCK_MARGIN.sub("", text)
        return _parse(source, owner.target, text, comment.body_start, human.strip())
    marker = MARKER.search(text)
    if marker is None:
        return None
    if owner is not None:
        message, mend = f"this stands at a constraint of table {owner.table}", "put it on the line of its column"
    else:
        message = "this @crdt belongs to no table or column"
        mend = "put it on a column's line, or on the CREATE TABLE line or right above it"
    raise source.error(comment.body_start + marker.start(), message, mend)


def _from_comment_on(source: Source, statement: list[Token]) -> tuple[Target, str, _Annotation | None] | None:
    """``COMMENT ON TABLE|COLUMN name IS 'text'``: its target, its text, the annotation in it."""
    words = [source.text[t.start : t.end].upper() if t.kind not in STRING_TOKENS else "" for t in statement[:3]]
    if words not in (["COMMENT", "ON", "TABLE"], ["COMMENT", "ON", "COLUMN"]):
        return None
    parts, index = read_name(source.text, statement, 3)
    is_column = words[2] == "COLUMN"
    if len(parts) < (2 if is_column else 1):
        return None
    column = parts.pop() if is_column else None
    target = Target(parts[-2] if len(parts) > 1 else None, parts[-1], column)
    strings = [token for token in statement[index + 1 :] if token.kind in STRING_TOKENS]
    if not strings:
        return target, "", None
    text = "".join(token.text for token in strings)
    # Doubled quotes and escapes shift what follows; the marker itself is found again in the file.
    raw = MARKER.search(source.text, strings[0].start, strings[-1].end)
    plain = MARKER.search(text)
    shift = raw.start() - plain.start() if raw and plain else strings[0].start + 1
    return target, text, _parse(source, target, text, shift, text)


def _put(source: Source, written: dict[Target, _Annotation], annotation: _Annotation) -> None:
    other = written.setdefault(annotation.target, annotation)
    if other.meaning != annotation.meaning:
        raise source.error(
            annotation.offset,
            f"{annotation.target} has another annotation on line {source.line(other.offset)}",
            "keep one of them",
        )


def _combined(
    source: Source,
    written: dict[Target, _Annotation],
    existing: dict[Target, tuple[str, _Annotation | None]],
) -> list[CommentStatement]:
    """Both kinds of annotation as statements, in file order; text of a ``COMMENT ON`` wins over a SQL comment's."""
    result: dict[Target, _Annotation] = {}
    for target, (text, annotation) in existing.items():
        if annotation is not None:
            _put(source, written, annotation)
            result[target] = annotation
        elif target in written and text.strip():
            merged = set_annotation(text, written[target].words)
            result[target] = written[target]._replace(comment=merged or "")
    final = sorted((written | result).values(), key=lambda a: a.offset)
    return [CommentStatement(*a.target, a.comment, a.words, source.line(a.offset)) for a in final]
