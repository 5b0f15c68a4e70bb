"""Which statement serves a batch: the narrowest, with a bound on their number."""

from __future__ import annotations

from dataclasses import dataclass, field

from sidecar.core.catalog import TableSpec
from sidecar.core.changes import TableChanges
from sidecar.core.merge.staging import Shape, full_shape, shape_for

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
