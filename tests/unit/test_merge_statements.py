"""Statements are made once per table, shape and variant, and anew when the table changed."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sidecar.core.catalog import ColumnSpec, TableSpec
from sidecar.core.changes import TableChanges
from sidecar.core.merge import shapes
from sidecar.core.merge.capture import capture_statement, deltas_statement
from sidecar.core.merge.shapes import SHAPES_PER_TABLE, Shapes, Statements
from sidecar.core.merge.staging import Shape, full_shape

ID = ColumnSpec("id", 1, "bigint", "bigint", "lww_register")
TITLE = ColumnSpec("title", 2, "text", "text", "lww_register")
LIKES = ColumnSpec("likes", 3, "bigint", "bigint", "pn_counter")
SPEC = TableSpec(1, "public", "posts", (ID,), (TITLE, LIKES))


def test_what_was_made_is_remembered() -> None:
    statements = Statements()
    narrow = Shape((LIKES,), 1, full=False)
    cases = [
        (make, shape, look)
        for make in (capture_statement, deltas_statement)
        for shape in (full_shape(SPEC), narrow, replace(narrow, plain="U"))
        for look in ({"look": True}, {"look": False})
        if make is capture_statement or look["look"]
    ]
    for make, shape, look in cases:
        variant = look if make is capture_statement else {}
        made = statements.made(make, SPEC, shape, **variant)
        assert made == make(SPEC, shape, **variant)
        assert statements.made(make, SPEC, replace(shape), **variant) is made
    assert len(statements.known) == 9


def test_a_changed_table_has_other_statements() -> None:
    statements = Statements()
    before = statements.made(capture_statement, SPEC, full_shape(SPEC))
    renamed = replace(SPEC, name="articles", columns=(replace(TITLE, crdt="max_register"), LIKES))
    assert statements.made(capture_statement, renamed, full_shape(renamed)) == capture_statement(
        renamed, full_shape(renamed)
    )
    assert statements.made(capture_statement, SPEC, full_shape(SPEC)) == before


def test_their_number_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shapes, "STATEMENTS_MAX", 3)
    statements = Statements()
    for table_id in range(10):
        spec = replace(SPEC, table_id=table_id)
        statements.made(capture_statement, spec, full_shape(spec))
        assert len(statements.known) <= 3


def changes(**others: object) -> TableChanges:
    """Two inserted rows, with both columns."""
    fields: dict[str, object] = {
        "columns": ["title", "likes"],
        "ops": b"{I,I}",
        "hlcs": b"{7,8}",
        "inserted": b"{7,8}",
        "masks": [b"{3,3}"],
        "values": [b'{"a","b"}', b"{1,2}"],
        "late": [b"", b""],
        "seen": [b"", b""],
    }
    fields |= others
    return TableChanges(schema="public", name="posts", key_columns=["id"], rows=2, keys=[b'{"1","2"}'], **fields)  # type: ignore[arg-type]


UPDATED = {"ops": b"{U,U}", "inserted": b"", "columns": ["title"], "masks": [b"{1,1}"], "values": [b'{"a","b"}']}
UPDATED |= {"late": [b""], "seen": [b""]}


@pytest.mark.parametrize(
    ("given", "full", "plain"),
    [
        ({}, True, "I"),
        ({"inserted": b"{7,6}"}, True, ""),
        ({"late": [b"{NULL,9}", b""]}, True, ""),
        ({"masks": [b"{3,1}"]}, True, ""),
        ({"masks": [b"{3,3}", b"{0,0}"]}, True, ""),
        ({"ops": b"{I,U}"}, True, ""),
        ({"ops": b"{I,R}"}, True, ""),
        ({"ops": b"{D,D}", "inserted": b""}, True, ""),
        ({"columns": ["title"], "masks": [b"{1,1}"], "late": [b""]}, True, ""),
        (UPDATED, False, "U"),
        (UPDATED | {"ops": b"{U,T}"}, False, ""),
        (UPDATED | {"ops": b"{U}"}, False, ""),
        (UPDATED | {"masks": [b"{1,0}"]}, False, ""),
        (UPDATED | {"late": [b"{5,NULL}"]}, False, ""),
        (UPDATED | {"inserted": b"{7,NULL}"}, False, ""),
    ],
)
def test_what_is_equal_in_all_rows_stands_in_the_statement(given: dict[str, object], full: bool, plain: str) -> None:
    shape = Shapes().pick(SPEC, changes(**given))
    assert (shape.full, shape.plain) == (full, plain)


def test_a_set_of_columns_is_counted_once() -> None:
    columns = tuple(ColumnSpec(f"c{i}", i, "text", "text", "lww_register") for i in range(2, SHAPES_PER_TABLE + 4))
    spec = replace(SPEC, columns=columns)
    known = Shapes()
    for column in columns[:SHAPES_PER_TABLE]:
        for masks in (b"{1,1}", b"{1,0}"):
            shape = known.pick(spec, changes(**UPDATED | {"columns": [column.name], "masks": [masks]}))
            assert not shape.full
    assert known.pick(spec, changes(**UPDATED | {"columns": [columns[-1].name]})) == full_shape(spec)
