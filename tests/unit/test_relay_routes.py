"""Which parts of a journal go over a link, per origin, and from where their intervals reach."""

from __future__ import annotations

from pathlib import Path

import pytest

from sidecar.core.changes import ChangeSetHeader, ChangeSetPart
from sidecar.errors import ConfigurationError
from sidecar.node.relay import RelayPolicy, Route
from sidecar.settings import load

OWN, PEER, FAR, OTHER = 1, 2, 3, 4
NAMES = {OWN: "own", PEER: "peer", FAR: "far", OTHER: "other"}


def make_part(origin: int, from_hlc: int, to_hlc: int, number: int = 0, *, last: bool = True) -> ChangeSetPart:
    header = ChangeSetHeader(origin=origin, from_hlc=from_hlc, to_hlc=to_hlc, context={}, part=number, last=last)
    return ChangeSetPart(header=header, body=b"x")


def opened(clock: dict[int, int], *filters: list[str] | None, floors: dict[int, int] | None = None) -> Route:
    route = Route(OWN, PEER, clock, floors=floors, name_of=NAMES.get)
    route.open(*filters)
    route.lacking_from(NAMES)
    return route


def sent(route: Route, part: ChangeSetPart) -> tuple[int, int] | None:
    """The interval as it was sent."""
    admitted = route.admit(part)
    if admitted is None:
        return None
    assert admitted.body == part.body
    route.sent(admitted.header)
    return admitted.header.from_hlc, admitted.header.to_hlc


def test_without_relay_only_own_change_sets_go() -> None:
    route = Route(OWN, PEER, {OWN: 10}, name_of=NAMES.get)
    assert sent(route, make_part(OWN, 10, 20)) == (10, 20)
    assert sent(route, make_part(FAR, 0, 20)) is None
    assert route.closed({OWN: 30, FAR: 30}) == {}


def test_each_origin_goes_on_from_what_the_peer_has_of_it() -> None:
    route = opened({OWN: 20, FAR: 5})
    assert sent(route, make_part(OWN, 10, 20)) is None, "covered"
    assert sent(route, make_part(FAR, 7, 9)) == (5, 9), "reaches back to what the peer has"
    assert sent(route, make_part(OTHER, 3, 8)) == (0, 8)
    assert sent(route, make_part(FAR, 12, 14)) == (9, 14), "and then to what it was sent"
    assert sent(route, make_part(OWN, 21, 25)) == (20, 25)


def test_what_the_peer_got_another_way_is_left_out() -> None:
    route = opened({})
    assert sent(route, make_part(FAR, 0, 10)) == (0, 10)
    route.learn({FAR: 30})
    assert sent(route, make_part(FAR, 10, 20)) is None
    assert sent(route, make_part(FAR, 20, 30)) is None
    assert sent(route, make_part(FAR, 35, 40)) == (30, 40)


def test_the_peers_own_change_sets_never_go_back() -> None:
    assert sent(opened({}), make_part(PEER, 0, 10)) is None


def test_a_set_that_was_begun_goes_to_its_end_with_one_interval() -> None:
    route = opened({FAR: 3})
    first = route.admit(make_part(FAR, 5, 10, last=False))
    route.learn({FAR: 10})  # it came another way meanwhile
    last = route.admit(make_part(FAR, 5, 10, 1))
    assert first is not None
    assert last is not None
    assert (first.header.from_hlc, last.header.from_hlc) == (3, 3)


def test_a_set_that_is_left_out_is_so_as_a_whole() -> None:
    route = opened({FAR: 10})
    assert route.admit(make_part(FAR, 5, 10, last=False)) is None
    route.learn({})
    assert route.admit(make_part(FAR, 5, 10, 1)) is None


@pytest.mark.parametrize("filters", [(["far"], None), (None, ["far"]), (["far", "own"], ["far", "other"])])
def test_filters_of_both_sides_hold(filters: tuple[list[str] | None, ...]) -> None:
    route = opened({}, *filters)
    assert sent(route, make_part(FAR, 0, 10)) == (0, 10)
    assert sent(route, make_part(OTHER, 0, 10)) is None
    assert sent(route, make_part(OWN, 0, 10)) == (0, 10), "a filter is about others"
    assert set(route.closed({OWN: 50, FAR: 50, OTHER: 50, PEER: 50})) == {FAR}


def test_what_passed_before_the_peer_asked_is_not_jumped_over() -> None:
    route = Route(OWN, PEER, {}, name_of=NAMES.get)
    assert sent(route, make_part(FAR, 0, 10)) is None
    route.open()
    assert sent(route, make_part(FAR, 10, 20)) is None, "the journal is gone through first"
    assert route.closed({FAR: 20}) == {}
    assert route.lacking_from(NAMES) == {FAR: 0, OTHER: 0}
    route.open()
    assert not route.stale, "said again"
    assert sent(route, make_part(FAR, 0, 10)) == (0, 10)


def test_a_name_that_passes_the_filter_begins_anew() -> None:
    names: dict[int, str] = {}
    route = Route(OWN, PEER, {}, name_of=names.get)
    route.open(["far"])
    route.lacking_from(NAMES)
    assert sent(route, make_part(FAR, 0, 10)) is None
    names.update(NAMES)
    route.learn_names(["other"])
    assert not route.stale
    route.learn_names(["far"])
    assert route.stale


def test_an_origin_below_the_floor_is_left_out_until_the_peer_is_above() -> None:
    route = opened({FAR: 5}, floors={FAR: 10})
    assert sent(route, make_part(FAR, 15, 20)) is None
    assert route.below == {FAR}
    route.learn({FAR: 9})
    assert not route.stale
    route.learn({FAR: 17})
    assert route.stale
    assert sent(route, make_part(FAR, 20, 30)) is None, "not without the one before it"
    assert route.closed({FAR: 30}) == {}
    assert route.lacking_from(NAMES)[FAR] == 17
    assert sent(route, make_part(FAR, 15, 20)) == (15, 20)
    assert sent(route, make_part(FAR, 20, 30)) == (20, 30)


def test_a_floor_that_rises_above_what_was_sent_is_respected() -> None:
    """The journal's bound took what the link had not reached."""
    floors: dict[int, int] = {}
    route = opened({}, floors=floors)
    assert sent(route, make_part(FAR, 0, 10)) == (0, 10)
    floors[FAR] = 30
    assert sent(route, make_part(FAR, 30, 40)) is None
    assert route.closed({FAR: 40}) == {}


def test_closed_intervals_begin_where_the_peer_is() -> None:
    route = opened({FAR: 5, OTHER: 50})
    assert sent(route, make_part(FAR, 5, 10)) == (5, 10)
    assert route.closed({OWN: 99, PEER: 99, FAR: 20, OTHER: 40}) == {FAR: (10, 20)}
    route.learn({FAR: 20, OTHER: 50})
    assert route.closed({OWN: 99, PEER: 99, FAR: 20, OTHER: 40}) == {}


def policy(folder: Path, text: str) -> RelayPolicy:
    path = folder / "node.toml"
    node = '[node]\nname = "here"\nid = 1\ndsn = "postgresql://here@127.0.0.1:1/app"\ninsecure = true\n'
    path.write_text(node + text)
    return RelayPolicy(load(path))


def peer(name: str, port: int, more: str = "") -> str:
    return f'[[peers]]\nname = "{name}"\naddress = "127.0.0.1:{port}"\n{more}\n'


def test_relay_is_off_by_default_and_may_be_set_per_peer(tmp_path: Path) -> None:
    off = policy(tmp_path, peer("a", 1))
    assert (off.any, off.relays("a"), off.relays("guest")) == (False, False, False)
    one = policy(tmp_path, peer("a", 1, "relay = true") + peer("b", 2))
    assert (one.any, one.relays("a"), one.relays("b"), one.relays("guest")) == (True, True, False, False)
    most = policy(tmp_path, "relay = true\n" + peer("a", 1, "relay = false") + peer("b", 2))
    assert (most.any, most.relays("a"), most.relays("b"), most.relays("guest")) == (True, False, True, True)


def test_a_filter_names_nodes(tmp_path: Path) -> None:
    found = policy(tmp_path, "relay = true\n" + peer("a", 1, 'relay_origins = ["far"]'))
    assert found.takes("a", "far")
    assert not found.takes("a", "other")
    assert not found.takes("a", None), "whose name is not known"
    with pytest.raises(ConfigurationError, match="relay_origins"):
        policy(tmp_path, peer("a", 1, 'relay_origins = ["No Name"]'))
