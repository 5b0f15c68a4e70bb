"""Sets and maps through the coalescer: what travels is a function of the row's own operations, element by element."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from array_literals import parse_array
from hypothesis import given
from hypothesis import strategies as st

from sidecar.core.catalog import ColumnSpec, TableSpec
from sidecar.core.changes import LocalChanges
from sidecar.core.coalesce import Coalescer, RelationPlan
from sidecar.core.pgoutput import Relation, RelationColumn

Value = bytes | None
DOMAIN = 20_000  # oid of a type that is not built in: whatever the column is annotated as
WORDS = ("g_set", "or_set", "aw_set", "lww_set", "lww_map")
STAMPS = ("lww_set", "lww_map")
SPEC = TableSpec(
    1,
    "public",
    "t",
    (ColumnSpec("id", 1, "bigint", "bigint"),),
    tuple(
        ColumnSpec(w, n, kind, kind, w)
        for n, w in enumerate(WORDS, 2)
        for kind in ["jsonb" if w == "lww_map" else "text[]"]
    ),
)


def plan_of(spec: TableSpec = SPEC) -> RelationPlan:
    columns = tuple(RelationColumn(1, c.name, DOMAIN, -1) for c in (*spec.key, *spec.columns))
    return RelationPlan.build(Relation(1, "public", "t", "f", columns), spec)


@dataclass
class Event:
    """One operation on the key; values by word."""

    kind: str
    hlc: int
    old: dict[str, Value] = field(default_factory=dict)
    new: dict[str, Value] = field(default_factory=dict)


def members(word: str, text: Value) -> dict[str, Any]:
    if text is None:
        return {}
    return json.loads(text) if word == "lww_map" else dict.fromkeys(e for e in text.decode()[1:-1].split(",") if e)


def expected(word: str, events: list[Event]) -> dict[str, Any] | None:
    """The change that a life of the row (no delete in it) makes; ``None``: the column was not written."""
    change: dict[str, Any] = {"full": 0, "null": False, "add": {}, "del": {}, "late": 0, "undone": {}}
    for event in events:
        old, new = members(word, event.old.get(word)), members(word, event.new[word])
        if event.kind == "U" and event.old[word] == event.new[word]:
            continue
        change["late"], change["null"] = event.hlc, event.new[word] is None
        whole = event.kind == "I" or word == "aw_set"
        if whole:
            change["full"], change["add"], change["del"] = event.hlc, {}, {}
        for element in old.keys() | new.keys():
            add, gone = change["add"], change["del"]
            if element not in new:
                if word == "g_set":
                    change["undone"][element] = None
                    continue
                add.pop(element, None)
                if not change["full"] or word in STAMPS:
                    gone[element] = event.hlc
            elif whole or element not in old or old[element] != new[element]:
                gone.pop(element, None)
                change["undone"].pop(element, None)
                add[element] = [event.hlc, new[element]] if word == "lww_map" else event.hlc
    return change if change["late"] else None


def entry(word: str, events: list[Event]) -> tuple[dict[str, Any] | None, Value]:
    """The change and the text image before the batch."""
    first = next((e for e in events if e.kind == "D" or e.new[word] != e.old.get(word)), events[0])
    before = first.old.get(word)
    deletes = [i for i, event in enumerate(events) if event.kind == "D"]
    if not deletes:
        return expected(word, events), before
    earlier, later = events[: deletes[0]], events[deletes[0] + 1 :]
    held = expected(word, earlier)
    if not later:
        return held, before if held else None
    change = expected(word, later)
    assert change is not None
    if word in STAMPS:
        inserted = later[0].hlc
        gone = dict.fromkeys(members(word, events[deletes[0]].old[word]), inserted)
        gone = {**(held["del"] if held else {}), **dict.fromkeys(held["add"] if held else {}, inserted), **gone}
        seen = {e for event in later for e in members(word, event.new[word])}
        change["del"] = {e: at for e, at in gone.items() if e not in seen} | change["del"]
    return change, before


def assert_local(local: LocalChanges, events: list[Event]) -> None:
    """The one row of a batch says what the model says."""
    changes = local.changes
    (op,), (hlc,) = parse_array(changes.ops), parse_array(changes.hlcs)
    (mask,) = parse_array(changes.masks[0]) if changes.masks else [b"0"]
    for slot, word in enumerate(changes.columns):
        change, before = entry(word, events)

        def one(literal: bytes) -> Value:
            return parse_array(literal)[0] if literal else None

        text, late = one(changes.values[slot]), one(changes.late[slot])
        assert (text is not None) == bool(int(mask or 0) >> slot & 1) == (change is not None)
        assert one(local.old_images[slot]) == (before if change else None), word
        if change is None or text is None:
            assert one(local.undone[slot]) is None
            continue
        found = {"full": 0, "null": False, "add": {}, "del": {}} | json.loads(text)
        assert found == {name: change[name] for name in ("full", "null", "add", "del")}, (word, op)
        assert int(late or hlc or 0) == change["late"]
        undone = one(local.undone[slot])
        assert set(json.loads(undone) if undone else []) == set(change["undone"])
    written = {word for word in WORDS if entry(word, events)[0] is not None}
    assert written <= set(changes.columns)


SETS = st.none() | st.sets(st.sampled_from("abc")).map(lambda e: ("{" + ",".join(sorted(e)) + "}").encode())
MAPS = st.none() | st.dictionaries(st.sampled_from("abc"), st.integers(0, 1)).map(lambda m: json.dumps(m).encode())
ROWS = st.fixed_dictionaries({w: MAPS if w == "lww_map" else SETS for w in WORDS})


@given(st.data())
def test_what_travels_is_a_function_of_the_rows_operations(data: st.DataObject) -> None:
    plan, coalescer = plan_of(), Coalescer()
    row: dict[str, Value] | None = data.draw(st.none() | ROWS)
    events: list[Event] = []

    def wire(values: dict[str, Value]) -> list[Value]:
        return [b"7", *(values[w] for w in WORDS)]

    def take() -> None:
        for local in coalescer.take():
            assert_local(local, events)
        events.clear()

    for hlc in range(1, data.draw(st.integers(2, 8))):
        coalescer.begin(hlc, hlc)
        if row is None:
            row = data.draw(ROWS)
            coalescer.insert(plan, wire(row))
            events.append(Event("I", hlc, new=row))
        elif data.draw(st.integers(0, 3)) == 0:
            if coalescer.must_split(plan, wire(row)):
                take()
            coalescer.delete(plan, wire(row))
            events.append(Event("D", hlc, old=row))
            row = None
        else:
            kept = data.draw(st.sets(st.sampled_from(WORDS)))
            new: dict[str, Value] = {w: row[w] if w in kept else value for w, value in data.draw(ROWS).items()}
            coalescer.update(plan, wire(row), wire(new))
            events.append(Event("U", hlc, old=row, new=new))
            row = new
        coalescer.commit()
    take()


def test_rows_of_all_kinds_stand_in_one_batch() -> None:
    """Every array has one element per row, whatever the groups."""
    spec = TableSpec(1, "public", "t", SPEC.key, (SPEC.columns[1], ColumnSpec("body", 9, "text", "text")))
    plan, coalescer = plan_of(spec), Coalescer()
    coalescer.begin(1, 1)
    coalescer.insert(plan, [b"1", b"{a}", b"x"])
    coalescer.update(plan, [b"2", b"{a}", b"x"], [b"2", b"{b}", b"x"])
    coalescer.update(plan, [b"3", b"{a}", b"x"], [b"3", b"{a}", b"y"])
    coalescer.update(plan, [b"4", b"{a}", b"x"], [b"4", b"{a}", b"x"])
    coalescer.delete(plan, [b"5", b"{a}", b"x"])
    coalescer.commit()
    (local,) = coalescer.take()
    changes = dict(zip(parse_array(local.changes.keys[0]), parse_array(local.changes.values[0]), strict=True))
    assert changes == {
        b"1": b'{"full":1,"add":{"a":1}}',
        b"2": b'{"add":{"b":1},"del":{"a":1}}',
        b"3": None,
        b"4": None,
        b"5": None,
    }
    old = dict(zip(parse_array(local.changes.keys[0]), parse_array(local.old_images[0]), strict=True))
    assert old == {b"1": None, b"2": b"{a}", b"3": None, b"4": None, b"5": None}
    assert local.old_images[1] == local.undone[0] == local.undone[1] == b""


def test_a_value_that_is_no_array_is_marked_in_its_row() -> None:
    spec = TableSpec(1, "public", "t", SPEC.key, (ColumnSpec("tags", 2, "jsonb", "jsonb", "or_set"),))
    plan, coalescer = plan_of(spec), Coalescer()
    coalescer.begin(1, 1)
    coalescer.update(plan, [b"1", b"[1]"], [b"1", b'{"a": 1}'])
    coalescer.insert(plan, [b"2", b"[1]"])
    coalescer.commit()
    (local,) = coalescer.take()
    undone = dict(zip(parse_array(local.changes.keys[0]), parse_array(local.undone[0]), strict=True))
    assert undone == {b"1": b'"{\\"a\\": 1}"', b"2": None}
