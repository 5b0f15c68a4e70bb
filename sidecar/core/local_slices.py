"""Some rows of captured changes by themselves: what isolates a row that cannot be captured.

Only used once something has failed, so literals are taken apart and put together again.
"""

from __future__ import annotations

from collections.abc import Container

import msgspec

from sidecar.core.arrays import int_array, number_array, text_array
from sidecar.core.changes import MASK_BITS, LocalChanges, TableChanges
from sidecar.core.elements import array_elements


def rows_between(local: LocalChanges, first: int, last: int) -> LocalChanges:
    """Rows ``first..last`` (from 1; none where ``last`` is below ``first``) as changes of their own. What the database
    adds to changes (``seen``) is left out: capturing them finds it again."""
    shipped = 0 if local.shipped is None else local.shipped.rows
    changes = _table(local.changes, first, last)
    return LocalChanges(
        table_id=local.table_id,
        changes=changes,
        xids=_numbers(local.xids, first, last),
        images=_texts(local.images, first, last),
        old_images=[_texts(literal, first, last) for literal in local.old_images],
        undone=[_texts(literal, first, last) for literal in local.undone],
        shipped=_table(local.changes, first, min(last, shipped)) if first <= min(last, shipped) else None,
    )


def without_values(local: LocalChanges, kept: Container[str]) -> LocalChanges:
    """One deleted row without its last values and what the batch wrote before the delete; columns in ``kept`` stay as
    they are. It deletes as before, and cannot come back whole."""
    changes = local.changes
    columns = [i for i, name in enumerate(changes.columns) if name in kept]
    masks = [0] * len(changes.masks)
    for word, literal in enumerate(changes.masks):
        held = int((array_elements(literal.decode()) if literal else [None])[0] or 0)
        bits = sum(1 << (i % MASK_BITS) for i in columns if i // MASK_BITS == word)
        masks[word] = held & bits

    def only_kept(literals: list[bytes]) -> list[bytes]:
        return [literal if i in columns else b"" for i, literal in enumerate(literals)]

    bare = msgspec.structs.replace(
        changes,
        inserted=b"",
        masks=[number_array([mask]) for mask in masks],
        values=only_kept(changes.values),
        late=only_kept(changes.late),
        seen=[b""] * len(changes.seen),
    )
    return LocalChanges(
        table_id=local.table_id,
        changes=bare,
        xids=local.xids,
        images=b"",
        old_images=only_kept(local.old_images),
        undone=[b""] * len(local.undone),
        shipped=bare,
    )


def key_of(changes: TableChanges) -> dict[str, str]:
    """The key of changes of one row, as text images."""
    keys = (array_elements(literal.decode())[0] or "" for literal in changes.keys)
    return dict(zip(changes.key_columns, keys, strict=True))


def _table(changes: TableChanges, first: int, last: int) -> TableChanges:
    return TableChanges(
        schema=changes.schema,
        name=changes.name,
        key_columns=changes.key_columns,
        columns=changes.columns,
        rows=max(0, last - first + 1),
        ops=b"{" + b",".join(_elements(changes.ops, first, last)) + b"}",
        hlcs=_numbers(changes.hlcs, first, last),
        inserted=_numbers(changes.inserted, first, last),
        masks=[_numbers(literal, first, last) for literal in changes.masks],
        keys=[_texts(literal, first, last) for literal in changes.keys],
        values=[_texts(literal, first, last) for literal in changes.values],
        late=[_numbers(literal, first, last) for literal in changes.late],
        seen=[b""] * len(changes.seen),
    )


def _elements(literal: bytes, first: int, last: int) -> list[bytes]:
    return [b"" if e is None else e.encode() for e in array_elements(literal.decode())[first - 1 : max(last, 0)]]


def _texts(literal: bytes, first: int, last: int) -> bytes:
    if not literal:
        return b""
    elements = array_elements(literal.decode())[first - 1 : max(last, 0)]
    return text_array([None if e is None else e.encode() for e in elements])


def _numbers(literal: bytes, first: int, last: int) -> bytes:
    if not literal:
        return b""
    elements = array_elements(literal.decode())[first - 1 : max(last, 0)]
    return int_array([None if e is None else e.encode() for e in elements])
