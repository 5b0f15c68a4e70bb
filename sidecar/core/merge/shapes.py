"""Which statement serves a batch: the narrowest, with a bound on their number."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from sidecar.core.catalog import TableSpec
from sidecar.core.changes import TableChanges
from sidecar.core.merge.staging import Shape, Statement, full_shape, shape_for

SHAPES_PER_TABLE = 16
"""Different sets of carried columns with statements of their own; further sets share the full statement. Planning a
merge statement takes some 5 ms, so an application that updates random columns must not cause a plan each time."""


@dataclass(slots=True)
class Shapes:
    """Remembers the shapes in use."""

    known: dict[int, set[Shape]] = field(default_factory=dict)

    def pick(self, spec: TableSpec, changes: TableChanges) -> Shape:
        """The shape for a batch of a table."""
        shape = shape_for(spec, changes)
        if shape.full:
            return shape
        seen = self.known.setdefault(spec.table_id, set())
        if shape not in seen:
            if len(seen) >= SHAPES_PER_TABLE:
                return full_shape(spec)
            seen.add(shape)
        return shape


STATEMENTS_MAX = 1024
"""Statements remembered, some 5 kB each; with more of them all are made anew. Tables with a few shapes each."""


@dataclass(slots=True)
class Statements:
    """Remembers statements made: writing one takes longer than sending it."""

    known: dict[tuple[Any, ...], tuple[TableSpec, Statement]] = field(default_factory=dict)

    def made(self, make: Callable[..., Statement], spec: TableSpec, shape: Shape, **variant: bool) -> Statement:
        """What ``make`` makes of the table as it is now, the shape and further flags."""
        key = (make, spec.table_id, shape.attnums, shape.words, shape.full, shape.reinsert, *variant.values())
        known = self.known.get(key)
        if known is not None and known[0] is spec:
            return known[1]
        if len(self.known) >= STATEMENTS_MAX:
            self.known.clear()
        statement = make(spec, shape, **variant)
        self.known[key] = spec, statement
        return statement
