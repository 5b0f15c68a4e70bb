"""How pgoutput's tuples of one relation map to the key and the columns of a replicated table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from operator import itemgetter
from typing import Any

import msgspec

from sidecar.core.catalog import TableSpec
from sidecar.core.counters import NOT_FINITE, counter_delta
from sidecar.core.elements import ElementColumn
from sidecar.core.former_names import renamed_in
from sidecar.core.pgoutput import (
    UNCHANGED,
    Delete,
    Insert,
    Relation,
    TupleData,
    Update,
    UpdateLayout,
    update_layout,
)
from sidecar.errors import ProtocolError, SchemaError

# Distinct sets of changed columns remembered per table. Applications have a few dozen statements per table; the bound
# is for the one that updates random columns of a wide table, which then pays for compiling again.
PATTERNS_MAX = 4096

KNOWN_MAX = 3
"""Layouts of updates tried per table. A trial that fails costs some 0.6 microseconds, a tenth of reading and comparing
column by column. Most tables have fewer kinds of update that matter; others learn anew."""

LEARN_EVERY = 16
"""Every so many updates that fit none, the layout of one is learned, which costs as much as reading a hundred."""

LEARN_EVERY_MAX = 4096
"""Doubles up to this when what was learned turned out to be too little: then learning costs next to nothing."""

BUILT_IN_MAX = 16_384
"""Oids below are those of PostgreSQL itself (FirstNormalObjectId), equal everywhere."""

_NUMBERS = frozenset({20, 21, 23, 1700})  # int8, int2, int4, numeric (pg_type.dat)
_JSONB = 3802
# bool, bytea, "char", name, text, oid, json, xml, the floats, bpchar, varchar, dates and times, uuid
_SCALARS = frozenset({16, 17, 18, 19, 25, 26, 114, 142, 700, 701, 1042, 1043, 1082, 1083, 1114, 1184, 1186, 1266, 2950})
_SCALARS |= _NUMBERS | {_JSONB}

_INTEGERS = frozenset({"smallint", "integer", "bigint"})


class ChangedColumns(msgspec.Struct, gc=False, eq=False, frozen=True):
    """Which columns an update changed, as indexes into ``spec.columns``. ``numeric``: those counters whose text can
    change while the number does not (``1.0``, ``1.00``). ``touch``: no replicated column changed. ``summed``: positions
    of the counters when all that changed is registers and integers, so that two such updates one after the other are
    one from the first's old row to the second's new row; otherwise ``None``."""

    key: bool
    columns: tuple[int, ...]
    registers: tuple[int, ...]
    counters: tuple[int, ...]
    elements: tuple[int, ...]
    numeric: tuple[int, ...]
    touch: bool
    summed: tuple[int, ...] | None


class KnownUpdate(msgspec.Struct, gc=False, eq=False, frozen=True):
    """An update whose layout is known, what it changes, and which columns are NULL in both rows. ``summed`` are the
    groups of the old and the new value of each counter."""

    layout: UpdateLayout
    changed: ChangedColumns
    nulls: bytes
    summed: tuple[tuple[int, int], ...]


def present_names(relation: Relation, spec: TableSpec) -> list[str]:
    """What the relation's columns are called now, as far as that is known."""
    names = [column.name for column in relation.columns]
    renamed = renamed_in((*spec.key, *spec.columns), frozenset(names))
    return [renamed.get(name, name) for name in names]


def unreadable(relation: Relation, spec: TableSpec) -> set[str]:
    """Counters, sets and maps whose values in the stream are of a type that has none: of a former column of that name.

    By the types that are built in, as far as they are known for certain; a domain has an oid of its own, and any value.
    """
    columns = {column.name: column for column in spec.columns}
    found = set()
    for name, described in zip(present_names(relation, spec), relation.columns, strict=True):
        column, oid = columns.get(name), described.type_oid
        if column is None or oid >= BUILT_IN_MAX:
            continue
        if column.is_counter:
            readable = oid in _NUMBERS
        elif column.is_element:
            readable = oid == _JSONB if column.base_type == "jsonb" else oid not in _SCALARS
        else:
            readable = True  # a register takes what its type takes, and what it does not take is put aside
        if not readable:
            found.add(name)
    return found


@dataclass(slots=True, eq=False)
class RelationPlan:
    """How the columns of pgoutput's tuples map to a table's key and columns.

    ``key_positions`` and ``positions`` are parallel to ``spec.key`` and ``spec.columns``; ``width`` is the number of
    columns of a tuple. ``changes`` remembers what each pattern of changed positions means. ``splits``: the table has
    counters, ``growing`` their grow-only ones as indexes into ``spec.columns``: what :meth:`Coalescer.must_split` asks;
    ``fractional`` those of type ``numeric``.
    ``elements`` reads the sets and maps among ``spec.columns``, by index. ``known`` are the layouts of frequent
    updates.
    """

    spec: TableSpec
    width: int
    key_positions: tuple[int, ...]
    positions: tuple[int, ...]
    key_of: Callable[[TupleData], Any]
    changes: dict[bytes, ChangedColumns] = field(default_factory=dict)
    splits: bool = False
    growing: tuple[int, ...] = ()
    fractional: tuple[int, ...] = ()
    elements: dict[int, ElementColumn] = field(default_factory=dict)
    known: list[KnownUpdate] = field(default_factory=list)
    unknown: int = 0
    learn_every: int = LEARN_EVERY

    @classmethod
    def build(cls, relation: Relation, spec: TableSpec) -> RelationPlan:
        """Map by name, that of then or of now. Columns that only one of the two has are left out, and those that are
        :func:`unreadable`; :class:`SchemaError` when one of the key is missing. ``plan.spec`` has the columns that both
        have."""
        names = present_names(relation, spec)
        strange = unreadable(relation, spec)
        place = {name: position for position, name in enumerate(names) if name not in strange}
        missing = [c.name for c in spec.key if c.name not in place]
        if missing:
            raise SchemaError(
                f"{spec.qualified}: column {missing[0]!r} is not in the replication stream",
                mend="run sidecar init, which reads the table's columns again and publishes all of them",
            )
        # Changes are described as the table was when they were made: columns added since are not in them.
        spec = replace(spec, columns=tuple(c for c in spec.columns if c.name in place))
        key_positions = tuple(place[c.name] for c in spec.key)
        return cls(
            spec=spec,
            width=len(relation.columns),
            key_positions=key_positions,
            positions=tuple(place[c.name] for c in spec.columns),
            key_of=itemgetter(*key_positions),
            splits=bool(spec.counters),
            growing=tuple(i for i, c in enumerate(spec.columns) if c.crdt == "g_counter"),
            fractional=tuple(i for i, c in enumerate(spec.columns) if c.is_counter and c.base_type not in _INTEGERS),
            elements={i: ElementColumn.of(spec.qualified, c) for i, c in enumerate(spec.columns) if c.is_element},
        )

    def same_layout(self, other: RelationPlan) -> bool:
        """Whether tuples of both plans mean the same; relation messages repeat for many reasons."""
        return (
            self.spec == other.spec
            and self.width == other.width
            and self.key_positions == other.key_positions
            and self.positions == other.positions
        )

    def carried_bytes(self, message: Insert | Update | Delete) -> int:
        """Bytes of the values that a change ships: of a new row all, of an update those that differ. Of a deleted row
        those that stay in its tombstone image."""
        if isinstance(message, Insert):
            return sum(len(value or b"") for value in message.new)
        old = message.old or []
        if isinstance(message, Delete):
            return sum(len(value or b"") for value in old)
        pairs = zip_longest(old, message.new)
        return sum(len(new or b"") for before, new in pairs if new != before and new is not UNCHANGED)

    def key_texts(self, row: TupleData) -> list[str]:
        """The key of a row as text, for messages."""
        return [(row[position] or b"").decode(errors="replace") for position in self.key_positions if row]

    def not_summable(self, old: TupleData, new: TupleData) -> str:
        """The first counter that an update turns to or from what is no number; empty when there is none."""
        for i in self.fractional:
            pair = {old[self.positions[i]], new[self.positions[i]]}
            if len(pair) > 1 and UNCHANGED not in pair and not pair.isdisjoint(NOT_FINITE):
                return self.spec.columns[i].name
        return ""

    def learn(self, pattern: bytes) -> ChangedColumns:
        """What changed, where ``pattern`` has one byte per position, 1 for changed."""
        if len(pattern) != self.width:
            raise ProtocolError(f"{self.spec.qualified}: a row has {len(pattern)} columns, the relation {self.width}")
        if len(self.changes) >= PATTERNS_MAX:
            self.changes.clear()
        specs = self.spec.columns
        columns = tuple(i for i, position in enumerate(self.positions) if pattern[position])
        counters = tuple(i for i in columns if specs[i].is_counter)
        elements = tuple(i for i in columns if specs[i].is_element)
        numeric = tuple(i for i in counters if specs[i].base_type not in _INTEGERS)
        changed = ChangedColumns(
            key=any(pattern[position] for position in self.key_positions),
            columns=columns,
            registers=tuple(i for i in columns if specs[i].family in ("register", "sibling")),
            counters=counters,
            elements=elements,
            numeric=numeric,
            touch=not columns,
            summed=None if elements or numeric else tuple(self.positions[i] for i in counters),
        )
        self.changes[pattern] = changed
        return changed

    def know(self, changed: ChangedColumns, old: TupleData, new: TupleData) -> None:
        """Told of each update that fits no known layout: learn some. Only updates that say all in their last values
        and sums, and that never need a change set to end before them (:meth:`Coalescer.must_split`)."""
        self.unknown += 1
        if self.unknown % self.learn_every or changed.summed is None or not changed.columns:
            return
        if changed.key or not set(self.growing).isdisjoint(changed.columns):
            return
        nulls = bytes(value is None for value in (*old, *new))
        if any(known.changed is changed and known.nulls == nulls for known in self.known):
            return
        layout = update_layout(self.key_positions, old, new)
        if layout is None:
            return
        if len(self.known) >= KNOWN_MAX:
            self.known.clear()
            self.learn_every = min(2 * self.learn_every, LEARN_EVERY_MAX)
        summed = tuple((layout.old[position], layout.new[position]) for position in changed.summed)
        self.known.append(KnownUpdate(layout, changed, nulls, summed))

    def without_equal_numbers(
        self, changed: ChangedColumns, pattern: bytes, old: TupleData, new: TupleData
    ) -> ChangedColumns:
        """Take out numeric counters whose text changed and whose number did not; from and to NULL is a change."""
        equal = []
        for i in changed.numeric:
            position = self.positions[i]
            before, after = old[position], new[position]
            if before is not None and after is not None and not counter_delta(before, after):
                equal.append(position)
        if not equal:
            return changed
        reduced = bytearray(pattern)
        for position in equal:
            reduced[position] = 0
        key = bytes(reduced)
        return self.changes.get(key) or self.learn(key)
