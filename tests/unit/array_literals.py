"""A slow and plain reader of one-dimensional array literals, for comparison."""

from __future__ import annotations


def parse_array(literal: bytes) -> list[bytes | None]:
    """The elements; an unquoted NULL is ``None``. Asserts that the literal is well-formed."""
    assert literal[:1] == b"{"
    assert literal[-1:] == b"}"
    body = literal[1:-1]
    values: list[bytes | None] = []
    position = 0
    while position < len(body):
        if body[position : position + 1] == b'"':
            value = bytearray()
            position += 1
            while body[position : position + 1] != b'"':
                if body[position : position + 1] == b"\\":
                    position += 1
                value += body[position : position + 1]
                position += 1
            position += 1
            values.append(bytes(value))
        else:
            end = body.find(b",", position)
            end = len(body) if end < 0 else end
            word = body[position:end]
            assert word
            assert not set(word) & set(b'"{}\\ ')
            values.append(None if word == b"NULL" else word)
            position = end
        if position < len(body):
            assert body[position : position + 1] == b","
            position += 1
            assert position < len(body)
    return values
