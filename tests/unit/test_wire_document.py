"""docs/protocol.md says what the code does: its example frames and its tables."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sidecar.core.changes import MASK_BITS, ChangeSetHeader, ChangeSetPart, TableChanges
from sidecar.core.wire.frames import encode_frame
from sidecar.core.wire.messages import (
    PART_OVERHEAD_BYTES,
    TYPE_CODES,
    Accept,
    Ack,
    BarrierAnswer,
    BarrierRequest,
    Closed,
    Departure,
    Fragment,
    Goodbye,
    Heartbeat,
    Hello,
    Members,
    Message,
    Relay,
    Start,
    Tables,
    encode_message,
)

DOCUMENT = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text()
EXAMPLES: list[Message] = [
    Accept(1),
    Goodbye("bye"),
    Ack(clock={3: 5}, credit_bytes=600),
    Heartbeat(hlc=7, from_hlc=5, sent_ms=1000),
    Hello(
        cluster="c",
        node_id=1,
        node_name="a",
        clock={1: 5},
        boot_id="x",
        window_bytes=1 << 24,
        frame_bytes_max=1 << 25,
        incarnation="i",
        generation=1,
        starts=[Start(2, "w", 3), Start(3, "x", 5)],
    ),
    ChangeSetPart(header=ChangeSetHeader(origin=1, from_hlc=5, to_hlc=9, context={2: 3}, rows=1), body=b"\x28\xb5"),
    BarrierRequest(7),
    BarrierAnswer(number=7, clock={1: 5}),
    Fragment(b"\x28\xb5"),
    Relay(names={1: "a"}, origins=["b"]),
    Closed({3: (5, 9)}),
    Members([Departure(node=2, name="b", kind="left", at_ms=1000, by="b", holder=1, change_hlc=5, hlc=9)]),
    Tables({"public.t": "d"}),
]


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda m: type(m).__name__)
def test_the_example_frames_are_true(message: Message) -> None:
    assert encode_frame(*encode_message(message)).hex(" ") in DOCUMENT


def test_every_message_and_field_is_documented_in_order() -> None:
    names = {"ChangeSetPart": "ChangeSet"}
    for kind, code in TYPE_CODES.items():
        name = names.get(kind.__name__, kind.__name__)
        row = re.search(rf"^\| {code} \| {name} \| (.*) \|$", DOCUMENT, re.MULTILINE)
        assert row is not None, name
        assert tuple(field.split(" = ")[0] for field in row[1].split(", ")) == kind.__struct_fields__
    for struct in (ChangeSetHeader, TableChanges):
        for number, field in enumerate(struct.__struct_fields__):
            assert re.search(rf"^\| {number} \| {field}\b", DOCUMENT, re.MULTILINE), field


def test_the_numbers_in_the_text() -> None:
    assert f"`length(body) + {PART_OVERHEAD_BYTES}`" in DOCUMENT
    assert f"columns[w * {MASK_BITS} + b]" in DOCUMENT
