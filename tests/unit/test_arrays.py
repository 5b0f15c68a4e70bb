"""Array literals: what is written is read back."""

from __future__ import annotations

from decimal import Decimal

import pytest
from array_literals import parse_array
from hypothesis import example, given
from hypothesis import strategies as st

from sidecar.core.arrays import EMPTY, element_count, int_array, number_array, text_array

TEXT = st.text(st.characters(blacklist_characters="\0", blacklist_categories=("Cs",))).map(str.encode)
VALUES = st.lists(st.none() | TEXT | st.sampled_from([b"", b"NULL", b"null", b'"', b"\\", b"{}", b",", b'\\"']))


@given(VALUES)
@example([None])
@example([b""])
@example([b"", b""])
@example([b'","', None, b'",NULL,"'])
def test_text_round_trip(values: list[bytes | None]) -> None:
    assert parse_array(text_array(values)) == values


@given(st.lists(st.none() | st.integers().map(lambda i: b"%d" % i)))
def test_int_round_trip(values: list[bytes | None]) -> None:
    assert parse_array(int_array(values)) == values


@given(st.lists(st.none() | st.integers()))
def test_number_round_trip(values: list[int | None]) -> None:
    assert parse_array(number_array(values)) == [None if value is None else b"%d" % value for value in values]


def test_empty() -> None:
    assert text_array([]) == int_array([]) == number_array([]) == EMPTY


@given(VALUES)
def test_elements_are_counted_as_a_server_counts_them(values: list[bytes | None]) -> None:
    if values:
        assert element_count(text_array(values)) == len(values)


@given(st.lists(st.none() | st.integers() | st.decimals(allow_nan=False, allow_infinity=False), min_size=1))
def test_bare_numbers_are_counted_too(values: list[int | Decimal | None]) -> None:
    """Deltas of counters travel without quotes."""
    literal = int_array([None if value is None else f"{value}".encode() for value in values])
    assert element_count(literal) == len(values)


NO_TEXTS = (
    b"",
    b"{}",
    b"{",
    b"x",
    b'{"a"',
    b'"a"}',
    b'{"a"}"',
    b"{a}",
    b'{",",x,"b"}',
    b'{x,"a","b"}',
    b'{x"a","b"}',
    b'{"a"},{"b"}',
    b'{"a""b"}',
    b'{"a" ,"b"}',
    b"{NULL,null}",
    b"{1,,2}",
    b"{1 ,2}",
    b"{1,--2}",
    b"{1.,2}",
    b"{1,NaN}",
    b'{1"2",3}',
    b"{1,{2}}",
    b"{,}",
    b'{"a",}',
    b'{{"a","b"}}',
    b'[0:1]={"a","b"}',
    b'{"a\\"}',
    b'{"a\\\\\\"}',
)


@pytest.mark.parametrize("literal", NO_TEXTS)
def test_what_only_looks_like_texts_has_no_count(literal: bytes) -> None:
    assert element_count(literal) == -1
