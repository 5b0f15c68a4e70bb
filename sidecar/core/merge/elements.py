"""SQL fragments of sets and maps: columns that merge element by element.

The state, ``e_<attnum>`` of the row state, is jsonb: a *dot set* (``g_set``, ``or_set``, ``aw_set``), a *stamp set*
(``lww_set``) or a map of stamps (``lww_map``). Their forms, and that of a change, are at the top of
``migrations/0003_types.sql``, whose functions are their algebra. What they compute is defined by
:mod:`sidecar.core.crdt.dots` and :mod:`sidecar.core.crdt.stamps`.

An element is known by its text image as the array's own output gives it. So arrays are taken apart and put together
through text only: a cast between array types would write ``true`` for ``t``, and cut the blanks of ``char(n)``.

The user row shows the elements in canonical order. It shows something else only between a local write and the rewrite
that capture asked for; a staged row of kind TOUCH brings it back.
"""

from __future__ import annotations

from sidecar.core.catalog import ColumnSpec, quote_literal
from sidecar.core.merge import registers

DOT_SETS = frozenset({"g_set", "or_set", "aw_set"})

NUMBER_TYPES = frozenset({"smallint[]", "integer[]", "bigint[]", "numeric[]", "jsonb"})
"""Types whose elements are ordered as numbers where they are numbers."""


def _is_json(column: ColumnSpec) -> bool:
    return column.base_type == "jsonb"


def _is_map(column: ColumnSpec) -> bool:
    return column.crdt == "lww_map"


def genesis(column: ColumnSpec, image: str) -> str:
    """The state of a value that nobody wrote since genesis; ``image`` is its text image."""
    if _is_map(column):
        return f"crdt_state.genesis_map({image}::jsonb)"
    elements = f"crdt_state.json_elements({image}::jsonb)" if _is_json(column) else f"{image}::text[]"
    return f"crdt_state.genesis_{'dots' if column.crdt in DOT_SETS else 'stamps'}({elements})"


def merged(column: ColumnSpec, state: str, change: str, origin: str, context: str) -> str:
    """The state after a change. ``context`` is int8[] by node id, NULL where it covers the whole state."""
    if column.crdt in DOT_SETS:
        return f"crdt_state.dots_merge({state}, {change}, {origin}, {context})"
    return f"crdt_state.stamps_merge({state}, {change}, {origin}, {'true' if _is_map(column) else 'false'})"


def unseen(column: ColumnSpec, state: str, change: str, origin: str, context: str) -> str:
    """What of the state a change goes against without having seen it: jsonb rows ``[element, hlc, value, node here,
    hlc here, value here, change wins]``, or NULL."""
    if column.crdt in DOT_SETS:
        return f"crdt_state.dots_conflicts({state}, {change}, {origin}, {context})"
    is_map = "true" if _is_map(column) else "false"
    return f"crdt_state.stamps_conflicts({state}, {change}, {origin}, {context}, {is_map})"


def shown(column: ColumnSpec, state: str, nulled: str) -> str:
    """The value that a state shows, typed as the column. Without an element it is empty, or NULL where the latest
    write made it NULL (``nulled``)."""
    if _is_map(column):
        empty, value = "'{}'::jsonb", f"nullif(crdt_state.map_value({state}), '{{}}')"
    else:
        numbers = "true" if column.base_type in NUMBER_TYPES else "false"
        kind = "dots" if column.crdt in DOT_SETS else "stamps"
        elements = f"nullif(crdt_state.{kind}_elements({state}, {numbers}), '{{}}')"
        empty, value = "'{}'", f"{elements}::text"
        if _is_json(column):
            empty, value = "'[]'::jsonb", f"crdt_state.json_array({elements})"
    return f"coalesce({value}, CASE WHEN {nulled} IS NOT TRUE THEN {empty} END)::{column.cast_name}"


KEPT = ("h", "c", "ne", "nz", "ec", "ns")
"""What the writing parts of the statement read of a decided row, besides the flags."""


def kept_aside(column: ColumnSpec) -> list[str]:
    """What the lookup contributes for a column that the statement does not carry: what a row that comes back needs."""
    n = column.attnum
    return [f"CASE WHEN t.ctid IS NULL THEN s.{name}_{n} END AS {name}_{n}" for name in ("e", "z")]


def joined(column: ColumnSpec) -> list[str]:
    """What the lookup of row state ``s`` and user row ``t`` contributes for a carried column."""
    n = column.attnum
    return [*registers.joined(column), f"s.v_{n} AS sv_{n}", f"s.e_{n}", f"s.z_{n}"]


def _before(column: ColumnSpec, row: str) -> str:
    """The state before the change. Genesis is what the user row or the tombstone shows."""
    n = column.attnum
    image = f"CASE WHEN {row}.present THEN {row}.old_{n}::text ELSE {row}.image ->> {quote_literal(column.name)} END"
    return f"coalesce({row}.e_{n}, {genesis(column, f'({image})')})"


def states(column: ColumnSpec, row: str) -> list[str]:
    """The state after the incoming change, ``ne_``, and what it goes against unseen, ``ec_``. ``row`` has a
    ``context``."""
    n = column.attnum
    arguments = (column, _before(column, row), f"{row}.c_{n}", f"{row}.origin", f"{row}.context")
    win = registers.dot_at_least(f"{row}.h_{n}", f"{row}.origin", f"{row}.sh_{n}", f"{row}.sn_{n}")
    null = f"coalesce(({row}.c_{n} -> 'null')::boolean, false)"
    return [
        f"({row}.a_{n} AND {win}) AS win_{n}",
        f"CASE WHEN {row}.a_{n} THEN {merged(*arguments)} ELSE {row}.e_{n} END AS ne_{n}",
        f"CASE WHEN {row}.a_{n} AND {win} THEN {null} ELSE {row}.z_{n} END AS nz_{n}",
        f"CASE WHEN {row}.a_{n} AND {row}.context IS NOT NULL THEN {unseen(*arguments)} END AS ec_{n}",
    ]


def value(column: ColumnSpec, row: str) -> str:
    """What the user row shows after the merge, ``ns_``: computed where it may have changed."""
    n = column.attnum
    due = f"{row}.a_{n} OR {row}.op = 'T' OR NOT {row}.present"
    return (
        f"CASE WHEN {row}.ne_{n} IS NOT NULL AND ({due}) THEN {shown(column, f'{row}.ne_{n}', f'{row}.nz_{n}')}"
        f" WHEN {row}.present THEN {row}.old_{n}"
        f" ELSE ({row}.image ->> {quote_literal(column.name)})::{column.cast_name} END AS ns_{n}"
    )


def revived_value(column: ColumnSpec) -> str:
    """The value of a column that the statement does not carry, in a row that comes back."""
    n = column.attnum
    image = f"(p.image ->> {quote_literal(column.name)})::{column.cast_name}"
    return f"CASE WHEN p.e_{n} IS NULL THEN {image} ELSE {shown(column, f'p.e_{n}', f'p.z_{n}')} END"


def state_values(column: ColumnSpec) -> dict[str, str]:
    """State columns after the merge, beside those of the latest write (:func:`.registers.state_values`)."""
    n = column.attnum
    return {f"e_{n}": f"p.ne_{n}", f"z_{n}": f"p.nz_{n}"}


def conflict_rows(column: ColumnSpec) -> list[str]:
    """Queries of what is recorded, for :mod:`.column_conflicts`. Of a dot set: a removal that an add survived; of
    stamps: both operations on the element or key."""
    n = column.attnum
    kind = "lost_delete" if column.crdt in DOT_SETS else "overwrite"
    head = f"{quote_literal(column.name)}, w.value ->> 0, {quote_literal(column.crdt)}, '{kind}', NULL"
    incoming = "(w.value -> 6)::boolean, p.origin, (w.value -> 1)::int8, w.value ->> 2"
    here = "(w.value -> 3)::int8, (w.value -> 4)::int8, w.value ->> 5, NULL::int8[]"
    return [f"SELECT {head}, {incoming}, {here} FROM jsonb_array_elements(p.ec_{n}) AS w"]


def any_conflict(column: ColumnSpec, row: str) -> str:
    """Whether :func:`conflict_rows` may hold anything."""
    return f"{row}.ec_{column.attnum} IS NOT NULL"
