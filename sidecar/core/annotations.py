"""The words in comments: ``@crdt``, ``@crdt(word)``, ``@crdt(word(argument))``, and ``@crdt(row=rule)`` on tables.

A comment is free text with at most one annotation. The marker and the words are read in any case; the marker counts
only where it stands as a word of its own, so ``ops@crdt.org``, ``@crdt.org`` and ``@crdtx`` are plain text.
Types are named by PostgreSQL's ``format_type()`` without a modifier (``bigint``, ``numeric``, ``text[]``).
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass

from sidecar.errors import AnnotationError, SchemaError

MARKER = re.compile(r"(?<![\w@])@crdt(?![\w@]|[.\-]\w)", re.IGNORECASE)
_OPEN = re.compile(r"[ \t]*\(")
_SPACE = re.compile(r"\s*")
_WORD = re.compile(r"[^\W\d]\w*")

COUNTER_TYPES = frozenset({"smallint", "integer", "bigint", "numeric"})
# Types without a default btree operator class (PostgreSQL: "Operator Classes and Operator Families"); and jsonb, whose
# texts compare by the database's default collation, which may be another one on each node.
UNORDERED_TYPES = frozenset(
    {
        "json",
        "jsonb",
        "xml",
        "point",
        "line",
        "lseg",
        "box",
        "path",
        "polygon",
        "circle",
        "xid",
        "cid",
        "aclitem",
        "jsonpath",
    }
)


@dataclass(frozen=True, slots=True)
class ColumnWord:
    """One annotation word for columns. ``types`` names the column types that fit, for messages; ``fits`` decides by
    base type."""

    types: str
    fits: Callable[[str], bool]
    takes_argument: bool = False


def _is_any(base_type: str) -> bool:
    return bool(base_type)


def _is_counter(base_type: str) -> bool:
    return base_type in COUNTER_TYPES


def _is_set(base_type: str) -> bool:
    # An array of boxes is the only one with another delimiter than the comma, so its text does not read as text[].
    return (base_type.endswith("[]") and base_type != "box[]") or base_type == "jsonb"


def _is_map(base_type: str) -> bool:
    return base_type == "jsonb"


def _is_ordered(base_type: str) -> bool:
    return base_type.removesuffix("[]") not in UNORDERED_TYPES


_COUNTER_TEXT = "smallint, integer, bigint or numeric"
_SET_TEXT = "an array or a jsonb array"

COLUMN_WORDS: dict[str, ColumnWord] = {
    "lww_register": ColumnWord("any type", _is_any),
    "mv_register": ColumnWord("any type", _is_any),
    "g_counter": ColumnWord(_COUNTER_TEXT, _is_counter),
    "pn_counter": ColumnWord(_COUNTER_TEXT, _is_counter),
    "g_set": ColumnWord(_SET_TEXT, _is_set),
    "or_set": ColumnWord(_SET_TEXT, _is_set),
    "aw_set": ColumnWord(_SET_TEXT, _is_set),
    "lww_set": ColumnWord(_SET_TEXT, _is_set),
    "lww_map": ColumnWord("jsonb", _is_map),
    "max_register": ColumnWord("an ordered type", _is_ordered),
    "min_register": ColumnWord("an ordered type", _is_ordered),
    "merge": ColumnWord("any type", _is_any, takes_argument=True),
}

ROW_RULES = ("lww", "add_wins", "remove_wins")

DEFAULT_COLUMN_WORD = "lww_register"
DEFAULT_ROW_RULE = "lww"


@dataclass(frozen=True, slots=True)
class ColumnAnnotation:
    """What a column's comment says. ``position`` is the 0-based offset of the ``@`` in the comment."""

    word: str = DEFAULT_COLUMN_WORD
    argument: str | None = None
    position: int = 0


@dataclass(frozen=True, slots=True)
class TableAnnotation:
    """What a table's comment says. ``position`` is the 0-based offset of the ``@`` in the comment."""

    row_rule: str = DEFAULT_ROW_RULE
    position: int = 0


@dataclass(frozen=True, slots=True)
class _Found:
    """The one annotation of a comment: it spans ``[start, end)``; ``body`` is what the parentheses hold (``None``: no
    parentheses), beginning at ``body_start``."""

    start: int
    end: int
    body: str | None = None
    body_start: int = 0


def parse_column_comment(text: str | None) -> ColumnAnnotation | None:
    """The annotation in a column's comment, ``None`` if there is none; raises :class:`AnnotationError`."""
    found = _find(text or "")
    if found is None:
        return None
    if found.body is None:
        return ColumnAnnotation(position=found.start)
    word, argument = _word_and_argument(found.body, found.body_start)
    if _is_row_rule(found.body):
        raise AnnotationError(
            f"@crdt({found.body.strip()}) is for a table, not for a column",
            position=found.body_start,
            mend=f"put it into the table's comment; a column takes {', '.join(COLUMN_WORDS)}",
        )
    position = found.body_start + _SPACE.match(found.body).end()  # type: ignore[union-attr]
    entry = COLUMN_WORDS.get(word)
    if entry is None:
        raise AnnotationError(
            f"unknown annotation @crdt({word})", position=position, mend=_mend_unknown(word, COLUMN_WORDS)
        )
    if entry.takes_argument and not argument:
        raise AnnotationError(
            f"@crdt({word}) needs an argument", position=position, mend=f"write @crdt({word}(schema.function))"
        )
    if argument is not None and not entry.takes_argument:
        raise AnnotationError(f"@crdt({word}) takes no argument", position=position, mend=f"write @crdt({word})")
    return ColumnAnnotation(word, argument, found.start)


def parse_table_comment(text: str | None) -> TableAnnotation | None:
    """The annotation in a table's comment, ``None`` if there is none; raises :class:`AnnotationError`."""
    found = _find(text or "")
    if found is None:
        return None
    if found.body is None:
        return TableAnnotation(position=found.start)
    if not _is_row_rule(found.body):
        word, _ = _word_and_argument(found.body, found.body_start)
        what = "is for a column, not for a table" if word in COLUMN_WORDS else "is not a table's annotation"
        raise AnnotationError(
            f"@crdt({found.body.strip()}) {what}",
            position=found.body_start,
            mend=f"a table takes @crdt or {_row_forms()}; put {', '.join(COLUMN_WORDS)} into a column's comment",
        )
    rule = found.body.partition("=")[2].strip().lower()
    position = found.body_start + found.body.index("=") + 1
    if rule not in ROW_RULES:
        raise AnnotationError(
            f"unknown row rule @crdt(row={rule})", position=position, mend=_mend_unknown(rule, ROW_RULES)
        )
    return TableAnnotation(rule, found.start)


def annotation_words(text: str | None) -> str | None:
    """What the annotation's parentheses hold: ``""`` for a bare ``@crdt``, ``None`` without an annotation.

    Unknown words pass; a broken annotation raises :class:`AnnotationError`.
    """
    found = _find(text or "")
    return None if found is None else (found.body or "").strip()


def check_column(
    annotation: ColumnAnnotation | str, base_type: str, *, table: str = "", column: str = "", is_key: bool = False
) -> None:
    """Whether the word fits the column; raises :class:`SchemaError` that names table and column.

    ``base_type`` is the column's type without modifier, domains resolved. A primary key column identifies the row on
    every node, so it can only be a ``lww_register``.
    """
    word = annotation if isinstance(annotation, str) else annotation.word
    entry = COLUMN_WORDS.get(word)
    where = f"column {column}" if column else "the column"
    where = f"{table}: {where}" if table else where
    if entry is None:
        raise SchemaError(f"{where} has the unknown annotation {word}", mend=_mend_unknown(word, COLUMN_WORDS))
    if is_key and word != DEFAULT_COLUMN_WORD:
        raise SchemaError(
            f"{where} is part of the primary key and cannot be a {word}",
            mend=f"take @crdt({word}) out of its comment, or choose another primary key",
        )
    if not entry.fits(base_type):
        fitting = [w for w, e in COLUMN_WORDS.items() if e.fits(base_type)]
        raise SchemaError(
            f"{where} is {word}, which needs {entry.types}, but its type is {base_type}",
            mend=f"change the type, or use {' or '.join(fitting)}",
        )


def set_annotation(comment: str | None, words: str | None) -> str | None:
    """The comment with its annotation replaced, added or (``words=None``) removed; the human text stays.

    ``words`` is what the parentheses hold, ``pn_counter`` or ``row=lww``; empty text gives a bare ``@crdt``. A whole
    annotation ``@crdt(pn_counter)`` is taken too. Returns ``None`` when no text is left. Raises
    :class:`AnnotationError` when the comment holds a broken annotation or several: which one to replace is not ours
    to guess.
    """
    text = comment or ""
    found = _find(text)
    new = None if words is None else _annotation_text(words)
    if found is None:
        if new is None:
            return comment or None
        return f"{text.rstrip()} {new}" if text.strip() else new
    before, after = text[: found.start], text[found.end :]
    if new is not None:
        return before + new + after
    # Only one of the two spaces around the annotation stays, and none before a full stop that followed it.
    kept = before if after[:1].isalnum() else before.rstrip()
    return (kept + after).strip() or None


def _annotation_text(words: str) -> str:
    inner = words.strip()
    whole = _find(inner)
    if whole is not None:
        if (whole.start, whole.end) != (0, len(inner)):
            raise AnnotationError(
                f"{inner!r} is more than an annotation", mend="give the words alone, for example pn_counter"
            )
        inner = (whole.body or "").strip()
    text = f"@crdt({inner})" if inner else "@crdt"
    check = _find(text)
    if check is None or check.end != len(text):
        raise AnnotationError(f"{inner!r} cannot stand in @crdt(...)", mend="close every parenthesis it opens")
    return text


def _find(text: str) -> _Found | None:
    """The span of the comment's annotation; raises on an unclosed one and on a second one."""
    first = MARKER.search(text)
    if first is None:
        return None
    found = _span(text, first)
    second = MARKER.search(text, found.end)
    if second is not None:
        raise AnnotationError(
            "more than one @crdt in one comment",
            position=second.start(),
            mend="keep one annotation per column and table",
        )
    return found


def _span(text: str, marker: re.Match[str]) -> _Found:
    opened = _OPEN.match(text, marker.end())
    if opened is None:
        return _Found(marker.start(), marker.end())
    depth, quoted = 1, False
    for index in range(opened.end(), len(text)):
        character = text[index]
        if character == '"':
            quoted = not quoted
        elif quoted:
            continue
        elif character == "(":
            depth += 1
        elif character == ")":
            depth -= 1
            if depth == 0:
                return _Found(marker.start(), index + 1, text[opened.end() : index], opened.end())
    raise AnnotationError(
        "the parenthesis after @crdt is not closed", position=opened.end() - 1, mend="write @crdt(word)"
    )


def _word_and_argument(body: str, offset: int) -> tuple[str, str | None]:
    """``word`` or ``word(argument)``; the word in lower case, the argument as written."""
    start = _SPACE.match(body).end()  # type: ignore[union-attr]
    if start == len(body):
        raise AnnotationError(
            "@crdt() names no type", position=offset, mend=f"write @crdt, or one of: {', '.join(COLUMN_WORDS)}"
        )
    word = _WORD.match(body, start)
    if word is None:
        raise AnnotationError(
            f"@crdt({body.strip()}): a word was expected",
            position=offset + start,
            mend=f"known words: {', '.join(COLUMN_WORDS)}",
        )
    rest = body[word.end() :].strip()
    if _is_row_rule(body) or not rest:
        return word.group().lower(), None
    if not (rest.startswith("(") and rest.endswith(")")):
        raise AnnotationError(
            f"@crdt({body.strip()}): unexpected text after {word.group()}",
            position=offset + word.end(),
            mend=f"write one word; known words: {', '.join(COLUMN_WORDS)}",
        )
    return word.group().lower(), rest[1:-1].strip()


def _is_row_rule(body: str) -> bool:
    name, equals, _ = body.partition("=")
    return bool(equals) and name.strip().lower() == "row"


def _mend_unknown(word: str, known: Collection[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1)
    guess = f"did you mean {close[0]}? " if close else ""
    return f"{guess}known words: {', '.join(known)}"


def _row_forms() -> str:
    return ", ".join(f"@crdt(row={rule})" for rule in ROW_RULES)
