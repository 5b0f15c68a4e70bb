"""Columns that keep more than one write, in the merge statement: siblings (:mod:`.siblings`), sets and maps
(:mod:`.elements`).

Their state is merged by functions, each of which must run once per row. So ``j``, the looked up rows, is fenced
subqueries one in another: the rows themselves -> their ``context``, if anything here is not covered by it -> the
columns' states after the change -> what the application's functions make of them -> what the columns show, ``ns_``.
A table without such columns, or a statement that carries none of them, stays as it is.
"""

from __future__ import annotations

from sidecar.core.catalog import FAMILIES, ColumnSpec, TableSpec, quote_literal
from sidecar.core.merge import elements, registers, siblings
from sidecar.core.merge.column_conflicts import within_columns
from sidecar.core.merge.staging import Shape

COLUMNS_EACH = 2
"""How much such a column counts against :data:`.state_tables.COLUMNS_MAX`: the statement carries up to fourteen values
for each of them, twice as many as for another."""


def width(crdt: str) -> int:
    """How much a column with this annotation counts."""
    return COLUMNS_EACH if FAMILIES[crdt] in ("sibling", "element") else 1


class MultiValue:
    """The columns of one statement. ``others`` are sets and maps that it does not carry: it needs them where a row
    comes back."""

    def __init__(self, spec: TableSpec, shape: Shape) -> None:
        self.spec = spec
        self.siblings = [c for c in spec.siblings if c.attnum in shape.attnums]
        self.elements = [c for c in spec.elements if c.attnum in shape.attnums]
        self.others = [c for c in spec.elements if c.attnum not in shape.attnums]
        self.columns = [*self.siblings, *self.elements]

    def joined(self) -> list[str]:
        """What the lookup of row state ``s`` and user row ``t`` contributes."""
        out: list[str] = []
        for column in self.siblings:
            out += siblings.joined(column)
        for column in self.elements:
            out += elements.joined(column)
        for column in self.others:
            out += elements.kept_aside(column)
        return out

    def merged(self, rows: str, origins_context: str, covered: str, fence: str) -> str:
        """``rows``, a query, with what becomes of the columns. ``origins_context``: the context of row ``h`` as int8[]
        by node; ``covered`` tests a dot."""
        if not self.columns:
            return rows
        unseen = []
        for column in self.columns:
            n = column.attnum
            seen = covered.format(row="h", hlc=f"h.sh_{n}", node=f"h.sn_{n}")
            unseen.append(f"h.a_{n} AND (h.sv_{n} IS NOT NULL OR NOT {seen})")
        context = f"CASE WHEN {' OR '.join(unseen)} THEN {origins_context} END AS context"
        states, folds, values = [context], [], []
        text = f"SELECT h.*, {context} FROM (\n    {rows}) AS h {fence}"
        states = [part for c in self.siblings for part in siblings.states(c, "i")]
        states += [part for c in self.elements for part in elements.states(c, "i")]
        text = f"SELECT i.*, {_list(states)}\n    FROM (\n    {text}) AS i {fence}"
        folds = [part for c in self.siblings for part in siblings.folds(self.spec, c, "k")]
        if folds:
            text = f"SELECT k.*, {_list(folds)}\n    FROM (\n    {text}) AS k {fence}"
        values = [siblings.value(c, "m") for c in self.siblings] + [elements.value(c, "m") for c in self.elements]
        return f"SELECT m.*, {_list(values)}\n    FROM (\n    {text}) AS m {fence}"

    def kept(self, *, old: bool) -> tuple[list[str], list[str]]:
        """What the writing parts read of a decided row: flags, and values. ``old``: also the value in the user row."""
        flags = [f"{name}_{c.attnum}" for c in self.columns for name in ("a", "win")]
        names = [(c, name) for c in self.siblings for name in siblings.kept(c)]
        names += [(c, name) for c in self.elements for name in elements.KEPT]
        names += [(c, "old") for c in self.columns if old]
        names += [(c, name) for c in self.others for name in ("e", "z")]
        return flags, [f"{name}_{c.attnum}" for c, name in names]

    def any_conflict(self, row: str) -> str:
        """Whether anything is to be recorded of the row."""
        some = [siblings.any_conflict(c, row) for c in self.siblings]
        some += [elements.any_conflict(c, row) for c in self.elements]
        return f"({' OR '.join(some)})"

    def conflicts(self, contexts: str, due: str) -> str:
        """The statement part that records it. ``contexts``: the parameter, by change set and node."""
        rows = [part for c in self.siblings for part in siblings.conflict_rows(c)]
        rows += [part for c in self.elements for part in elements.conflict_rows(c)]
        return within_columns(self.spec, rows, contexts, due)

    def pairs(self) -> list[str]:
        """``'name', text`` of the incoming change, for the quarantine."""
        out = [f"{quote_literal(c.name)}, p.val_{c.attnum}::text" for c in self.siblings]
        return out + [f"{quote_literal(c.name)}, p.c_{c.attnum}::text" for c in self.elements]

    def state_values(self, row_dot: tuple[str, str], *, exists: bool, row_may_change: bool) -> dict[str, str]:
        """State columns after the merge; the latest write's dot and vector are kept as those of a register."""
        values: dict[str, str] = {}
        for column in self.columns:
            values |= registers.state_values(column, row_dot, exists=exists, row_may_change=row_may_change)
            values |= siblings.state_values(column) if column.is_sibling else elements.state_values(column)
        return values


def changed(column: ColumnSpec, row: str) -> str:
    """Whether the user row must be rewritten for this column."""
    n = column.attnum
    return f"(({row}.a_{n} OR {row}.op = 'T') AND {row}.ns_{n}::text IS DISTINCT FROM {row}.old_{n}::text)"


def moves(column: ColumnSpec, row: str) -> str:
    """Whether the column's value in a row that stays becomes another."""
    return f"{row}.ns_{column.attnum} IS DISTINCT FROM {row}.old_{column.attnum}"


def image_entry(column: ColumnSpec, row: str) -> str:
    """``'name', text image`` for a tombstone made from the user row and the incoming change."""
    return f"{quote_literal(column.name)}, {row}.ns_{column.attnum}::text"


def image_patch(column: ColumnSpec, row: str) -> str:
    """The change of an existing tombstone image."""
    n = column.attnum
    patch = f"jsonb_build_object({quote_literal(column.name)}, {row}.ns_{n}::text)"
    return f"CASE WHEN {row}.a_{n} THEN {patch} ELSE '{{}}'::jsonb END"


def _list(items: list[str]) -> str:
    return ",\n      ".join(items)
