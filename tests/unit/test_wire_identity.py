"""Whether a Hello comes from the node that is known: every rule by itself, and how a copy or an old state looks."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.core.wire.identity import IDENTITY_CAUSES, RULES, Known, Meeting, judge_identity
from sidecar.core.wire.messages import Hello, Start, decode_message, encode_message
from sidecar.errors import LinkRefusedError, ProtocolError

OWN = Hello(cluster="c", node_id=1, node_name="a")
KNOWN = Known("b", incarnation="i", generation=1, start=2, boot_id="two", told_hlc=20)
STARTS = [Start(1, "one", 0), Start(2, "two", 10), Start(3, "three", 25)]
HELLO = Hello(
    cluster="c",
    node_id=2,
    node_name="b",
    boot_id="three",
    clock={2: 30},
    incarnation="i",
    generation=1,
    starts=STARTS,
)


def hello(**changes: Any) -> Hello:
    made = msgspec.structs.replace(HELLO, **changes)
    if made.starts and "boot_id" not in changes:
        made = msgspec.structs.replace(made, boot_id=made.starts[-1].boot_id)
    return made


def known(**changes: Any) -> Known:
    return dataclasses.replace(KNOWN, **changes)


def verdict(other: Hello, *, nodes: dict[int, Known] | None = None, own: Hello = OWN, end: int | None = None) -> str:
    """The cause of the refusal, empty for none."""
    meeting = Meeting(own, other, {2: KNOWN} if nodes is None else nodes, end)
    refused = next((error for rule in RULES if (error := rule(meeting)) is not None), None)
    if refused is None:
        judge_identity(meeting)
        return ""
    with pytest.raises(LinkRefusedError, match=re.escape(refused.message)):
        judge_identity(meeting)
    assert refused.mend
    assert "\n" not in refused.line()
    return refused.cause


FINE = {
    "the next start of the same database": (hello(), {2: KNOWN}),
    "the start that is known, on a new connection": (hello(starts=STARTS[:2], clock={2: 15}), {2: KNOWN}),
    "nobody was known": (hello(), {}),
    "only its name was known": (hello(), {2: Known("b")}),
    "it was known from an older release": (hello(), {2: Known("b", boot_id="zero")}),
    "an older release on both sides": (hello(incarnation="", generation=0, starts=[]), {2: Known("b", boot_id="zero")}),
    "its known start is older than what it tells": (hello(starts=STARTS[2:]), {2: known(start=1, boot_id="one")}),
    "another database that has joined in its place": (
        hello(incarnation="j", generation=2, starts=[Start(1, "x", 5)]),
        {2: KNOWN},
    ),
    "another database that is about to join": (
        hello(incarnation="j", starts=[], boot_id="x", joining=True, clock={}),
        {2: KNOWN},
    ),
    "the same database, about to join after it was put back": (hello(starts=[], joining=True, clock={}), {2: KNOWN}),
    "another id under the name of a node that was removed": (hello(node_id=3), {2: known(removed=True)}),
    "a start that began right where the known one ended": (
        hello(starts=[*STARTS[:2], Start(3, "three", 20)]),
        {2: KNOWN},
    ),
}

REFUSED = {
    "removed": (hello(), {2: known(removed=True)}, "removed"),
    "removed, joining": (hello(joining=True), {2: known(removed=True)}, "removed"),
    "the id of another name": (hello(), {2: Known("c")}, "id"),
    "the name of another id": (hello(node_id=3), {2: Known("b")}, "name"),
    "the name of another id, joining": (hello(node_id=3, joining=True), {2: Known("b")}, "name"),
    "another database": (hello(incarnation="j", starts=[Start(1, "x", 0)]), {2: KNOWN}, "copy"),
    "the database that was replaced": (hello(), {2: known(incarnation="j", generation=5)}, "copy"),
    "an older release on an older state": (hello(incarnation="", generation=0, starts=[]), {2: KNOWN}, "copy"),
    "a copy: start 2 was another process": (hello(), {2: known(boot_id="copy of two")}, "copy"),
    "a copy of the files, started as often": (hello(), {2: known(start=3, boot_id="genuine", told_hlc=26)}, "copy"),
    "the same number, the present start": (hello(starts=STARTS[:2]), {2: known(boot_id="genuine")}, "copy"),
    "a hole where the known start was": (hello(starts=[STARTS[0], STARTS[2]]), {2: KNOWN}, "copy"),
    "an older state: its starts end before": (hello(starts=STARTS[:1]), {2: KNOWN}, "past"),
    "an older state of the same start": (hello(starts=[*STARTS[:2], Start(3, "x", 19)]), {2: KNOWN}, "past"),
    "an older state, started twice alone": (
        hello(starts=[*STARTS[:2], Start(3, "x", 19), Start(4, "y", 500)]),
        {2: KNOWN},
        "past",
    ),
    "an older state, started more often than it tells": (
        hello(starts=[Start(40, "x", 19), Start(41, "y", 500)]),
        {2: KNOWN},
        "past",
    ),
}


@pytest.mark.parametrize("case", FINE)
def test_who_is_linked(case: str) -> None:
    other, nodes = FINE[case]
    assert verdict(other, nodes=nodes) == ""


@pytest.mark.parametrize("case", REFUSED)
def test_who_is_refused(case: str) -> None:
    other, nodes, cause = REFUSED[case]
    assert verdict(other, nodes=nodes) == cause
    assert cause in IDENTITY_CAUSES


def test_an_id_that_only_others_are_linked_with_is_not_free() -> None:
    """Names come from the links and, with relay, from what peers know."""
    assert verdict(hello(node_id=9, node_name="new"), nodes={9: Known("far")}) == "id"
    assert verdict(hello(node_id=9, node_name="far"), nodes={8: Known("far")}) == "name"


def test_a_peer_that_has_more_of_this_node_than_it_ever_had_proves_that_it_was_put_back() -> None:
    assert verdict(hello(clock={1: 100, 2: 30}), end=100) == ""
    assert verdict(hello(clock={1: 101, 2: 30}), end=100) == "past"
    assert verdict(hello(clock={1: 101, 2: 30}), end=None) == "", "not known here"
    with pytest.raises(LinkRefusedError, match=r"b has changes of 'a' \(node 1\) from after 0.100, .* is a copy"):
        judge_identity(Meeting(OWN, hello(clock={1: 101}), {}, 100))


def test_every_rule_can_be_the_one_that_refuses() -> None:
    assert {cause for _, _, cause in REFUSED.values()} == IDENTITY_CAUSES
    assert len(RULES) == 7


def test_starts_that_do_not_rise_are_no_hello() -> None:
    for starts in ([Start(2, "x", 0), Start(1, "three", 0)], [Start(1, "x", 5), Start(2, "three", 4)], STARTS[:1]):
        broken = msgspec.structs.replace(HELLO, starts=starts)
        with pytest.raises(ProtocolError, match="start"):
            decode_message(*encode_message(broken))
    assert decode_message(*encode_message(HELLO)) == HELLO


# -- a model: databases that run, are copied and put back --------------------------------------------------------------


@dataclasses.dataclass
class Database:
    """What a sidecar would find in it; ``end`` is its own clock entry, ``history`` what really happened to it."""

    starts: list[Start] = dataclasses.field(default_factory=list)
    end: int = 0

    def start(self, boot_id: str) -> None:
        number = self.starts[-1].number + 1 if self.starts else 1
        self.starts = [*self.starts, Start(number, boot_id, self.end)][-4:]

    def hello(self) -> Hello:
        last = self.starts[-1].boot_id
        return hello(starts=list(self.starts), boot_id=last, clock={2: self.end})


def met(former: Known | None, said: Hello) -> Known:
    start, told = said.starts[-1], said.clock[2]
    if former is not None and former.boot_id == start.boot_id:
        told = max(told, former.told_hlc)
    return Known("b", said.incarnation, said.generation, start.number, start.boot_id, told)


STEPS = st.lists(st.sampled_from(["start", "write", "link", "tell"]), max_size=40)


@given(STEPS, st.lists(st.booleans(), min_size=40, max_size=40))
def test_a_database_with_one_history_is_never_refused(steps: list[str], which: list[bool]) -> None:
    """Whichever of two peers it links with, in whatever order it starts, writes and links."""
    database, peers, linked = Database(), [None, None], -1
    database.start("0")
    for i, step in enumerate(steps):
        if step == "start":
            database.start(str(i + 1))
            linked = -1
        elif step == "write":
            database.end += 1
        elif step == "link":
            linked = int(which[i])
            said = database.hello()
            former = peers[linked]
            assert verdict(said, nodes={} if former is None else {2: former}) == ""
            peers[linked] = met(former, said)  # type: ignore[call-overload]
        elif linked >= 0:
            peers[linked] = dataclasses.replace(peers[linked], told_hlc=database.end)  # type: ignore[type-var, call-overload]


@given(st.integers(0, 3), st.integers(1, 3), st.integers(0, 3), st.integers(1, 3), st.booleans())
def test_a_copy_is_refused_once_the_genuine_one_was_met(
    before: int, genuine: int, alone: int, copies: int, wrote: bool
) -> None:
    """However often either was started since, and whatever the copy has written alone."""
    database = Database()
    for i in range(before + 1):
        database.start(f"common {i}")
        database.end += 1
    copy = dataclasses.replace(database)
    peer: Known | None = None
    for i in range(genuine):
        database.start(f"genuine {i}")
        database.end += wrote
        peer = met(peer, database.hello())
    for i in range(copies):
        copy.start(f"copy {i}")
        copy.end += alone
    assert peer is not None
    if copy.starts[0].number > peer.start:
        return  # it was started so often that its Hello does not go back far enough
    assert verdict(copy.hello(), nodes={2: peer}) in ("copy", "past")
