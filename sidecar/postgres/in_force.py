"""What is in force for attached tables: pure comparisons of the records with the schema as it stands."""

from __future__ import annotations

from dataclasses import replace

from sidecar.core.catalog import ColumnSpec, TableSpec
from sidecar.core.former_names import remembered
from sidecar.postgres.catalogue import Catalogue
from sidecar.postgres.facts import AttachedColumn, AttachedTable, Facts, Relation
from sidecar.postgres.problem import Problem
from sidecar.postgres.schema_check import column_spec, generated_columns, key_index, unique_columns


def needs_empty_state(wanted: TableSpec, table: AttachedTable, recorded: list[AttachedColumn]) -> list[Problem]:
    """Changes that existing state cannot follow, as the problems they are while there is state."""
    problems = []
    by_attnum = {column.attnum: column for column in recorded}
    key = [c.attnum for c in sorted(recorded, key=lambda c: c.key_position) if c.key_position]
    if key != [c.attnum for c in wanted.key]:
        problems.append(
            Problem(
                "error",
                "its primary key was changed, but rows have state under the old one, which stays in force",
                "put the old key back, or replicate a new table and copy the rows",
                wanted.qualified,
            )
        )
    if wanted.row_rule != table.row_rule:
        problems.append(
            Problem(
                "error",
                f"row={wanted.row_rule} is asked for, but rows have state of row={table.row_rule}, which holds",
                f"put @crdt(row={table.row_rule}) back, or replicate a new table and copy the rows",
                wanted.qualified,
            )
        )
    for column in wanted.columns:
        old = by_attnum.get(column.attnum)
        if old is None:
            continue
        if (old.crdt, old.argument) != (column.crdt, column.argument):
            had, asked = _word(old), _word(column)
            problems.append(
                Problem(
                    "error",
                    f"{asked} is asked for, but rows have state of {had}, which stays in force",
                    f"put @crdt({had}) back, or add a new column with @crdt({asked}) and copy the values",
                    wanted.qualified,
                    column.name,
                )
            )
        elif column.is_element and "jsonb" in (old.type_name, column.type_name) and old.type_name != column.type_name:
            problems.append(
                Problem(
                    "error",
                    f"its type was changed to {column.type_name}, but rows have state of elements in"
                    f" the text of {old.type_name}, which merges will not read",
                    "change the type back, and add a new column for the new one",
                    wanted.qualified,
                    column.name,
                )
            )
    return problems


def _word(column: ColumnSpec | AttachedColumn) -> str:
    return f"{column.crdt}({column.argument})" if column.argument else column.crdt


def keeping(wanted: TableSpec, in_force: TableSpec, recorded: list[AttachedColumn]) -> TableSpec:
    """``wanted`` with key, row rule and CRDT types as in force; new columns as wanted."""
    key = {column.attnum for column in in_force.key}
    known = {column.attnum for column in recorded}
    new = [column for column in wanted.columns if column.attnum not in known and column.attnum not in key]
    columns = sorted([*in_force.columns, *new], key=lambda column: column.attnum)
    return replace(wanted, key=in_force.key, columns=tuple(columns), row_rule=in_force.row_rule)


def recorded_as(spec: TableSpec, table: AttachedTable, recorded: list[AttachedColumn]) -> bool:
    """Whether the records say exactly this spec."""
    if (table.schema, table.name, table.row_rule) != (spec.schema, spec.name, spec.row_rule):
        return False
    have = {(c.attnum, c.name, c.type_name, c.crdt, c.argument, c.key_position) for c in recorded}
    want = {(c.attnum, c.name, c.type_name, c.crdt, c.argument, i) for i, c in enumerate(spec.key, start=1)}
    want |= {(c.attnum, c.name, c.type_name, c.crdt, c.argument, 0) for c in spec.columns}
    return have == want


def spec_in_force(
    facts: Facts, relation: Relation, table: AttachedTable, recorded: list[AttachedColumn]
) -> TableSpec | None:
    """Names and types as they are now, CRDT types and key as recorded. ``None`` when a key column is gone."""
    present = {column.attnum: column for column in facts.columns.get(relation.oid, [])}
    key = sorted((c for c in recorded if c.key_position), key=lambda c: c.key_position)
    if not key or any(column.attnum not in present for column in key):
        return None
    return TableSpec(
        table_id=table.table_id,
        schema=relation.schema,
        name=relation.name,
        key=tuple(_known(column_spec(present[c.attnum]), c) for c in key),
        columns=tuple(
            _known(column_spec(present[c.attnum], c.crdt, c.argument), c)
            for c in recorded
            if not c.key_position and c.attnum in present and not present[c.attnum].generated
        ),
        row_rule=table.row_rule,
        unique=unique_columns(facts, relation.oid),
        relation_oid=relation.oid,
        key_index=key_index(facts, relation.oid),
        referenced=relation.is_referenced,
        generated=generated_columns(facts, relation.oid),
    )


def _known(column: ColumnSpec, recorded: AttachedColumn) -> ColumnSpec:
    """With the names that the column had before."""
    return replace(column, former=former_names(column, recorded))


def former_names(column: ColumnSpec, recorded: AttachedColumn) -> tuple[str, ...]:
    """What a recorded column was called before its present name."""
    if column.name == recorded.name:
        return tuple(recorded.former_names)
    return remembered(recorded.former_names, recorded.name)


def tables_in_force(catalogue: Catalogue, problems: list[Problem]) -> tuple[TableSpec, ...]:
    """The specs of every attached table that is still there."""
    facts = catalogue.facts
    relations = {relation.oid: relation for relation in facts.relations}
    specs = []
    for table in facts.attached:
        relation = relations.get(table.relation)
        if relation is None:
            continue
        spec = spec_in_force(facts, relation, table, facts.attached_columns.get(table.table_id, []))
        if spec is None:
            problems.append(Problem("error", "a column of its key in force is gone", "put it back", table.qualified))
        else:
            specs.append(spec)
    return tuple(specs)
