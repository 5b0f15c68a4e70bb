"""Messages: round trips, and everything that must not pass."""

from __future__ import annotations

import contextlib
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.core.changes import ChangeSetHeader, ChangeSetPart
from sidecar.core.hlc import HLC_MAX
from sidecar.core.wire.messages import (
    CONTROL_BYTES_MAX,
    REASON_CHARS_MAX,
    TYPE_CODES,
    Accept,
    Ack,
    BarrierAnswer,
    BarrierRequest,
    Closed,
    Fragment,
    Goodbye,
    Heartbeat,
    Hello,
    Message,
    Refuse,
    Relay,
    clock_patch,
    decode_message,
    encode_message,
    one_line,
    patched,
)
from sidecar.errors import ProtocolError

nodes = st.integers(1, 1023)
hlcs = st.integers(1, HLC_MAX)
clocks = st.dictionaries(nodes, hlcs, max_size=6)
counts = st.integers(0, HLC_MAX)
names = st.from_regex(r"[a-z0-9][a-z0-9_-]{0,62}", fullmatch=True)
texts = st.text(max_size=50)
hellos = st.builds(
    Hello,
    cluster=st.from_regex(r"[A-Za-z0-9_-]{1,63}", fullmatch=True),
    node_id=nodes,
    node_name=names,
    protocol_min=counts,
    protocol_max=counts,
    clock=clocks,
    fingerprints=st.dictionaries(texts, texts, max_size=4),
    boot_id=texts,
    window_bytes=counts,
    frame_bytes_max=counts,
)
headers = st.builds(
    lambda low, high, **rest: ChangeSetHeader(from_hlc=min(low, high), to_hlc=max(low, high) + 1, **rest),
    low=st.integers(0, HLC_MAX - 1),
    high=st.integers(0, HLC_MAX - 1),
    origin=nodes,
    context=clocks,
    part=st.integers(0, 1000),
    last=st.booleans(),
    transactions=counts,
    rows=counts,
    committed_ms=counts,
)
messages = st.one_of(
    hellos,
    st.builds(Accept, counts),
    st.builds(Refuse, texts, st.booleans()),
    st.builds(Goodbye, texts),
    st.builds(ChangeSetPart, header=headers, body=st.binary(max_size=100)),
    st.builds(Ack, clock=clocks, credit_bytes=counts),
    st.builds(Heartbeat, hlc=hlcs, from_hlc=hlcs, sent_ms=counts, echo_ms=counts, echo_delay_ms=counts),
    st.builds(BarrierRequest, counts),
    st.builds(Fragment, st.binary(max_size=100)),
    st.builds(BarrierAnswer, number=counts, clock=clocks),
    st.builds(
        Relay,
        names=st.dictionaries(nodes, names, max_size=5),
        origins=st.none() | st.lists(names, max_size=5),
    ),
    st.builds(Closed, st.dictionaries(nodes, st.tuples(hlcs, hlcs), max_size=5)),
)


@given(messages)
def test_every_message_comes_back_equal(message: Message) -> None:
    assert decode_message(*encode_message(message)) == message


@given(st.integers(0, 255), st.binary(max_size=200))
def test_any_bytes_are_a_message_or_a_protocol_error(code: int, payload: bytes) -> None:
    with contextlib.suppress(ProtocolError):
        decode_message(code, payload)


@given(messages, st.data())
def test_a_damaged_message_is_a_message_or_a_protocol_error(message: Message, data: st.DataObject) -> None:
    code, payload = encode_message(message)
    position = data.draw(st.integers(0, len(payload) - 1))
    damaged = bytearray(payload)
    damaged[position] = data.draw(st.integers(0, 255))
    for candidate in (bytes(damaged), payload[:position]):
        with contextlib.suppress(ProtocolError):
            decode_message(code, candidate)


def test_later_fields_are_ignored() -> None:
    payload = msgspec.msgpack.encode(["left", "a field of a later version"])
    assert decode_message(TYPE_CODES[Goodbye], payload) == Goodbye("left")


def raw(kind: type[Message], *values: Any) -> tuple[int, bytes]:
    return TYPE_CODES[kind], msgspec.msgpack.encode(list(values))


def hello(**changes: Any) -> tuple[int, bytes]:
    facts: dict[str, Any] = {
        "cluster": "c",
        "id": 1,
        "name": "a",
        "min": 1,
        "max": 1,
        "clock": {},
        "prints": {},
        "boot": "",
    }
    facts.update(changes)
    return raw(Hello, *facts.values())


def part(**changes: Any) -> tuple[int, bytes]:
    facts: dict[str, Any] = {
        "origin": 1, "from": 0, "to": 1, "context": {}, "part": 0, "last": True,
        "transactions": 1, "rows": 1, "ms": 0, "version": 1,
    }  # fmt: skip
    facts.update(changes)
    return raw(ChangeSetPart, list(facts.values()), b"body")


@pytest.mark.parametrize(
    "frame",
    [
        hello(id=0),
        hello(id=1024),
        hello(id="1"),
        hello(name="Upper"),
        hello(name="x" * 64),
        hello(name="a\n"),
        hello(cluster=""),
        hello(clock={0: 1}),
        hello(clock={1024: 1}),
        hello(clock={1: -1}),
        hello(clock={1: 1 << 63}),
        hello(clock={1: "x"}),
        hello(prints={"t": "f" * 300}),
        hello(prints={f"t{i}": "f" for i in range(10_001)}),
        hello(boot="x" * 65),
        hello(max=-1),
        raw(Hello, "c"),
        raw(Refuse, "x" * (REASON_CHARS_MAX + 1)),
        raw(Goodbye),
        raw(Accept, -1),
        raw(Ack, {1: -5}, 0),
        raw(Ack, {}, -1),
        raw(Heartbeat, 1 << 63),
        raw(Heartbeat, -1),
        part(origin=0),
        part(origin=1024),
        part(**{"from": -1}),
        part(**{"from": 1}),
        part(to=1 << 63),
        part(context={0: 1}),
        part(context={1: -1}),
        part(context={5000: 1}),
        part(part=-1),
        part(part=1 << 20),
        part(rows=-1),
        part(transactions=-1),
        part(ms=-1),
        part(version=2),
        (0, b""),
        (8, b"\x90"),
        (255, b"\x90"),
        (TYPE_CODES[Goodbye], b"\xc1" * 3),
        (TYPE_CODES[Goodbye], b"\x91" * 100_000),
        (TYPE_CODES[Ack], b"\x90" + b"\x00" * CONTROL_BYTES_MAX),
    ],
)
def test_wrong_values_are_refused(frame: tuple[int, bytes]) -> None:
    with pytest.raises(ProtocolError):
        decode_message(*frame)


def test_the_neighbours_of_wrong_values_pass() -> None:
    decode_message(*hello(id=1023, name="x" * 63, clock={1023: HLC_MAX}))
    decode_message(*part(origin=1023, to=HLC_MAX, context={1: 0}))


@given(clocks, clocks)
def test_a_patch_is_exact_in_both_directions(old: dict[int, int], new: dict[int, int]) -> None:
    assert patched(old, clock_patch(new, old)) == new
    assert clock_patch(new, new) == {}


@given(st.text(max_size=3000))
def test_one_line_is_printable_and_short(text: str) -> None:
    line = one_line(text)
    assert len(line) <= REASON_CHARS_MAX
    assert line.isprintable()
