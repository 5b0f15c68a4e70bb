"""What a join says of tables that differ, before it writes anything."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sidecar.core.catalog import ColumnSpec, TableSpec
from sidecar.errors import ConfigurationError
from sidecar.node.join import COLUMNS_MAX, compare
from sidecar.postgres.join_copy import PAGES_STATES, PAGES_STRAIGHT, pieces

KEY = ColumnSpec("id", 1, "bigint", "bigint")
STOCK = ColumnSpec("stock", 2, "bigint", "bigint", "pn_counter")
GOODS = TableSpec(1, "public", "goods", (KEY,), (STOCK,))


def test_equal_tables_are_paired_whatever_their_column_numbers() -> None:
    here = replace(GOODS, table_id=7, columns=(replace(STOCK, attnum=9),))
    assert compare({"public.goods": GOODS}, {"public.goods": here, "public.more": GOODS}) == [(GOODS, here)]


@pytest.mark.parametrize(
    ("here", "said"),
    [
        (None, "table public.goods is not replicated here"),
        (replace(GOODS, row_rule="add_wins"), "row=lww there, row=add_wins here"),
        (replace(GOODS, columns=()), "column stock is bigint pn_counter there, missing here"),
        (replace(GOODS, columns=(replace(STOCK, crdt="g_counter"),)), "bigint pn_counter there, bigint g_counter here"),
    ],
)
def test_every_difference_is_named(here: TableSpec | None, said: str) -> None:
    with pytest.raises(ConfigurationError) as error:
        compare({"public.goods": GOODS}, {} if here is None else {"public.goods": here})
    assert said in error.value.message


def test_a_table_that_is_too_wide_is_refused() -> None:
    wide = replace(GOODS, columns=tuple(replace(STOCK, name=f"c{i}", attnum=i) for i in range(2, COLUMNS_MAX + 3)))
    with pytest.raises(ConfigurationError, match="more than 100 columns"):
        compare({"public.goods": wide}, {"public.goods": wide})


@pytest.mark.parametrize("empty", [True, False])
@pytest.mark.parametrize("pages", [(0, 0, 0), (1, 1, 1), (PAGES_STRAIGHT * 2 + 1, PAGES_STATES * 3, 7)])
def test_pieces_cover_every_page_once(pages: tuple[int, int, int], empty: bool) -> None:
    """Into an empty table once as they are, and once the rest of them; else once by a merge, which brings counters."""
    found = list(pieces(GOODS, GOODS, pages, empty=empty))
    for straight in (True, False):
        for of, end in zip(("rows", "gone", "counters"), pages, strict=True):
            part = [piece for piece in found if piece.straight == straight and piece.of == of]
            covered = [page for piece in part for page in range(piece.first, min(piece.last, end))]
            wanted = empty if straight else of != "counters"
            assert covered == (list(range(end)) if wanted else []), (straight, of)
    assert all(piece.rest == empty for piece in found if not piece.straight)
