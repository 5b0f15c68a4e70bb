"""Whether a node is the one that is known by its id and name: pure rules over a Hello and what is known here.

A database is told from another by three things, which its sidecar says in the Hello:

- its *incarnation*, made when it was attached. Another database takes the place of a node only through a join, which
  gives it a new incarnation and a higher *generation*: of two with the same id, the higher one counts.
- its *starts*. Each start of a sidecar is written down in the database, with a number that rises and an id of its own,
  before the first link. A copy made of the files has the starts of before the copying and none of after it; so the last
  start that a peer has met must be among those of the one that comes, or the one that comes is a copy of it.
- the *end* of its own changes at each start. What a start has told a peer was durable before it was told, so the start
  after it begins at or above that. A database that begins below was put back (a restored backup, a standby that lacked
  the last commits), and would give versions a second time that others have already.

None of it needs clocks that agree, and each rule only uses what the node itself has said on a link of its own: what
came by relay may be newer than the Hello that is judged. The same is looked at from the other end: a peer that has more
of this node than this database has ever had proves that *this* database is the one that went back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from sidecar.core.hlc import show
from sidecar.core.membership import MEND
from sidecar.core.wire.messages import Hello, Start
from sidecar.errors import LinkRefusedError

PAGE = 'see "Copies and restored databases" in docs/operations.md'
STOP = f"stop it if it is a copy, else make it anew; {PAGE}"


@dataclass(frozen=True, slots=True)
class Known:
    """What is known here of a node: its name, and who it was when it was linked last (empty: it never was, or with an
    older release). ``told_hlc``: the end of its own changes as far as that start has told. ``removed``: it is no
    longer in the cluster, with ``departed`` as the words for it."""

    name: str
    incarnation: str = ""
    generation: int = 0
    start: int = 0
    boot_id: str = ""
    told_hlc: int = 0
    removed: bool = False
    departed: str = ""


@dataclass(frozen=True, slots=True)
class Meeting:
    """A Hello to judge. ``own``: what this node has said; ``end_hlc``: the highest hlc that anybody can have of this
    node, None where that is not known; ``nodes``: the nodes known here by id."""

    own: Hello
    other: Hello
    nodes: Mapping[int, Known]
    end_hlc: int | None = None

    @property
    def known(self) -> Known | None:
        """Who had the other's id last."""
        return self.nodes.get(self.other.node_id)

    @property
    def who(self) -> str:
        """The other, as it calls itself."""
        return f"{self.other.node_name!r} (node {self.other.node_id})"


def judge_identity(meeting: Meeting) -> None:
    """Raises the :class:`LinkRefusedError` of the first rule that the other breaks."""
    for rule in RULES:
        refused = rule(meeting)
        if refused is not None:
            raise refused


def _removed(meeting: Meeting) -> LinkRefusedError | None:
    if meeting.known is None or not meeting.known.removed:
        return None
    return LinkRefusedError(
        meeting.known.departed or f"{meeting.who} was removed from the cluster",
        mend=MEND,
        cause="removed",
    )


def _other_name(meeting: Meeting) -> LinkRefusedError | None:
    """A certificate names the node, changes name its id: without this, a node could speak for the id of another."""
    if meeting.known is None or meeting.known.name == meeting.other.node_name:
        return None
    other = meeting.other
    return LinkRefusedError(
        f"{other.node_name!r} says it is node {other.node_id}, which is {meeting.known.name!r} here",
        mend="give every node its own id in [node]; for a node that was renamed see docs/operations.md",
        cause="id",
    )


def _other_id(meeting: Meeting) -> LinkRefusedError | None:
    """The same the other way round: the links go by name."""
    other = meeting.other
    for node, known in meeting.nodes.items():
        if known.name == other.node_name and node != other.node_id and not known.removed:
            return LinkRefusedError(
                f"{other.node_name!r} says it is node {other.node_id}, and is node {node} here",
                mend=f"give it a name of its own in [node], or remove the former one: sidecar remove {known.name}",
                cause="name",
            )
    return None


def _other_database(meeting: Meeting) -> LinkRefusedError | None:
    known, other = meeting.known, meeting.other
    if known is None or not known.incarnation or known.incarnation == other.incarnation:
        return None
    if other.joining or other.generation > known.generation:
        return None  # it has joined to take the place of the one that is known, or is about to
    return LinkRefusedError(
        f"{meeting.who} is another database than the one that is known to {meeting.own.node_name}",
        mend=f"if it shall take its place, join it: sidecar join --from {meeting.own.node_name}; {PAGE}",
        cause="copy",
    )


def _other_start(meeting: Meeting) -> LinkRefusedError | None:
    known, starts = _same_database(meeting)
    if known is None:
        return None
    if known.start > starts[-1].number:
        return _went_back(meeting, f"it is at its start {starts[-1].number} and was at {known.start}")
    named = next((start for start in starts if start.number == known.start), None)
    if (named is None and starts[0].number > known.start) or (named is not None and named.boot_id == known.boot_id):
        return None
    return LinkRefusedError(
        f"two databases run as {meeting.who}: start {known.start}, which {meeting.own.node_name} was linked with, is "
        "not among those of the other; one was restored, or is a copy",
        mend=STOP,
        cause="copy",
    )


def _past(meeting: Meeting) -> LinkRefusedError | None:
    known, starts = _same_database(meeting)
    if known is None:
        return None
    after = next((start for start in starts if start.number > known.start), None)
    if after is None or after.hlc >= known.told_hlc:
        return None
    return _went_back(
        meeting,
        f"its start {after.number} began with its changes up to {show(after.hlc)}, "
        f"and {meeting.own.node_name} knows of some up to {show(known.told_hlc)}",
    )


def _own_past(meeting: Meeting) -> LinkRefusedError | None:
    own, other = meeting.own, meeting.other
    theirs = other.clock.get(own.node_id, 0)
    if meeting.end_hlc is None or theirs <= meeting.end_hlc:
        return None
    return LinkRefusedError(
        f"{other.node_name} has changes of {own.node_name!r} (node {own.node_id}) from after {show(meeting.end_hlc)}, "
        "which its own database has never had: it was restored, or is a copy",
        mend=STOP,
        cause="past",
    )


def _went_back(meeting: Meeting, why: str) -> LinkRefusedError:
    return LinkRefusedError(
        f"the database of {meeting.who} went back in time: {why}; it was restored, or is a copy",
        mend=STOP,
        cause="past",
    )


def _same_database(meeting: Meeting) -> tuple[Known | None, list[Start]]:
    """What is known of the same incarnation, and its starts; None when there is nothing to compare."""
    known, other = meeting.known, meeting.other
    if known is None or not known.incarnation or known.incarnation != other.incarnation:
        return None, []
    if other.joining or not other.starts:
        return None, []  # a joining database takes what it lacks from others before it says anything of its own
    return known, other.starts


RULES: tuple[Callable[[Meeting], LinkRefusedError | None], ...] = (
    _removed,
    _other_name,
    _other_id,
    _other_database,
    _other_start,
    _past,
    _own_past,
)
"""In this order: the first that is broken is the one that is told."""

IDENTITY_CAUSES = frozenset({"removed", "id", "name", "copy", "past"})
"""Causes of a refusal that say who somebody is: a problem of the node on both sides, until somebody acts."""
