"""Merge vectors of rows that come and go, by the rule of their table."""

from __future__ import annotations

from tests.merge_vectors.case import ABSENT, Vectors, delete, insert, together, update
from tests.merge_vectors.sources import ANTIDOTE, BAQUERO, LWW_SET, OR_SET, RIAK, derived

_lww = Vectors("lww_register", "text")
_add = Vectors("lww_register", "text", row_rule="add_wins")
_remove = Vectors("lww_register", "text", row_rule="remove_wins")

LWW = (
    _lww("a later delete", "x", ABSENT, LWW_SET, b=[update("b")], c=[delete()]),
    _lww("a later update", "x", "c", LWW_SET, b=[delete()], c=[update("c")]),
    _lww("deleted on both sides", "x", ABSENT, LWW_SET, b=[delete()], c=[delete()]),
    _lww("re-inserted on both sides", "x", "c", derived(LWW_SET), b=[delete(), insert("b")], c=[delete(), insert("c")]),
    _lww("a re-insert and a later delete", "x", ABSENT, derived(LWW_SET), b=[delete(), insert("b")], c=[delete()]),
    _lww("inserted again when all know of the delete", "x", "r", LWW_SET, b=[delete()], after=[insert("r")]),
    _lww(
        "inserted and deleted in one transaction",
        ABSENT,
        "c",
        derived(LWW_SET),
        b=[together(insert("b"), delete())],
        c=[insert("c")],
    ),
)

ADD_WINS = (
    _add("an earlier update that the delete had not seen", "x", "b", OR_SET, b=[update("b")], c=[delete()]),
    _add("a later update", "x", "c", OR_SET, b=[delete()], c=[update("c")]),
    _add("a delete that nothing is concurrent with", "x", ABSENT, ANTIDOTE, a=[update("a")], b=[delete()]),
    _add("deleted on both sides", "x", ABSENT, ANTIDOTE, b=[delete()], c=[delete()]),
    _add("a re-insert against a delete", "x", "b", OR_SET, b=[delete(), insert("b")], c=[delete()]),
    _add("the value it had is no write", "x", ABSENT, derived(RIAK), b=[update("x")], c=[delete()]),
    _add("updated, then deleted by the same node", "x", ABSENT, OR_SET, b=[update("b"), delete()]),
    _add("inserted again", "x", "r", OR_SET, b=[delete()], c=[delete()], after=[insert("r")]),
    _add(
        "a set that the delete had not seen grow",
        ["a"],
        ["a", "b"],
        derived(OR_SET),
        b=[update(["a", "b"])],
        c=[delete()],
        crdt="or_set",
        type_name="text[]",
    ),
    _add(
        "an increment that the delete had not seen",
        10,
        15,
        derived(OR_SET),
        b=[update(15)],
        c=[delete()],
        crdt="pn_counter",
        type_name="bigint",
    ),
)

REMOVE_WINS = (
    _remove("a later update", "x", ABSENT, BAQUERO, b=[delete()], c=[update("c")]),
    _remove("an earlier update", "x", ABSENT, BAQUERO, b=[update("b")], c=[delete()]),
    _remove("an insert that saw the delete", "x", "b", ANTIDOTE, b=[delete(), insert("b")]),
    _remove("an insert that saw one of two deletes", "x", ABSENT, ANTIDOTE, b=[delete(), insert("b")], c=[delete()]),
    _remove("the same, the insert is later", "x", ABSENT, ANTIDOTE, b=[delete(), insert("b")], c=[delete()], later="B"),
    _remove("one key inserted twice", ABSENT, "c", BAQUERO, b=[insert("b")], c=[insert("c")]),
    _remove(
        "inserted here, inserted and deleted there", ABSENT, ABSENT, BAQUERO, b=[insert("b"), delete()], c=[insert("c")]
    ),
    _remove(
        "inserted again when all deletes are seen", "x", "r", BAQUERO, b=[delete()], c=[delete()], after=[insert("r")]
    ),
    _remove(
        "deleted and inserted in one transaction", "x", "b", derived(ANTIDOTE), b=[together(delete(), insert("b"))]
    ),
    _remove(
        "a concurrent update of a re-inserted row",
        "x",
        "c",
        derived(BAQUERO),
        b=[delete(), insert("b")],
        c=[update("c")],
    ),
)

VECTORS = (*LWW, *ADD_WINS, *REMOVE_WINS)
