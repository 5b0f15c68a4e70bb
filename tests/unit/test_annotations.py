"""The grammar of comments: what is an annotation, what is refused and where, how a comment is edited."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.core.annotations import (
    COLUMN_WORDS,
    ROW_RULES,
    ColumnAnnotation,
    TableAnnotation,
    check_column,
    parse_column_comment,
    parse_table_comment,
    set_annotation,
)
from sidecar.core.catalog import FAMILIES
from sidecar.errors import AnnotationError, SchemaError


@pytest.mark.parametrize(
    ("text", "word", "position"),
    [
        ("@crdt", "lww_register", 0),
        ("@crdt(pn_counter)", "pn_counter", 0),
        ("Number of likes. @crdt(pn_counter)", "pn_counter", 17),
        ("Number of likes @crdt( g_counter ), since 2019", "g_counter", 16),
        ("@CRDT(PN_Counter)", "pn_counter", 0),
        ("likes.@crdt(pn_counter)", "pn_counter", 6),
        ("(@crdt(pn_counter))", "pn_counter", 1),
        ("@crdt (pn_counter)", "pn_counter", 0),
        ("Likes\n@crdt(\n  pn_counter\n)\nmore", "pn_counter", 6),
        ("The title, see @crdt.", "lww_register", 15),
        ("The title, see @crdt, always", "lww_register", 15),
        ("mail ops@crdt.org or @crdt(lww_register)", "lww_register", 21),
    ],
)
def test_column_comment(text: str, word: str, position: int) -> None:
    assert parse_column_comment(text) == ColumnAnnotation(word, None, position)


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "Number of likes",
        "write to foo@crdt.org",
        "write to foo@crdt",
        "see @crdt.org and @crdt-lab",
        "@crdtx",
        "@crdt_counter",
        "@crdts(pn_counter)",
        "@@crdt",
        "crdt(pn_counter)",
    ],
)
def test_no_annotation(text: str | None) -> None:
    assert parse_column_comment(text) is None
    assert parse_table_comment(text) is None


@pytest.mark.parametrize("text", ["@crdt", "Posts. @crdt", "@crdt(row=lww)", "@crdt( ROW = lww )"])
def test_table_comment(text: str) -> None:
    assert parse_table_comment(text) == TableAnnotation("lww", text.index("@"))


@pytest.mark.parametrize(
    ("text", "position", "message", "mend"),
    [
        ("@crdt(pn_conter)", 6, "unknown annotation @crdt(pn_conter)", "did you mean pn_counter?"),
        ("abc @crdt( nonsense)", 11, "unknown annotation", "known words: lww_register, mv_register, g_counter"),
        ("x @crdt(pn_counter", 7, "not closed", "@crdt(word)"),
        ("x @crdt(merge(public.fn)", 7, "not closed", "@crdt(word)"),
        ("@crdt(pn_counter) and @crdt", 22, "more than one @crdt", "one annotation"),
        ("@crdt()", 6, "names no type", "pn_counter"),
        ("@crdt(1)", 6, "a word was expected", "known words"),
        ("@crdt(pn_counter g_counter)", 16, "unexpected text", "known words"),
        ("@crdt(pn_counter(5))", 6, "takes no argument", "@crdt(pn_counter)"),
        ("@crdt(row=lww)", 6, "is for a table", "table's comment"),
        ("@crdt (see the wiki)", 10, "unexpected text", "known words"),
    ],
)
def test_column_comment_refused(text: str, position: int, message: str, mend: str) -> None:
    with pytest.raises(AnnotationError) as caught:
        parse_column_comment(text)
    assert caught.value.position == position
    assert message in caught.value.message
    assert mend in caught.value.mend
    assert "\n" not in caught.value.line()


@pytest.mark.parametrize(
    ("text", "position", "message", "mend"),
    [
        ("@crdt(row=lwv)", 10, "unknown row rule", "did you mean lww?"),
        ("@crdt(row=)", 10, "unknown row rule", "known words: lww, add_wins, remove_wins"),
        ("@crdt(pn_counter)", 6, "is for a column", "@crdt(row=lww)"),
        ("@crdt(rows=lww)", 10, "unexpected text", "known words"),
        ("@crdt(lww)", 6, "is not a table's annotation", "@crdt(row=lww)"),
        ("@crdt(row=lww", 5, "not closed", "@crdt(word)"),
        ("@crdt @crdt", 6, "more than one", "one annotation"),
    ],
)
def test_table_comment_refused(text: str, position: int, message: str, mend: str) -> None:
    with pytest.raises(AnnotationError) as caught:
        parse_table_comment(text)
    assert caught.value.position == position
    assert message in caught.value.message
    assert mend in caught.value.mend


@pytest.mark.parametrize(
    ("text", "argument"),
    [
        ("@crdt(merge(public.fn))", "public.fn"),
        ("@crdt(merge( fn ))", "fn"),
        ('@crdt(merge("My"."f)n("))', '"My"."f)n("'),
    ],
)
def test_argument(text: str, argument: str) -> None:
    assert parse_column_comment(text) == ColumnAnnotation("merge", argument, 0)


@pytest.mark.parametrize("text", ["@crdt(merge)", "@crdt(merge())", "@crdt(merge( ))"])
def test_argument_missing(text: str) -> None:
    with pytest.raises(AnnotationError, match="needs an argument"):
        parse_column_comment(text)


def test_every_word_is_merged() -> None:
    assert set(COLUMN_WORDS) == set(FAMILIES)


@pytest.mark.parametrize("word", list(COLUMN_WORDS))
def test_every_word_is_read(word: str) -> None:
    parsed = parse_column_comment(
        f"@crdt({word}(public.fn))" if COLUMN_WORDS[word].takes_argument else f"@crdt({word})"
    )
    assert parsed is not None
    assert parsed.word == word


@pytest.mark.parametrize("rule", ROW_RULES)
def test_every_row_rule_is_read(rule: str) -> None:
    assert parse_table_comment(f"@crdt(row={rule})") == TableAnnotation(rule, 0)


FITS = [
    ("lww_register", ["text", "bigint", "jsonb", "text[]", "point", "my.enum"], []),
    ("mv_register", ["text", "point"], []),
    ("merge", ["text", "point"], []),
    (
        "pn_counter",
        ["smallint", "integer", "bigint", "numeric"],
        ["text", "real", "double precision", "money", "int8[]"],
    ),
    ("g_counter", ["smallint", "integer", "bigint", "numeric"], ["text", "interval"]),
    ("g_set", ["text[]", "jsonb"], ["text", "json"]),
    ("or_set", ["integer[]", "jsonb"], ["integer"]),
    ("aw_set", ["integer[]", "jsonb"], ["integer"]),
    ("lww_set", ["integer[]", "jsonb"], ["integer"]),
    ("lww_map", ["jsonb"], ["json", "text[]", "hstore"]),
    ("max_register", ["integer", "text", "timestamp with time zone", "integer[]"], ["json", "point", "xml[]"]),
    ("min_register", ["integer", "uuid", "date"], ["json", "jsonb", "circle"]),
]


@pytest.mark.parametrize(("word", "good", "bad"), FITS)
def test_which_types_fit(word: str, good: list[str], bad: list[str]) -> None:
    for base_type in good:
        check_column(word, base_type, table="public.posts", column="likes")
    for base_type in bad:
        with pytest.raises(SchemaError) as caught:
            check_column(ColumnAnnotation(word), base_type, table="public.posts", column="likes")
        line = caught.value.line()
        assert all(part in line for part in ("public.posts", "likes", word, base_type, "lww_register"))


def test_every_word_has_its_types_tested() -> None:
    assert {word for word, _, _ in FITS} == set(COLUMN_WORDS)


def test_check_column_refuses_a_counter_in_the_key_and_an_unknown_word() -> None:
    check_column("lww_register", "bigint", table="public.posts", column="id", is_key=True)
    with pytest.raises(SchemaError, match=r"public\.posts: column id is part of the primary key"):
        check_column("pn_counter", "bigint", table="public.posts", column="id", is_key=True)
    with pytest.raises(SchemaError, match="unknown annotation pn_contr"):
        check_column("pn_contr", "bigint")


@pytest.mark.parametrize(
    ("comment", "words", "result"),
    [
        (None, "pn_counter", "@crdt(pn_counter)"),
        ("", "pn_counter", "@crdt(pn_counter)"),
        (None, "", "@crdt"),
        (None, None, None),
        ("", None, None),
        ("Number of likes", "pn_counter", "Number of likes @crdt(pn_counter)"),
        ("Number of likes.\n", "pn_counter", "Number of likes. @crdt(pn_counter)"),
        ("Likes. @crdt(g_counter) Counted.", "pn_counter", "Likes. @crdt(pn_counter) Counted."),
        ("Likes. @crdt(g_counter) Counted.", None, "Likes. Counted."),
        ("Likes @crdt(g_counter), counted", None, "Likes, counted"),
        ("Likes. @crdt(g_counter)", None, "Likes."),
        ("@crdt(g_counter) Likes.", None, "Likes."),
        ("Likes.\n@crdt(g_counter)\nCounted.", None, "Likes.\nCounted."),
        ("@crdt(g_counter)", None, None),
        ("  @crdt  ", None, None),
        ("Posts @crdt", "row=lww", "Posts @crdt(row=lww)"),
        ("Posts", "@crdt(row=lww)", "Posts @crdt(row=lww)"),
        ("Posts", "@crdt", "Posts @crdt"),
        ("ask foo@crdt.org", "", "ask foo@crdt.org @crdt"),
        ("ask foo@crdt.org", None, "ask foo@crdt.org"),
        ("x", "merge(public.fn)", "x @crdt(merge(public.fn))"),
    ],
)
def test_set_annotation(comment: str | None, words: str | None, result: str | None) -> None:
    assert set_annotation(comment, words) == result


@pytest.mark.parametrize(
    ("comment", "words"),
    [("@crdt @crdt", "pn_counter"), ("x @crdt(", None), ("x", "pn_counter) or (x"), ("x", "a("), ("x", "see @crdt")],
)
def test_set_annotation_refuses_to_guess(comment: str, words: str | None) -> None:
    with pytest.raises(AnnotationError):
        set_annotation(comment, words)


free_text = st.text(st.characters(exclude_characters="@()", exclude_categories=["Cs"]), max_size=30)
words = st.sampled_from(["", *(w for w, e in COLUMN_WORDS.items() if not e.takes_argument), "merge(public.fn)"])


@given(free_text, words, words)
def test_set_annotation_laws(text: str, first: str, second: str) -> None:
    once = set_annotation(text, first)
    parsed = parse_column_comment(once)
    assert parsed is not None
    assert parsed.word == (first.partition("(")[0] or "lww_register")
    assert set_annotation(once, first) == once
    assert set_annotation(once, second) == set_annotation(text, second)
    bare = set_annotation(once, None)
    assert (bare or "") == text.strip()


@given(
    st.text(max_size=60)
    | st.lists(st.sampled_from(["@crdt", "(", ")", "row=", "lww", "pn_counter", " ", '"', "x"])).map("".join)
)
def test_any_text_is_understood_or_refused_with_a_position(text: str) -> None:
    for parse in (parse_column_comment, parse_table_comment):
        refused = _refusal(parse, text)
        assert refused is None or (0 <= refused.position <= len(text) and refused.mend)


def _refusal(parse: Callable[[str], object], text: str) -> AnnotationError | None:
    try:
        parse(text)
    except AnnotationError as error:
        return error
    return None
