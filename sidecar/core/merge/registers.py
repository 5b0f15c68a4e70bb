"""SQL fragments of ``lww_register`` columns.

The winner is the highest ``(hlc, node)``. Hybrid clocks respect causality, so a write that supersedes always has the
higher hlc; the context is only needed to tell a supersession (no conflict) from a concurrent overwrite (a conflict).
"""

from __future__ import annotations

from sidecar.core.catalog import ColumnSpec, quote, quote_literal


def joined(column: ColumnSpec) -> list[str]:
    """What the join of staged row ``g``, row state ``s`` and user row ``t`` contributes."""
    n = column.attnum
    return [
        f"coalesce(s.h_{n}, s.row_hlc, 0) AS sh_{n}",
        f"coalesce(s.n_{n}, s.row_node, 0::int2) AS sn_{n}",
        f"t.{quote(column.name)} AS old_{n}",
    ]


def decided(column: ColumnSpec) -> list[str]:
    """Does the incoming write win."""
    n = column.attnum
    return [f"(j.a_{n} AND (j.h_{n}, j.origin) >= (j.sh_{n}, j.sn_{n}::int8)) AS win_{n}"]


def concurrent(column: ColumnSpec, covered: str) -> str:
    """Whether the incoming write had not seen the winner here. ``covered`` tests a dot of the state."""
    n = column.attnum
    return f"(p.a_{n} AND NOT {covered.format(hlc=f'p.sh_{n}', node=f'p.sn_{n}')})"


def new_value(column: ColumnSpec) -> str:
    """The column's value in a row that stays."""
    return f"CASE WHEN p.win_{column.attnum} THEN p.val_{column.attnum} ELSE t.{quote(column.name)} END"


def revived_value(column: ColumnSpec, *, carried: bool) -> str:
    """The column's value in a row that comes (back): the incoming value, or the one in the tombstone image."""
    n = column.attnum
    image = f"(p.image ->> {quote_literal(column.name)})::{column.type_name}"
    return f"CASE WHEN p.win_{n} THEN p.val_{n} ELSE {image} END" if carried else image


def reinserted_value(column: ColumnSpec) -> str:
    """The column's value in a row that is taken out and put back, to let unique values swap."""
    n = column.attnum
    return f"CASE WHEN p.win_{n} THEN p.val_{n} ELSE p.old_{n} END"


def image_entry(column: ColumnSpec, row: str) -> str:
    """``'name', text image`` for a tombstone made from the user row and the incoming write."""
    n = column.attnum
    return (
        f"{quote_literal(column.name)}, CASE WHEN {row}.win_{n} THEN {row}.val_{n}::text ELSE {row}.old_{n}::text END"
    )


def image_patch(column: ColumnSpec, row: str) -> str:
    """The change of an existing tombstone image."""
    n = column.attnum
    patch = f"jsonb_build_object({quote_literal(column.name)}, {row}.val_{n}::text)"
    return f"CASE WHEN {row}.win_{n} THEN {patch} ELSE '{{}}'::jsonb END"


def state_values(column: ColumnSpec, *, exists: bool) -> dict[str, str]:
    """New state columns after a merge, of a row state that ``exists`` as ``s`` or is new. The winner's dot is NULL
    where it is the row's own (``rv_*``)."""
    n = column.attnum
    node = f"(CASE WHEN p.win_{n} THEN p.origin ELSE p.sn_{n} END)"
    hlc = f"(CASE WHEN p.win_{n} THEN p.h_{n} ELSE p.sh_{n} END)"
    same = f"({hlc} = p.rv_hlc AND {node} = p.rv_node)"
    before = f"s.v_{n}" if exists else "NULL::int8[]"
    vector = (
        f"CASE WHEN p.win_{n} AND p.sn_{n} <> p.origin AND p.sh_{n} > 0"
        f" THEN crdt_state.vector_add({before}, p.sn_{n}, p.sh_{n}, p.origin)"
        f" WHEN p.a_{n} AND NOT p.win_{n}"
        f" THEN crdt_state.vector_add({before}, p.origin, p.h_{n}, p.sn_{n})"
        f" ELSE {before} END"
    )
    return {
        f"n_{n}": f"CASE WHEN {same} THEN NULL ELSE {node} END::int2",
        f"h_{n}": f"CASE WHEN {same} THEN NULL ELSE {hlc} END",
        f"v_{n}": vector,
    }


def conflict_row(column: ColumnSpec, covered: str) -> str:
    """One row of the VALUES list from which conflicts are recorded:
    (column, rule, is conflict, incoming wins, incoming hlc, incoming value, here: hlc, node, value)."""
    n = column.attnum
    here = f"CASE WHEN p.present THEN p.old_{n}::text ELSE p.image ->> {quote_literal(column.name)} END"
    return (
        f"({quote_literal(column.name)}, {quote_literal(column.crdt)}, {concurrent(column, covered)}, "
        f"p.win_{n}, p.h_{n}, p.val_{n}::text, p.sh_{n}, p.sn_{n}, {here})"
    )
