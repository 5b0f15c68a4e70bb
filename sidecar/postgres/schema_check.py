"""Which tables can be replicated as annotated, and what is worth knowing about them. Pure: facts in, findings out."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field

from sidecar.core.annotations import (
    ColumnAnnotation,
    TableAnnotation,
    check_column,
    parse_column_comment,
    parse_table_comment,
)
from sidecar.core.catalog import ColumnSpec, TableSpec, quote, quote_table
from sidecar.core.merge.multivalue import width
from sidecar.core.merge.state_tables import COLUMNS_MAX
from sidecar.errors import AnnotationError, SchemaError
from sidecar.postgres import type_check
from sidecar.postgres.facts import Column, Facts, MergeFunction, Relation
from sidecar.postgres.problem import Problem, Severity

RESERVED_SCHEMAS = ("crdt", "crdt_state")

_KINDS: dict[str, tuple[str, str]] = {
    "p": ("is partitioned, which is not supported yet", "use a plain table"),
    "v": ("is a view", "annotate the tables it reads"),
    "m": ("is a materialized view", "annotate the tables it reads"),
    "f": ("is a foreign table", "attach the sidecar to the server that holds the rows"),
}
_PERSISTENCE: dict[str, tuple[str, str]] = {
    "u": ("is unlogged, so its changes never reach the WAL", "ALTER TABLE {table} SET LOGGED"),
    "t": ("is temporary", "use a permanent table"),
}


@dataclass
class Review:
    """One relation under review; findings collect in ``problems``."""

    facts: Facts
    relation: Relation
    problems: list[Problem] = field(default_factory=list)
    table: TableAnnotation | None = None
    annotations: dict[int, ColumnAnnotation] = field(default_factory=dict)

    @property
    def sql_name(self) -> str:
        return quote_table(self.relation.schema, self.relation.name)

    @property
    def columns(self) -> list[Column]:
        return self.facts.columns.get(self.relation.oid, [])

    @property
    def key(self) -> list[Column]:
        return sorted((c for c in self.columns if c.key_position), key=lambda c: c.key_position)

    def add(self, severity: Severity, message: str, mend: str = "", column: str = "") -> None:
        self.problems.append(Problem(severity, message, mend, self.relation.qualified, column))

    @property
    def refused(self) -> bool:
        return any(problem.severity == "error" for problem in self.problems)


def review(facts: Facts, relation: Relation, table_id: int = 0) -> tuple[TableSpec | None, list[Problem], bool]:
    """The table's spec (``None`` when refused or not annotated), the findings, and whether it carries ``@crdt``."""
    under = Review(facts, relation)
    annotated = _read_annotations(under)
    if not annotated:
        return None, [], False
    if relation.schema in RESERVED_SCHEMAS:
        under.add("error", f"lies in the sidecar's own schema {relation.schema}", "move it to another schema")
        return None, under.problems, True
    if relation.kind != "r":
        under.add("error", *_KINDS.get(relation.kind, ("is not a table", "annotate a table")))
        return None, under.problems, True
    for check in _CHECKS:
        check(under)
    return (None if under.refused else _spec(under, table_id)), under.problems, True


def _read_annotations(under: Review) -> bool:
    found = False
    try:
        under.table = parse_table_comment(under.relation.comment)
        found = under.table is not None
    except AnnotationError as error:
        found = True
        under.add("error", f"{error.message} (at character {error.position + 1} of the table's comment)", error.mend)
    for column in under.columns:
        try:
            annotation = parse_column_comment(column.comment)
        except AnnotationError as error:
            found = True
            place = f"(at character {error.position + 1} of the column's comment)"
            under.add("error", f"{error.message} {place}", error.mend, column.name)
            continue
        if annotation is not None:
            found = True
            under.annotations[column.attnum] = annotation
    return found


def _check_storage(under: Review) -> None:
    relation = under.relation
    if relation.persistence in _PERSISTENCE:
        message, mend = _PERSISTENCE[relation.persistence]
        under.add("error", message, mend.format(table=under.sql_name))
    if relation.is_partition:
        under.add("error", "is a partition, which is not supported yet", "use a plain table")
    elif relation.inherits:
        under.add("error", "takes part in table inheritance", f"ALTER TABLE ... NO INHERIT, around {under.sql_name}")


def _check_width(under: Review) -> None:
    replicated = [c for c in under.columns if c.key_position == 0 and not c.generated]
    words = [under.annotations.get(c.attnum, ColumnAnnotation()).word for c in replicated]
    counted = sum(map(width, words))
    if counted <= COLUMNS_MAX:
        return
    twice = f" ({counted - len(words)} of them keep several writes and count twice)" if counted > len(words) else ""
    under.add(
        "error",
        f"has {len(words)} columns outside its primary key{twice}; at most {COLUMNS_MAX} can be replicated",
        "split the table, or keep the rest in a jsonb column",
    )


def _check_privileges(under: Review) -> None:
    relation, role = under.relation, under.facts.role
    if not relation.is_owner:
        under.add(
            "error",
            f"belongs to role {relation.owner!r}; role {role.name!r} may not publish it",
            f"GRANT {quote(relation.owner)} TO {quote(role.name)}, or make {role.name} the owner",
        )
    if not relation.may_use_schema:
        under.add(
            "error",
            f"role {role.name!r} may not use schema {relation.schema!r}",
            f"GRANT USAGE ON SCHEMA {quote(relation.schema)} TO {quote(role.name)}",
        )
    if relation.forces_row_security and not (role.is_superuser or role.bypasses_row_security):
        under.add(
            "error",
            f"forces row security, so role {role.name!r} would not see all rows",
            f"ALTER ROLE {quote(role.name)} BYPASSRLS",
        )


def _check_key(under: Review) -> None:
    if not under.key:
        under.add("error", "has no primary key", f"ALTER TABLE {under.sql_name} ADD PRIMARY KEY (...)")
    for index in under.facts.indexes.get(under.relation.oid, []):
        if index.is_primary and not index.immediate:
            under.add(
                "error",
                f"primary key {index.name} is deferrable, so it cannot decide an upsert",
                "make the primary key again without DEFERRABLE",
            )


def _check_key_types(under: Review) -> None:
    for column in under.key:
        for severity, message, mend in type_check.of_key(column, under.sql_name):
            under.add(severity, message, mend, column.name)


def _check_numbering(under: Review) -> None:
    for column in under.columns:
        if column.identity == "a":
            under.add(
                "error",
                "is GENERATED ALWAYS AS IDENTITY, so a value from another node cannot be stored",
                f"ALTER TABLE {under.sql_name} ALTER COLUMN {quote(column.name)} SET GENERATED BY DEFAULT",
                column.name,
            )
        if column.increment is None:
            continue
        if not column.key_position:
            under.add("advice", "is numbered by a sequence: two nodes will give out equal numbers", "", column.name)
        elif abs(column.increment) > 1:
            under.add(
                "advice",
                f"is numbered by a sequence with INCREMENT BY {column.increment}",
                "give every node's sequence another START below the increment",
                column.name,
            )
        else:
            alone = len(under.key) == 1
            under.add(
                "error" if alone else "warning",
                "is a key numbered by a sequence: two nodes will give the same key to different rows"
                + ("" if alone else ", unless another key column tells the nodes apart"),
                "use a uuid with DEFAULT crdt.uuidv7(), or ALTER SEQUENCE ... INCREMENT BY <nodes> with another START "
                "on every node",
                column.name,
            )


def _check_columns(under: Review) -> None:
    for column in under.columns:
        annotation = under.annotations.get(column.attnum)
        if column.generated:
            if annotation is not None:
                under.add("error", "is generated, so it cannot be merged", "take @crdt out of its comment", column.name)
            elif column.virtual:
                under.add(
                    "error",
                    "is a virtual generated column: with REPLICA IDENTITY FULL the server would refuse any UPDATE",
                    "make it STORED, or put it into a view",
                    column.name,
                )
            else:
                under.add("advice", "is generated: every node computes it by itself", "", column.name)
            continue
        word = annotation or ColumnAnnotation()
        try:
            check_column(word, column.base_type, column=column.name, is_key=column.key_position > 0)
        except SchemaError as error:
            under.add("error", error.message, error.mend, column.name)
            continue
        for severity, message, mend in type_check.of_word(column, word.word):
            under.add(severity, message, mend, column.name)
        if word.word == "merge":
            _check_merge_function(under, column, word.argument or "")
        if word.word in ("pn_counter", "g_counter") and not column.not_null:
            under.add(
                "advice", "is a counter that may be NULL: NULL counts as 0", "SET NOT NULL DEFAULT 0", column.name
            )


_IDENTIFIER = r'(?:"(?:[^"]|"")+"|[^\W\d][\w$]*)'
_FUNCTION_NAME = re.compile(rf"\s*(?:(?P<schema>{_IDENTIFIER})\s*\.)?\s*(?P<name>{_IDENTIFIER})\s*")


def _identifier(text: str) -> str:
    """As PostgreSQL reads it: quoted as it stands, else in lower case."""
    return text[1:-1].replace('""', '"') if text.startswith('"') else text.lower()


def _check_merge_function(under: Review, column: Column, argument: str) -> None:
    """A function that is not there is no refusal, it may come later: until then the highest write is shown."""
    found = _FUNCTION_NAME.fullmatch(argument)
    if found is None:
        message, mend = f"has the merge function {argument!r}, which is not a name", "write merge(schema.function)"
    else:
        schema = found["schema"]
        home = _identifier(schema) if schema else under.relation.schema
        function = MergeFunction(home, _identifier(found["name"]), column.type_oid)
        if function in under.facts.merge_functions:
            return
        kind = re.sub(r"\(.*?\)", "", column.type_name)
        name = quote_table(function.schema, function.name)
        message, mend = f"is merged by {name}, which is not there", f"create {name}({kind}, {kind}) RETURNS {kind}"
    under.add("warning", f"{message}; until then it shows what an mv_register would", mend, column.name)


def _check_surroundings(under: Review) -> None:
    oid = under.relation.oid
    for index in under.facts.indexes.get(oid, []):
        if index.is_exclusion:
            under.add(
                "warning",
                f"exclusion constraint {index.name} holds on each node alone: concurrent writes on two nodes can clash",
                "drop it, or write its rows on one node only",
            )
        elif not index.is_primary:
            columns = ", ".join(index.columns or [])
            under.add(
                "warning",
                f"unique index {index.name} ({columns}): concurrent writes on two nodes can clash",
                "each node quarantines the other's row until somebody decides; use values that differ between nodes",
            )
    for foreign_key in under.facts.foreign_keys.get(oid, []):
        under.add("advice", f"foreign key {foreign_key.name} to {foreign_key.referenced} is not checked when merging")
    for trigger in under.facts.triggers.get(oid, []):
        if trigger.enabled == "O":
            under.add("advice", f"trigger {trigger.name} does not fire when merging")
        elif trigger.enabled in "AR":
            mode = "ALWAYS" if trigger.enabled == "A" else "REPLICA"
            under.add(
                "warning",
                f"trigger {trigger.name} fires when merging (ENABLE {mode})",
                "what it writes is not captured; make it a plain trigger if that is not meant",
            )


_CHECKS: tuple[Callable[[Review], None], ...] = (
    _check_storage,
    _check_width,
    _check_privileges,
    _check_key,
    _check_key_types,
    _check_numbering,
    _check_columns,
    _check_surroundings,
)


def column_spec(column: Column, crdt: str = "lww_register", argument: str | None = None) -> ColumnSpec:
    """A column as it is now, with the CRDT type given."""
    return ColumnSpec(
        name=column.name,
        attnum=column.attnum,
        type_name=column.type_name,
        base_type=column.base_type,
        crdt=crdt,
        argument=argument,
        not_null=column.not_null,
        checked=column.checked,
        default_sql=column.default_sql or "",
    )


def unique_columns(facts: Facts, oid: int) -> tuple[tuple[str, ...], ...]:
    """The column sets of the secondary unique indexes."""
    indexes = (i for i in facts.indexes.get(oid, []) if not i.is_primary and not i.is_exclusion)
    return tuple(dict.fromkeys(tuple(i.columns) for i in indexes if i.columns))


def key_index(facts: Facts, oid: int) -> str:
    """The name of the primary key's index, empty without one."""
    return next((index.name for index in facts.indexes.get(oid, []) if index.is_primary), "")


def generated_columns(facts: Facts, oid: int) -> tuple[str, ...]:
    """Those that the server computes; it may publish them all the same."""
    return tuple(column.name for column in facts.columns.get(oid, []) if column.generated)


def _spec(under: Review, table_id: int) -> TableSpec:
    columns = []
    for column in under.columns:
        if not column.key_position and not column.generated:
            annotation = under.annotations.get(column.attnum, ColumnAnnotation())
            columns.append(column_spec(column, annotation.word, annotation.argument))
    return TableSpec(
        table_id=table_id,
        schema=under.relation.schema,
        name=under.relation.name,
        key=tuple(column_spec(column) for column in under.key),
        columns=tuple(columns),
        row_rule=(under.table or TableAnnotation()).row_rule,
        unique=unique_columns(under.facts, under.relation.oid),
        relation_oid=under.relation.oid,
        key_index=key_index(under.facts, under.relation.oid),
        referenced=under.relation.is_referenced,
        generated=generated_columns(under.facts, under.relation.oid),
    )
