"""The functions of the schema ``crdt`` called with what is at hand: keys of other types than text, annotations with
words that nobody knows."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import AsyncIterator
from typing import Any

import psycopg
import pytest

from sidecar.core.annotations import COLUMN_WORDS, ROW_RULES, set_annotation
from sidecar.postgres.admin import connect
from sidecar.postgres.attach import initialise
from sidecar.settings import NodeSettings, Settings

_ids = itertools.count(651)

A_UUID = "0b7e0e64-6d9c-4c61-8d1c-8a1c3a1f0c55"
SCHEMA = f"""
CREATE TABLE posts (id int PRIMARY KEY, title text);
CREATE TABLE things (id uuid PRIMARY KEY, title text);
CREATE TABLE texts (id text PRIMARY KEY, title text);
CREATE TABLE pairs (a int, b text, title text, PRIMARY KEY (b, a));
COMMENT ON TABLE posts IS '@crdt'; COMMENT ON TABLE things IS '@crdt';
COMMENT ON TABLE texts IS '@crdt'; COMMENT ON TABLE pairs IS '@crdt';
INSERT INTO posts VALUES (1, 'one'); INSERT INTO things VALUES ('{A_UUID}', 'one');
INSERT INTO texts VALUES ('a', 'one'), ('{{"id": "a"}}', 'two'), ('{{a', 'three'), ('{{"k": 1}}', 'four');
INSERT INTO pairs VALUES (1, 'x', 'one');
"""

Session = psycopg.AsyncConnection[Any]


@pytest.fixture
async def session(database: str) -> AsyncIterator[Session]:
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as app:
        await app.execute(SCHEMA)
        async with await connect(database) as conn:
            await initialise(conn, Settings(node=NodeSettings(name="us-east", id=next(_ids), dsn=database)))
        yield app
        await app.execute(
            "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = current_database()"
        )


@pytest.mark.parametrize(
    ("arguments", "title"),
    [
        ("'posts', '1'", "one"),
        ("'posts', 1", "one"),
        ("'public.posts'::regclass, 1::bigint", "one"),
        ("""'posts', '{"id": "1"}'""", "one"),
        ("""'posts', '{"id": 1}'::jsonb""", "one"),
        (f"'things', '{A_UUID}'::uuid", "one"),
        ("'texts', 'a'::varchar", "one"),
        ("""'texts', '{"id": "a"}'""", "one"),
        ("""'texts', jsonb_build_object('id', '{"id": "a"}')""", "two"),
        ("'texts', '{a'", "three"),
        ("""'texts', '{"k": 1}'""", "four"),
        ("""'pairs', '{"a": 1, "b": "x"}'::jsonb""", "one"),
        ("""'pairs', '{"a": "1", "b": "x"}'""", "one"),
    ],
)
async def test_a_key_may_be_given_as_it_is_at_hand(session: Session, arguments: str, title: str) -> None:
    query = f"SELECT value FROM crdt.explain({arguments}) WHERE \"column\" = 'title'"
    assert await (await session.execute(query)).fetchall() == [(title,)]
    assert await (await session.execute(f"SELECT value FROM crdt.siblings({arguments}, 'title')")).fetchall() == [
        (title,)
    ]


async def test_a_parameter_of_any_type_is_a_key(session: Session) -> None:
    query = "SELECT count(*) FROM crdt.explain(%s, %s)"
    for table, key in (("posts", 1), ("posts", "1"), ("things", A_UUID), ("things", uuid.UUID(A_UUID))):
        assert await (await session.execute(query, [table, key])).fetchone() == (2,)


async def test_a_key_that_is_no_object_where_one_is_needed_says_so(session: Session) -> None:
    for key in ("(1,x)", "1", "{1,x}"):
        with pytest.raises(psycopg.errors.InvalidParameterValue, match="lacks a column") as caught:
            await session.execute("SELECT * FROM crdt.explain('pairs', %s)", [key])
        assert caught.value.diag.message_hint == "Give a JSON object with b, a."


async def test_annotate_knows_the_words_that_the_sidecar_knows(session: Session) -> None:
    for word, entry in COLUMN_WORDS.items():
        words = f"{word}(public.f)" if entry.takes_argument else word
        for spelt in (words, f"@crdt({words})", f" {words.upper()} "):
            await session.execute("SELECT crdt.annotate('posts', 'title', %s)", [spelt])
    for rule in ROW_RULES:
        for spelt in (f"row={rule}", f"@crdt(row = {rule})", f"ROW={rule.upper()}"):
            await session.execute("SELECT crdt.annotate('posts', NULL, %s)", [spelt])
    row = await (await session.execute("SELECT crdt.annotate('posts', NULL, '')")).fetchone()
    assert row == (set_annotation(None, ""),)


@pytest.mark.parametrize(
    ("column", "words"),
    [
        ("title", "pn_countr"),
        ("title", "row=lww"),
        ("title", "@crdt(nothing)"),
        (None, "row=foo"),
        (None, "pn_counter"),
    ],
)
async def test_annotate_refuses_words_that_nobody_knows(session: Session, column: str | None, words: str) -> None:
    with pytest.raises(psycopg.errors.InvalidParameterValue, match=r"unknown annotation .*posts") as caught:
        await session.execute("SELECT crdt.annotate('posts', %s, %s)", [column, words])
    assert "lww" in str(caught.value.diag.message_hint)
    comments = await session.execute("SELECT col_description('posts'::regclass, 2), obj_description('posts'::regclass)")
    assert await comments.fetchone() == (None, "@crdt")
