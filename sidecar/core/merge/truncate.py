"""The statements of a TRUNCATE, which deletes the rows that its node saw.

The stream names no rows, and when capture comes to it they are gone. Two halves make up the whole:

- every key with a living row state at the origin travels as an ordinary DELETE (:func:`seen_rows`);
- genesis rows that nobody has written have no row state. The operation ``Z`` stands for them: each node deletes those
  that nobody has written there either (:mod:`.genesis`).

What genesis held in counters, and in sets and maps with stamps, counts nowhere from then on
(:func:`genesis_counters_statement`, :func:`genesis_elements_statement`), because the origin does not know it any more:
an insert over a deleted row puts behind it the sums, and names the stamped elements, that it has seen.
"""

from __future__ import annotations

from collections.abc import Sequence

from sidecar.core.arrays import number_array, text_array
from sidecar.core.catalog import ColumnSpec, TableSpec, quote, quote_literal
from sidecar.core.changes import DELETE, MASK_BITS, TRUNCATE, LocalChanges, TableChanges
from sidecar.core.counters import finite
from sidecar.core.elements import RULES
from sidecar.core.merge.liveness import alive_here, rule_of
from sidecar.core.merge.overtaken import overtook
from sidecar.core.merge.state_tables import counter_table, key_match, qualified_user_table, row_table

CHUNK_ROWS = 10_000
"""Rows that are deleted by one statement; as many as a part has by default."""


def stamped(spec: TableSpec) -> tuple[ColumnSpec, ...]:
    """The sets and maps whose elements have stamps."""
    return tuple(c for c in spec.elements if RULES[c.crdt].stamps)


def note_statement(spec: TableSpec) -> str:
    """Writes down that genesis rows were deleted; ``$1`` node, ``$2`` hlc."""
    return (
        f"INSERT INTO crdt_state.truncation AS e (table_id, node, hlc) VALUES ({spec.table_id}, $1, $2)"
        " ON CONFLICT (table_id, node) DO UPDATE SET hlc = greatest(e.hlc, excluded.hlc)"
    )


def _on_user(spec: TableSpec) -> str:
    return " AND ".join(f"t.{quote(c.name)} = s.k_{c.attnum}" for c in spec.key)


def _written(spec: TableSpec, column: ColumnSpec) -> str:
    """What all nodes have added to a counter of the row with state ``s``: without genesis."""
    keys = " AND ".join(f"c.k_{k.attnum} = s.k_{k.attnum}" for k in spec.key)
    return (
        "(SELECT coalesce(sum(c.increased - c.base_increased - c.decreased + c.base_decreased), 0)"
        f" FROM {counter_table(spec)} AS c WHERE {keys} AND c.attnum = {column.attnum} AND c.node <> 0)"
    )


def _shown(spec: TableSpec, column: ColumnSpec) -> str:
    value = f"SELECT t.{quote(column.name)} FROM {qualified_user_table(spec)} AS t WHERE {_on_user(spec)}"
    return f"coalesce(({value}), 0)"


def _texts(items: list[str]) -> str:
    return f"ARRAY[{', '.join(items)}]::text[]"


def seen_rows(spec: TableSpec, xid: int) -> str:
    """At the origin: the rows that the TRUNCATE with this xid saw, as ``key`` and ``old`` (what the counters showed
    beyond genesis). What was merged between it and its capture it had not seen (:mod:`.overtaken`)."""
    keys = _texts([f"s.k_{c.attnum}::text" for c in spec.key])
    old = _texts([f"({_written(spec, c)} - coalesce(s.x_{c.attnum}, 0))::text" for c in spec.counters])
    seen = f"{alive_here(spec, 's')} AND NOT {overtook('s', quote_literal(str(xid)) + '::xid')}"
    return f"SELECT {keys} AS key, {old} AS old FROM {row_table(spec)} AS s WHERE {seen}"


def adopt_statement(spec: TableSpec) -> str:
    """At a receiver: gives each user row without state one. They are all of genesis, because capture has passed and
    nobody may write the table."""
    values = {f"k_{c.attnum}": f"t.{quote(c.name)}" for c in spec.key}
    values |= dict.fromkeys(("row_node", "row_hlc", "live_node", "live_hlc"), "0")
    values["row_xmin"] = "t.xmin"
    if rule_of(spec) is not None:
        values["alive"] = "true"
    return (
        f"INSERT INTO {row_table(spec)} ({', '.join(values)})\nSELECT {', '.join(values.values())}"
        f" FROM ONLY {qualified_user_table(spec)} AS t"
        f" WHERE NOT EXISTS (SELECT FROM {row_table(spec)} AS s WHERE {_on_user(spec)})"
    )


def genesis_counters_statement(spec: TableSpec, *, shown: bool) -> str:
    """What genesis held in counters counts no more. ``shown``: at a receiver, where rows may still be there; the merge
    that follows brings them to their true values, or deletes them. At the origin all are dead, and what stands in the
    user's table has come later."""
    sets = ", ".join(
        f"x_{c.attnum} = nullif({_written(spec, c)}{f' - {_shown(spec, c)}' if shown else ''}, 0)"
        for c in spec.counters
    )
    return f"UPDATE {row_table(spec)} AS s SET {sets} WHERE s.row_node = 0"


def genesis_elements_statement(spec: TableSpec) -> str:
    """What genesis held in sets and maps with stamps is in them no more; rows that stay are shown without it by the
    merge that follows."""
    sets = ", ".join(f"e_{c.attnum} = crdt_state.stamps_written(s.e_{c.attnum})" for c in stamped(spec))
    return f"UPDATE {row_table(spec)} AS s SET {sets} WHERE s.row_node = 0"


def genesis_rows(spec: TableSpec) -> str:
    """At a receiver: the rows to delete, as ``key`` and ``old`` (operation, xmin of the user row). With counters, and
    sets and maps with stamps, also those that stay, to be shown without what genesis held."""
    written = f"s.{'row_node <> 0' if spec.row_rule == 'remove_wins' else 'live_hlc > 0'}"
    _, on_user = key_match(spec, "s")
    keys = _texts([f"s.k_{c.attnum}::text" for c in spec.key])
    old = _texts([f"CASE WHEN {written} THEN 'T' ELSE 'D' END", "t.xmin::text"])
    wanted = "s.row_node = 0" if spec.counters or stamped(spec) else f"NOT {written}"
    return (
        f"SELECT {keys} AS key, {old} AS old FROM {row_table(spec)} AS s"
        f" LEFT JOIN {qualified_user_table(spec)} AS t ON {on_user} WHERE {alive_here(spec, 's')} AND {wanted}"
        f" ORDER BY {', '.join(f's.k_{c.attnum}' for c in spec.key)}"
    )


def cursor_name(spec: TableSpec) -> str:
    """Of the cursor that goes through the rows, within one transaction."""
    return f"truncated_{spec.table_id}"


def declare_cursor(spec: TableSpec, query: str) -> str:
    """Sees the rows as they are now, whatever the statements between two fetches do."""
    return f"DECLARE {cursor_name(spec)} NO SCROLL CURSOR FOR {query}"


def lock_statement(spec: TableSpec) -> str:
    """Waits for those who write the table, and keeps others from it until commit; readers go on."""
    return f"LOCK TABLE ONLY {qualified_user_table(spec)} IN SHARE ROW EXCLUSIVE MODE"


def deletes(
    spec: TableSpec, keys: list[list[str]], hlc: int, ops: Sequence[str] = (), *, shown: Sequence[ColumnSpec] = ()
) -> TableChanges:
    """DELETE rows (``ops``: or others) with these keys (text images). Counters are named as written, by nothing: so
    their looks of genesis are not kept. ``shown``: columns that are named and not written, so that TOUCH brings them to
    what their state says."""
    rows, names = len(keys), [c.name for c in (*spec.counters, *shown)]
    words = max(1, -(-len(names) // MASK_BITS))
    written = len(spec.counters)
    masks = [number_array([(1 << max(0, min(MASK_BITS, written - w * MASK_BITS))) - 1] * rows) for w in range(words)]
    return TableChanges(
        schema=spec.schema,
        name=spec.name,
        key_columns=[c.name for c in spec.key],
        columns=names,
        rows=rows,
        ops=b"{" + b",".join([op.encode() for op in ops] or [DELETE] * rows) + b"}",
        hlcs=number_array([hlc] * rows),
        inserted=b"",
        masks=masks,
        keys=[text_array([key[i].encode() for key in keys]) for i in range(len(spec.key))],
        values=[b""] * len(names),
        late=[b""] * len(names),
        seen=[b""] * len(names),
    )


def genesis_delete(spec: TableSpec, hlc: int) -> TableChanges:
    """The operation ``Z`` by itself, as it travels."""
    return TableChanges(
        schema=spec.schema,
        name=spec.name,
        key_columns=[c.name for c in spec.key],
        columns=[],
        rows=1,
        ops=b"{" + TRUNCATE + b"}",
        hlcs=number_array([hlc]),
        inserted=b"",
        masks=[],
        keys=[text_array([b""]) for _ in spec.key],
        values=[],
        late=[],
        seen=[],
    )


GENESIS_HLC = 0
"""Of the deletes that ``Z`` stands for: below every write."""


def seen_deletes(spec: TableSpec, rows: list[tuple[list[str], list[str]]], hlc: int) -> LocalChanges:
    """The rows of :func:`seen_rows` as local deletes without images: their values are lost here."""
    changes = deletes(spec, [key for key, _ in rows], hlc)
    olds = [text_array([finite(old[i].encode()) for _, old in rows]) for i in range(len(changes.columns))]
    return LocalChanges(
        table_id=spec.table_id,
        changes=changes,
        xids=b"",
        images=b"",
        old_images=olds,
        undone=[b""] * len(olds),
        shipped=changes,
    )
