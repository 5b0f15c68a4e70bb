"""The generated SQL, written down: a change shows in review as a change of text. ``UPDATE_GOLDEN=1`` writes it anew."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sidecar.core.catalog import ColumnSpec, TableSpec
from sidecar.core.merge import apply, capture, clean, multivalue
from sidecar.core.merge.staging import Shape, Statement, full_shape
from sidecar.core.merge.state_tables import COLUMNS_MAX, state_ddl

GOLDEN = Path(__file__).parent.parent / "golden"
TARGET_LIST_MAX = 1664


def column(name: str, attnum: int, type_name: str, crdt: str = "lww_register", *, not_null: bool = False) -> ColumnSpec:
    return ColumnSpec(name, attnum, type_name, type_name.split("(")[0], crdt, not_null=not_null)


PROFILE = TableSpec(
    1,
    "public",
    "profile",
    key=(column("id", 1, "uuid"),),
    columns=(column("name", 2, "text"), column("born", 3, "date")),
    unique=(("name",),),
    key_index="profile_pkey",
)
STOCK = TableSpec(
    2,
    "Shop's",
    'the "stock"',
    key=(column("region", 2, "character varying(3)"), column("id", 1, "bigint")),
    columns=(
        column("label", 3, "text"),
        column("amount", 4, "integer", "pn_counter", not_null=True),
        column("views", 5, "bigint", "g_counter", not_null=True),
        column("price", 7, "numeric(10,2)", "pn_counter"),
    ),
    key_index="stock_pkey",
)
BASKET = TableSpec(
    3,
    "shop",
    "basket",
    key=(column("id", 1, "bigint"),),
    columns=(
        column("note", 2, "text", "mv_register"),
        column("best", 3, "character varying(20)", "max_register"),
        column("least", 4, "integer", "min_register"),
        ColumnSpec("cart", 5, "jsonb", "jsonb", "merge", "shop.cart's"),
        column("seen", 6, "uuid[]", "g_set"),
        column("tags", 7, "text[]", "or_set"),
        column("sizes", 8, "integer[]", "aw_set"),
        column("notes", 9, "jsonb", "lww_set"),
        column("the prefs", 10, "jsonb", "lww_map"),
        column("hits", 11, "integer", "pn_counter", not_null=True),
    ),
    key_index="basket_pkey",
)


def narrow(spec: TableSpec, *names: str) -> Shape:
    return Shape(tuple(c for c in spec.columns if c.name in names), 1, full=False)


STATEMENTS: dict[str, Statement] = {
    "profile_merge": apply.merge_statement(PROFILE, full_shape(PROFILE)),
    "profile_merge_name": apply.merge_statement(PROFILE, narrow(PROFILE, "name")),
    "profile_merge_reinsert": apply.merge_statement(PROFILE, full_shape(PROFILE, reinsert=True)),
    "profile_capture": capture.capture_statement(PROFILE, full_shape(PROFILE)),
    "profile_check": clean.check_statement(PROFILE),
    "profile_lock": clean.lock_statement(PROFILE),
    "stock_merge": apply.merge_statement(STOCK, full_shape(STOCK)),
    "stock_merge_amount": apply.merge_statement(STOCK, narrow(STOCK, "amount")),
    "stock_seen": apply.seen_statement(STOCK, full_shape(STOCK)),
    "stock_restamp": clean.restamp_statement(STOCK),
    "stock_capture": capture.capture_statement(STOCK, full_shape(STOCK)),
    "stock_capture_amount": capture.capture_statement(STOCK, narrow(STOCK, "amount")),
    "stock_capture_deltas": capture.deltas_statement(STOCK, full_shape(STOCK)),
    "stock_capture_genesis": capture.genesis_statement(STOCK, full_shape(STOCK)),
    "stock_capture_seen": capture.seen_query(STOCK, full_shape(STOCK)),
    "stock_capture_base": capture.base_statement(STOCK, full_shape(STOCK)),
    "basket_merge": apply.merge_statement(BASKET, full_shape(BASKET)),
    "basket_merge_tags": apply.merge_statement(BASKET, narrow(BASKET, "tags")),
    "basket_merge_hits": apply.merge_statement(BASKET, narrow(BASKET, "hits")),
    "basket_capture": capture.capture_statement(BASKET, full_shape(BASKET)),
    "basket_capture_tags": capture.capture_statement(BASKET, narrow(BASKET, "tags")),
}


@pytest.mark.parametrize("name", STATEMENTS)
def test_generated_statements_are_as_written_down(name: str) -> None:
    statement = STATEMENTS[name]
    parameters = "".join(f"--   ${i}: {what}\n" for i, what in enumerate(statement.names, 1))
    same_as_written_down(name, f"-- Parameters:\n{parameters}{statement.sql}\n")


@pytest.mark.parametrize("spec", [PROFILE, STOCK, BASKET], ids=lambda spec: f"table_{spec.table_id}")
def test_state_tables_are_as_written_down(spec: TableSpec) -> None:
    same_as_written_down(f"table_{spec.table_id}_state", "".join(f"{statement};\n" for statement in state_ddl(spec)))


def same_as_written_down(name: str, text: str) -> None:
    path = GOLDEN / f"{name}.sql"
    if os.environ.get("UPDATE_GOLDEN") == "1":
        path.write_text(text)
    assert path.exists(), f"no golden file: UPDATE_GOLDEN=1 pytest {__file__}"
    assert text == path.read_text(), f"generated SQL changed; if that is meant: UPDATE_GOLDEN=1 pytest {__file__}"


def test_every_golden_file_belongs_to_a_statement() -> None:
    known = {*STATEMENTS, "table_1_state", "table_2_state", "table_3_state"}
    assert {path.stem for path in GOLDEN.glob("*.sql")} == known


@pytest.mark.parametrize("crdt", ["lww_register", "pn_counter", "merge", "or_set", "lww_map"])
def test_the_widest_table_fits_a_target_list(crdt: str) -> None:
    """Counted in the text: entries that the widest part of the statement adds up to."""
    kind = {"pn_counter": "numeric", "or_set": "text[]", "lww_map": "jsonb"}.get(crdt, "text")
    key = tuple(column(f"k{i}", 1000 + i, "text") for i in range(32))
    count = COLUMNS_MAX // multivalue.width(crdt)
    wide = TableSpec(3, "s", "t", key=key, columns=tuple(column(f"c{i}", i, kind, crdt) for i in range(count)))
    per_column = 7 * multivalue.width(crdt)
    assert count * per_column + len(key) + 30 <= TARGET_LIST_MAX
    sql = apply.merge_statement(wide, full_shape(wide)).sql
    plain = ("a", "h", "val", "d", "c", "sh", "sn", "sv", "old", "sx", "win", "conf", "true", "keep")
    several = ("ne", "nz", "ec", "ns", "nsib", "fd")
    entries = sum(sql.count(f" AS {prefix}_5,") + sql.count(f" AS {prefix}_5\n") for prefix in (*plain, *several))
    entries += sum(f" {name}_5" in sql for name in ("u.seen", "s.e", "s.z", "s.sib"))
    assert 0 < entries <= per_column


def test_identifiers_and_literals_are_quoted() -> None:
    for name, statement in STATEMENTS.items():
        if name.startswith("stock"):
            assert "Shop's" not in statement.sql.replace('"Shop\'s"', "").replace("'Shop''s.the", "")
        if name.startswith("basket"):
            assert "cart's" not in statement.sql.replace("'shop.cart''s'", "")
