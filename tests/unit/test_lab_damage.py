"""Damage to the chunks of a stream, one by one."""

from __future__ import annotations

import random
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from sidecar.lab.damage import NO_FAULTS, ChunkFaults, DamagedStream

CHUNKS = [b"one", b"two", b"three", b"four"]


def passed(chunks: list[bytes], faults: ChunkFaults, seed: int = 1) -> tuple[list[bytes], Counter[str]]:
    happened: Counter[str] = Counter()
    stream = DamagedStream(random.Random(seed), happened)
    forwarded = [piece for chunk in chunks for piece in stream.take(chunk, faults)]
    return forwarded + stream.end(), happened


def test_without_faults_everything_passes() -> None:
    assert passed(CHUNKS, NO_FAULTS) == (CHUNKS, Counter())


def test_duplicated_chunks_come_twice() -> None:
    forwarded, happened = passed(CHUNKS, ChunkFaults(duplicated=1))
    assert forwarded == [chunk for chunk in CHUNKS for _ in range(2)]
    assert happened == {"duplicated": 4}


def test_reordered_chunks_come_after_the_next() -> None:
    assert passed(CHUNKS, ChunkFaults(reordered=1))[0] == [b"two", b"one", b"four", b"three"]
    assert passed(CHUNKS[:3], ChunkFaults(reordered=1))[0] == [b"two", b"one", b"three"], "nothing follows the last"


def test_corrupted_chunks_differ_in_one_bit() -> None:
    forwarded, happened = passed(CHUNKS, ChunkFaults(corrupted=1))
    assert happened == {"corrupted": 4}
    for chunk, wrong in zip(CHUNKS, forwarded, strict=True):
        assert sum((a ^ b).bit_count() for a, b in zip(chunk, wrong, strict=True)) == 1


chances = st.floats(0, 1)


@given(st.lists(st.binary(min_size=1, max_size=20)), chances, chances, chances, st.integers(0, 99))
def test_no_byte_is_lost_and_a_seed_repeats(
    chunks: list[bytes], corrupted: float, duplicated: float, reordered: float, seed: int
) -> None:
    faults = ChunkFaults(corrupted, duplicated, reordered)
    forwarded, happened = passed(chunks, faults, seed)
    assert (forwarded, happened) == passed(chunks, faults, seed)
    assert sum(map(len, forwarded)) >= sum(map(len, chunks))
    if not happened["corrupted"]:
        assert set(b"".join(chunks)) == set(b"".join(forwarded))
