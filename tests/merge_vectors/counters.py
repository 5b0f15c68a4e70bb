"""Merge vectors of counters, which see an assignment as what it changes."""

from __future__ import annotations

from tests.merge_vectors.case import ABSENT, Vectors, delete, insert, together, update
from tests.merge_vectors.sources import ANTIDOTE, G_COUNTER, PN_COUNTER, REDIS_STRINGS, RIAK, RIAK_COUNTERS, derived

_pn = Vectors("pn_counter", "bigint")
_g = Vectors("g_counter", "bigint")

PN = (
    _pn("INCRBY 7 and INCRBY 3", 0, 10, REDIS_STRINGS, b=[update(7)], c=[update(3)]),
    _pn("DECRBY 3 and INCRBY 6", 10, 13, REDIS_STRINGS, b=[update(7)], c=[update(16)]),
    _pn("below zero", 0, -1, PN_COUNTER, b=[update(-2)], c=[update(1)]),
    _pn("several of each node", 0, 7, PN_COUNTER, b=[update(5), update(4), update(6)], c=[update(1)]),
    _pn("two equal increments are two", 0, 2, RIAK_COUNTERS, b=[update(1)], c=[update(1)]),
    _pn("an assignment is its difference", 100, 50, derived(ANTIDOTE), b=[update(0)], c=[update(150)]),
    _pn("there and back adds nothing", 5, 8, derived(PN_COUNTER), b=[update(9), update(5)], c=[update(8)]),
    _pn("NULL counts as zero", None, 12, derived(RIAK), b=[update(5)], c=[update(7)]),
    _pn(
        "cents", "1.50", "1.75", derived(PN_COUNTER), b=[update("2.00")], c=[update("1.25")], type_name="numeric(10,2)"
    ),
    _pn(
        "saturates at the type's limit",
        32_000,
        32_767,
        derived(PN_COUNTER),
        b=[update(32_700)],
        c=[update(32_500)],
        type_name="smallint",
    ),
    _pn(
        "the true sum is kept",
        32_000,
        32_700,
        derived(PN_COUNTER),
        b=[update(32_700)],
        c=[update(32_500)],
        after=[update(32_267)],
        type_name="smallint",
    ),
    _pn("inserted twice", ABSENT, 7, derived(PN_COUNTER), b=[insert(3)], c=[insert(4)]),
    _pn("a re-insert starts anew", 10, 6, derived(ANTIDOTE), a=[delete(), insert(3)], b=[update(5)], c=[update(4)]),
    _pn(
        "a re-insert and an increment it had not seen",
        10,
        104,
        derived(ANTIDOTE),
        b=[delete(), insert(100)],
        c=[update(14)],
    ),
    _pn(
        "deleted and inserted in one transaction",
        10,
        104,
        derived(ANTIDOTE),
        b=[together(delete(), insert(100))],
        c=[update(14)],
    ),
    _pn("re-inserted on both sides", 10, 7, derived(ANTIDOTE), a=[delete()], b=[insert(3)], c=[insert(4)]),
    _pn("an increment later than the delete", 10, 11, derived(PN_COUNTER), b=[delete()], c=[update(11)]),
    _pn("an increment earlier than the delete", 10, ABSENT, derived(PN_COUNTER), b=[update(11)], c=[delete()]),
)

G = (
    _g("the sum of increases", 10, 22, G_COUNTER, b=[update(15)], c=[update(17)]),
    _g("several of each node", 0, 8, G_COUNTER, b=[update(1), update(3)], c=[update(5)]),
    _g("a decrease is undone", 10, 10, derived(G_COUNTER), b=[update(4)]),
    _g("a decrease does not undo a concurrent increase", 10, 12, derived(G_COUNTER), b=[update(0)], c=[update(12)]),
    _g("increase, then decrease", 10, 16, derived(G_COUNTER), b=[update(15), update(12)], c=[update(11)]),
    _g("inserted twice", ABSENT, 7, derived(G_COUNTER), b=[insert(3)], c=[insert(4)]),
    _g("a re-insert starts anew", 10, 6, derived(G_COUNTER), a=[delete(), insert(3)], b=[update(5)], c=[update(4)]),
    _g(
        "a re-insert and an increase it had not seen",
        10,
        104,
        derived(G_COUNTER),
        b=[delete(), insert(100)],
        c=[update(14)],
    ),
)

VECTORS = (*PN, *G)
