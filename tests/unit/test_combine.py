"""Change sets merged together: nothing lost, nothing twice in one unit, the order of every row's changes kept."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.core.arrays import int_array, text_array
from sidecar.core.catalog import ColumnSpec, TableSpec
from sidecar.core.changes import TableChanges, truncation
from sidecar.core.merge.combine import Unit, combine
from sidecar.errors import ProtocolError
from tests.unit.array_literals import parse_array

Row = tuple[str, str]
KEYS = st.sampled_from(["1", "2", "3", '","', 'a"', "\\", "x,y"])


def changes_of(name: str, rows: list[Row], columns: list[str]) -> TableChanges:
    values = [text_array([value.encode() for _, value in rows]) for _ in columns]
    return TableChanges(
        schema="public",
        name=name,
        key_columns=["id"],
        columns=columns,
        rows=len(rows),
        ops=text_array([b"U"] * len(rows)),
        hlcs=int_array([b"5"] * len(rows)),
        inserted=b"",
        masks=[int_array([b"1"] * len(rows))],
        keys=[text_array([key.encode() for key, _ in rows])],
        values=values,
        late=[b"" if len(rows) % 2 else int_array([b"4"] * len(rows)) for _ in columns],
        seen=[b"" for _ in columns],
    )


def rows_of(unit: Unit) -> list[tuple[str, str, str, int]]:
    """(table, key, value, member) of a unit; asserts that its literals are as long as it says."""
    changes = unit.changes
    members = [1] * changes.rows if not unit.members else [int(m or b"0") for m in parse_array(unit.members)]
    keys, values = parse_array(changes.keys[0]), parse_array(changes.values[0])
    literals = [changes.ops, changes.hlcs, *changes.masks, *changes.late]
    assert all(len(parse_array(literal)) == changes.rows for literal in literals if literal)
    assert len(members) == len(keys) == len(values) == changes.rows
    return [
        (changes.name, (k or b"").decode(), (v or b"").decode(), m)
        for k, v, m in zip(keys, values, members, strict=True)
    ]


@given(
    st.lists(
        st.lists(
            st.tuples(
                st.sampled_from(["posts", "tags"]),
                st.lists(KEYS, unique=True, max_size=4),
                st.sampled_from([["a"], ["b"]]),
            ),
            max_size=3,
        ),
        min_size=1,
        max_size=5,
    )
)
def test_every_row_once_and_in_order(shape: list[list[tuple[str, list[str], list[str]]]]) -> None:
    sets: list[list[TableChanges]] = []
    wanted: dict[tuple[str, str], list[tuple[str, int]]] = {}
    number = 0
    for place, tables in enumerate(shape, start=1):
        sets.append([])
        for name, keys, columns in tables:
            rows = []
            for key in keys:
                number += 1
                rows.append((key, str(number)))
                wanted.setdefault((name, key), []).append((str(number), place))
            sets[-1].append(changes_of(name, rows, columns))
    got: dict[tuple[str, str], list[tuple[str, int]]] = {}
    for unit in combine(sets):
        rows = rows_of(unit)
        assert len({key for _, key, _, _ in rows}) == len(rows) or len(sets) == 1
        for name, key, value, member in rows:
            got.setdefault((name, key), []).append((value, member))
    assert got == wanted


def test_rows_of_several_change_sets_share_a_statement() -> None:
    sets = [[changes_of("posts", [(str(i), "x")], ["a"])] for i in range(10)]
    (unit,) = combine(sets)
    assert unit.changes.rows == 10
    assert unit.members == b"{1,2,3,4,5,6,7,8,9,10}"


def test_a_key_that_occurs_again_goes_to_a_later_unit() -> None:
    sets = [[changes_of("posts", [("1", "a")], ["a"])], [changes_of("posts", [("1", "b")], ["a"])]]
    assert [rows_of(unit) for unit in combine(sets)] == [[("posts", "1", "a", 1)], [("posts", "1", "b", 2)]]


def test_one_change_set_is_passed_through_part_by_part() -> None:
    parts = [changes_of("posts", [("1", "a")], ["a"]), changes_of("posts", [("2", "b")], ["a"])]
    assert [unit.changes for unit in combine([iter(parts)])] == parts


@pytest.mark.parametrize(
    ("field", "literal"),
    [
        ("values", b'{"a","b"}'),
        ("values", b'{"a"},{"b"}'),
        ("values", b"{a}"),
        ("seen", b"{NULL,NULL}"),
        ("keys", b'{x,"1"}'),
    ],
)
def test_a_wrong_array_of_one_node_does_not_move_the_rows_of_another(field: str, literal: bytes) -> None:
    wrong = changes_of("posts", [("1", "a")], ["a"])
    setattr(wrong, field, [literal])
    right = changes_of("posts", [("2", "b")], ["a"])
    with pytest.raises(ProtocolError, match=r"changes of table public\.posts with 1 rows have an array of"):
        list(combine([[wrong], [right]], [7, 8]))
    assert len(list(combine([[right]], [8]))) == 1
    assert list(combine([[wrong], [wrong]], [7, 7])), "its own rows are its own affair"


def test_nothing_of_a_table_passes_its_truncate() -> None:
    spec = TableSpec(1, "public", "posts", (ColumnSpec("id", 1, "bigint", "bigint"),), ())
    row, other = changes_of("posts", [("1", "x")], ["a"]), changes_of("posts", [("2", "y")], ["a"])
    units = list(combine([[row], [truncation(spec, 5, 700).changes], [other]]))
    assert [(unit.changes.ops, unit.members) for unit in units] == [
        (row.ops, b"{1}"),
        (b"{Z}", b"{2}"),
        (other.ops, b"{3}"),
    ]
