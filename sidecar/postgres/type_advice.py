"""Columns that look as if the default, where one of two concurrent writes is lost, were not meant. Pure.

For whoever runs ``sidecar check`` or ``init``: a guess by name and type, so it never refuses anything, and is
not in the log of a running sidecar. A comment on the column, ``@crdt(lww_register)`` too, settles it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from sidecar.core.annotations import parse_column_comment
from sidecar.core.catalog import quote, quote_table
from sidecar.errors import AnnotationError
from sidecar.postgres.facts import Column, Facts, Relation
from sidecar.postgres.problem import Problem

PAGE = "docs/choosing-types.md"

_INTEGERS = ("smallint", "integer", "bigint")
_NUMBERS = (*_INTEGERS, "numeric")

_COUNTED = re.compile(
    "counts?|counter|hits|(?:dis)?likes|views|visits|clicks|downloads|plays|(?:up|down)?votes|shares|followers|points"
    "|score|stock|quantity|qty|inventory"
)
"""Words (between underscores) of columns that are mostly changed by ``SET n = n + 1``."""

_GUARDED = re.compile("balance|credits?|money|wallet|budget|allowance|quota|seats?|available")
"""Words of columns whose limit two regions can break together, whatever the type."""


@dataclass(frozen=True, slots=True)
class _Advice:
    """``applies(column, words)``: whether to say it of a column without a type of its own."""

    applies: Callable[[Column, list[str]], bool]
    message: str
    mend: str


def _is_guarded(column: Column, words: list[str]) -> bool:
    return column.base_type == "money" or (column.base_type in _NUMBERS and any(map(_GUARDED.fullmatch, words)))


def _is_counted(column: Column, words: list[str]) -> bool:
    return column.base_type in _NUMBERS and any(map(_COUNTED.fullmatch, words))


_ADVICE = (
    _Advice(
        _is_guarded,
        "looks like money, a balance or seats, which no type makes safe: two nodes may each spend the last unit",
        "let one node write the row, or take a counter and repair what is overdrawn",
    ),
    _Advice(
        _is_counted,
        "looks like a counter or a stock; of two concurrent increments one is lost",
        "COMMENT ON COLUMN {column} IS '@crdt(pn_counter)' adds them up",
    ),
    _Advice(
        lambda column, words: column.base_type.endswith("[]"),
        "is an array that counts as one value; of two concurrent changes one is lost",
        "COMMENT ON COLUMN {column} IS '@crdt(or_set)' keeps both, if it is a set",
    ),
    _Advice(
        lambda column, words: column.base_type == "jsonb",
        "is a document that counts as one value; of two concurrent changes one is lost",
        "COMMENT ON COLUMN {column} IS '@crdt(lww_map)' keeps each key by itself, '@crdt(or_set)' each element",
    ),
)


def advise(facts: Facts, annotated: frozenset[int]) -> list[Problem]:
    """Warnings about columns of the annotated relations (oids), at most one for each column."""
    found = []
    for relation in facts.relations:
        if relation.oid in annotated:
            columns = facts.columns.get(relation.oid, [])
            found += [problem for column in columns if (problem := _of_column(relation, column)) is not None]
    return found


def _of_column(relation: Relation, column: Column) -> Problem | None:
    if column.key_position or column.generated or _is_settled(column):
        return None
    words = re.findall(r"[a-z]+", re.sub(r"([a-z])([A-Z])", r"\1_\2", column.name).lower())
    advice = next((advice for advice in _ADVICE if advice.applies(column, words)), None)
    if advice is None:
        return None
    name = f"{quote_table(relation.schema, relation.name)}.{quote(column.name)}"
    ending = f"see {PAGE}; COMMENT ON COLUMN {name} IS '@crdt(lww_register)' says that it is meant"
    mend = f"{advice.mend.format(column=name)}; {ending}"
    return Problem("warning", advice.message, mend, relation.qualified, column.name)


def _is_settled(column: Column) -> bool:
    """Whether a comment says a type; a comment that cannot be read is reported elsewhere."""
    try:
        return parse_column_comment(column.comment) is not None
    except AnnotationError:
        return True
