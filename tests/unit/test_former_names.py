"""Names that columns had before: which changes they find their way to, and which they leave alone."""

from __future__ import annotations

import pytest

from sidecar.core.catalog import ColumnSpec, TableSpec
from sidecar.core.changes import TableChanges
from sidecar.core.former_names import FORMER_NAMES_MAX, by_present_names, remembered, renamed_in

ID = ColumnSpec("id", 1, "integer", "integer", former=("number",))
HEADLINE = ColumnSpec("headline", 2, "text", "text", former=("title", "head"))
TITLE = ColumnSpec("title", 3, "text", "text")


def test_names_are_remembered_once_the_latest_last_and_not_for_ever() -> None:
    assert remembered((), "a") == ("a",)
    assert remembered(("a", "b"), "a") == ("b", "a")
    assert len(remembered([f"n{i}" for i in range(100)], "a")) == FORMER_NAMES_MAX
    assert remembered([f"n{i}" for i in range(100)], "a")[-2:] == ("n99", "a")


@pytest.mark.parametrize(
    ("columns", "names", "found"),
    [
        ((ID, HEADLINE), {"id", "headline"}, {}),
        ((ID, HEADLINE), {"id", "title"}, {"title": "headline"}),
        ((ID, HEADLINE), {"number", "head"}, {"number": "id", "head": "headline"}),
        ((ID, HEADLINE), {"id", "what"}, {}),
        ((ID, HEADLINE, TITLE), {"id", "headline", "title"}, {}),
        ((ID, HEADLINE, TITLE), {"id", "title"}, {"title": "headline"}),
    ],
)
def test_all_columns_of_a_table(columns: tuple[ColumnSpec, ...], names: set[str], found: dict[str, str]) -> None:
    assert renamed_in(columns, names) == found


def changes(key: str, *columns: str) -> TableChanges:
    none = [b""] * len(columns)
    return TableChanges(
        schema="public",
        name="t",
        key_columns=[key],
        columns=list(columns),
        rows=1,
        ops=b"",
        hlcs=b"",
        inserted=b"",
        masks=[b""],
        keys=[b""],
        values=none,
        late=none,
        seen=none,
    )


def test_changes_of_some_columns() -> None:
    spec = TableSpec(1, "public", "t", key=(ID,), columns=(HEADLINE, TITLE))
    known = changes("id", "title")
    assert by_present_names(spec, known) is known, "a name that is somebody's is his"
    after = by_present_names(spec, changes("number", "head", "what"))
    assert (after.key_columns, after.columns) == (["id"], ["headline", "what"])
    plain = TableSpec(1, "public", "t", key=(TITLE,), columns=())
    unknown = changes("title", "what")
    assert by_present_names(plain, unknown) is unknown, "it is for the merge to say so"
