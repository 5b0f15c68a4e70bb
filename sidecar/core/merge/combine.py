"""Several change sets, one statement per table: what waits is merged together, because a statement costs some
milliseconds whether it merges one row or a hundred.

Rows of different change sets stand in one unit as long as no key occurs twice in it; each row says which change set it
is from (``members``), and with it its origin and its context. A key that occurs again goes to a later unit of the same
transaction, so the order of a row's changes is kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from sidecar.core.arrays import element_count
from sidecar.core.changes import TableChanges, is_truncation
from sidecar.errors import ProtocolError

SEPARATOR = b'","'


@dataclass(frozen=True, slots=True)
class Unit:
    """What one statement merges. ``members``: int array literal, per row the 1-based place of its change set in the
    transaction; ``b""`` when there is only one change set."""

    changes: TableChanges
    members: bytes = b""


@dataclass(slots=True)
class _Open:
    """A unit in the making."""

    parts: list[TableChanges] = field(default_factory=list)
    places: list[int] = field(default_factory=list)
    keys: set[tuple[bytes, ...]] = field(default_factory=set)

    def takes(self, changes: TableChanges, keys: set[tuple[bytes, ...]] | None) -> bool:
        first = self.parts[0]
        same = first.columns == changes.columns and first.key_columns == changes.key_columns
        return same and keys is not None and self.keys.isdisjoint(keys)


def combine(sets: Sequence[Iterable[TableChanges]], origins: Sequence[int] = ()) -> Iterator[Unit]:
    """The units of a transaction, in an order in which they can be merged. One change set is passed through part by
    part; several are read as a whole (the caller bounds their rows). ``origins``: whose they are; without, one node's.

    Raises :class:`ProtocolError` when rows of different origins would get into each other's places.
    """
    if len(sets) == 1:
        for changes in sets[0]:
            if changes.rows:
                yield Unit(changes)
        return
    units: list[_Open] = []
    newest: dict[tuple[str, str], _Open] = {}
    for place, tables in enumerate(sets, start=1):
        for changes in tables:
            if not changes.rows:
                continue
            name = (changes.schema, changes.name)
            keys = _keys(changes)
            unit = newest.get(name)
            if unit is None or not unit.takes(changes, keys):
                unit = newest[name] = _Open()
                units.append(unit)
                if keys is None:
                    del newest[name]
            unit.parts.append(changes)
            unit.places.append(place)
            unit.keys |= keys or set()
    for unit in units:
        if len({origins[place - 1] for place in unit.places} if origins else ()) > 1:
            for changes in unit.parts:
                _check_elements(changes)
        yield _closed(unit)


def _check_elements(changes: TableChanges) -> None:
    """Whether every literal of texts has an element per row. A wrong one spoils the rows of its own node only, until it
    is joined with another node's; numbers are counted when a body is opened."""
    for literal in filter(None, (*changes.keys, *changes.values, *changes.seen)):
        count = element_count(literal)
        if count != changes.rows:
            raise ProtocolError(
                f"changes of table {changes.schema}.{changes.name} with {changes.rows} rows have an array of"
                f" {'something else' if count < 0 else f'{count} elements'}",
                mend="look at the node they come from",
            )


def _keys(changes: TableChanges) -> set[tuple[bytes, ...]] | None:
    """The quoted key texts, or None when they cannot be told apart (a key text that itself looks like a separator) or
    are not known (TRUNCATE): then nothing joins the unit, and what comes later stands after it."""
    if is_truncation(changes):
        return None
    columns = [literal[2:-2].split(SEPARATOR) for literal in changes.keys]
    if any(len(column) != changes.rows for column in columns):
        return None
    return set(zip(*columns, strict=True))


def _closed(unit: _Open) -> Unit:
    members = (
        b"{"
        + b",".join(b",".join([b"%d" % place] * part.rows) for place, part in zip(unit.places, unit.parts, strict=True))
        + b"}"
    )
    if len(unit.parts) == 1:
        return Unit(unit.parts[0], members)
    parts = unit.parts
    first = parts[0]
    rows = [part.rows for part in parts]

    def joined(literals: list[bytes]) -> bytes:
        return _join(literals, rows)

    def each(lists: list[list[bytes]]) -> list[bytes]:
        return [joined(list(literals)) for literals in zip(*lists, strict=True)]

    changes = TableChanges(
        schema=first.schema,
        name=first.name,
        key_columns=first.key_columns,
        columns=first.columns,
        rows=sum(rows),
        ops=joined([part.ops for part in parts]),
        hlcs=joined([part.hlcs for part in parts]),
        inserted=joined([part.inserted for part in parts]),
        masks=each([part.masks for part in parts]),
        keys=each([part.keys for part in parts]),
        values=each([part.values for part in parts]),
        late=each([part.late for part in parts]),
        seen=each([part.seen for part in parts]),
    )
    return Unit(changes, members)


def _join(literals: list[bytes], rows: list[int]) -> bytes:
    """One array literal of several; ``b""`` stands for all NULL."""
    if not any(literals):
        return b""
    bodies = [
        literal[1:-1] if literal else b",".join([b"NULL"] * count)
        for literal, count in zip(literals, rows, strict=True)
    ]
    return b"{" + b",".join(bodies) + b"}"
