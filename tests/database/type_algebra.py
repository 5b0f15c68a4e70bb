"""The types whose state is kept in jsonb: their algebra, and how its states and changes look there."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sidecar.core.crdt import aw_set, g_set, lww_map, lww_set, mv_register, or_set
from sidecar.core.crdt.dots import DotSet, SetChange
from sidecar.core.crdt.siblings import Siblings, Write
from sidecar.core.crdt.stamps import StampChange, Stamps

ELEMENTS = ('"', "10", "9", "a b", "é", "A", "b")


@dataclass
class Kind:
    """One type: its algebra, how its states and changes look as JSON, and the SQL that merges them."""

    empty: Any
    write: Callable[[Any, random.Random, int, int], Any]
    apply: Callable[[Any, Any, Mapping[int, int]], Any]
    merge: Callable[[Any, Any], Any]
    as_state: Callable[[Any], Any]
    as_change: Callable[[Any], Any]
    sql_apply: str
    sql_merge: str
    shown: Callable[[Any], Any]
    sql_shown: str


def dots_json(state: DotSet) -> Any:
    return {element: {str(n): h for n, h in live.items()} for element, live in state.dots.items()}


def dots_change(change: SetChange) -> Any:
    out: dict[str, Any] = {"add": dict(change.add), "del": dict(change.remove), "null": change.null}
    return out | ({"full": change.hlc} if change.full else {})


def stamps_json(state: Stamps, *, is_map: bool) -> Any:
    if not is_map:
        return {e: [x.hlc, x.node, x.present] for e, x in state.entries.items()}
    return {
        e: [x.hlc, x.node, json.loads(str(x.value))] if x.present else [x.hlc, x.node] for e, x in state.entries.items()
    }


def stamps_change(change: StampChange, *, is_map: bool) -> Any:
    add = {e: [h, json.loads(str(v))] if is_map else h for e, (h, v) in change.add.items()}
    return {"add": add, "del": dict(change.remove), "null": change.null}


def some(rng: random.Random) -> list[str]:
    return rng.sample(ELEMENTS, rng.randint(0, 4))


def set_write(module: Any) -> Callable[[Any, random.Random, int, int], Any]:
    def write(state: Any, rng: random.Random, hlc: int, node: int) -> Any:
        if rng.random() < 0.15:
            insert = [state] if module is lww_set else []
            return module.insert(*insert, some(rng), hlc=hlc, node=node)
        return module.update(module.value(state), some(rng), hlc=hlc, node=node)

    return write


def map_write(state: Any, rng: random.Random, hlc: int, node: int) -> Any:
    new = {key: rng.choice(["1", "null", '{"q": 2}']) for key in some(rng)}
    if rng.random() < 0.15:
        return lww_map.insert(state, new, hlc=hlc, node=node)
    return lww_map.update(lww_map.value(state), new, hlc=hlc, node=node)


def dot_kind(module: Any, *, numbers: bool = False) -> Kind:
    return Kind(
        empty=module.genesis(["a b", "9"]),
        write=set_write(module),
        apply=module.apply,
        merge=module.merge,
        as_state=dots_json,
        as_change=dots_change,
        sql_apply="crdt_state.dots_merge(%(state)s, %(change)s, %(origin)s, %(context)s::int8[])",
        sql_merge="crdt_state.dots_join(%(a)s, %(a_clock)s::int8[], %(b)s, %(b_clock)s::int8[])",
        shown=lambda state: list(module.value(state, numbers=numbers) or ()),
        sql_shown=f"crdt_state.dots_elements(%(state)s, {'true' if numbers else 'false'})",
    )


def stamp_kind(module: Any, genesis: Any, write: Any, *, is_map: bool) -> Kind:
    def shown(state: Any) -> Any:
        value = module.value(state)
        return {k: json.loads(v) for k, v in (value or {}).items()} if is_map else list(value or ())

    return Kind(
        empty=genesis,
        write=write,
        apply=lambda state, change, _context: module.apply(state, change),
        merge=module.merge,
        as_state=lambda state: stamps_json(state, is_map=is_map),
        as_change=lambda change: stamps_change(change, is_map=is_map),
        sql_apply=f"crdt_state.stamps_merge(%(state)s, %(change)s, %(origin)s, {'true' if is_map else 'false'})",
        sql_merge="crdt_state.stamps_join(%(a)s, %(b)s)",
        shown=shown,
        sql_shown=f"crdt_state.{'map_value(%(state)s)' if is_map else 'stamps_elements(%(state)s, false)'}",
    )


def siblings_json(state: Siblings) -> Any:
    return [[w.node, w.hlc, w.value] for w in mv_register.latest_first(state)]


SIBLING_APPLY = """coalesce(
    crdt_state.siblings_merge(
        CASE WHEN jsonb_array_length(%(state)s::jsonb) > 1 THEN %(state)s::jsonb END,
        (%(state)s::jsonb -> 0 -> 0)::int8, (%(state)s::jsonb -> 0 -> 1)::int8, %(state)s::jsonb -> 0 ->> 2,
        %(origin)s, %(context)s::int8[], (%(change)s::jsonb -> 1)::int8, %(change)s::jsonb ->> 2),
    jsonb_build_array(%(change)s::jsonb))"""

KINDS = {
    "g_set": dot_kind(g_set, numbers=True),
    "or_set": dot_kind(or_set),
    "aw_set": dot_kind(aw_set),
    "lww_set": stamp_kind(lww_set, lww_set.genesis(["9", "b"]), set_write(lww_set), is_map=False),
    "lww_map": stamp_kind(lww_map, lww_map.genesis({"9": "1"}), map_write, is_map=True),
    "mv_register": Kind(
        empty=mv_register.genesis("g"),
        write=lambda _state, rng, hlc, node: Write(hlc, node, rng.choice([None, "x", 'y"'])),
        apply=mv_register.apply,
        merge=mv_register.merge,
        as_state=siblings_json,
        as_change=lambda write: [write.node, write.hlc, write.value],
        sql_apply=SIBLING_APPLY,
        sql_merge="crdt_state.siblings_join(%(a)s, %(a_clock)s::int8[], %(b)s, %(b_clock)s::int8[])",
        shown=mv_register.value,
        sql_shown="%(state)s::jsonb -> 0 ->> 2",
    ),
}


@dataclass(frozen=True)
class Sent:
    """A change as it travels: what ``origin`` did at ``hlc`` when it had seen ``context``."""

    origin: int
    hlc: int
    context: dict[int, int]
    change: Any


def random_history(kind: Kind, seed: int, nodes: int, steps: int) -> tuple[list[Sent], Any]:
    """Random writes of ``nodes`` replicas that deliver to each other in causal order, and the state of a replica that
    has everything in the end. Wall clocks differ, so a write can be above another that it has not seen."""
    rng = random.Random(seed)
    states = dict.fromkeys(range(1, nodes + 1), kind.empty)
    clocks: dict[int, dict[int, int]] = {node: {} for node in states}
    latest = dict.fromkeys(states, 0)
    sent: list[Sent] = []

    def take(at: int, one: Sent) -> None:
        states[at] = kind.apply(states[at], one.change, one.context)
        clocks[at][one.origin] = one.hlc
        latest[at] = max(latest[at], one.hlc)

    def deliver(at: int, among: list[Sent]) -> bool:
        due = [s for s in among if is_due(s, at, clocks[at]) and is_next(s, among, clocks[at])]
        if due:
            take(at, rng.choice(due))
        return bool(due)

    for _ in range(steps):
        at = rng.choice(list(states))
        if rng.random() < 0.5:
            hlc = latest[at] + rng.randint(1, 3)
            one = Sent(at, hlc, dict(clocks[at]), kind.write(states[at], rng, hlc, at))
            sent.append(one)
            take(at, one)
        else:
            deliver(at, sent)
    while deliver(1, sent):
        pass
    return sent, states[1]


def is_due(one: Sent, at: int, clock: Mapping[int, int]) -> bool:
    """Whether a node ``at`` with this clock lacks a change of another node, and has all that it had seen."""
    if one.origin == at or clock.get(one.origin, 0) >= one.hlc:
        return False
    return all(clock.get(n, 0) >= h for n, h in one.context.items() if n not in (at, one.origin))


def is_next(one: Sent, sent: list[Sent], clock: Mapping[int, int]) -> bool:
    """Whether nothing else of its origin comes before it."""
    low = clock.get(one.origin, 0)
    return not [s for s in sent if s.origin == one.origin and low < s.hlc < one.hlc]


def causal_orders(sent: list[Sent]) -> list[list[Sent]]:
    """Every order in which a node that wrote nothing can take them."""

    def extend(done: list[Sent], clock: dict[int, int]) -> list[list[Sent]]:
        if len(done) == len(sent):
            return [done]
        out = []
        for one in sent:
            if one not in done and is_due(one, 0, clock) and is_next(one, sent, clock):
                out += extend([*done, one], {**clock, one.origin: one.hlc})
        return out

    return extend([], {})


def random_batches(sent: list[Sent], rng: random.Random) -> list[list[Sent]]:
    """A causal order, cut into transactions."""
    clock: dict[int, int] = {}
    batches: list[list[Sent]] = []
    left = list(sent)
    while left:
        one = rng.choice([s for s in left if is_due(s, 0, clock) and is_next(s, left, clock)])
        left.remove(one)
        clock[one.origin] = one.hlc
        if batches and rng.random() < 0.4:
            batches[-1].append(one)
        else:
            batches.append([one])
    return batches
