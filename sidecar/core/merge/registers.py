"""SQL fragments of ``lww_register`` columns.

The winner is the highest ``(hlc, node)``. Hybrid clocks respect causality, so a write that supersedes always has the
higher hlc; the context is only needed to tell a supersession (no conflict) from a concurrent overwrite (a conflict).
"""

from __future__ import annotations

from sidecar.core.catalog import ColumnSpec, quote, quote_literal


def here(column: ColumnSpec, row: str = "s") -> tuple[str, str]:
    """``(hlc, node)`` of the winner in the row state ``row``, which may be missing."""
    n = column.attnum
    return f"coalesce({row}.h_{n}, {row}.row_hlc, 0)", f"coalesce({row}.n_{n}, {row}.row_node, 0::int2)"


def joined(column: ColumnSpec) -> list[str]:
    """What the lookup of row state ``s`` and user row ``t`` contributes."""
    n = column.attnum
    hlc, node = here(column)
    return [f"{hlc} AS sh_{n}", f"{node} AS sn_{n}", f"t.{quote(column.name)} AS old_{n}"]


def decided(column: ColumnSpec) -> list[str]:
    """Does the incoming write win."""
    n = column.attnum
    return [f"(j.a_{n} AND {dot_at_least(f'j.h_{n}', 'j.origin', f'j.sh_{n}', f'j.sn_{n}')}) AS win_{n}"]


def dot_at_least(hlc: str, node: str, other_hlc: str, other_node: str) -> str:
    """``(hlc, node) >= (other_hlc, other_node)``, in a form that mostly needs one comparison of integers."""
    return f"({hlc} > {other_hlc} OR {hlc} = {other_hlc} AND {node} >= {other_node})"


def kept(column: ColumnSpec, *, old: bool) -> tuple[list[str], list[str]]:
    """What the writing parts read of a decided row: flags, and values. The fewer the cheaper: each of them is written
    once and read several times. ``old``: also the value in the user row."""
    n = column.attnum
    return [f"a_{n}", f"win_{n}"], [f"h_{n}", f"val_{n}", *([f"old_{n}"] if old else [])]


def concurrent(column: ColumnSpec, row: str, hlc: str, node: str, covered: str) -> str:
    """Whether the incoming write in ``row`` had not seen the winner here, ``(hlc, node)``. ``covered`` tests a dot."""
    return f"({row}.a_{column.attnum} AND NOT {covered.format(row=row, hlc=hlc, node=node)})"


def new_value(column: ColumnSpec) -> str:
    """The column's value in a row that stays."""
    return f"CASE WHEN p.win_{column.attnum} THEN p.val_{column.attnum} ELSE t.{quote(column.name)} END"


def revived_value(column: ColumnSpec, *, carried: bool) -> str:
    """The column's value in a row that comes (back): the incoming value, or the one it had before."""
    n = column.attnum
    before = value_before(column, "p")
    return f"CASE WHEN p.win_{n} THEN p.val_{n} ELSE {before} END" if carried else before


def value_before(column: ColumnSpec, row: str) -> str:
    """The column's value in a row that comes (back) without one: that in the tombstone image. A table may have got the
    column on this node first; a row that knows nothing of it gets the column's default, as the other nodes' rows do
    when they get the column."""
    name = quote_literal(column.name)
    image = f"({row}.image ->> {name})::{column.cast_name}"
    if not column.default_sql:
        return image
    return f"CASE WHEN {row}.image ? {name} THEN {image} ELSE ({column.default_sql})::{column.cast_name} END"


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


def vector_with(vector: str, node: str, hlc: str, winner: str) -> str:
    """The further entries of a column's version vector after ``(node, hlc)`` became one of them and ``winner`` none.

    While two nodes write the column there is at most one entry, which needs no call: ``vector_add`` is a query in SQL,
    and costs more than all else that a merge does for the row.
    """
    entry = f"{node}::int8, greatest({hlc}, CASE WHEN {vector}[1] = {node} THEN {vector}[2] END)"
    one = f"cardinality({vector}) = 2 AND {vector}[1] IN ({node}, {winner})"
    return (
        f"CASE WHEN {node} <> {winner} AND {hlc} > 0 AND ({vector} IS NULL OR {one}) THEN ARRAY[{entry}]"
        f" ELSE crdt_state.vector_add({vector}, {node}, {hlc}, {winner}) END"
    )


def state_values(column: ColumnSpec, row_dot: tuple[str, str], *, exists: bool, row_may_change: bool) -> dict[str, str]:
    """New state columns after a merge, of a row state that ``exists`` as ``s`` or is new. The winner's dot is NULL
    where it is the row's own, ``row_dot`` (hlc, node), which only an insert in the batch changes (``row_may_change``).
    """
    n = column.attnum
    row_hlc, row_node = row_dot
    own = f"p.h_{n} = {row_hlc} AND p.origin = {row_node}"
    if not exists:
        # Nobody has written the column of a row without state, so what comes wins, and else the dot is genesis' own.
        ours = f"{row_hlc} = 0 AND {row_node} = 0"
        return {
            f"n_{n}": f"CASE WHEN p.win_{n} THEN CASE WHEN NOT ({own}) THEN p.origin::int2 END"
            f" WHEN NOT ({ours}) THEN 0::int2 END",
            f"h_{n}": f"CASE WHEN p.win_{n} THEN CASE WHEN NOT ({own}) THEN p.h_{n} END WHEN NOT ({ours}) THEN 0 END",
        }
    hlc, node = f"coalesce(s.h_{n}, s.row_hlc)", f"coalesce(s.n_{n}, s.row_node)"
    kept_node, kept_hlc = f"s.n_{n}", f"s.h_{n}"
    if row_may_change:
        same = f"{row_hlc} = s.row_hlc AND {row_node} = s.row_node"
        taken = f"{hlc} = {row_hlc} AND {node} = {row_node}"
        kept_node = f"CASE WHEN {same} THEN s.n_{n} WHEN NOT ({taken}) THEN {node} END"
        kept_hlc = f"CASE WHEN {same} THEN s.h_{n} WHEN NOT ({taken}) THEN {hlc} END"
    vector = (
        f"CASE WHEN p.win_{n} THEN CASE WHEN {node} <> p.origin AND {hlc} > 0"
        f" THEN {vector_with(f's.v_{n}', node, hlc, 'p.origin')} ELSE s.v_{n} END"
        f" WHEN p.a_{n} THEN {vector_with(f's.v_{n}', 'p.origin', f'p.h_{n}', node)}"
        f" ELSE s.v_{n} END"
    )
    return {
        f"n_{n}": f"CASE WHEN p.win_{n} THEN CASE WHEN NOT ({own}) THEN p.origin::int2 END ELSE {kept_node} END",
        f"h_{n}": f"CASE WHEN p.win_{n} THEN CASE WHEN NOT ({own}) THEN p.h_{n} END ELSE {kept_hlc} END",
        f"v_{n}": vector,
    }


def conflict_row(column: ColumnSpec, covered: str, image: str) -> str:
    """One row of the VALUES list from which conflicts are recorded:
    (column, rule, kind, is conflict, incoming wins, incoming hlc, incoming value, here: hlc, node, value, vector)."""
    n = column.attnum
    hlc, node = here(column)
    value = f"CASE WHEN p.present THEN t.{quote(column.name)}::text ELSE {image} ->> {quote_literal(column.name)} END"
    return (
        f"({quote_literal(column.name)}, {quote_literal(column.crdt)}, 'overwrite',"
        f" {concurrent(column, 'p', hlc, node, covered)}, p.win_{n}, p.h_{n}, p.val_{n}::text, {hlc}, {node}, {value},"
        f" s.v_{n})"
    )
