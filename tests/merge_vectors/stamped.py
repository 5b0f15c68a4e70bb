"""Merge vectors of sets and maps by the stamps of their elements: ``lww_set``, ``lww_map``."""

from __future__ import annotations

from tests.merge_vectors.case import ABSENT, Vectors, delete, insert, update
from tests.merge_vectors.sources import AUTOMERGE_RULES, LWW_SET, REDIS_HASHES, RIAK, RIAK_LWWSET, derived

_set = Vectors("lww_set", "text[]")
_map = Vectors("lww_map", "jsonb")

SET = (
    _set("a later add wins over a remove", ["a"], ["a"], LWW_SET, b=[update([])], c=[update([]), update(["a"])]),
    _set("a later remove wins over an add", ["a"], [], LWW_SET, b=[update([]), update(["a"])], c=[update([])]),
    _set("the later is the lower node's", ["a"], [], LWW_SET, b=[update([])], c=[update([]), update(["a"])], later="B"),
    _set("stat_test", [], ["bar"], RIAK_LWWSET, a=[update(["foo"])], c=[update(["foo", "bar"]), update(["bar"])]),
    _set(
        "other elements are not touched",
        ["a", "b"],
        ["b", "c"],
        LWW_SET,
        b=[update(["b"])],
        c=[update(["a", "b", "c"])],
    ),
    _set(
        "an element that is kept is not added",
        ["a", "b"],
        ["b", "c"],
        derived(LWW_SET),
        b=[update(["b"])],
        c=[update(["a", "b", "c"])],
        later="C",
    ),
    _set(
        "added on both sides: the later add counts",
        [],
        ["y", "x"],
        derived(LWW_SET),
        b=[update(["x"]), update(["x", "y"])],
        c=[update(["x"])],
    ),
    _set(
        "a re-insert and an addition it had not seen",
        ["a"],
        ["x", "y"],
        derived(LWW_SET),
        b=[delete(), insert(["x"])],
        c=[update(["a", "y"])],
    ),
    _set(
        "a later re-insert removes",
        ["e"],
        ["x"],
        derived(LWW_SET),
        b=[update([]), update(["e"])],
        c=[delete(), insert(["x"])],
    ),
    _set(
        "an earlier re-insert removes nothing that was added since",
        ["e"],
        ["x", "e"],
        derived(LWW_SET),
        b=[update([]), update(["e"])],
        c=[delete(), insert(["x"])],
        later="B",
    ),
    _set("set to NULL", ["a"], None, derived(LWW_SET), b=[update(None)]),
    _set("numbers", [], ["9.5", "10"], LWW_SET, b=[update(["10", "9.5"])], type_name="numeric[]"),
    _set(
        "a jsonb array", ["a"], ["b", 1], derived(LWW_SET), b=[update(["a", "b"])], c=[update([1])], type_name="jsonb"
    ),
)

MAP = (
    _map(
        "two fields of a new hash",
        ABSENT,
        {"field1": "a", "field2": "b"},
        REDIS_HASHES,
        b=[insert({"field1": "a"})],
        c=[insert({"field2": "b"})],
    ),
    _map("x and y set", {}, {"x": 1, "y": 2}, AUTOMERGE_RULES, b=[update({"x": 1})], c=[update({"y": 2})]),
    _map(
        "x deleted, the other side writes y",
        {"x": 1},
        {"y": 2},
        AUTOMERGE_RULES,
        b=[update({})],
        c=[update({"x": 1, "y": 2})],
    ),
    _map(
        "x deleted, then set by the other side",
        {"x": 1},
        {"x": 2},
        AUTOMERGE_RULES,
        b=[update({})],
        c=[update({"x": 2})],
    ),
    _map(
        "x set, then deleted by the other side (there the set wins, here the later)",
        {"x": 1},
        {},
        derived(AUTOMERGE_RULES),
        b=[update({"x": 2})],
        c=[update({})],
    ),
    _map(
        "x deleted on both sides",
        {"x": 1, "y": 1},
        {"y": 1},
        AUTOMERGE_RULES,
        b=[update({"y": 1})],
        c=[update({"y": 1})],
    ),
    _map("x set on both sides", {}, {"x": 3}, AUTOMERGE_RULES, b=[update({"x": 2})], c=[update({"x": 3})]),
    _map("the later is the lower node's", {}, {"x": 2}, RIAK, b=[update({"x": 2})], c=[update({"x": 3})], later="B"),
    _map(
        "JSON null is a value",
        {"x": 1},
        {"x": None, "y": 2},
        derived(AUTOMERGE_RULES),
        b=[update({"x": None})],
        c=[update({"x": 1, "y": 2})],
    ),
    _map(
        "a key's value is one value",
        {},
        {"k": {"y": 1}},
        derived(REDIS_HASHES),
        b=[update({"k": {"x": 1}})],
        c=[update({"k": {"y": 1}})],
    ),
    _map("emptied", {"x": 1}, {}, RIAK, b=[update({})]),
    _map("set to NULL", {"x": 1}, None, derived(RIAK), b=[update(None)]),
    _map(
        "set to NULL against a new key",
        {"x": 1},
        {"y": 2},
        derived(RIAK),
        b=[update(None)],
        c=[update({"x": 1, "y": 2})],
    ),
    _map(
        "a re-insert and a key it had not seen",
        {"x": 1},
        {"n": 1, "y": 2},
        derived(LWW_SET),
        b=[delete(), insert({"n": 1})],
        c=[update({"x": 1, "y": 2})],
    ),
    _map(
        "a revived row has its keys",
        {"x": 1},
        {"x": 1, "y": 2},
        derived(RIAK),
        b=[delete()],
        c=[update({"x": 1, "y": 2})],
    ),
)

VECTORS = (*SET, *MAP)
