"""Which column types mean the same on every node, as a key and under each annotation. Pure: facts in, findings out."""

from __future__ import annotations

import re
from collections.abc import Iterator

from sidecar.core.catalog import quote
from sidecar.postgres.facts import Column
from sidecar.postgres.problem import Severity

Finding = tuple[Severity, str, str]
"""Severity, message, mend."""

LOOSE_TYPES = frozenset({"citext", "interval", "numeric", "real", "double precision", "jsonb"})
"""Types with equal values of different text (``Bob`` and ``bob``, ``1.0`` and ``1.00``, ``-0`` and ``0``). Rows are
matched by the text of their keys in some places and by ``=`` in others, which must be the same; elements of sets are
known by their text."""

LOCALE_TYPES = frozenset({"jsonb", "citext"})
"""Types that compare by the database's default collation, whatever a column or a statement says."""

ORDERED_WORDS = frozenset({"max_register", "min_register"})
SET_WORDS = frozenset({"g_set", "or_set", "aw_set", "lww_set"})

_SCALED = re.compile(r"numeric\(\d+,-?\d+\)(\[\])*")


def _bare(types: list[str], known: frozenset[str]) -> list[str]:
    """Those of the types that are known; those of extensions lie in any schema."""
    return sorted(name for name in types if name.rpartition(".")[2] in known)


def _loose(column: Column) -> list[str]:
    """What makes values equal that have different texts."""
    return [] if _SCALED.fullmatch(column.type_name) else _bare(column.parts, LOOSE_TYPES)


def _of(column: Column, parts: list[str]) -> str:
    """The column's type, with what is meant of it where that is not the whole."""
    names = [name for name in parts if name != column.type_name]
    return f"{column.type_name} (with {', '.join(names)} in it)" if names else column.type_name


def of_key(column: Column, table: str) -> Iterator[Finding]:
    """Findings about a column of the primary key; ``table`` is the quoted name."""
    loose = _loose(column)
    if loose:
        yield (
            "error",
            f"is a key of type {_of(column, loose)}, in which different texts can be the same key",
            "use uuid, an integer type, text, or numeric(p,s) for the key",
        )
    elif column.loose_collation:
        own = column.parts == [column.base_type]
        alter = f"ALTER TABLE {table} ALTER COLUMN {quote(column.name)} TYPE {column.type_name}"
        yield (
            "error",
            "is a key with a nondeterministic collation, in which different texts can be the same key",
            f'{alter} COLLATE "default"' if own else "use a type without it for the key",
        )


def of_word(column: Column, word: str) -> Iterator[Finding]:
    """Findings about the column with this annotation, beyond what the type's name says."""
    if column.type_name == "bpchar":
        yield (
            "error",
            "is bpchar without a length: blanks at the end of its values would differ between nodes",
            "make it text",
        )
    if word in ORDERED_WORDS:
        yield from _of_order(column, word)
    if word in SET_WORDS and column.base_type.endswith("[]"):
        yield from _of_set(column, word)


def _of_order(column: Column, word: str) -> Iterator[Finding]:
    if not column.is_ordered:
        yield (
            "error",
            f"is {word}, which needs an ordered type, but values of {column.type_name} have no order",
            "use mv_register or lww_register",
        )
        return
    outer = column.base_type.removesuffix("[]")
    unpinned = {*column.inner_collated, *_bare(column.parts, LOCALE_TYPES)} - {outer}
    if unpinned:
        yield (
            "error",
            f"is {word}, but the order of {_of(column, sorted(unpinned))} depends on a collation, which may be another "
            "one on each node",
            f'give the text in it COLLATE "C", put what is compared into a column of its own, or use mv_register '
            f"instead of {word}",
        )


def _of_set(column: Column, word: str) -> Iterator[Finding]:
    if column.delimiter != ",":
        yield (
            "error",
            f"is {word}, but the elements of {column.type_name} are separated by {column.delimiter!r} in its text, "
            "not by a comma",
            "use mv_register or lww_register, or keep the elements as text[]",
        )
        return
    loose = _loose(column)
    if loose or column.loose_collation:
        why = f"of type {_of(column, loose)}" if loose else "with a nondeterministic collation"
        yield (
            "warning",
            f"is a {word} {why}: equal values of different text are different elements",
            "write each value in one way only, or use text[], an integer type or numeric(p,s)[]",
        )
