"""Table specifications: families of column types."""

from __future__ import annotations

from sidecar.core.annotations import COLUMN_WORDS
from sidecar.core.catalog import FAMILIES, ColumnSpec, TableSpec


def test_every_word_has_a_family() -> None:
    assert set(FAMILIES) == set(COLUMN_WORDS)


def test_a_column_is_in_one_family_and_siblings_are_registers_too() -> None:
    columns = tuple(ColumnSpec(word, n, "text", "text", word) for n, word in enumerate(FAMILIES, 2))
    table = TableSpec(1, "public", "t", (ColumnSpec("id", 1, "int", "integer"),), columns)
    assert {c.crdt for c in table.registers} == {"lww_register", "mv_register", "max_register", "min_register", "merge"}
    assert set(table.siblings) == set(table.registers) - {columns[0]}
    assert sorted(c.attnum for c in (*table.registers, *table.counters, *table.elements)) == [c.attnum for c in columns]
    assert [c for c in columns if c.is_counter] == list(table.counters)
    assert [c for c in columns if c.is_element] == list(table.elements)
