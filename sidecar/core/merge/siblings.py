"""SQL fragments of ``mv_register``, ``max_register``, ``min_register`` and ``merge(fn)`` columns.

They keep the writes that no other write had seen (:mod:`sidecar.core.crdt.siblings`) and differ only in which value
the column shows. A single write is the shown value with the dot of a register; where there are more, ``sib_<attnum>``
of the row state holds them all as jsonb ``[[node, hlc, text image or null], ...]``, the highest ``(hlc, node)`` first.
The functions are in ``migrations/0003_types.sql``.
"""

from __future__ import annotations

from sidecar.core.catalog import ColumnSpec, TableSpec, quote_literal
from sidecar.core.merge import registers

COLLATABLE = frozenset({"text", "character varying", "character", "bpchar", "name", "citext"})
"""Types that compare by a collation; databases may differ in theirs, so values are compared by their bytes. (What hides
in composite types and ranges is refused, see :mod:`sidecar.postgres.type_check`.)"""

_DIRECTION = {"max_register": "DESC", "min_register": "ASC"}


def joined(column: ColumnSpec) -> list[str]:
    """What the lookup of row state ``s`` and user row ``t`` contributes."""
    n = column.attnum
    return [*registers.joined(column), f"s.v_{n} AS sv_{n}", f"s.sib_{n}"]


def kept(column: ColumnSpec) -> list[str]:
    """What the writing parts of the statement read of a decided row, besides the flags."""
    return ["h", "val", "nsib", "ns", *(["fd"] if column.crdt == "merge" else [])]


def states(column: ColumnSpec, row: str) -> list[str]:
    """The siblings after the incoming write, ``nsib_``: NULL when it is the only one left. ``row`` has a
    ``context``."""
    n = column.attnum
    image = f"CASE WHEN {row}.present THEN {row}.old_{n}::text ELSE {row}.image ->> {quote_literal(column.name)} END"
    left = (
        f"crdt_state.siblings_merge({row}.sib_{n}, {row}.sn_{n}, {row}.sh_{n}, {image},"
        f" {row}.origin, {row}.context, {row}.h_{n}, {row}.val_{n}::text)"
    )
    win = registers.dot_at_least(f"{row}.h_{n}", f"{row}.origin", f"{row}.sh_{n}", f"{row}.sn_{n}")
    return [
        f"({row}.a_{n} AND {win}) AS win_{n}",
        f"CASE WHEN {row}.a_{n} THEN {left} ELSE {row}.sib_{n} END AS nsib_{n}",
    ]


def _due(column: ColumnSpec, row: str) -> str:
    """Whether there are siblings to choose from anew."""
    n = column.attnum
    return f"{row}.nsib_{n} IS NOT NULL AND ({row}.a_{n} OR {row}.op = 'T')"


def folds(spec: TableSpec, column: ColumnSpec, row: str) -> list[str]:
    """What the application's function makes of the siblings: ``fd_``, ``{value, why it failed or NULL}``."""
    if column.crdt != "merge":
        return []
    names = ", ".join(quote_literal(text) for text in (column.argument or "", spec.schema, column.type_name))
    call = f"crdt_state.fold_siblings({row}.nsib_{column.attnum}, {names})"
    return [f"CASE WHEN {_due(column, row)} THEN {call} END AS fd_{column.attnum}"]


def value(column: ColumnSpec, row: str) -> str:
    """What the user row shows after the merge: ``ns_``."""
    n = column.attnum
    before = registers.value_before(column, row)
    return (
        f"CASE WHEN {_due(column, row)} THEN {chosen(column, row)}"
        f" WHEN {row}.a_{n} THEN {row}.val_{n}"
        f" WHEN {row}.present THEN {row}.old_{n} ELSE {before} END AS ns_{n}"
    )


def chosen(column: ColumnSpec, row: str) -> str:
    n, kind = column.attnum, column.cast_name
    if column.crdt == "merge":
        return f"{row}.fd_{n}[1]::{kind}"
    if column.crdt == "mv_register":
        return f"({row}.nsib_{n} -> 0 ->> 2)::{kind}"
    value = f"(w.value ->> 2)::{kind}"
    source = f"jsonb_array_elements({row}.nsib_{n}) WITH ORDINALITY AS w(value, place)"
    return f"(SELECT {value} FROM {source} ORDER BY {_order(column, value)}, w.place LIMIT 1)"


def _order(column: ColumnSpec, value: str) -> str:
    """The column's order, the shown value first; NULL loses."""
    array = "[]" if column.base_type.endswith("[]") else ""
    collatable = column.base_type.removesuffix("[]").rpartition(".")[2] in COLLATABLE
    # As text: the lower case in which citext compares is that of the database's default locale, whatever the collation.
    by_bytes = f'::text{array} COLLATE "C"' if collatable else ""
    return f"{value}{by_bytes} {_DIRECTION[column.crdt]} NULLS LAST"


def shown_of_two(column: ColumnSpec, one: str, other: str, newer: str) -> str:
    """Whether the first of two values would be shown; ``newer``: whether its write is the later one."""
    if column.crdt not in _DIRECTION:
        return newer
    pair = f"(VALUES ({one}, {newer}, true), ({other}, NOT {newer}, false))"
    order = f"{_order(column, 'x.value')}, x.newer DESC"
    return f"(SELECT x.wins FROM {pair} AS x(value, newer, wins) ORDER BY {order} LIMIT 1)"


def state_values(column: ColumnSpec) -> dict[str, str]:
    """State columns after the merge, beside those of the latest write (:func:`.registers.state_values`)."""
    return {f"sib_{column.attnum}": f"p.nsib_{column.attnum}"}


def conflict_rows(column: ColumnSpec) -> list[str]:
    """Queries of what is recorded, for :mod:`.column_conflicts`: the incoming write against each sibling that it had
    not seen. ``max_register`` and ``min_register``: the value that would be shown of the two wins. A function that
    failed: what is shown against the latest of the other values."""
    n = column.attnum
    alone = f"CASE WHEN s.sib_{n} IS NULL THEN s.v_{n} END"
    here = f"(w.value -> 0)::int8, (w.value -> 1)::int8, w.value ->> 2, {alone}"
    newer = f"(p.h_{n}, p.origin) > ((w.value -> 1)::int8, (w.value -> 0)::int8)"
    wins = shown_of_two(column, f"p.val_{n}", f"(w.value ->> 2)::{column.cast_name}", newer)
    head = f"{quote_literal(column.name)}, NULL, {quote_literal(column.crdt)}"
    rows = [
        f"SELECT {head}, 'overwrite', NULL, {wins}, p.origin, p.h_{n}, p.val_{n}::text, {here}"
        f" FROM jsonb_array_elements(p.nsib_{n}) AS w WHERE p.a_{n} AND (w.value -> 0)::int8 <> p.origin"
    ]
    if column.crdt == "merge":
        highest = f"(p.nsib_{n} -> 0 -> 0)::int8, (p.nsib_{n} -> 0 -> 1)::int8, p.nsib_{n} -> 0 ->> 2"
        rows.append(
            f"(SELECT {head}, 'merge_failed', p.fd_{n}[2], true, {highest}, {here}"
            f" FROM jsonb_array_elements(p.nsib_{n}) WITH ORDINALITY AS w(value, place)"
            f" WHERE p.a_{n} AND p.fd_{n}[2] IS NOT NULL AND w.value ->> 2 IS DISTINCT FROM p.nsib_{n} -> 0 ->> 2"
            " ORDER BY w.place LIMIT 1)"
        )
    return rows


def any_conflict(column: ColumnSpec, row: str) -> str:
    """Whether :func:`conflict_rows` may hold anything."""
    return f"({row}.a_{column.attnum} AND {row}.nsib_{column.attnum} IS NOT NULL)"
