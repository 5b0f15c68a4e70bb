"""What a node says of itself and keeps of its peers."""

from __future__ import annotations

import msgspec
import pytest

from sidecar.core.wire.identity import Known
from sidecar.core.wire.messages import Hello, Start
from sidecar.errors import LinkRefusedError
from sidecar.node.identities import TOLD_S, Identities
from sidecar.postgres.identity import OwnIdentity

HELLO = Hello(
    cluster="c",
    node_id=2,
    node_name="b",
    boot_id="x",
    clock={2: 30},
    incarnation="i",
    generation=1,
    starts=[Start(4, "x", 20)],
)
OWN = OwnIdentity("own", 1, (Start(1, "one", 0), Start(2, "two", 50)))


class Problems(dict[str, str]):
    def __call__(self, key: str, line: str | None, *, restate: bool = False) -> None:
        if line is None:
            self.pop(key, None)
        else:
            self[key] = line


@pytest.fixture
def identities() -> Identities:
    return Identities(Problems())


class Store:
    """Only the ids that are known as peers are written."""

    def __init__(self, *peers: int) -> None:
        self.peers = set(peers)
        self.rows: dict[int, Known] = {}
        self.writes = 0

    async def read(self) -> dict[int, Known]:
        return dict(self.rows)

    async def write(self, met: dict[int, Known]) -> set[int]:
        self.writes += 1
        self.rows.update((node, known) for node, known in met.items() if node in self.peers)
        return met.keys() & self.peers


def test_it_says_who_it_is_once_the_database_was_read(identities: Identities) -> None:
    assert identities.introduce(HELLO) is HELLO
    identities.own = OWN
    said = identities.introduce(HELLO)
    assert (said.incarnation, said.generation, said.starts) == ("own", 1, list(OWN.starts))


def test_before_the_first_link_of_a_start_nobody_can_have_what_came_after_it(identities: Identities) -> None:
    assert identities.end_hlc(90) is None, "the database was not read"
    identities.own = OWN
    assert identities.end_hlc(90) == 50
    identities.linked(msgspec.structs.replace(HELLO, joining=True))
    assert identities.end_hlc(90) == 90
    identities.own = OwnIdentity("own", 2, OWN.starts)
    assert identities.end_hlc(90) is None, "the others have ends of the database whose place it took"


def test_what_a_start_has_told_only_rises_and_ends_with_it(identities: Identities) -> None:
    identities.linked(HELLO)
    assert identities.met == {2: Known("b", "i", 1, 4, "x", 30)}
    identities.told(2, 45)
    identities.told(2, 40)
    identities.told(3, 99)
    assert identities.met[2].told_hlc == 45
    identities.linked(HELLO)
    assert identities.met[2].told_hlc == 45, "the same start on another link"
    identities.linked(msgspec.structs.replace(HELLO, boot_id="y", starts=[*HELLO.starts, Start(5, "y", 46)]))
    assert identities.met[2] == Known("b", "i", 1, 5, "y", 30)


def test_one_that_joins_is_nobody_yet(identities: Identities) -> None:
    identities.linked(msgspec.structs.replace(HELLO, joining=True))
    assert identities.met == {}


def test_known_are_all_that_have_a_name(identities: Identities) -> None:
    identities.linked(HELLO)
    assert identities.known({2: "renamed", 9: "far"}) == {2: Known("renamed", "i", 1, 4, "x", 30), 9: Known("far")}


async def test_what_changed_is_written_down_and_taken_up(identities: Identities) -> None:
    store = Store()
    identities.linked(HELLO)
    assert identities.due.is_set()
    await identities.store(store)  # type: ignore[arg-type]
    assert not identities.due.is_set()
    store.peers.add(2)
    for _ in range(3):
        await identities.store(store)  # type: ignore[arg-type]
    assert store.writes == 2, "again when the peer was not known yet, then no more"
    later = Identities(Problems())
    await later.restore(store)  # type: ignore[arg-type]
    assert later.met == identities.met


def test_a_refusal_is_a_problem_while_it_comes_again() -> None:
    problems = Problems()
    identities = Identities(problems)
    refused = LinkRefusedError("two databases run as 'b'", mend="stop one", cause="copy")
    identities.refused("b", refused, 0.0)
    identities.refused("b", refused, 50.0)
    identities.forget_refusals(50.0 + TOLD_S)
    assert problems == {"identity b": "two databases run as 'b'; stop one"}
    identities.forget_refusals(51.0 + TOLD_S)
    assert problems == {}
    identities.refused("b", refused, 200.0)
    identities.linked(HELLO)
    assert problems == {}
