"""Layouts of updates against the decoder: what matches must be what was sent, and changed just where it is said."""

from __future__ import annotations

import pytest
import stream_messages as raw
from hypothesis import example, given
from hypothesis import strategies as st

from sidecar.core import pgoutput as p
from sidecar.core.pgoutput import Match, UpdateLayout, update_layout
from sidecar.core.pgoutput.rows import COLUMNS_MAX
from sidecar.core.pgoutput.updates import HEAD_BYTES

START = p.XLOG_HEADER_BYTES + HEAD_BYTES
Change = tuple[p.TupleData, p.TupleData]

# Texts that look like the heads around them, and lengths in which the letters occur.
TEXT = st.text("ntNuOK\x01ß", max_size=4).map(str.encode) | st.sampled_from(
    [b"t" * 116, b"n" * 256, b"N" * 0x7400, b""]
)
VALUE = st.none() | TEXT


@st.composite
def changes(draw: st.DrawFn, width: int) -> Change:
    """An update that keeps a part of its columns, among them the key, the first one."""
    old = [draw(VALUE) for _ in range(width)]
    return old, [old[0], *(value if draw(st.booleans()) else draw(VALUE) for value in old[1:])]


def matched(layout: UpdateLayout, message: bytes) -> Match | None:
    match = layout.match(message, START)
    return match if match is not None and layout.fits(match) else None


def cut(match: Match, groups: dict[int, int]) -> dict[int, bytes | None]:
    return {position: match[group] if group else None for position, group in groups.items()}


@given(st.integers(2, 5).flatmap(lambda width: st.lists(changes(width), min_size=1, max_size=8)))
@example([([b"a", None, b"x"], [b"a", None, b"y"]), ([b"an", b"x", None], [b"an", b"x", b"y"])])
@example([([b"a", b"x", None], [b"a", b"y", None]), ([b"a", b"xn", b"n"], [b"a", b"yn", b"n"])])
@example([([b"a", b"x", b""], [b"a", None, b""]), ([b"a", b"n", b"x"], [b"a", b"", b"x"])])
def test_a_match_says_what_was_sent(sent: list[Change]) -> None:
    layouts = [update_layout([0], old, new) for old, new in sent]
    for (old, new), own in zip(sent, layouts, strict=True):
        changed = {i for i, value in enumerate(old) if value != new[i]}
        assert (own is not None) == (bool(changed) and old[0] is not None)
        message = raw.update(old, new)
        assert own is None or matched(own, message)
        for layout in layouts:
            match = matched(layout, message) if layout else None
            if layout and match:
                assert changed == set(layout.new) == set(layout.old)
                assert layout.key_of(match) == old[0]
                assert cut(match, layout.old) == {i: old[i] for i in changed}
                assert cut(match, layout.new) == {i: new[i] for i in changed}


@given(st.integers(2, 5).flatmap(changes), st.data())
def test_a_damaged_message_never_matches(change: Change, data: st.DataObject) -> None:
    layout = update_layout([0], *change)
    if layout is None:
        return
    message = raw.update(*change)
    assert matched(layout, message[: data.draw(st.integers(START, len(message) - 1))]) is None
    for tail in (b"n", b"t", b"t\0\0\0\0", b"x"):
        assert matched(layout, message + tail) is None


def test_a_toasted_value_that_was_not_sent_is_left_to_the_decoder() -> None:
    layout = update_layout([0], [b"1", b"a", b"b"], [b"1", b"a", b"c"])
    assert layout is not None
    assert matched(layout, raw.update([b"1", b"a", b"b"], [b"1", p.UNCHANGED, b"c"])) is None


def test_composite_keys() -> None:
    layout = update_layout([2, 0], [b"1", b"a", b"eu"], [b"1", b"b", b"eu"])
    assert layout is not None
    match = matched(layout, raw.update([b"7", b"x", b"us"], [b"7", b"y", b"us"]))
    assert match is not None
    assert layout.key_of(match) == (b"us", b"7")
    assert [match[group] for group in layout.keys] == [b"us", b"7"]


@pytest.mark.parametrize("width", [COLUMNS_MAX, COLUMNS_MAX + 1])
def test_wide_rows_are_left_to_the_decoder(width: int) -> None:
    old: p.TupleData = [b"x"] * width
    layout = update_layout([0], old, [*old[:-1], b"y"])
    assert (layout is None) == (width > COLUMNS_MAX)
    assert layout is None or matched(layout, raw.update(old, [*old[:-1], b"z"]))
