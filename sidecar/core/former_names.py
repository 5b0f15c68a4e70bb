"""Names that columns had before they were renamed: changes made before carry them, in the log of a node that is behind,
in a journal, or on their way to a peer."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import msgspec

from sidecar.core.catalog import ColumnSpec, TableSpec
from sidecar.core.changes import TableChanges

FORMER_NAMES_MAX = 16
"""Names remembered of a column. Those of the longest outage count, and nobody renames a column that often in one."""


def remembered(former: Sequence[str], name: str) -> tuple[str, ...]:
    """The former names of a column that was called ``name`` until now; the latest last."""
    return (*(other for other in former if other != name), name)[-FORMER_NAMES_MAX:]


def renamed_in(columns: Sequence[ColumnSpec], names: Collection[str]) -> dict[str, str]:
    """Former name -> present name, of what all columns of a table were called at some time. A column that was there
    under a former name only was called so then, even if another has that name now."""
    found: dict[str, str] = {}
    for column in columns:
        if column.former and column.name not in names:
            name = next((name for name in reversed(column.former) if name in names), None)
            if name is not None:
                found[name] = column.name
    return found


def by_present_names(spec: TableSpec, changes: TableChanges) -> TableChanges:
    """Changes of some columns, under their present names where those they carry are nobody's any more."""
    columns = (*spec.key, *spec.columns)
    known = {column.name for column in columns}
    unknown = [name for name in (*changes.key_columns, *changes.columns) if name not in known]
    if not unknown:
        return changes
    present = {name: column.name for column in columns for name in column.former if name in unknown}
    if not present:
        return changes
    return msgspec.structs.replace(
        changes,
        key_columns=[present.get(name, name) for name in changes.key_columns],
        columns=[present.get(name, name) for name in changes.columns],
    )
