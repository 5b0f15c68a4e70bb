"""Captured changes taken apart row by row hold the same rows."""

from __future__ import annotations

from array_literals import parse_array
from hypothesis import given
from hypothesis import strategies as st

from sidecar.core.arrays import int_array, number_array, text_array
from sidecar.core.changes import LocalChanges, TableChanges
from sidecar.core.local_slices import key_of, rows_between, without_values

TEXTS = st.one_of(
    st.none(), st.sampled_from(["NULL", "", '"', "\\", "{}", "a,b", "é", " "]), st.text('ab"\\,{}', max_size=4)
)


def texts(values: list[str | None]) -> bytes:
    return text_array([None if v is None else v.encode() for v in values])


def local(keys: list[str], values: list[str | None], touched: int, ops: str = "IUDR") -> LocalChanges:
    n = len(keys)

    def table(rows: int) -> TableChanges:
        return TableChanges(
            schema="public",
            name="t",
            key_columns=["id"],
            columns=["a", "b"],
            rows=rows,
            ops=b"{"
            + b",".join([b"T" if i >= n - touched else ops[i % len(ops)].encode() for i in range(rows)])
            + b"}",
            hlcs=number_array([100 + i for i in range(rows)]),
            inserted=number_array([None if i % 2 else i for i in range(rows)]),
            masks=[number_array([3] * rows)],
            keys=[texts(list(keys[:rows]))],
            values=[texts(values[:rows]), b""],
            late=[b"", int_array([None if i % 3 else b"7" for i in range(rows)])],
            seen=[b"", b""],
        )

    shipped = table(n - touched) if n > touched else None
    images = texts([None if v is None else v * 2 for v in values])
    return LocalChanges(1, table(n), number_array(list(range(n))), images, [b"", images], [b"", b""], shipped)


def rows_of(changes: TableChanges | None) -> list[object]:
    if changes is None:
        return []
    literals = [
        changes.ops,
        changes.hlcs,
        changes.inserted,
        *changes.masks,
        *changes.keys,
        *changes.values,
        *changes.late,
    ]
    columns = [[None] * changes.rows if not literal else parse_array(literal) for literal in literals]
    assert {len(column) for column in columns} == {changes.rows}
    return list(zip(*columns, strict=True))


@given(st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=9), st.integers(0, 9), st.integers(0, 9))
def test_two_pieces_are_the_whole(rows: list[tuple[str | None, str | None]], touched: int, cut: int) -> None:
    n = len(rows)
    whole = local([key or "" for key, _ in rows], [value for _, value in rows], min(touched, n))
    pieces = [rows_between(whole, 1, min(cut, n)), rows_between(whole, min(cut, n) + 1, n)]
    assert [e for p in pieces for e in rows_of(p.changes)] == rows_of(whole.changes)
    assert [e for p in pieces for e in rows_of(p.shipped)] == rows_of(whole.shipped)
    for side in ("xids", "images"):
        assert [e for p in pieces for e in parse_array(getattr(p, side))] == parse_array(getattr(whole, side))
    assert [e for p in pieces for e in parse_array(p.old_images[1])] == parse_array(whole.old_images[1])
    assert [p.old_images[0] for p in pieces] == [b"", b""]


def test_a_delete_without_its_values_keeps_its_counters_and_nothing_else() -> None:
    bare = without_values(local(["k"], ["x"], 0, "D"), {"b"})
    assert bare.shipped is bare.changes
    assert (bare.images, bare.changes.inserted, bare.changes.values) == (b"", b"", [b"", b""])
    assert bare.changes.masks == [b"{2}"]
    assert bare.changes.late == [b"", b"{7}"]
    assert bare.old_images == [b"", b'{"xx"}']
    assert key_of(bare.changes) == {"id": "k"}
