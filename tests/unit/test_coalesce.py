"""Coalescing against a plain model: what each row's entry must be is a function of the row's own operations."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
import stream_messages as raw
from array_literals import parse_array
from hypothesis import given
from hypothesis import strategies as st

from sidecar.core.catalog import ColumnSpec, TableSpec
from sidecar.core.changes import MASK_BITS, LocalChanges, TableChanges
from sidecar.core.coalesce import ROW_OVERHEAD_BYTES, Coalescer, RelationPlan
from sidecar.core.pgoutput import UNCHANGED, XLOG_HEADER_BYTES, Relation, RelationColumn, TupleData
from sidecar.core.relation_plan import KNOWN_MAX, LEARN_EVERY, LEARN_EVERY_MAX, PATTERNS_MAX
from sidecar.errors import ProtocolError, SchemaError

Value = bytes | None
DOMAIN = 20_000  # oid of a type that is not built in: whatever the column is annotated as
Row = dict[str, Value]


def column(name: str, attnum: int, type_name: str = "text", crdt: str = "lww_register") -> ColumnSpec:
    return ColumnSpec(name, attnum, type_name, type_name, crdt)


def relation_of(*names: str) -> Relation:
    return Relation(1, "public", "t", "f", tuple(RelationColumn(1, name, DOMAIN, -1) for name in names))


# The relation's order is not the specification's, and one column is not replicated.
ORDER = ("likes", "region", "body", "extra", "id", "price", "title")
SPEC = TableSpec(
    7,
    "public",
    "t",
    key=(column("id", 5, "bigint"), column("region", 2)),
    columns=(
        column("body", 3),
        column("title", 7),
        column("likes", 1, "bigint", "pn_counter"),
        column("price", 6, "numeric", "g_counter"),
    ),
)
COLUMNS = tuple(c.name for c in SPEC.columns)
COUNTERS = tuple(c.name for c in SPEC.counters)


@dataclass
class Event:
    """One operation on one key. ``changed`` are the columns an update changed, with deltas for counters."""

    kind: str
    hlc: int
    xid: int
    old: Row = field(default_factory=dict)
    new: Row = field(default_factory=dict)
    changed: set[str] = field(default_factory=set)
    deltas: dict[str, Fraction] = field(default_factory=dict)


@dataclass
class Entry:
    """What one element of a :class:`LocalChanges` says, values decoded."""

    op: str
    xid: int
    hlc: int | None = None
    inserted: int | None = None
    values: dict[str, Value | Fraction] = field(default_factory=dict)
    hlcs: dict[str, int] = field(default_factory=dict)
    image: Row | None = None
    old_images: Row = field(default_factory=dict)


def delta(old: Value, new: Value) -> Fraction:
    """Exact, by other means than the decimals of the code."""
    a, b = Decimal((old or b"0").decode()), Decimal((new or b"0").decode())
    zero = Fraction(0)  # which NaN and infinities count as
    return (Fraction(b) if b.is_finite() else zero) - (Fraction(a) if a.is_finite() else zero)


def update_event(hlc: int, xid: int, old: Row, new: Row) -> Event:
    event = Event("U", hlc, xid, old, new)
    for name in COLUMNS:
        if old[name] == new[name]:
            continue
        if name in COUNTERS:
            event.deltas[name] = delta(old[name], new[name])
            if not event.deltas[name] and old[name] is not None and new[name] is not None:
                continue
        event.changed.add(name)
    return event


def written(events: list[Event]) -> Entry:
    """What inserts and updates of one row's life assign, with hlcs."""
    last = events[-1]
    insert = events[0] if events[0].kind == "I" else None
    hlcs: dict[str, int] = dict.fromkeys(COLUMNS, insert.hlc) if insert else {}
    for event in events:
        hlcs.update(dict.fromkeys(event.changed, event.hlc))
    if not hlcs:
        return Entry("T", last.xid)
    entry = Entry("U", last.xid, max(hlcs.values()), hlcs=hlcs)
    if insert:
        entry.op, entry.inserted = "I", insert.hlc
    for name in hlcs:
        if name not in COUNTERS:
            entry.values[name] = last.new[name]
        elif insert:
            entry.values[name] = delta(None, last.new[name])
        else:
            entry.values[name] = sum((e.deltas[name] for e in events if name in e.changed), Fraction(0))
    return entry


def expected(events: list[Event]) -> Entry:
    """The entry of a row, from its operations alone."""
    last = events[-1]
    deletes = [i for i, event in enumerate(events) if event.kind == "D"]
    if not deletes:
        return written(events)
    assert len(deletes) == 1, "a row that was deleted and inserted is not deleted again in the same batch"
    before = written(events[: deletes[0]]) if deletes[0] else Entry("T", 0)
    delete = events[deletes[0]]
    if delete is last:
        counters = {name: last.old[name] for name in COUNTERS}
        image = {n: last.old[n] for n in COLUMNS}
        return Entry("D", last.xid, last.hlc, values=before.values, hlcs=before.hlcs, image=image, old_images=counters)
    entry = written(events[deletes[0] + 1 :])
    entry.op = "R"
    entry.old_images = {name: less(delete.old[name], before.values.get(name)) for name in COUNTERS}
    return entry


def less(value: Value, swallowed: Value | Fraction) -> Value | Fraction:
    """The counter before the deltas that the delete has swallowed; its text as it was where there are none."""
    return delta(None, value) - swallowed if isinstance(swallowed, Fraction) and swallowed else value


def decoded(local: LocalChanges) -> dict[tuple[Value, ...], Entry]:
    """A :class:`LocalChanges` back to entries; asserts its shape."""
    changes = local.changes
    rows = changes.rows

    def array(literal: bytes) -> list[Value]:
        values = parse_array(literal) if literal else [None] * rows
        assert len(values) == rows
        return values

    def numbers(literal: bytes) -> list[int | None]:
        return [None if value is None else int(value) for value in array(literal)]

    assert len(changes.values) == len(changes.late) == len(changes.seen) == len(changes.columns)
    assert len(local.old_images) == len(changes.columns)
    assert len(changes.masks) == -(-len(changes.columns) // MASK_BITS)
    keys = list(zip(*(array(k) for k in changes.keys), strict=True))
    assert len(set(keys)) == rows
    ops = array(changes.ops)
    images = array(local.images)
    entries = {}
    for i, (key, xid, hlc, inserted) in enumerate(
        zip(keys, numbers(local.xids), numbers(changes.hlcs), numbers(changes.inserted), strict=True)
    ):
        assert xid is not None
        assert hlc is not None
        image = images[i]
        entries[key] = Entry(
            (ops[i] or b"").decode(),
            xid,
            hlc if ops[i] != b"T" else None,
            inserted,
            image=None if image is None else {n: v if v is None else v.encode() for n, v in json.loads(image).items()},
        )
    for c, name in enumerate(changes.columns):
        masks = numbers(changes.masks[c // MASK_BITS])
        values, late, old = array(changes.values[c]), numbers(changes.late[c]), array(local.old_images[c])
        for i, key in enumerate(keys):
            entry = entries[key]
            if (masks[i] or 0) >> (c % MASK_BITS) & 1:
                value = values[i]
                entry.values[name] = delta(None, value) if name in COUNTERS else value
                assert entry.hlc is not None
                entry.hlcs[name] = late[i] or entry.hlc
                assert late[i] is None or late[i] < entry.hlc
                assert name not in COUNTERS or value is not None
            else:
                assert values[i] is None
                assert late[i] is None
            if name in COUNTERS and entry.op in "DR":
                entry.old_images[name] = old[i]
            else:
                assert old[i] is None
    assert_shipped(local, [op == b"T" for op in ops])
    return entries


def assert_shipped(local: LocalChanges, touched: list[bool]) -> None:
    """Touched rows stand last, and ``shipped`` is the same without them."""
    count = len(touched) - sum(touched)
    assert touched == sorted(touched)
    shipped = local.shipped
    if shipped is None:
        assert not count
        return
    assert shipped.rows == count
    assert shipped.columns == local.changes.columns
    for name in TableChanges.__struct_fields__:
        whole, part = getattr(local.changes, name), getattr(shipped, name)
        for a, b in zip(whole, part, strict=True) if isinstance(whole, list) else [(whole, part)]:
            if isinstance(a, bytes) and a:
                assert parse_array(b) == parse_array(a)[:count] if b else not any(parse_array(a)[:count])


def assert_entries(entries: dict[tuple[Value, ...], Entry], wanted: dict[tuple[Value, ...], Entry]) -> None:
    """Equal; a counter that deltas were taken off is compared as a number, not as text; NaN counts as 0."""
    for key, entry in wanted.items():
        for name, value in entry.old_images.items():
            if value in (b"NaN", b"Infinity"):
                entry.old_images[name] = b"0"
            elif isinstance(value, Fraction):
                entries[key].old_images[name] = delta(None, entries[key].old_images[name])
    assert entries == wanted


TEXT = st.sampled_from([None, b"", b"a", b'b"\\,{}', b"NULL", "ß\u2028\x01".encode()])
VALUES = {
    "body": TEXT,
    "title": TEXT,
    "extra": TEXT,
    "likes": st.sampled_from([None, b"0", b"7", b"-3", b"9223372036854775807"]),
    "price": st.sampled_from([None, b"0", b"0.00", b"1.5", b"1.50", b"-2.25", b"NaN", b"Infinity", b"1" * 40 + b".1"]),
}
ALL_KEYS = [(b"1", b"eu"), (b"1", b"us"), (b"2", b"eu"), (b"2", b'q"')]
KEYS = st.sampled_from(ALL_KEYS)


@given(st.data())
def test_coalescing_is_a_function_of_each_rows_operations(data: st.DataObject) -> None:
    plan = RelationPlan.build(relation_of(*ORDER), SPEC)
    plan.learn_every = data.draw(st.sampled_from([1, 2, 1000]))
    coalescer = Coalescer()
    events: dict[tuple[Value, ...], list[Event]] = {}
    rows: dict[tuple[Value, ...], Row] = {}

    def random_row(key: tuple[Value, ...]) -> Row:
        return {"id": key[0], "region": key[1]} | {name: data.draw(values) for name, values in VALUES.items()}

    def take() -> None:
        assert coalescer.rows == len(events)
        taken = coalescer.take()
        assert (coalescer.rows, coalescer.bytes, coalescer.transactions) == (0, 0, 0)
        entries = decoded(taken[0]) if taken else {}
        assert_entries(entries, {key: expected(list_) for key, list_ in events.items()})
        if taken:
            needed = {n for e in entries.values() for n in (*e.values, *(COUNTERS if e.op == "D" else ()))}
            assert taken[0].changes.columns == [n for n in COLUMNS if n in needed]
        events.clear()

    for key in data.draw(st.sets(KEYS)):
        rows[key] = random_row(key)
    for number_, size in enumerate(data.draw(st.lists(st.integers(1, 4), max_size=6))):
        xid, hlc = 4_000_000_000 + number_, 1000 + number_
        coalescer.begin(xid, hlc)
        for _ in range(size):
            if data.draw(st.integers(0, 9)) == 0:
                take()  # in the middle of the transaction
            key = data.draw(KEYS)
            if key not in rows:
                rows[key] = random_row(key)
                coalescer.insert(plan, [rows[key][n] for n in ORDER])
                events.setdefault(key, []).append(Event("I", hlc, xid, new=rows[key]))
                continue
            old = rows[key]
            wire_old = [old[n] for n in ORDER]
            if data.draw(st.integers(0, 3)) == 0:
                if coalescer.must_split(plan, wire_old):
                    take()
                del rows[key]
                coalescer.delete(plan, wire_old)
                events.setdefault(key, []).append(Event("D", hlc, xid, old=old))
                continue
            target = data.draw(st.sampled_from([key, *(k for k in ALL_KEYS if k not in rows)]))
            fresh = random_row(target)
            kept = data.draw(st.sets(st.sampled_from(list(VALUES))))
            new = fresh | {n: old[n] for n in kept}
            toasted = data.draw(st.sets(st.sampled_from(["body", "title", "extra"])))
            wire_new: TupleData = [
                UNCHANGED if n in toasted and new[n] == old[n] and new[n] is not None else new[n] for n in ORDER
            ]
            if not coalescer.known_update(plan, raw.update(wire_old, wire_new), XLOG_HEADER_BYTES):
                if coalescer.must_split(plan, wire_old, wire_new):
                    take()
                coalescer.update(plan, wire_old, wire_new)
            del rows[key]
            rows[target] = new
            if target == key:
                events.setdefault(key, []).append(update_event(hlc, xid, old, new))
            else:
                events.setdefault(key, []).append(Event("D", hlc, xid, old=old))
                events.setdefault(target, []).append(Event("I", hlc, xid, new=new))
        coalescer.commit()
    take()


SIMPLE = TableSpec(
    1, "public", "t", (column("id", 1, "bigint"),), (column("body", 2), column("n", 3, "bigint", "pn_counter"))
)


def simple_plan() -> RelationPlan:
    return RelationPlan.build(relation_of("id", "body", "n"), SIMPLE)


def one_transaction(coalescer: Coalescer, hlc: int = 1) -> Coalescer:
    coalescer.begin(hlc, hlc)
    return coalescer


def test_deferred_keys_shifted_in_one_statement() -> None:
    """``SET id = id + 1`` on 1, 2: key 2 is inserted before its former row is moved on."""
    plan, coalescer = simple_plan(), one_transaction(Coalescer())
    coalescer.update(plan, [b"1", b"a", b"10"], [b"2", b"a", b"10"])
    coalescer.update(plan, [b"2", b"b", b"20"], [b"3", b"b", b"20"])
    coalescer.commit()
    (local,) = coalescer.take()
    rows = dict(zip(parse_array(local.changes.keys[0]), parse_array(local.changes.ops), strict=True))
    assert rows == {b"1": b"D", b"2": b"R", b"3": b"I"}
    old = dict(zip(parse_array(local.changes.keys[0]), parse_array(local.old_images[1]), strict=True))
    assert old == {b"1": b"10", b"2": b"20", b"3": None}


def test_deferred_keys_swapped() -> None:
    plan, coalescer = simple_plan(), one_transaction(Coalescer())
    coalescer.update(plan, [b"1", b"a", b"10"], [b"2", b"a", b"10"])
    coalescer.update(plan, [b"2", b"b", b"20"], [b"1", b"b", b"20"])
    coalescer.commit()
    (local,) = coalescer.take()
    bodies = dict(zip(parse_array(local.changes.keys[0]), parse_array(local.changes.values[0]), strict=True))
    assert bodies == {b"1": b"b", b"2": b"a"}
    assert set(parse_array(local.changes.ops)) == {b"R"}


def test_an_inserted_row_with_counters_is_not_deleted_in_the_same_entry() -> None:
    """Its insert puts behind what an earlier delete had seen, which the entry of a delete does not say."""
    plan, coalescer = simple_plan(), one_transaction(Coalescer())
    row: list[bytes | None] = [b"1", b"a", b"10"]
    coalescer.insert(plan, row)
    assert coalescer.must_split(plan, row)
    assert coalescer.must_split(plan, row, [b"2", b"a", b"10"]), "a changed key is a delete"
    assert not coalescer.must_split(plan, row, [b"1", b"b", b"10"])
    coalescer.take()
    assert not coalescer.must_split(plan, row)
    plain = RelationPlan.build(relation_of("id", "body"), TableSpec(2, "public", "p", SIMPLE.key, (column("body", 2),)))
    coalescer.insert(plain, [b"1", b"a"])
    assert not coalescer.must_split(plain, [b"1", b"a"]), "without counters nothing is put behind"


def test_a_grow_only_counter_does_not_turn_within_an_entry() -> None:
    """What it loses is undone, so it may not be set off against what it gains."""
    spec = TableSpec(3, "public", "g", SIMPLE.key, (column("n", 2, "bigint", "g_counter"),))
    plan, coalescer = RelationPlan.build(relation_of("id", "n"), spec), one_transaction(Coalescer())
    coalescer.update(plan, [b"1", b"10"], [b"1", b"5"])
    assert not coalescer.must_split(plan, [b"1", b"5"], [b"1", b"3"])
    assert coalescer.must_split(plan, [b"1", b"5"], [b"1", b"8"])
    assert not coalescer.must_split(plan, [b"1", b"5"], [b"1", UNCHANGED])
    coalescer.take()
    coalescer.update(plan, [b"1", b"5"], [b"1", b"8"])
    assert coalescer.must_split(plan, [b"1", b"8"], [b"1", b"7"])
    coalescer.insert(plan, [b"2", b"0"])
    assert not coalescer.must_split(plan, [b"2", b"0"], [b"2", b"4"])
    assert coalescer.must_split(plan, [b"2", b"4"], [b"2", b"3"])
    coalescer.insert(plan, [b"3", b"-2"])
    assert coalescer.must_split(plan, [b"3", b"-2"], [b"3", b"1"]), "inserted with less than nothing, which is undone"
    assert coalescer.must_split(plan, [b"3", b"-2"], [b"3", b"-4"])
    coalescer.insert(plan, [b"4", None])
    assert not coalescer.must_split(plan, [b"4", None], [b"4", b"1"])


def test_a_touched_row_is_deleted_by_its_latest_image() -> None:
    """A column that is not replicated changes in between: still the same row, not a deferred key."""
    plan, coalescer = RelationPlan.build(relation_of("id", "body", "n", "extra"), SIMPLE), Coalescer()
    one_transaction(coalescer, 1)
    coalescer.insert(plan, [b"1", b"a", b"1", b"x"])
    coalescer.update(plan, [b"1", b"a", b"1", b"x"], [b"1", b"a", b"1", b"y"])
    coalescer.delete(plan, [b"1", b"a", b"1", b"y"])
    coalescer.commit()
    (local,) = coalescer.take()
    assert local.changes.ops == b"{D}"


def test_a_merge_between_two_updates_is_no_local_change() -> None:
    """The second update starts from what the merge left, in the counter and in the other column."""
    plan, coalescer = simple_plan(), Coalescer()
    one_transaction(coalescer, 1)
    coalescer.update(plan, [b"1", b"a", b"1"], [b"1", b"a", b"3"])
    coalescer.update(plan, [b"1", b"a", b"3"], [b"1", b"a", b"4"])
    coalescer.commit()
    one_transaction(coalescer, 2)
    coalescer.update(plan, [b"1", b"remote", b"100"], [b"1", b"remote", b"110"])
    coalescer.commit()
    (local,) = coalescer.take()
    assert local.changes.columns == ["n"]
    assert parse_array(local.changes.values[0]) == [b"13"]
    one_transaction(coalescer, 3)
    coalescer.update(plan, [b"1", b"a", b"1"], [b"1", b"b", b"1"])
    coalescer.update(plan, [b"1", b"remote", b"100"], [b"1", b"c", b"100"])
    coalescer.update(plan, [b"1", b"c", b"100"], [b"1", b"c", b"101"])
    (local,) = coalescer.take()
    assert local.changes.columns == ["body", "n"]
    assert [parse_array(values) for values in local.changes.values] == [[b"c"], [b"1"]]


def test_operations_that_only_deferred_keys_can_bring() -> None:
    plan, coalescer = simple_plan(), one_transaction(Coalescer())
    before: list[Value] = [b"1", b"a", b"1"]
    for key in (b"1", b"2", b"3"):
        coalescer.update(plan, [key, b"a", b"1"], [key, b"b", b"1"])
    coalescer.delete(plan, before)
    coalescer.update(plan, before, [b"1", b"c", b"4"])
    coalescer.insert(plan, [b"2", b"d", b"5"])
    coalescer.update(plan, [b"3", b"b", b"1"], [b"3", b"b", b"1"])
    coalescer.insert(plan, [b"3", b"e", b"6"])
    coalescer.commit()
    (local,) = coalescer.take()
    assert local.changes.ops == b"{R,R,R}"
    assert parse_array(local.changes.values[0]) == [b"c", b"d", b"e"]
    assert parse_array(local.changes.values[1]) == [b"4", b"5", b"6"]
    assert parse_array(local.old_images[1]) == [b"1", b"1", b"1"]


def test_mask_words_of_a_wide_table() -> None:
    names = [f"c{i}" for i in range(2 * MASK_BITS + 1)]
    spec = TableSpec(1, "public", "t", (column("id", 1),), tuple(column(n, i + 2) for i, n in enumerate(names)))
    plan = RelationPlan.build(relation_of("id", *names), spec)
    coalescer = one_transaction(Coalescer())
    old: list[Value] = [b"1", *([b"x"] * len(names))]
    new = list(old)
    new[1 + MASK_BITS] = new[-1] = b"y"
    coalescer.update(plan, old, new)
    coalescer.insert(plan, [b"2", *([None] * len(names))])
    coalescer.commit()
    (local,) = coalescer.take()
    full = (1 << MASK_BITS) - 1
    assert [parse_array(m) for m in local.changes.masks] == [
        [b"%d" % full, b"0"],
        [b"%d" % full, b"1"],
        [b"1", b"1"],
    ]


def test_tables_in_the_order_of_their_first_change() -> None:
    plans = [
        RelationPlan.build(relation_of("id", "body", "n"), TableSpec(i, "public", f"t{i}", SIMPLE.key, SIMPLE.columns))
        for i in range(3)
    ]
    coalescer = one_transaction(Coalescer())
    for i in (2, 0, 1, 0, 2):
        coalescer.insert(plans[i], [b"%d" % coalescer.rows, b"", b"0"])
    coalescer.commit()
    assert [local.table_id for local in coalescer.take()] == [2, 0, 1]
    assert coalescer.take() == []


def test_a_repeated_relation_message_changes_nothing() -> None:
    coalescer = one_transaction(Coalescer())
    coalescer.insert(simple_plan(), [b"1", b"a", b"1"])
    coalescer.update(simple_plan(), [b"1", b"a", b"1"], [b"1", b"b", b"1"])
    coalescer.commit()
    (local,) = coalescer.take()
    assert local.changes.rows == 1


def test_another_layout_starts_another_entry_of_the_table() -> None:
    wider = RelationPlan.build(relation_of("new", "id", "body", "n"), SIMPLE)
    narrow = simple_plan()
    coalescer = one_transaction(Coalescer())
    coalescer.insert(narrow, [b"1", b"a", b"1"])
    coalescer.update(wider, [None, b"1", b"a", b"1"], [None, b"1", b"b", b"1"])
    coalescer.insert(narrow, [b"2", b"a", b"1"])
    coalescer.commit()
    assert [(local.table_id, local.changes.ops) for local in coalescer.take()] == [
        (1, b"{I}"),
        (1, b"{U}"),
        (1, b"{I}"),
    ]


def test_bounds_for_the_caller() -> None:
    coalescer = one_transaction(Coalescer())
    plan = simple_plan()
    coalescer.insert(plan, [b"1", b"a", b"1"], 1000)
    coalescer.update(plan, [b"1", b"a", b"1"], [b"1", b"b", b"1"], 1000)
    coalescer.delete(plan, [b"2", b"b", b"1"], 500)
    assert (coalescer.rows, coalescer.bytes, coalescer.transactions) == (2, 1500 + 2 * ROW_OVERHEAD_BYTES, 0)
    # A held row counts once, at its largest.
    coalescer.update(plan, [b"1", b"b", b"1"], [b"1", b"c", b"1"], 1200)
    coalescer.update(plan, [b"1", b"c", b"1"], [b"1", b"d", b"1"], 800)
    coalescer.delete(plan, [b"1", b"d", b"1"], 1300)
    coalescer.insert(plan, [b"1", b"e", b"1"], 1400)
    assert (coalescer.rows, coalescer.bytes) == (2, 1900 + 2 * ROW_OVERHEAD_BYTES)
    coalescer.commit()
    assert coalescer.transactions == 1


def test_patterns_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sidecar.core.relation_plan.PATTERNS_MAX", 2)
    plan = simple_plan()
    for pattern in (b"\0\0\0", b"\0\0\1", b"\0\1\0", b"\0\1\1"):
        plan.learn(pattern)
        assert len(plan.changes) <= 2
    assert PATTERNS_MAX >= 1024


@pytest.mark.parametrize(
    ("type_name", "crdt", "readable", "unreadable"),
    [
        ("integer", "pn_counter", (20, 21, 23, 1700, DOMAIN), (25, 3802, 1009)),
        ("numeric", "g_counter", (20, 1700, DOMAIN), (25, 701)),
        ("text[]", "or_set", (1009, 1007, DOMAIN), (25, 23, 3802)),
        ("jsonb", "lww_map", (3802, DOMAIN), (25, 114, 1009)),
        ("integer", "lww_register", (25, 23, 3802), ()),
    ],
)
def test_values_of_a_type_that_a_column_never_had_are_left_out(
    type_name: str, crdt: str, readable: tuple[int, ...], unreadable: tuple[int, ...]
) -> None:
    """They are of a former column of that name."""
    spec = TableSpec(1, "public", "t", (column("id", 1),), (column("v", 2, type_name, crdt), column("w", 3)))
    for oid in (*readable, *unreadable):
        types = (RelationColumn(1, "id", 25, -1), RelationColumn(0, "v", oid, -1), RelationColumn(0, "w", 25, -1))
        plan = RelationPlan.build(Relation(1, "public", "t", "f", types), spec)
        names = ["w"] if oid in unreadable else ["v", "w"]
        assert [c.name for c in plan.spec.columns] == names, oid
        assert plan.width == 3


def test_refusals() -> None:
    plan, coalescer = simple_plan(), one_transaction(Coalescer())
    with pytest.raises(SchemaError, match="without the old row") as caught:
        coalescer.update(plan, None, [b"1", b"a", b"1"])
    assert "REPLICA IDENTITY FULL" in caught.value.mend
    with pytest.raises(SchemaError, match="without the old row"):
        coalescer.delete(plan, None)
    with pytest.raises(SchemaError, match="column 'id' is not in the replication stream"):
        RelationPlan.build(relation_of("body", "n"), SIMPLE)
    older = RelationPlan.build(relation_of("id", "body"), SIMPLE)
    assert [c.name for c in older.spec.columns] == ["body"], "a column that was added after the change was made"
    with pytest.raises(ProtocolError, match="2 columns"):
        coalescer.insert(plan, [b"1", b"a"])
    with pytest.raises(ProtocolError, match="2 columns"):
        coalescer.delete(plan, [b"1", b"a"])
    with pytest.raises(ProtocolError, match="2 columns"):
        coalescer.update(plan, [b"1", b"a", b"1"], [b"1", b"a"])
    with pytest.raises(ProtocolError, match="begins"):
        coalescer.begin(1, 1)
    coalescer.commit()
    with pytest.raises(ProtocolError, match="without a transaction"):
        coalescer.commit()
    coalescer.begin(2, 2)
    coalescer.update(plan, [b"1", b"a", b"1"], [b"1", b"a", b"one"])
    coalescer.commit()
    with pytest.raises(ProtocolError, match="not the value of a counter"):
        coalescer.take()


def test_numbers_of_any_length_are_exact() -> None:
    plan, coalescer = simple_plan(), one_transaction(Coalescer())
    largest = b"9" * 131_072 + b"." + b"9" * 16_383
    coalescer.insert(plan, [b"1", None, largest])
    coalescer.update(plan, [b"2", None, b"-" + largest], [b"2", None, largest])
    coalescer.update(plan, [b"2", None, largest], [b"2", None, b"0." + b"0" * 16_382 + b"1"])
    coalescer.commit()
    (local,) = coalescer.take()
    assert parse_array(local.changes.values[1]) == [largest, b"1" + b"0" * 131_072 + b"." + b"0" * 16_383]


def test_text_that_is_not_utf8_has_no_image() -> None:
    plan, coalescer = simple_plan(), one_transaction(Coalescer())
    coalescer.delete(plan, [b"1", b"\xe9", b"1"])
    coalescer.commit()
    with pytest.raises(SchemaError, match="not UTF-8"):
        coalescer.take()


PLAIN = TableSpec(2, "public", "p", SIMPLE.key, (column("body", 2),))


def test_a_row_that_comes_and_goes_in_one_batch_says_so() -> None:
    """Its delete carries the whole row, which may become a tombstone image."""
    plan, coalescer = RelationPlan.build(relation_of("id", "body"), PLAIN), one_transaction(Coalescer(), 7)
    for key in (b"1", b"2"):
        coalescer.insert(plan, [key, b"a"])
        coalescer.delete(plan, [key, b"a"])
    coalescer.insert(plan, [b"2", b"b"])
    coalescer.delete(plan, [b"3", b"a"])
    coalescer.delete(plan, [b"4", b"a"])
    coalescer.insert(plan, [b"4", b"b"])
    coalescer.commit()
    (local,) = coalescer.take()
    changes = local.changes
    found = zip(*map(parse_array, (changes.keys[0], changes.ops, changes.inserted)), strict=True)
    assert sorted(found) == [(b"1", b"D", b"7"), (b"2", b"R", b"7"), (b"3", b"D", None), (b"4", b"R", b"7")]


def test_no_row_passes_a_truncate_of_its_table() -> None:
    plan, coalescer = RelationPlan.build(relation_of("id", "body"), PLAIN), one_transaction(Coalescer(), 7)
    coalescer.insert(plan, [b"1", b"a"])
    coalescer.truncate(plan)
    coalescer.insert(plan, [b"1", b"b"])
    coalescer.insert(simple_plan(), [b"1", b"a", b"1"])
    coalescer.commit()
    taken = coalescer.take()
    assert [(local.table_id, local.changes.ops, local.changes.hlcs) for local in taken] == [
        (2, b"{I}", b"{7}"),
        (2, b"{Z}", b"{7}"),
        (2, b"{I}", b"{7}"),
        (1, b"{I}", b"{7}"),
    ]


def known_or_read(coalescer: Coalescer, plan: RelationPlan, old: TupleData, new: TupleData) -> bool:
    """Take an update as capture does; whether its layout was known."""
    message = raw.update(old, new)
    known = coalescer.known_update(plan, message, XLOG_HEADER_BYTES)
    if not known:
        coalescer.update(plan, old, new, len(message))
    return known


def test_frequent_updates_are_not_cut_before_they_are_needed() -> None:
    plan, coalescer = simple_plan(), Coalescer()
    known = 0
    for i in range(LEARN_EVERY + 10):
        coalescer.begin(i, i + 1)
        known += known_or_read(coalescer, plan, [b"%d" % i, b"a", b"7"], [b"%d" % i, b"a", b"9"])
        coalescer.commit()
    assert known == 10
    for i in range(10):  # a row is held with its first and its last message
        coalescer.begin(i, 100 + i)
        known += known_or_read(coalescer, plan, [b"20", b"a", b"%d" % (9 + 2 * i)], [b"20", b"a", b"%d" % (11 + 2 * i)])
        coalescer.commit()
    assert known == 20
    size = len(raw.update([b"20", b"a", b"27"], [b"20", b"a", b"29"]))
    assert coalescer.bytes <= (LEARN_EVERY + 10) * (ROW_OVERHEAD_BYTES + size) + size
    (local,) = coalescer.take()
    entries = dict(zip(parse_array(local.changes.keys[0]), parse_array(local.changes.values[0]), strict=True))
    assert entries == {b"%d" % i: b"2" for i in range(LEARN_EVERY + 10)} | {b"20": b"22"}
    assert b"109" in local.changes.hlcs


def test_a_counter_that_a_merge_moved_in_between_is_summed_by_its_deltas() -> None:
    plan, coalescer = simple_plan(), Coalescer()
    plan.learn_every = 1
    for i, (key, before, after) in enumerate([(2, 0, 5), (1, 1, 2), (1, 1, 2), (1, 10, 12), (1, 12, 15)]):
        coalescer.begin(i, i + 1)
        known_or_read(coalescer, plan, [b"%d" % key, b"a", b"%d" % before], [b"%d" % key, b"a", b"%d" % after])
        coalescer.commit()
    (local,) = coalescer.take()
    assert sorted(parse_array(local.changes.values[0])) == [b"5", b"7"]


def test_an_application_with_many_kinds_of_updates_does_not_learn_all_the_time() -> None:
    columns = tuple(column(f"c{i}", i + 2) for i in range(12))
    spec = TableSpec(1, "public", "t", (column("id", 1, "bigint"),), columns)
    plan = RelationPlan.build(relation_of("id", *(c.name for c in columns)), spec)
    coalescer = one_transaction(Coalescer())
    old: TupleData = [b"1", *[b"a"] * len(columns)]
    learned: list[Any] = []
    for i in range(1, 1 << len(columns)):
        new = [b"1", *(b"b" if i >> bit & 1 else b"a" for bit in range(len(columns)))]
        known_or_read(coalescer, plan, old, new)
        assert len(plan.known) <= KNOWN_MAX
        learned += [known for known in plan.known if known not in learned]
    assert 4 * LEARN_EVERY < plan.learn_every <= LEARN_EVERY_MAX
    assert len(learned) < (1 << len(columns)) / LEARN_EVERY / 4


def test_what_cannot_be_said_by_first_and_last_values_is_never_known() -> None:
    plan, coalescer = RelationPlan.build(relation_of(*ORDER), SPEC), Coalescer()
    plan.learn_every = 1
    row: dict[str, Value] = dict.fromkeys(ORDER, b"1")
    for changes in ({"price": b"2"}, {"extra": b"x"}, {}, {"region": b"us"}, {"body": b"y", "price": b"3"}):
        new = row | changes
        for _ in range(3):
            coalescer.begin(1, 1)
            known_or_read(coalescer, plan, [row[n] for n in ORDER], [new[n] for n in ORDER])
            coalescer.commit()
            coalescer.take()
        assert not plan.known, changes
    growing = TableSpec(1, "public", "t", SIMPLE.key, (column("body", 2), column("n", 3, "bigint", "g_counter")))
    plan = RelationPlan.build(relation_of("id", "body", "n"), growing)
    plan.learn_every = 1
    coalescer.begin(2, 2)
    known_or_read(coalescer, plan, [b"1", b"a", b"5"], [b"1", b"a", b"6"])
    assert not plan.known, "it may turn, and the change set ends before that"
