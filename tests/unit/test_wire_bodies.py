"""Bodies: round trip, limits, decompression bombs, and shapes that do not fit."""

from __future__ import annotations

import contextlib
import threading
from typing import Any

import msgspec
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from sidecar.core.arrays import int_array, text_array
from sidecar.core.changes import MASK_BITS, TableChanges
from sidecar.core.wire.bodies import (
    CARRIED_COLUMNS_MAX,
    COLUMNS_MAX,
    TABLES_MAX,
    check_versions,
    pack_tables,
    unpack_tables,
)
from sidecar.errors import ProtocolError

values = st.binary(max_size=20).map(lambda raw: raw.replace(b"\0", b"").decode("utf-8", "ignore").encode())


def table(rows: int = 2, columns: int = 2, **changes: Any) -> TableChanges:
    names = [f"c{i}" for i in range(columns)]
    words = -(-columns // MASK_BITS)
    facts: dict[str, Any] = {
        "schema": "public",
        "name": "posts",
        "key_columns": ["id"],
        "columns": names,
        "rows": rows,
        "ops": text_array([b"U"] * rows),
        "hlcs": int_array([b"7"] * rows),
        "inserted": b"",
        "masks": [int_array([b"3"] * rows)] * words,
        "keys": [text_array([b"k%d" % i for i in range(rows)])],
        "values": [text_array([b'a,"\\b', None][:rows] * (rows // 2) or [b"x"]) for _ in names],
        "late": [b""] * columns,
        "seen": [b""] * columns,
    }
    facts.update(changes)
    return TableChanges(**facts)


@given(st.lists(st.tuples(values, st.one_of(st.none(), values)), min_size=1, max_size=20))
def test_tables_come_back_equal(rows: list[tuple[bytes, bytes | None]]) -> None:
    original = table(
        len(rows),
        1,
        keys=[text_array([key for key, _ in rows])],
        values=[text_array([value for _, value in rows])],
        inserted=int_array([b"1"] * len(rows)),
        late=[int_array([None] * len(rows))],
    )
    assert unpack_tables(pack_tables([original, original])) == [original, original]


@pytest.mark.parametrize("key", [b",", b'"', b"\\", b'","', b'\\","\\', b"NULL", b"", b"{}", b'\\"', b"a\\"])
def test_keys_that_look_like_array_syntax(key: bytes) -> None:
    for rows in (1, 2, 3):
        original = table(rows, 0, keys=[text_array([key] * rows)])
        assert unpack_tables(pack_tables([original])) == [original]


@pytest.mark.parametrize("columns", [0, 1, MASK_BITS, MASK_BITS + 1, COLUMNS_MAX])
def test_widths_that_fit(columns: int) -> None:
    original = table(columns=columns)
    assert unpack_tables(pack_tables([original])) == [original]


@pytest.mark.parametrize(
    "wrong",
    [
        {"rows": 0},
        {"rows": 3},
        {"rows": 1},
        {"keys": []},
        {"keys": [b'{"1","2"}', b'{"1","2"}']},
        {"keys": [b""]},
        {"keys": [b'{"1"}']},
        {"keys": [b'{"1",NULL}']},
        {"key_columns": []},
        {"key_columns": ["id", "id"], "keys": [b'{"1","2"}', b'{"1","2"}']},
        {"columns": ["c0"]},
        {"columns": ["c0", "c0"]},
        {"masks": []},
        {"masks": [b"{3,3}", b"{3,3}"]},
        {"masks": [b"{3}"]},
        {"values": [b""]},
        {"values": [b"", b"1"]},
        {"values": [b"", b"{}"]},
        {"late": [b""]},
        {"late": [b"", b"{1}"]},
        {"seen": []},
        {"seen": [b"", b'"x"']},
        {"ops": b""},
        {"ops": b'{"U"}'},
        {"hlcs": b""},
        {"hlcs": b"7,7"},
        {"inserted": b"{1,2,3}"},
        {"ops": b'{"T","U"}'},
        {"ops": b'{"U,U"}'},
        {"ops": b"{U,X}"},
        {"hlcs": b'{7,"8,9"}'},
        {"hlcs": b"{7,-8}"},
        {"masks": [b"{3,x}"]},
        {"late": [b"", b"{1}{,2}"]},
    ],
)
def test_shapes_that_do_not_fit_are_refused(wrong: dict[str, Any]) -> None:
    body = pack_tables([table(), msgspec.structs.replace(table(), **wrong)])
    with pytest.raises(ProtocolError, match=r"table public\.posts"):
        unpack_tables(body)


def test_a_truncate_stands_alone() -> None:
    alone = {"ops": b"{Z}", "keys": [b'{""}']}
    unpack_tables(pack_tables([table(1, 0, **alone)]))
    for wrong in (table(1, 1, **alone), table(2, 0, ops=b"{Z,D}")):
        with pytest.raises(ProtocolError, match="TRUNCATE"):
            unpack_tables(pack_tables([wrong]))


def test_versions_are_of_the_interval_of_the_change_set() -> None:
    right = table(hlcs=b"{6,9}", inserted=b"{NULL,9}", late=[b"{NULL,7}", b""])
    check_versions(right, 5, 9)
    for wrong in (
        {"hlcs": b"{5,9}"},
        {"hlcs": b"{6,10}"},
        {"hlcs": b"{6,NULL}"},
        {"hlcs": b"{6,9223372036854775808}"},
        {"hlcs": b"{6,}"},
        {"inserted": b"{10,NULL}"},
        {"late": [b"{1,NULL}", b""]},
        {"late": [b"", b"{99,NULL}"]},
    ):
        with pytest.raises(ProtocolError, match=r"table public\.posts: (hlcs|inserted|late) outside .* \(5, 9\]"):
            check_versions(msgspec.structs.replace(right, **wrong), 5, 9)


def test_a_small_body_does_not_become_millions_of_objects() -> None:
    with pytest.raises(ProtocolError, match="malformed change set body"):
        unpack_tables(pack_tables([table(1, 0)] * (TABLES_MAX + 1)))
    wide = table(1, COLUMNS_MAX)
    with pytest.raises(ProtocolError, match=f"more than {CARRIED_COLUMNS_MAX} columns"):
        unpack_tables(pack_tables([wide] * (CARRIED_COLUMNS_MAX // COLUMNS_MAX + 1)))


def test_too_many_columns_are_refused() -> None:
    with pytest.raises(ProtocolError, match="1601 columns"):
        unpack_tables(pack_tables([table(columns=COLUMNS_MAX + 1)]))


def test_the_size_limit_is_exact_and_decided_before_decompression() -> None:
    tables = [table(1000)]
    size = len(msgspec.msgpack.encode(tables))
    body = pack_tables(tables)
    assert unpack_tables(body, size) == tables
    with pytest.raises(ProtocolError, match=f"{size} bytes, at most {size - 1}"):
        unpack_tables(body, size - 1)
    bomb = zstandard.ZstdCompressor().compress(b"\0" * (64 << 20))
    assert len(bomb) < 10_000
    with pytest.raises(ProtocolError, match="at most"):
        unpack_tables(bomb, 1 << 20)


def test_a_body_must_say_its_size_and_end_there() -> None:
    text = msgspec.msgpack.encode([table()])
    unsized = zstandard.ZstdCompressor(write_content_size=False).compress(text)
    with pytest.raises(ProtocolError, match="does not say its size"):
        unpack_tables(unsized)
    with pytest.raises(ProtocolError, match="cannot be decompressed"):
        unpack_tables(pack_tables([table()]) + b"more")


@pytest.mark.parametrize("text", [b"", b"\xc1", b"\x91\x90", b"\xa1x", b"\x91" * 5000, msgspec.msgpack.encode([1, 2])])
def test_bodies_of_something_else_are_refused(text: bytes) -> None:
    with pytest.raises(ProtocolError):
        unpack_tables(zstandard.ZstdCompressor().compress(text))


def test_no_truncated_or_corrupted_body_ends_in_another_error() -> None:
    body = pack_tables([table()])
    for position in range(len(body)):
        damaged = bytearray(body)
        damaged[position] ^= 0xFF
        for candidate in (body[:position], bytes(damaged)):
            with contextlib.suppress(ProtocolError):
                unpack_tables(candidate)


def test_threads_do_not_share_a_compressor() -> None:
    tables = [[table(200, name=f"t{i}")] for i in range(8)]
    failures: list[object] = []

    def work(mine: list[TableChanges]) -> None:
        for _ in range(50):
            if unpack_tables(pack_tables(mine)) != mine:
                failures.append(mine[0].name)

    threads = [threading.Thread(target=work, args=(mine,)) for mine in tables]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
