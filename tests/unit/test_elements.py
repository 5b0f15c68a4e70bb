"""Changes of sets and maps: reading text images, and a model of what a batch of writes must say."""

from __future__ import annotations

import json
from decimal import Decimal
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.core.catalog import FAMILIES, ColumnSpec
from sidecar.core.elements import RULES, ElementChange, ElementColumn, array_elements, json_elements, json_members
from sidecar.errors import ProtocolError, SchemaError


def column(word: str, base_type: str = "text[]") -> ElementColumn:
    return ElementColumn.of("public.t", ColumnSpec("tags", 2, base_type, base_type, word))


def quoted(element: str | None, delimiter: str = ",") -> str:
    """As ``array_out`` quotes."""
    if element is None:
        return "NULL"
    special = set('{}"\\ \t\n\r\v\f' + delimiter)
    if element and element.upper() != "NULL" and not special & set(element):
        return element
    return '"' + element.replace("\\", "\\\\").replace('"', '\\"') + '"'


def array(elements: list[str | None], delimiter: str = ",") -> str:
    return "{" + delimiter.join(quoted(e, delimiter) for e in elements) + "}"


NASTY = st.one_of(
    st.none(),
    st.sampled_from(
        ["", "NULL", "null", "a", "b,c", 'q"', "back\\", "{x}", " ", ";", "ß\u2028", "\n\x01", "(1,1),(0,0)"]
    ),
    st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=5),
)


@given(st.lists(NASTY, max_size=6), st.sampled_from(",;"))
def test_the_elements_of_an_array_come_back(elements: list[str | None], delimiter: str) -> None:
    assert array_elements(array(elements, delimiter), delimiter) == elements


@given(st.lists(st.lists(NASTY, min_size=2, max_size=2), min_size=1, max_size=3), st.integers(-3, 3))
def test_dimensions_are_flattened_and_bounds_left_out(rows: list[list[str | None]], lower: int) -> None:
    text = "{" + ",".join(array(row) for row in rows) + "}"
    flat = [e for row in rows for e in row]
    assert array_elements(text) == flat
    assert array_elements(f"[{lower}:{lower + len(rows) - 1}][1:2]={text}") == flat


def test_the_text_of_no_array_is_refused() -> None:
    for text in ("", "a", "{a", "[0:1]"):
        with pytest.raises(ProtocolError, match="not the text of an array"):
            array_elements(text)


JSON = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.text(max_size=4), st.sampled_from([Decimal("1.0"), Decimal("1.00")])
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


def image(value: Any) -> str:
    """As ``jsonb_out`` writes: one space after commas and colons, numbers with their scale."""
    if isinstance(value, list):
        return "[" + ", ".join(map(image, value)) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{image(k)}: {image(v)}" for k, v in value.items()) + "}"
    return str(value) if isinstance(value, Decimal) else json.dumps(value, ensure_ascii=False)


@given(st.lists(JSON, max_size=5))
def test_the_elements_of_a_json_array_are_text_images(values: list[Any]) -> None:
    text = image(values).encode()
    assert json_elements(text) == dict.fromkeys(map(image, values))
    assert json_members(text) is None


@given(st.dictionaries(st.text(max_size=4), JSON, max_size=5))
def test_the_members_of_a_json_object_keep_their_text(values: dict[str, Any]) -> None:
    text = image(values).encode()
    members = json_members(text)
    assert members is not None
    assert {k: bytes(v or b"").decode() for k, v in members.items()} == {k: image(v) for k, v in values.items()}
    assert json_elements(text) is None


def test_json_nested_beyond_the_decoder() -> None:
    deep = "[" * 3000 + '"]\\""' + "]" * 3000
    assert json_elements(f'[1, {deep}, "a, b"]'.encode()) == dict.fromkeys(["1", deep, '"a, b"'])
    members = json_members(f'{{"k\\"": {deep}, "b": 1.00}}'.encode())
    assert members is not None
    assert {k: bytes(v or b"").decode() for k, v in members.items()} == {'k"': deep, "b": "1.00"}


def test_every_element_word_has_rules() -> None:
    assert set(RULES) == {word for word, family in FAMILIES.items() if family == "element"}


def decoded(change: ElementChange) -> dict[str, Any]:
    return dict(json.loads(change.text(), parse_float=Decimal))


def test_an_update_says_what_was_added_and_what_is_gone() -> None:
    old, new = b'{a,"b c",NULL,a}', b'{"b c",d,NULL,d}'
    assert decoded(column("or_set").written(old, new, 7)) == {"add": {"d": 7}, "del": {"a": 7}}
    assert decoded(column("lww_set").written(old, new, 7)) == {"add": {"d": 7}, "del": {"a": 7}}
    assert decoded(column("aw_set").written(old, new, 7)) == {"full": 7, "add": {"b c": 7, "d": 7}}
    grown = column("g_set").written(old, new, 7)
    assert decoded(grown) == {"add": {"d": 7}}
    assert json.loads(grown.undone_text() or b"") == ["a"]
    assert grown.before == old


def test_null_is_an_empty_set_that_says_so() -> None:
    assert decoded(column("or_set").written(b"{a}", None, 7)) == {"null": True, "del": {"a": 7}}
    assert decoded(column("or_set").written(None, b"{}", 7)) == {}
    assert decoded(column("or_set").inserted(None, 7)) == {"full": 7, "null": True}


def test_a_map_says_which_keys_were_set_and_to_what() -> None:
    old = b'{"a": 1.0, "b": null, "c": {"x": 1}}'
    new = '{"a": 1.00, "b": null, "ß\\"": 12345678901234567890}'.encode()
    change = column("lww_map", "jsonb").written(old, new, 7)
    assert b'"a":[7,1.00]' in change.text()
    assert decoded(change) == {"add": {"a": [7, Decimal("1.00")], 'ß"': [7, 12345678901234567890]}, "del": {"c": 7}}


@pytest.mark.parametrize("text", [b'{"a": 1}', b"3", b'"x"', b"null"])
def test_a_json_value_that_is_no_array_counts_as_empty_and_is_undone(text: bytes) -> None:
    change = column("or_set", "jsonb").written(b"[1]", text, 7)
    assert decoded(change) == {"del": {"1": 7}}
    assert json.loads(change.undone_text() or b"") == text.decode()
    assert column("or_set", "jsonb").written(text, b"[1]", 7).undone_text() is None
    in_map = column("lww_map", "jsonb").inserted(b"[1]", 7)
    assert decoded(in_map) == {"full": 7}
    assert json.loads(in_map.undone_text() or b"") == "[1]"


def test_a_box_has_a_delimiter_of_its_own() -> None:
    change = column("or_set", "box[]").inserted(b"{(1,1),(0,0);(3,3),(2,2)}", 7)
    assert decoded(change)["add"] == {"(1,1),(0,0)": 7, "(3,3),(2,2)": 7}


def test_text_that_is_not_utf8_is_refused_with_the_column() -> None:
    with pytest.raises(SchemaError, match=r"public.t: column 'tags' holds text that is not UTF-8"):
        column("or_set").inserted(b"{\xe9}", 7)


def test_a_removed_and_added_again_element_of_a_growing_set_is_not_undone() -> None:
    tags = column("g_set")
    change = tags.fold(tags.written(b"{a,b}", b"{}", 1), b"{}", b"{b,c}", 2)
    assert decoded(change) == {"add": {"b": 2, "c": 2}}
    assert json.loads(change.undone_text() or b"") == ["a"]


def test_a_new_row_with_stamps_names_what_its_delete_took_away() -> None:
    """A receiver cannot tell from stamps alone what the insert had seen."""
    tags = column("lww_set")
    held = tags.fold(tags.written(b"{a,b}", b"{b,c}", 1), b"{b,c}", b"{b,c,d}", 2)
    change = tags.inserted(b"{b,e}", 3, b"{b,c,d}", held)
    assert decoded(change) == {"full": 3, "add": {"b": 3, "e": 3}, "del": {"a": 1, "c": 3, "d": 3}}
    assert change.before == b"{a,b}"
    assert decoded(column("or_set").inserted(b"{b,e}", 3, b"{b,c,d}", held)) == {"full": 3, "add": {"b": 3, "e": 3}}


SETS = st.sets(st.sampled_from("abcd")).map(lambda elements: array(sorted(elements)).encode())
MAPS = st.dictionaries(st.sampled_from("abcd"), st.integers(0, 2)).map(lambda members: image(members).encode())


@pytest.mark.parametrize("word", sorted(RULES))
@given(data=st.data())
def test_folding_is_a_function_of_the_last_operation_on_each_element(word: str, data: st.DataObject) -> None:
    """Against the operations one by one: per element the last add or removal counts, with its hlc."""
    rules = RULES[word]
    writer = column(word, "jsonb" if rules.is_map else "text[]")
    values = data.draw(st.lists(MAPS if rules.is_map else SETS, min_size=2, max_size=6))
    is_insert = data.draw(st.booleans())
    read = json_members if rules.is_map else lambda text: dict.fromkeys(array_elements(text.decode()))
    last: dict[str, Any] = {}
    for hlc, (old, new) in enumerate(pairwise(values), 2):
        before, after = read(old) or {}, read(new) or {}
        for element in before.keys() | after.keys():
            if element not in after:
                if not rules.grows:
                    last[element] = hlc, None
            elif rules.whole or element not in before or before[element] != after[element]:
                last[element] = hlc, after[element]
    change = writer.inserted(values[0], 1) if is_insert else writer.written(values[0], values[1], 2)
    for hlc, (old, new) in enumerate(pairwise(values), 2):
        if is_insert or hlc > 2:
            change = writer.fold(change, old, new, hlc)
    if is_insert:
        last = {e: (1, value) for e, value in (read(values[0]) or {}).items()} | last
    present = set(read(values[-1]) or {})
    kept = {e: (at, value) for e, (at, value) in last.items() if e in present or rules.grows}
    assert change.add == (kept if rules.is_map else {e: at for e, (at, _) in kept.items()})
    removed = {e: at for e, (at, _) in last.items() if e not in kept}
    whole = rules.whole and len(values) > 1
    assert change.gone == ({} if whole or (is_insert and not rules.stamps) else removed)
    assert change.full == (len(values) if whole else int(is_insert))
    assert change.before == (None if is_insert else values[0])
