"""Merge vectors of registers: one value, or several of which one is shown."""

from __future__ import annotations

import json

from tests.merge_vectors.case import ABSENT, MergeFunction, Vectors, insert, json_image, update
from tests.merge_vectors.sources import (
    ANTIDOTE,
    AUTOMERGE_CONFLICTS,
    DYNAMO,
    LWW_REGISTER,
    MV_REGISTER,
    REDIS_STRINGS,
    RIAK_MAXREG,
    RIAK_MINREG,
    derived,
)

_lww = Vectors("lww_register", "text")
_mv = Vectors("mv_register", "text")
_max = Vectors("max_register", "integer")
_min = Vectors("min_register", "integer")

LWW = (
    _lww("the later of two concurrent writes", "x", "c", LWW_REGISTER, b=[update("b")], c=[update("c")]),
    _lww("the later is the lower node's", "x", "b", REDIS_STRINGS, b=[update("b")], c=[update("c")], later="B"),
    _lww(
        "a later sync brings a later write",
        "x",
        "c",
        REDIS_STRINGS,
        a=[update("a")],
        b=[update("b")],
        after=[update("c")],
    ),
    _lww("a write that saw the others wins", "x", "d", ANTIDOTE, b=[update("b")], c=[update("c")], after=[update("d")]),
    _lww(
        "many earlier writes against one later",
        "x",
        "c",
        derived(LWW_REGISTER),
        b=[update("b1"), update("b2"), update("b3")],
        c=[update("c")],
    ),
    _lww("NULL is a value", "x", None, derived(LWW_REGISTER), b=[update(None)], c=[update("c")], later="B"),
    _lww("the value it had is no write", "x", "b", derived(ANTIDOTE), b=[update("b")], c=[update("x")]),
    _lww("one key inserted twice", ABSENT, "c", AUTOMERGE_CONFLICTS, b=[insert("b")], c=[insert("c")]),
    _lww("there and back is a write", "x", "x", derived(LWW_REGISTER), b=[update("b")], c=[update("y"), update("x")]),
    _lww("an integer", 1, 3, LWW_REGISTER, b=[update(2)], c=[update(3)], type_name="integer"),
)

MV = (
    _mv(
        "both concurrent values are kept", "x", "c", MV_REGISTER, b=[update("b")], c=[update("c")], siblings=["c", "b"]
    ),
    _mv("what was overwritten is gone", "x", "b", MV_REGISTER, a=[update("a")], b=[update("b")], siblings=["b"]),
    _mv(
        "the next write resolves",
        "x",
        "r",
        ANTIDOTE,
        b=[update("b")],
        c=[update("c")],
        after=[update("r")],
        siblings=["r"],
    ),
    _mv(
        "of each node only the last write",
        "x",
        "c",
        MV_REGISTER,
        b=[update("b1"), update("b2")],
        c=[update("c")],
        siblings=["c", "b2"],
    ),
    _mv(
        "equal values are two writes",
        "x",
        "v",
        derived(MV_REGISTER),
        b=[update("v")],
        c=[update("v")],
        siblings=["v", "v"],
    ),
    _mv(
        "NULL is a value",
        "x",
        None,
        derived(MV_REGISTER),
        b=[update(None)],
        c=[update("c")],
        later="B",
        siblings=[None, "c"],
    ),
    _mv(
        "x set to 1 and to 2 in two new documents",
        ABSENT,
        2,
        AUTOMERGE_CONFLICTS,
        b=[insert(1)],
        c=[insert(2)],
        siblings=[2, 1],
        type_name="integer",
    ),
    _mv(
        "two names for one dog",
        "Lassie",
        "Babe",
        AUTOMERGE_CONFLICTS,
        b=[update("Beethoven")],
        c=[update("Babe")],
        siblings=["Babe", "Beethoven"],
    ),
    _mv(
        "the value it shows is no write and resolves nothing",
        "x",
        "c",
        derived(ANTIDOTE),
        b=[update("b")],
        c=[update("c")],
        after=[update("c")],
        siblings=["c", "b"],
    ),
)

MAX = (
    _max("the greater of two", 3, 7, RIAK_MAXREG, b=[update(5)], c=[update(7)]),
    _max("the greater, though it is earlier", 3, 7, RIAK_MAXREG, b=[update(7)], c=[update(5)]),
    _max("a write that saw it lowers it", 10, 4, derived(MV_REGISTER), b=[update(4)]),
    _max("what both have seen counts no more", 10, 6, derived(MV_REGISTER), b=[update(6)], c=[update(4)]),
    _max("any value is above NULL", None, 2, RIAK_MAXREG, b=[update(2)]),
    _max("NULL loses", 3, 2, derived(RIAK_MAXREG), b=[update(2)], c=[update(None)]),
    _max("set to NULL", 3, None, derived(MV_REGISTER), b=[update(None)]),
    _max("numbers are compared as numbers", 1, 10, RIAK_MAXREG, b=[update(10)], c=[update(9)], type_name="numeric"),
    _max("texts by their bytes", "a", "b", derived(RIAK_MAXREG), b=[update("b")], c=[update("Z")], type_name="text"),
    _max(
        "timestamps by time",
        "2026-01-01 00:00:00",
        "2026-02-28 12:00:00",
        derived(RIAK_MAXREG),
        b=[update("2026-02-28 12:00:00")],
        c=[update("2026-02-03 12:00:00")],
        type_name="timestamp",
    ),
    _max("the next write decides", 3, 1, derived(MV_REGISTER), b=[update(7)], c=[update(5)], after=[update(1)]),
    _max(
        "of equal numbers the later image",
        "0",
        "1.00",
        derived(RIAK_MAXREG),
        b=[update("1.0")],
        c=[update("1.00")],
        type_name="numeric",
    ),
    _max("inserted twice", ABSENT, 7, RIAK_MAXREG, b=[insert(7)], c=[insert(5)]),
)

MIN = (
    _min("the lesser of two", 9, 5, RIAK_MINREG, b=[update(5)], c=[update(7)]),
    _min("the lesser, though it is later", 9, 5, RIAK_MINREG, b=[update(7)], c=[update(5)]),
    _min("a write that saw it raises it", 1, 4, derived(MV_REGISTER), b=[update(4)]),
    _min("what both have seen counts no more", 1, 4, derived(MV_REGISTER), b=[update(6)], c=[update(4)]),
    _min("NULL loses", 3, 2, derived(RIAK_MINREG), b=[update(2)], c=[update(None)]),
    _min("negative numbers", 0, -10, RIAK_MINREG, b=[update(-9)], c=[update(-10)]),
    _min(
        "dates by time",
        "2026-06-01",
        "2026-02-03",
        derived(RIAK_MINREG),
        b=[update("2026-02-28")],
        c=[update("2026-02-03")],
        type_name="date",
    ),
)

_CART = """
CREATE FUNCTION public.cart_union(winner jsonb, other jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$
    SELECT coalesce(jsonb_object_agg(item, greatest((winner ->> item)::int, (other ->> item)::int)), '{}')
    FROM (SELECT jsonb_object_keys(winner) UNION SELECT jsonb_object_keys(other)) AS items(item)
$$"""
_JOINED = """
CREATE FUNCTION public.joined(winner text, other text) RETURNS text LANGUAGE sql IMMUTABLE
AS $$ SELECT winner || '+' || other $$"""
_LONGEST = """
CREATE FUNCTION public.longest(winner text, other text) RETURNS text LANGUAGE sql IMMUTABLE
AS $$ SELECT CASE WHEN length(other) > length(winner) THEN other ELSE winner END $$"""
_REFUSING = """
CREATE FUNCTION public.refusing(winner text, other text) RETURNS text LANGUAGE plpgsql IMMUTABLE
AS $$ BEGIN RAISE EXCEPTION 'no way to merge % and %', winner, other; END $$"""
_SILENT = """
CREATE FUNCTION public.silent(winner text, other text) RETURNS text LANGUAGE sql IMMUTABLE
AS $$ SELECT NULL::text $$"""


def _cart(winner: str | None, other: str | None) -> str | None:
    a, b = json.loads(winner or "{}"), json.loads(other or "{}")
    return json_image({item: max(cart[item] for cart in (a, b) if item in cart) for item in {**a, **b}})


def _refuse(winner: str | None, other: str | None) -> str | None:
    raise ValueError(f"no way to merge {winner} and {other}")


MERGE_FUNCTIONS = {
    "cart_union": MergeFunction(_CART, _cart),
    "joined": MergeFunction(_JOINED, lambda winner, other: f"{winner}+{other}"),
    "longest": MergeFunction(_LONGEST, lambda w, o: o if len(o or "") > len(w or "") else w),
    "refusing": MergeFunction(_REFUSING, _refuse),
    "silent": MergeFunction(_SILENT, lambda _winner, _other: None),
}

_cart_of = Vectors("merge", "jsonb", function="cart_union")
_merge = Vectors("merge", "text")

MERGE = (
    _cart_of(
        "both carts' items, the larger quantity",
        {"fig": 1},
        {"fig": 3, "pear": 1, "plum": 4},
        DYNAMO,
        b=[update({"fig": 3, "pear": 1})],
        c=[update({"fig": 2, "plum": 4})],
    ),
    _cart_of(
        "a removed item comes back",
        {"fig": 1, "pear": 2},
        {"fig": 1, "pear": 5},
        DYNAMO,
        b=[update({"pear": 2})],
        c=[update({"fig": 1, "pear": 5})],
    ),
    _cart_of(
        "a removal that was seen stands",
        {"fig": 1, "pear": 2},
        {"pear": 5},
        derived(DYNAMO),
        a=[update({"pear": 2})],
        b=[update({"pear": 5})],
    ),
    _cart_of(
        "the next write is the cart",
        {"fig": 1},
        {"pear": 1},
        derived(DYNAMO),
        b=[update({"fig": 3})],
        c=[update({"fig": 2, "plum": 4})],
        after=[update({"pear": 1})],
    ),
    _merge(
        "the later write is the first argument",
        "x",
        "c+b",
        derived(MV_REGISTER),
        b=[update("b")],
        c=[update("c")],
        function="joined",
    ),
    _merge(
        "the later write, of the lower node",
        "x",
        "b+c",
        derived(MV_REGISTER),
        b=[update("b")],
        c=[update("c")],
        later="B",
        function="joined",
    ),
    _merge(
        "one value is left alone", "x", "b", derived(MV_REGISTER), a=[update("a")], b=[update("b")], function="joined"
    ),
    _merge(
        "the longest",
        "x",
        "longer",
        derived(MV_REGISTER),
        b=[update("longer")],
        c=[update("short")],
        function="longest",
    ),
    _merge(
        "a function that raises", "x", "c", derived(LWW_REGISTER), b=[update("b")], c=[update("c")], function="refusing"
    ),
    _merge(
        "a function without an answer",
        "x",
        "b",
        derived(LWW_REGISTER),
        b=[update("b")],
        c=[update("c")],
        later="B",
        function="silent",
    ),
)

VECTORS = (*LWW, *MV, *MAX, *MIN, *MERGE)
