"""What a broken box on the way does to the chunks of a stream: wrong bits, doubled and overtaken chunks."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ChunkFaults:
    """How likely it is, from 0 to 1, that a chunk gets a wrong bit, comes twice, or comes after the one that follows it
    (at the end of the stream: late, but as it was)."""

    corrupted: float = 0.0
    duplicated: float = 0.0
    reordered: float = 0.0


NO_FAULTS = ChunkFaults()


class DamagedStream:
    """One direction of one connection. ``happened`` counts the faults, by name."""

    def __init__(self, source: random.Random, happened: Counter[str]) -> None:
        self._random = source
        self._happened = happened
        self._held_back = b""

    def take(self, chunk: bytes, faults: ChunkFaults) -> list[bytes]:
        """What is to be forwarded now that this chunk has come."""
        if self._happens("corrupted", faults.corrupted):
            place = self._random.randrange(len(chunk))
            chunk = chunk[:place] + bytes([chunk[place] ^ 1 << self._random.randrange(8)]) + chunk[place + 1 :]
        chunks = [chunk, chunk] if self._happens("duplicated", faults.duplicated) else [chunk]
        if self._held_back:
            chunks.append(self._held_back)
            self._held_back = b""
        elif self._happens("reordered", faults.reordered):
            self._held_back = b"".join(chunks)
            return []
        return chunks

    def end(self) -> list[bytes]:
        """What is left at the end of the stream."""
        left, self._held_back = self._held_back, b""
        return [left] if left else []

    def _happens(self, what: str, likelihood: float) -> bool:
        happens = likelihood > 0 and self._random.random() < likelihood
        if happens:
            self._happened[what] += 1
        return happens
