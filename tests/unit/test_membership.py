"""Departures: joined in any order to the same, refused by name and id, and what a list of members takes for news."""

from __future__ import annotations

import itertools

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.core.membership import joined, told, witnessed
from sidecar.core.wire.identity import Known, Meeting, judge_identity
from sidecar.core.wire.messages import Departure, Hello, Members, decode_message, encode_message
from sidecar.errors import LinkRefusedError, ProtocolError
from sidecar.node.members import MemberList

DEPARTURES = st.builds(
    Departure,
    node=st.just(3),
    name=st.just("c"),
    kind=st.sampled_from(["left", "removed"]),
    at_ms=st.integers(0, 3),
    by=st.sampled_from(["a", "b"]),
    holder=st.integers(1, 4),
    change_hlc=st.integers(0, 5),
    hlc=st.integers(5, 9),
)


def departure(node: int = 3, **more: object) -> Departure:
    made = Departure(node=node, name="c", kind="removed", at_ms=0, by="a", holder=1, change_hlc=5, hlc=9)
    return msgspec.structs.replace(made, **more)


@given(st.lists(DEPARTURES, min_size=1, max_size=4))
def test_departures_are_joined_in_any_order(found: list[Departure]) -> None:
    results = set()
    for order in itertools.permutations(found):
        result = order[0]
        for other in (*order[1:], order[0]):
            result = joined(result, other)
        results.add(result)
    [result] = results
    assert joined(result, result) == result
    assert result.change_hlc == max(d.change_hlc for d in found)
    assert result.holder in {d.holder for d in found if d.change_hlc == result.change_hlc}
    assert result.hlc >= result.change_hlc


def test_the_earlier_will_counts_and_all_that_anybody_has() -> None:
    first = departure(at_ms=1, kind="left", by="c", change_hlc=5, holder=1)
    later = departure(at_ms=2, kind="removed", by="b", change_hlc=7, holder=2)
    assert joined(later, first) == departure(at_ms=1, kind="left", by="c", change_hlc=7, holder=2)


def test_a_witness_raises_what_is_known() -> None:
    assert witnessed(departure(), 2, 8, 8) == departure(holder=2, change_hlc=8, hlc=9)
    assert witnessed(departure(), 2, 5, 12) == departure(change_hlc=5, hlc=12)
    assert witnessed(departure(), 2, 4, 4) == departure()


def test_words() -> None:
    assert told(departure(at_ms=1_000)) == "c (node 3) was removed by a at 1970-01-01 00:00:01 UTC"
    assert told(departure(kind="left", by="c")) == "c (node 3) left at 1970-01-01 00:00:00 UTC"


def test_the_departed_id_is_refused_and_its_name_may_come_with_another() -> None:
    own = Hello(cluster="x", node_id=1, node_name="a")
    nodes = {3: Known("c", removed=True, departed=told(departure()))}
    with pytest.raises(LinkRefusedError, match="was removed by a") as refused:
        judge_identity(Meeting(own, Hello(cluster="x", node_id=3, node_name="c"), nodes))
    assert refused.value.cause == "removed"
    assert "sidecar leave --force" in refused.value.line()
    with pytest.raises(LinkRefusedError):
        judge_identity(Meeting(own, Hello(cluster="x", node_id=3, node_name="d"), nodes))
    judge_identity(Meeting(own, Hello(cluster="x", node_id=4, node_name="c"), nodes))


def test_a_list_of_members_takes_what_is_new_and_confirms_its_own() -> None:
    members = MemberList(1)
    members.hear(2, [departure(), departure(node=1)])
    assert members.confirmed == {2}
    assert members.arrived.is_set()
    [fresh] = members.take_news()
    assert (fresh, members.take_news()) == (departure(), [])
    members.departed[3] = fresh
    members.hear(2, [departure(change_hlc=4)])
    assert members.take_news() == []
    members.hear(2, [departure(change_hlc=8, holder=2)])
    members.add(departure(hlc=20))
    assert members.take_news() == [departure(change_hlc=8, holder=2, hlc=20)]
    assert members.by_name("c") == fresh
    assert members.by_name("a") is None


@pytest.mark.parametrize(
    "wrong", [{"at_ms": 1 << 47}, {"node": 1024}, {"kind": "gone"}, {"name": "C!"}, {"hlc": -1}, {"holder": 0}]
)
def test_a_malformed_departure_is_a_protocol_error(wrong: dict[str, object]) -> None:
    code, payload = encode_message(Members([departure(**wrong)]))
    with pytest.raises(ProtocolError):
        decode_message(code, payload)
