"""Published and derived merge vectors: what three nodes must show after writes that did not see each other.

A table of data: each vector says the column's type, the row that all have, what A wrote before all synchronised, what B
and C then wrote concurrently, and the value that all must show in the end, with its source. The algebra runs them in
``tests/unit/test_merge_vectors.py``; :meth:`Write.sql` gives the statements for real nodes.
"""

from __future__ import annotations

from tests.merge_vectors import counters, registers, rows, sets, stamped
from tests.merge_vectors.case import ABSENT, MergeVector, Write, array_image, elements, image, json_image, literal
from tests.merge_vectors.registers import MERGE_FUNCTIONS

__all__ = [
    "ABSENT",
    "MERGE_FUNCTIONS",
    "VECTORS",
    "MergeVector",
    "Write",
    "array_image",
    "elements",
    "image",
    "json_image",
    "literal",
]

VECTORS: tuple[MergeVector, ...] = (
    *registers.VECTORS,
    *counters.VECTORS,
    *sets.VECTORS,
    *stamped.VECTORS,
    *rows.VECTORS,
)
