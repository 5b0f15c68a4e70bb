"""Versions inside the changes of sets and maps, against the end of their change set."""

from __future__ import annotations

import pytest

from sidecar.core.arrays import text_array
from sidecar.core.catalog import ColumnSpec, TableSpec
from sidecar.core.changes import TableChanges
from sidecar.core.element_versions import check_element_versions
from sidecar.errors import ProtocolError


def spec(crdt: str) -> TableSpec:
    return TableSpec(
        table_id=1,
        schema="public",
        name="t",
        key=(ColumnSpec(name="id", attnum=1, type_name="integer", base_type="integer"),),
        columns=(ColumnSpec(name="tags", attnum=2, type_name="jsonb", base_type="jsonb", crdt=crdt),),
    )


def changes(*values: bytes | None) -> TableChanges:
    count = len(values)
    return TableChanges(
        schema="public",
        name="t",
        key_columns=["id"],
        columns=["tags"],
        rows=count,
        ops=b"",
        hlcs=b"",
        inserted=b"",
        masks=[],
        keys=[],
        values=[text_array(values)],
        late=[b""],
        seen=[b""],
    )


RIGHT = (
    None,
    b"{}",
    b'{"full":9,"add":{"a":9,"b\\"":8}}',
    b'{"null":true,"del":{"a":9}}',
    b'{"add":{"k":[9,{"n":999999999999999999}]}}',
)


@pytest.mark.parametrize("crdt", ["or_set", "lww_map"])
def test_versions_up_to_the_end_pass(crdt: str) -> None:
    check_element_versions(spec(crdt), changes(*RIGHT), 9)


@pytest.mark.parametrize(
    "wrong",
    [b'{"full":10}', b'{"add":{"a":1,"b":10}}', b'{"add":{"a":[10,null]}}', b'{"del":{"a":10}}'],
)
def test_a_version_of_the_future_is_refused(wrong: bytes) -> None:
    with pytest.raises(ProtocolError, match=r"public\.t\.tags: an element of version 10, its change set ends at 9"):
        check_element_versions(spec("or_set"), changes(*RIGHT, wrong), 9)


def test_other_columns_and_what_cannot_be_read_are_left_to_the_merge() -> None:
    check_element_versions(spec("lww_register"), changes(b'{"full":10}'), 9)
    check_element_versions(spec("or_set"), changes(b"no json", b"[1]"), 9)
