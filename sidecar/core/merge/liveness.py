"""SQL fragments of row liveness: whether a row is there, by its table's rule.

``row=lww``: the dots of the latest write and the latest delete decide. The other rules decide by a set of dots
(``row_dots``), see :mod:`sidecar.core.crdt.row_add_wins` and :mod:`sidecar.core.crdt.row_remove_wins`: those of
writes (``add_wins``) or deletes (``remove_wins``) that no later operation has seen. Their states also say ``alive``.
"""

from __future__ import annotations

from dataclasses import dataclass

from sidecar.core.catalog import TableSpec
from sidecar.core.merge.genesis import lost

STATE_COLUMNS = ("alive boolean", "row_dots int8[]")
"""In every row state table, so that the rule of a table without states can change; NULL under ``row=lww``."""


@dataclass(frozen=True, slots=True)
class DotRule:
    """A rule that decides by dots. ``alive``: what the number of dots says. ``given``: the operations that give a dot;
    ``seen_by``: those that take the dots they had seen. ``lone``: the dots of a row state without ``row_dots``, and
    ``genesis`` those of a row without state, where ``{s}`` and ``{t}`` are row state and user row; ``{lost}``: it went
    with a TRUNCATE here."""

    alive: str
    given: tuple[str, ...]
    seen_by: tuple[str, ...]
    lone: str
    genesis: str


RULES: dict[str, DotRule] = {
    "add_wins": DotRule(
        alive="cardinality({dots}) > 0",
        given=("I", "U", "R"),
        seen_by=("I", "U", "R", "D"),
        lone="CASE WHEN {s}.alive THEN ARRAY[{s}.live_node, {s}.live_hlc] ELSE '{{}}' END",
        genesis="CASE WHEN {t}.ctid IS NULL THEN '{{}}'::int8[] ELSE '{{0,0}}' END",
    ),
    "remove_wins": DotRule(
        alive="cardinality({dots}) = 0",
        given=("D",),
        seen_by=("I", "R", "D"),
        lone="CASE WHEN {s}.alive THEN '{{}}' ELSE ARRAY[{s}.dead_node, {s}.dead_hlc] END",
        genesis="CASE WHEN {lost} THEN '{{0,0}}' ELSE '{{}}' END::int8[]",
    ),
}


def rule_of(spec: TableSpec) -> DotRule | None:
    """The rule of a table that decides by dots; ``None`` for ``row=lww``."""
    return RULES.get(spec.row_rule)


def latest_alive(row: str) -> str:
    """``row=lww``: the latest write is later than the latest delete."""
    return f"({row}.dead_hlc IS NULL OR ({row}.live_hlc, {row}.live_node) > ({row}.dead_hlc, {row}.dead_node))"


def alive_here(spec: TableSpec, state: str) -> str:
    """Whether the row of the row state ``state``, which exists, is there."""
    return latest_alive(state) if rule_of(spec) is None else f"{state}.alive"


def joined(spec: TableSpec) -> list[str]:
    """What the lookup of row state ``s`` and user row ``t`` contributes."""
    rule = rule_of(spec)
    if rule is None:
        return []
    lone, genesis = rule.lone.format(s="s"), rule.genesis.format(t="t", lost=lost(spec, "g"))
    dots = f"CASE WHEN s.ctid IS NULL THEN {genesis} WHEN s.row_dots IS NULL THEN {lone} ELSE s.row_dots END"
    return [f"{dots} AS s_row_dots", "coalesce(s.alive, t.ctid IS NOT NULL) AS s_alive"]


def was_alive(spec: TableSpec, row: str) -> str:
    """Whether the looked up row is there before the merge."""
    if rule_of(spec) is not None:
        return f"{row}.s_alive"
    live, dead = f"({row}.s_live_hlc, {row}.s_live_node)", f"({row}.s_dead_hlc, {row}.s_dead_node)"
    return f"({row}.s_dead_hlc IS NULL OR {live} > {dead})"


def decided(spec: TableSpec, row: str, context: str) -> list[str]:
    """The dots after the operation in ``row``; ``context`` is its context as int8[] by node."""
    rule = rule_of(spec)
    if rule is None:
        return []
    given, seen_by = (", ".join(f"'{op}'" for op in ops) for ops in (rule.given, rule.seen_by))
    own = f"CASE WHEN {row}.op IN ({given}) THEN {row}.hlc END"
    after = f"crdt_state.dots_after({row}.s_row_dots, {row}.origin, {context}, {own})"
    return [f"CASE WHEN {row}.op IN ({seen_by}) THEN {after} ELSE {row}.s_row_dots END AS row_dots"]


def alive_after(spec: TableSpec, row: str) -> str:
    """Whether the decided row is there after the merge."""
    rule = rule_of(spec)
    return latest_alive(row) if rule is None else f"({rule.alive.format(dots=f'{row}.row_dots')})"


def write_unseen(spec: TableSpec, row: str, live_covered: str, context: str) -> str:
    """Whether there is a write that an incoming delete had not seen. ``live_covered``: whether it has seen the latest
    one, which need not be all of those that ``add_wins`` looks at."""
    if spec.row_rule != "add_wins":
        return f"NOT {live_covered}"
    return _dots_unseen(row, context)


def delete_unseen(spec: TableSpec, row: str, dead_covered: str, context: str) -> str:
    """Whether there is a delete that an incoming write had not seen. ``dead_covered``: whether it has seen the latest
    one, which need not be all of those that ``remove_wins`` looks at."""
    latest = f"{row}.s_dead_hlc IS NOT NULL AND NOT {dead_covered}"
    if spec.row_rule != "remove_wins":
        return latest
    return f"({latest} OR cardinality({row}.s_row_dots) > 0 AND {_dots_unseen(row, context)})"


def _dots_unseen(row: str, context: str) -> str:
    return f"cardinality(crdt_state.dots_after({row}.s_row_dots, {row}.origin, {context}, NULL)) > 0"


def write_wins(spec: TableSpec, written: tuple[str, str], deleted: tuple[str, str]) -> str:
    """Of a write and a delete that did not know of each other, given by hlc and node: whether the write stands."""
    latest = f"({', '.join(written)}) > ({', '.join(deleted)})"
    return {"add_wins": "true", "remove_wins": "false"}.get(spec.row_rule, latest)


def record_kind(wins: str, *, came: bool) -> str:
    """What a record of a decided row ``p`` calls a write and a delete that did not know of each other, given whether
    the write stands; ``came``: whether the write is the one that came in, which may bring the row back."""
    revived = f"WHEN {wins} AND p.alive AND NOT p.present THEN 'revived' " if came else ""
    return f"CASE {revived}WHEN {wins} THEN 'lost_delete' ELSE 'overwrite' END"


def met(spec: TableSpec, state: str, row: str, *, deleted: bool) -> tuple[str, str]:
    """The hlc and the node of what an incoming delete (``deleted``) or write met: the latest write or delete in the row
    state, or, where the rule keeps those that the incoming one had not seen, the latest of these."""
    kind = "live" if deleted else "dead"
    latest = f"{state}.{kind}_hlc", f"{state}.{kind}_node"
    if (spec.row_rule, deleted) not in (("add_wins", True), ("remove_wins", False)):
        return latest
    dots = f"{row}.row_dots"
    found = (
        f"(SELECT {dots}[i + {{place}}] FROM generate_series(1, cardinality({dots}), 2) AS i"
        f" ORDER BY {dots}[i + 1] DESC, {dots}[i] DESC LIMIT 1)"
    )
    hlc, node = (f"coalesce({found.format(place=place)}, {known})" for place, known in zip((1, 0), latest, strict=True))
    return hlc, node


def kept(spec: TableSpec) -> list[str]:
    """What the writing parts read of a decided row."""
    return [] if rule_of(spec) is None else ["row_dots"]


def state_values(spec: TableSpec) -> dict[str, str]:
    """State columns after a merge."""
    return {} if rule_of(spec) is None else {"alive": "p.alive", "row_dots": "p.row_dots"}


def captured_values(spec: TableSpec) -> dict[str, str]:
    """State columns of a fresh row state after a local operation ``g``, which has seen everything: at most one dot is
    left, that of the latest write or delete."""
    return {} if rule_of(spec) is None else {"alive": "g.op <> 'D'", "row_dots": "NULL::int8[]"}


def captured_updates(spec: TableSpec) -> dict[str, str]:
    """The same for a row state ``s`` that exists. A touch is no operation, and leaves the dots."""
    if rule_of(spec) is None:
        return {}
    touch = "excluded.live_hlc = 0 AND excluded.dead_hlc IS NULL"
    return {"alive": "excluded.alive", "row_dots": f"CASE WHEN {touch} THEN s.row_dots END"}
