"""Statements are made once per table, shape and variant, and anew when the table changed."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sidecar.core.catalog import ColumnSpec, TableSpec
from sidecar.core.merge import shapes
from sidecar.core.merge.capture import capture_statement, deltas_statement
from sidecar.core.merge.shapes import Statements
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
        for shape in (full_shape(SPEC), narrow)
        for look in ({"look": True}, {"look": False})
        if make is capture_statement or look["look"]
    ]
    for make, shape, look in cases:
        variant = look if make is capture_statement else {}
        made = statements.made(make, SPEC, shape, **variant)
        assert made == make(SPEC, shape, **variant)
        assert statements.made(make, SPEC, replace(shape), **variant) is made
    assert len(statements.known) == 6


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
