"""The session: its table, the judgement of Hellos, credit, and clocks as differences."""

from __future__ import annotations

import itertools
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.core.changes import ChangeSetHeader, ChangeSetPart
from sidecar.core.wire.frames import encode_frame
from sidecar.core.wire.greeting import Choice, Standing, choose, judge_hello, negotiate
from sidecar.core.wire.messages import (
    CONTROL_BYTES_MAX,
    PART_OVERHEAD_BYTES,
    PROTOCOL_MAX,
    SINCE,
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
    Tables,
    encode_message,
    part_bytes,
)
from sidecar.core.wire.roundtrip import RoundTrip
from sidecar.core.wire.session import TRANSITIONS, Session, Side, advance
from sidecar.errors import LinkRefusedError, ProtocolError

MIB = 1 << 20
FRAMES_OF_THE_HANDSHAKE = 2  # Hello and Accept, in each direction


def hello(node_id: int = 1, **changes: Any) -> Hello:
    facts = {"cluster": "c", "node_id": node_id, "node_name": f"n{node_id}", "boot_id": "b", "window_bytes": MIB}
    return Hello(**{**facts, "frame_bytes_max": MIB, **changes})  # type: ignore[arg-type]


def part(body: bytes = b"x", context: dict[int, int] | None = None, to_hlc: int = 1) -> ChangeSetPart:
    return ChangeSetPart(header=ChangeSetHeader(origin=1, from_hlc=0, to_hlc=to_hlc, context=context or {}), body=body)


def give(sender: Session, receiver: Session, message: Message) -> Message:
    (heard,) = receiver.receive(sender.send(message))
    return heard


def linked(low: Hello | None = None, high: Hello | None = None, frame_bytes_max: int = MIB) -> tuple[Session, Session]:
    """Two sessions after the handshake; the first has the lower id."""
    a, b = Session(frame_bytes_max), Session(frame_bytes_max)
    give(a, b, low or hello(1))
    give(b, a, high or hello(2))
    give(a, b, a.accept())
    give(b, a, b.accept())
    assert a.established
    assert b.established
    return a, b


def forged(message: Message) -> bytes:
    """What a peer that keeps to no rule sends right after the handshake."""
    return encode_frame(*encode_message(message), FRAMES_OF_THE_HANDSHAKE)


SAMPLES: list[Message] = [
    hello(1), Accept(1), Refuse("no"), Goodbye("bye"), part(), Ack(clock={1: 1}), Heartbeat(hlc=1),
    BarrierRequest(1), BarrierAnswer(number=1), Fragment(b"x"), Relay(), Closed({}),
]  # fmt: skip


def test_the_table_of_transitions() -> None:
    """Every pair of states and every message, against the rules as they are published in docs/protocol.md."""
    for side, other, message, first in itertools.product(Side, Side, SAMPLES, (True, False)):
        kind = type(message)
        allowed = {
            Hello: side is Side.START,
            Accept: side is Side.GREETED and other is (Side.GREETED if first else Side.OPEN),
            Refuse: side in (Side.START, Side.GREETED),
            Goodbye: side in (Side.GREETED, Side.OPEN),
        }.get(kind, side is Side.OPEN and other is Side.OPEN)
        if allowed:
            advance(side, kind, other, first=first)
        else:
            with pytest.raises(ProtocolError):
                advance(side, kind, other, first=first)


def test_nothing_follows_a_farewell() -> None:
    assert TRANSITIONS[Side.CLOSED] == {}


@pytest.mark.parametrize("message", SAMPLES, ids=lambda m: type(m).__name__)
def test_a_stranger_must_begin_with_a_hello(message: Message) -> None:
    session = Session(MIB)
    arriving = session.receive(encode_frame(*encode_message(message)))
    if isinstance(message, Hello | Refuse):
        assert next(arriving) == message
    else:
        with pytest.raises(ProtocolError, match="before its Hello"):
            next(arriving)
        assert session.theirs is Side.CLOSED


def test_the_handshake_byte_by_byte() -> None:
    a, b = Session(MIB), Session(MIB)

    def trickle(sender: Session, receiver: Session, message: Message) -> list[Message]:
        data = sender.send(message)
        return [heard for i in range(len(data)) for heard in receiver.receive(data[i : i + 1])]

    assert trickle(a, b, hello(1)) == [hello(1)]
    assert trickle(b, a, hello(2)) == [hello(2)]
    assert trickle(a, b, a.accept()) == [Accept(PROTOCOL_MAX)]
    assert not a.established
    assert trickle(b, a, b.accept()) == [Accept(PROTOCOL_MAX)]
    assert a.established
    assert b.established
    assert trickle(a, b, part(b"body", {1: 5})) == [part(b"body", {1: 5})]


def test_the_higher_id_cannot_accept_first() -> None:
    a, b = Session(MIB), Session(MIB)
    give(a, b, hello(1))
    give(b, a, hello(2))
    with pytest.raises(ProtocolError):
        b.send(b.accept())
    with pytest.raises(ProtocolError, match="Accept while"):
        list(a.receive(encode_frame(*encode_message(Accept(1)))))


def test_an_accept_of_another_version_is_refused() -> None:
    a, b = Session(MIB), Session(MIB)
    give(a, b, hello(1))
    give(b, a, hello(2))
    with pytest.raises(ProtocolError, match="version 9"):
        list(b.receive(encode_frame(*encode_message(Accept(9)))))


# The previous version


def linked_at_version_1() -> tuple[Session, Session]:
    """This release and one that speaks version 1 only."""
    return linked(high=hello(2, protocol_max=1))


def test_the_previous_version_is_spoken_with_an_older_peer() -> None:
    assert PROTOCOL_MAX == 3
    for a, b in (linked_at_version_1(), linked(low=hello(1, protocol_max=1))):
        assert (a.protocol, b.protocol) == (1, 1)
        for sender, receiver in ((a, b), (b, a)):
            data = sender.send(Heartbeat(hlc=4))
            assert data == encode_frame(*encode_message(Heartbeat(hlc=4))), "without a number, as version 1 has it"
            assert list(receiver.receive(data)) == [Heartbeat(hlc=4)]


@pytest.mark.parametrize(
    "message",
    [BarrierRequest(1), BarrierAnswer(number=1), Fragment(b"x"), Relay(), Closed({})],
    ids=lambda m: type(m).__name__,
)
def test_what_the_previous_version_does_not_know_is_neither_sent_nor_taken(message: Message) -> None:
    assert type(message) in SINCE
    a, b = linked_at_version_1()
    with pytest.raises(ProtocolError, match="not part of protocol version 1"):
        a.send(message)
    with pytest.raises(ProtocolError, match="not part of protocol version 1"):
        list(b.receive(encode_frame(*encode_message(message))))


def test_that_tables_changed_is_not_said_to_a_peer_of_version_2() -> None:
    assert SINCE[Tables] == 3
    a, b = linked(high=hello(2, protocol_max=2))
    with pytest.raises(ProtocolError, match="not part of protocol version 2"):
        a.send(Tables({"public.t": "d"}))
    with pytest.raises(ProtocolError, match="not part of protocol version 2"):
        list(b.receive(forged(Tables({"public.t": "d"}))))


# Frames that are numbered


def test_a_frame_that_is_lost_doubled_or_overtaken_is_found() -> None:
    frames = [Ack(clock={1: 5}), Heartbeat(hlc=4), part(b"x", {2: 3})]
    for order in ([1], [0, 0], [1, 0], [0, 2], [0, 1, 1], [2, 0, 1]):
        a, b = linked()
        sent = [a.send(message) for message in frames]
        stream = b"".join(sent[number] for number in order)
        with pytest.raises(ProtocolError, match="checksum"):
            list(b.receive(stream))
        assert b.theirs is Side.CLOSED


def test_a_farewell_right_behind_the_accept_is_understood() -> None:
    a, b = Session(MIB), Session(MIB)
    give(a, b, hello(1))
    give(b, a, hello(2))
    data = a.send(a.accept()) + a.send(Goodbye("bye"))
    assert list(b.receive(data)) == [Accept(PROTOCOL_MAX), Goodbye("bye")]


def test_messages_before_a_broken_frame_are_not_lost() -> None:
    a, b = linked()
    arriving = b.receive(a.send(Heartbeat(hlc=4)) + b"garbage")
    assert next(arriving) == Heartbeat(hlc=4)
    with pytest.raises(ProtocolError):
        next(arriving)
    with pytest.raises(ProtocolError):
        list(b.receive(b""))


def test_a_stream_that_ends_inside_a_frame_is_an_error() -> None:
    a, b = linked()
    data = a.send(part())
    list(b.receive(data))
    b.receive_end()
    list(b.receive(a.send(part())[:-1]))
    with pytest.raises(ProtocolError, match="inside a frame"):
        b.receive_end()


def test_large_frames_are_taken_from_accepted_peers_only() -> None:
    """A Hello that is still to be judged must not make room for 32 MiB."""
    a, b = Session(32 * MIB), Session(32 * MIB)
    list(b.receive(a.send(hello(1))))
    with pytest.raises(ProtocolError, match=f"at most {CONTROL_BYTES_MAX} are taken"):
        list(b.receive(encode_frame(5, bytes(CONTROL_BYTES_MAX + 1))))
    a, b = linked(frame_bytes_max=32 * MIB)
    assert a._reader.frame_bytes_max == b._reader.frame_bytes_max == 32 * MIB


def test_a_hello_cannot_be_larger_than_control_messages() -> None:
    session = Session(64 * MIB)
    with pytest.raises(ProtocolError, match="at most 1048576"):
        list(session.receive(b"\xc1\x01\x00\x00" + (2 * MIB).to_bytes(4, "big")))


def test_a_wrong_own_hello_is_found_before_it_is_sent() -> None:
    with pytest.raises(ProtocolError):
        Session(MIB).send(hello(1, clock={0: 5}))


# Credit


def test_credit_is_used_and_granted_back() -> None:
    a, b = linked(high=hello(2, window_bytes=3000))
    size = part_bytes(part(b"x" * 1000))
    assert size == 1000 + PART_OVERHEAD_BYTES
    give(a, b, part(b"x" * 1000))
    assert a.sendable_bytes == 3000 - size
    assert b.held_bytes == size
    assert not a.can_send(part(b"x" * 1000))
    with pytest.raises(ProtocolError, match="credit"):
        a.send(part(b"x" * 1000))
    give(b, a, Ack(credit_bytes=size))
    assert a.sendable_bytes == 3000
    assert b.held_bytes == 0
    give(a, b, part(b"x" * 1000))


def test_a_part_larger_than_the_window_goes_alone() -> None:
    a, b = linked(high=hello(2, window_bytes=100))
    give(a, b, part(b"x" * 5000))
    assert a.sendable_bytes == 0
    assert not a.can_send(part(b""))


def test_a_peer_that_exceeds_its_credit_is_cut() -> None:
    a, b = linked(high=hello(2, window_bytes=2000))
    a.peer = hello(2, window_bytes=MIB)
    give(a, b, part(b"x" * 1000))
    with pytest.raises(ProtocolError, match="its credit is 2000"):
        list(b.receive(a.send(part(b"x" * 1000))))


def test_a_peer_cannot_grant_what_was_not_sent() -> None:
    a, _ = linked()
    with pytest.raises(ProtocolError, match="credit of 1 bytes for 0"):
        list(a.receive(forged(Ack(credit_bytes=1))))


def test_a_frame_the_peer_does_not_take_is_not_sent() -> None:
    a, _ = linked(high=hello(2, frame_bytes_max=500))
    with pytest.raises(ProtocolError, match="n2 takes at most 4000") as caught:
        a.send(part(b"x" * 4001))
    assert "frame_bytes_max" in caught.value.mend
    assert a.in_flight_bytes == 0


@given(st.integers(0, 8 * 500), st.integers(1, 700))
def test_a_part_larger_than_a_frame_arrives_whole(size: int, chunk: int) -> None:
    a, b = linked(high=hello(2, frame_bytes_max=500), frame_bytes_max=500)
    b._reader.frame_bytes_max = 500
    sent = part(bytes(i % 251 for i in range(size)), {3: 7})
    data = a.send(sent)
    heard = [message for i in range(0, len(data), chunk) for message in b.receive(data[i : i + chunk])]
    assert heard == [sent]
    assert a.in_flight_bytes == b.held_bytes == part_bytes(sent)
    give(b, a, Ack(credit_bytes=part_bytes(sent)))
    assert give(a, b, part(b"next")) == part(b"next")


def test_pieces_are_bounded_and_stand_alone() -> None:
    a, b = linked(high=hello(2, window_bytes=2000))
    b._frame_bytes_max = 100
    with pytest.raises(ProtocolError, match="at most 800"):
        list(b.receive(a.send(Fragment(b"x" * 801))))
    a, b = linked(high=hello(2, window_bytes=2000))
    give(a, b, part(b"x" * 1000))
    with pytest.raises(ProtocolError, match="its credit is 2000"):
        list(b.receive(a.send(Fragment(b"x" * 1000))))
    a, b = linked()
    assert list(b.receive(a.send(Fragment(b"x")))) == []
    with pytest.raises(ProtocolError, match="Heartbeat amidst the pieces"):
        list(b.receive(a.send(Heartbeat())))


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 3000)), max_size=40))
def test_the_receiver_never_holds_more_than_the_window(steps: list[tuple[bool, int]]) -> None:
    """Whatever the order of parts and delayed grants, an honest sender is never cut."""
    a, b = linked(high=hello(2, window_bytes=4000))
    held: list[int] = []
    acks: list[bytes] = []
    for send, number in steps:
        following = part(b"x" * number)
        if send and a.can_send(following):
            give(a, b, following)
            held.append(part_bytes(following))
        elif held:
            acks.append(b.send(Ack(credit_bytes=held.pop(0))))
            if number % 2:
                for data in acks:
                    list(a.receive(data))
                acks.clear()
        assert b.held_bytes <= 4000 or len(held) == 1
        assert a.in_flight_bytes >= b.held_bytes


# Clocks


@given(st.lists(st.dictionaries(st.integers(1, 5), st.integers(1, 99)), max_size=8))
def test_contexts_arrive_whole_also_when_they_go_back(contexts: list[dict[int, int]]) -> None:
    a, b = linked()
    for context in contexts:
        heard = give(a, b, part(b"", context))
        assert isinstance(heard, ChangeSetPart)
        assert heard.header.context == context
        give(b, a, Ack(credit_bytes=part_bytes(heard)))


def test_an_equal_context_costs_nothing() -> None:
    a, _ = linked()
    context = dict.fromkeys(range(1, 500), 1 << 60)
    first, second = len(a.send(part(b"", context))), len(a.send(part(b"", context)))
    assert first > 5000
    assert second < 60


def test_acknowledgements_carry_what_rose_and_arrive_whole() -> None:
    a, b = linked(low=hello(1, clock={1: 7, 2: 3}))
    assert b.peer_clock == {1: 7, 2: 3}
    assert give(a, b, Ack(clock={1: 7, 2: 4, 3: 1})) == Ack(clock={1: 7, 2: 4, 3: 1})
    assert give(a, b, Ack(clock={2: 1})) == Ack(clock={1: 7, 2: 4, 3: 1})
    assert a.send(Ack(clock={2: 4})) == encode_frame(*encode_message(Ack()), 4)


def test_a_durable_clock_that_goes_back_is_refused() -> None:
    a, b = linked(low=hello(1, clock={1: 7}))
    with pytest.raises(ProtocolError, match="went back"):
        list(b.receive(forged(Ack(clock={1: 6}))))
    assert a.established


# Judgement


@pytest.mark.parametrize(
    ("other", "expected", "known", "message"),
    [
        (hello(2, cluster="d"), None, (), "belongs to cluster 'd'"),
        (hello(2, node_name="n1"), None, (), "calls itself 'n1'"),
        (hello(1, node_name="n2"), None, (), "both have node id 1"),
        (hello(2), "n3", (), "'n2' answers at the address of 'n3'"),
        (hello(2), None, ("n3",), "'n2' is not among the peers of n1"),
        (hello(2, protocol_min=4, protocol_max=5), None, (), "protocol versions 4..5"),
        (hello(2, protocol_min=0, protocol_max=0), None, (), "protocol versions 0..0"),
    ],
)
def test_refusals_say_why_with_a_mend(other: Hello, expected: str | None, known: tuple[str, ...], message: str) -> None:
    with pytest.raises(LinkRefusedError, match=message) as caught:
        judge_hello(hello(1), other, expected, known)
    assert caught.value.mend


def test_hellos_that_fit() -> None:
    judge_hello(hello(1), hello(2), None, ())
    judge_hello(hello(1), hello(2), "n2", ("n2", "n3"))
    assert negotiate(hello(1, protocol_max=4), hello(2, protocol_min=1, protocol_max=3)) == 3


def test_which_connection_stays() -> None:
    assert choose(None, "b", dialled=False) is Choice.TAKE
    assert choose(Standing("b", dialled=True), "b", dialled=False) is Choice.DUPLICATE
    assert choose(Standing("b", dialled=True), "c", dialled=False) is Choice.REPLACE
    assert choose(Standing("b", dialled=False), "b", dialled=False) is Choice.REPLACE
    assert choose(Standing("b", dialled=False), "b", dialled=True) is Choice.REPLACE


# Round trip


def test_round_trip_and_offset() -> None:
    """The peer's clock is 1000 ms ahead; 30 ms there, 30 ms back, 50 ms until it answers."""
    own, peer = RoundTrip(), RoundTrip()
    assert own.round_trip_ms is None
    first = own.heartbeat(0, 0, now_ms=100_000)
    peer.observe(first, now_ms=101_030)
    answer = peer.heartbeat(0, 0, now_ms=101_080)
    own.observe(answer, now_ms=100_110)
    assert own.round_trip_ms == 60
    assert own.clock_offset_ms == 1000
    slow = msgspec.structs.replace(answer, sent_ms=101_200, echo_ms=100_120, echo_delay_ms=0)
    own.observe(slow, now_ms=100_620)
    assert own.round_trip_ms == 500
    assert own.clock_offset_ms == 1000, "the sample with the shortest round trip counts"
