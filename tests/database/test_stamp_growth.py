"""What elements of ``lww_set`` and ``lww_map`` cost after they were removed: their stamps stay."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hand_merge import Row, Write, hand_node, table

ELEMENTS = 2_000
ELEMENT_BYTES = 12
BYTES_MAX = 60
"""Of a removed element's stamp, beside its text; docs/choosing-types.md says so."""
PAGE = Path(__file__).parents[2] / "docs" / "choosing-types.md"


@pytest.mark.parametrize(("column", "kind"), [("flags", "lww_set"), ("prefs", "lww_map")])
async def test_a_removed_element_keeps_a_stamp_of_a_known_size(postgres_server, column: str, kind: str) -> None:  # type: ignore[no-untyped-def]
    assert re.search(rf"{BYTES_MAX} bytes", PAGE.read_text())
    spec = table((column, "jsonb" if kind == "lww_map" else "text[]", kind), ("tags", "text[]", "or_set"))
    names = [f"{number:0{ELEMENT_BYTES}}" for number in range(ELEMENTS)]
    hlc = 1_790_000_000_000 << 16
    async with hand_node(postgres_server, spec) as node:
        empty = "{}" if kind == "lww_map" else "'{}'"
        await node.app.execute(f"INSERT INTO t VALUES (1, {empty if kind != 'lww_map' else repr(empty)}, '{{}}')")
        stamp = (lambda at: [at, True]) if kind == "lww_map" else (lambda at: at)
        added = {column: {"add": {name: stamp(hlc) for name in names}}, "tags": {"add": dict.fromkeys(names, hlc)}}
        await node.merge(Write(1023, hlc, {}, (Row(1, hlc, added),)))
        removed = {name: {"del": dict.fromkeys(names, hlc + 1)} for name in (column, "tags")}
        await node.merge(Write(1023, hlc + 1, {}, (Row(1, hlc + 1, removed),)))
        # || '{}': as the functions hold it, not compressed.
        sizes = await node.app.fetchrow("SELECT pg_column_size(e_2 || '{}'), pg_column_size(e_3) FROM crdt_state.row_1")
        assert sizes[0] / ELEMENTS - ELEMENT_BYTES <= BYTES_MAX, sizes[0] / ELEMENTS
        assert sizes[0] / ELEMENTS > ELEMENT_BYTES, "they are there: a concurrent write that comes late is older"
        assert sizes[1] < 100, "an or_set keeps nothing"
