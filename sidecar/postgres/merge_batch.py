"""What one merge transaction is given: change sets, and the units of one table each that its statements merge."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import asyncpg

from sidecar.core.catalog import TableSpec, quote_table
from sidecar.core.changes import ChangeSetHeader, TableChanges
from sidecar.core.former_names import by_present_names
from sidecar.core.merge.combine import combine
from sidecar.core.merge.staging import Argument
from sidecar.errors import ApplyError, HeldError
from sidecar.postgres.relay import Relayed

Accepted = dict[int, str]
"""Position -> what was seen of the row before capture passed the log (:data:`sidecar.core.merge.clean.SEEN`): clean
after it."""


@dataclass(slots=True)
class UnitNotes:
    """What earlier tries learnt about one unit: rows that were not clean, as they were before the transaction of the
    try (``accepted``), and amidst it, after what the units before had done to their states (``amidst``)."""

    accepted: Accepted = field(default_factory=dict)
    amidst: Accepted = field(default_factory=dict)
    reinsert: bool = False


@dataclass(frozen=True, slots=True)
class MergeUnit:
    """What one statement merges: rows of one table, from one change set or several (``members``). ``number``: its place
    in the batch; none of what a TRUNCATE finds by itself."""

    spec: TableSpec
    changes: TableChanges
    members: bytes
    notes: UnitNotes
    number: int | None = None


@dataclass(slots=True)
class MergeSet:
    """One change set, ready to merge. ``header`` is the last part's. The tables are read anew for every pass, so that a
    change set of any size is merged part by part; only the notes stay in memory. ``relayed``: what of it goes into the
    journal."""

    header: ChangeSetHeader
    tables: Callable[[], Iterator[TableChanges]]
    catalogue: Mapping[str, TableSpec]
    notes: dict[int, UnitNotes] = field(default_factory=dict)
    relayed: Relayed | None = None


RowError = asyncpg.PostgresError | ApplyError
PostponedRow = tuple[MergeUnit, int, RowError]
"""A row by its position that is tried once more when all others are merged, and why it failed."""


class Batch:
    """The change sets of one transaction. ``own`` are arguments that every merge statement of it takes. ``locked``: all
    that it touches is locked, and captured. ``entered``: the tables into which rows were put, and ``xids`` the
    subtransactions that wrote user rows. ``vacant``: by unit the positions whose keys were left without a
    row. ``postponed``: see :data:`PostponedRow`."""

    def __init__(self, sets: Sequence[MergeSet]) -> None:
        self.sets = sets
        self.locked = False
        self.entered: set[int] = set()
        self.xids: set[str] = set()
        self.vacant: dict[int, list[int]] = {}
        self.postponed: list[PostponedRow] = []
        self._notes = sets[0].notes if len(sets) == 1 else {}
        headers = [merge_set.header for merge_set in sets]
        width = max([1, *(node for header in headers for node in header.context)])
        self.own: dict[str, Argument] = {
            "origins": [header.origin for header in headers],
            "contexts": [[header.context.get(node, 0) for node in range(1, width + 1)] for header in headers],
            "from_hlcs": [header.from_hlc for header in headers],
            "to_hlcs": [header.to_hlc for header in headers],
        }

    @property
    def one_part(self) -> bool:
        """Whether it is one change set of a single part, in which each row comes once."""
        return len(self.sets) == 1 and self.sets[0].header.part == 0

    def units(self) -> Iterator[MergeUnit]:
        """The units in order. :class:`HeldError` when a table does not fit the local catalogue (invariant 12)."""
        catalogue = self.sets[0].catalogue
        origins = [merge_set.header.origin for merge_set in self.sets]
        tables = [_by_present_names(catalogue, merge_set.tables()) for merge_set in self.sets]
        for i, unit in enumerate(combine(tables, origins)):
            notes = self._notes.setdefault(i, UnitNotes())
            yield MergeUnit(local_table(catalogue, unit.changes), unit.changes, unit.members, notes, i)

    def relayed(self) -> list[Relayed]:
        """What goes into the journal."""
        return [merge_set.relayed for merge_set in self.sets if merge_set.relayed is not None]

    def intervals(self) -> Iterator[tuple[int, int, int]]:
        """Per origin the interval ``(origin, from_hlc, to_hlc)`` that its change sets cover together."""
        ends: dict[int, tuple[int, int]] = {}
        for merge_set in self.sets:
            header = merge_set.header
            start, _ = ends.get(header.origin, (header.from_hlc, 0))
            ends[header.origin] = (start, header.to_hlc)
        for origin, (start, end) in ends.items():
            yield origin, start, end


def _by_present_names(catalogue: Mapping[str, TableSpec], tables: Iterable[TableChanges]) -> Iterator[TableChanges]:
    for changes in tables:
        spec = catalogue.get(f"{changes.schema}.{changes.name}")
        yield changes if spec is None else by_present_names(spec, changes)


def local_table(catalogue: Mapping[str, TableSpec], changes: TableChanges) -> TableSpec:
    """Look a peer's table up by name; :class:`HeldError` when it is not here or lacks something."""
    name, sql_name = f"{changes.schema}.{changes.name}", quote_table(changes.schema, changes.name)
    spec = catalogue.get(name)
    if spec is None:
        raise HeldError(
            f"changes of table {name} wait: it is not replicated in this database",
            mend=f"create it and annotate it here: COMMENT ON TABLE {sql_name} IS '@crdt'",
        )
    if {c.name for c in spec.key} != set(changes.key_columns):
        raise HeldError(f"changes of table {name} wait: its primary key differs here", mend="make the keys equal")
    known = {c.name for c in spec.columns}
    missing = [column for column in changes.columns if column not in known]
    if missing:
        raise HeldError(
            f"changes of table {name} wait: column {missing[0]!r} is missing here",
            mend=f"ALTER TABLE {sql_name} ADD COLUMN, or RENAME COLUMN, as on the other node",
        )
    return spec
