"""Change sets: what whole local transactions changed, coalesced per row and column, in columnar form.

Shapes: every array literal (see :mod:`sidecar.core.arrays`) of one :class:`TableChanges` has ``rows`` elements, in the
same row order; a row's key occurs once. ``b""`` in place of a literal means "NULL for every row".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec

from sidecar.core.arrays import text_array
from sidecar.core.catalog import TableSpec
from sidecar.core.elements import array_elements

FORMAT_VERSION = 1

# A mask word holds this many columns: an int8 with the sign bit left alone.
MASK_BITS = 62

# Row operations.
INSERT = b"I"  # the row is new at the origin: every carried column is assigned
UPDATE = b"U"  # the columns in the mask are assigned (registers) or changed by a delta (counters)
DELETE = b"D"
REPLACE = b"R"  # a delete and a later insert of the same key, coalesced; merges like INSERT
TRUNCATE = b"Z"  # all rows that were there before anybody wrote them; stands alone, its key texts are empty
TOUCH = b"T"  # local only: the row got a new xmin but no new value


class TableChanges(msgspec.Struct, array_like=True, kw_only=True):
    """The changes of one table in one change set.

    ``columns`` are the names of the carried columns (the union over the rows; all of them when a row is inserted).
    ``masks[w]`` is an int8 array: bit b of word w is set when the row assigns ``columns[w * MASK_BITS + b]``.
    ``values[i]`` holds column i's new text image, or the delta (a decimal number) when it is a counter at the origin,
    or the change (JSON, see :mod:`sidecar.core.elements`) when it is a set or a map; NULL where the mask bit is not
    set. ``late[i]`` holds column i's own hlc where it is below the row's ``hlcs`` (an earlier transaction of the same
    change set wrote it last), else NULL. ``inserted`` is the hlc of the insert for INSERT and REPLACE rows, and for
    DELETE rows whose first operation in the change set was an insert; else NULL.
    ``seen[i]`` is, for counters of deleted and re-inserted rows, a JSON object
    ``{"<node>": [increased, decreased]}``: the per-node sums the delete had seen.
    """

    schema: str
    name: str
    key_columns: list[str]
    columns: list[str]
    rows: int
    ops: bytes
    hlcs: bytes
    inserted: bytes
    masks: list[bytes]
    keys: list[bytes]
    values: list[bytes]
    late: list[bytes]
    seen: list[bytes]


def is_truncation(changes: TableChanges) -> bool:
    """Whether it stands for a TRUNCATE."""
    return TRUNCATE in changes.ops


@dataclass(slots=True)
class LocalChanges:
    """A :class:`TableChanges` as captured, with what never leaves the node.

    ``xids``: xid (decimal) of the last transaction that wrote the row version now in the heap. ``images``: for DELETE
    rows the old row as a JSON object of text images (tombstone image), else NULL. ``old_images[i]`` is ``b""`` for
    registers; for counters, in DELETE and REPLACE rows, the text image in the old row; for sets and maps that the row
    assigns, the text image before the batch (NULL in INSERT rows); else NULL. ``undone[i]``: for sets and maps, what of
    the local writes does not count: a JSON array of elements whose removal is undone, or a JSON string with the text
    image of a value that is no array or object; NULL mostly.
    TOUCH rows stand last, and ``shipped`` leaves them out. ``refused``: why these rows are not captured; mostly empty.
    """

    table_id: int
    changes: TableChanges
    xids: bytes
    images: bytes
    old_images: list[bytes] = field(default_factory=list)
    undone: list[bytes] = field(default_factory=list)
    shipped: TableChanges | None = None
    refused: str = ""

    def values_of(self, column: str) -> bytes:
        """The values of a column, ``b""`` when it is not carried."""
        names = self.changes.columns
        return self.changes.values[names.index(column)] if column in names else b""

    def replace_values(self, column: str, values: Mapping[int, bytes]) -> None:
        """Other values for some rows (by position from 1) of a carried column."""
        if not values:
            return
        at = self.changes.columns.index(column)
        column_values = [None if v is None else v.encode() for v in array_elements(self.changes.values[at].decode())]
        for position, value in values.items():
            column_values[position - 1] = value
        for changes in (self.changes, self.shipped):
            if changes is not None:
                changes.values[at] = text_array(column_values[: changes.rows])


def truncation(spec: TableSpec, hlc: int, xid: int) -> LocalChanges:
    """All rows of a table are deleted, at an hlc, by a transaction."""
    changes = TableChanges(
        schema=spec.schema,
        name=spec.name,
        key_columns=[c.name for c in spec.key],
        columns=[],
        rows=1,
        ops=b"{" + TRUNCATE + b"}",
        hlcs=b"{%d}" % hlc,
        inserted=b"",
        masks=[],
        keys=[b'{""}' for _ in spec.key],
        values=[],
        late=[],
        seen=[],
    )
    return LocalChanges(table_id=spec.table_id, changes=changes, xids=b"{%d}" % xid, images=b"", shipped=changes)


class ChangeSetHeader(msgspec.Struct, array_like=True, kw_only=True, frozen=True):
    """What is known of a change set without opening it.

    It covers the hlc interval ``(from_hlc, to_hlc]`` of ``origin``, with the origin's clock as ``context``. A large one
    comes in parts, numbered from 0; only the last has ``last`` set. ``committed_ms`` is the wall clock time
    (Unix ms) of the newest transaction inside, for lag measurements.
    """

    origin: int
    from_hlc: int
    to_hlc: int
    context: dict[int, int]
    part: int = 0
    last: bool = True
    transactions: int = 1
    rows: int = 0
    committed_ms: int = 0
    format_version: int = FORMAT_VERSION


class ChangeSetPart(msgspec.Struct, array_like=True, kw_only=True, frozen=True):
    """One part of a change set as it stands in the journal and on the wire: ``body`` is
    ``zstd(msgpack([TableChanges, ...]))``."""

    header: ChangeSetHeader
    body: bytes
