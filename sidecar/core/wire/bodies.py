"""The body of a change set part: ``zstd(msgpack([TableChanges, ...]))``.

It is written once at the origin and travels unchanged through journal and wire. A reader opens it with limits: what it
may grow to is decided from the zstd header, before anything is decompressed.
"""

from __future__ import annotations

from collections import deque

import msgspec
import zstandard

from sidecar.core.changes import MASK_BITS, TableChanges
from sidecar.errors import ProtocolError

COMPRESSION_LEVEL = 1
"""zstd level. On parts of 10,000 rows, level 3 made bodies 1 to 3 percent smaller and took twice as long (7 instead of
3 ms for 1.4 MB), which capture pays for every change."""

BODY_EXPANSION_MAX = 8
"""Decompressed bytes of a body per byte of ``frame_bytes_max``. A part is bounded by batch_bytes_max before it is
compressed, far below that; the rest is room for other settings at the origin."""

ROW_FRAMES_MAX = 2
"""Bytes of the values that one row change may carry, per byte of ``frame_bytes_max``: in an array literal they take
twice that at most (quotes, backslashes), which is half of what a reader takes."""

BODY_BYTES_MAX = BODY_EXPANSION_MAX * 32 * 1024 * 1024
"""Default limit of :func:`unpack_tables`: BODY_EXPANSION_MAX times the default frame_bytes_max."""

COLUMNS_MAX = 1600
"""Columns of a PostgreSQL table (https://www.postgresql.org/docs/current/limits.html)."""

POOLED_MAX = 4
"""Idle (de)compressors kept. Making one costs more than compressing a small body; one per worker thread suffices."""

_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(list[TableChanges])

# zstandard objects may not be used by two threads at once and release the interpreter lock while they work, so each
# call takes one out of the pool and puts it back. Popping and appending on a deque are atomic.
_compressors: deque[zstandard.ZstdCompressor] = deque(maxlen=POOLED_MAX)
_decompressors: deque[zstandard.ZstdDecompressor] = deque(maxlen=POOLED_MAX)


def pack_tables(tables: list[TableChanges]) -> bytes:
    """The body of one part."""
    try:
        compressor = _compressors.pop()
    except IndexError:
        compressor = zstandard.ZstdCompressor(level=COMPRESSION_LEVEL, write_content_size=True)
    body = compressor.compress(_ENCODER.encode(tables))
    _compressors.append(compressor)
    return body


def unpack_tables(body: bytes, limit_bytes: int = BODY_BYTES_MAX) -> list[TableChanges]:
    """The tables of a body, checked for consistency (:func:`check_table`).

    Raises :class:`ProtocolError` when it is damaged, malformed, or would take more than ``limit_bytes``.
    """
    try:
        tables = _DECODER.decode(_decompress(body, limit_bytes))
    except zstandard.ZstdError as error:
        raise ProtocolError(f"change set body cannot be decompressed: {error}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolError(f"malformed change set body: {error}") from None
    for table in tables:
        check_table(table)
    return tables


def _decompress(body: bytes, limit_bytes: int) -> bytes:
    size = zstandard.frame_content_size(body)
    if size < 0:
        raise ProtocolError("change set body does not say its size")
    if size > limit_bytes:
        raise ProtocolError(
            f"change set body of {size} bytes, at most {limit_bytes} are taken",
            mend="raise frame_bytes_max in [limits] if the peer is one of yours",
        )
    try:
        decompressor = _decompressors.pop()
    except IndexError:
        decompressor = zstandard.ZstdDecompressor()
    text = decompressor.decompress(body, max_output_size=limit_bytes, allow_extra_data=False)
    _decompressors.append(decompressor)
    return text


def mask_words(columns: int) -> int:
    """How many int8 words the masks of so many columns take; a writer may give one word for no columns."""
    return -(-columns // MASK_BITS)


def check_table(table: TableChanges) -> None:
    """Shapes that can be checked without reading values. Raises :class:`ProtocolError`.

    Lists per column are as long as ``columns``, keys as ``key_columns``, masks as the words needed; every literal is
    in braces, and those whose elements cannot contain a comma (numbers, operations) or be NULL (keys) have ``rows``
    elements.
    """
    where = f"change set body, table {table.schema}.{table.name}"
    width = len(table.columns)
    if not 1 <= table.rows <= 1 << 31:
        raise ProtocolError(f"{where}: {table.rows} rows")
    if not 1 <= len(table.key_columns) <= COLUMNS_MAX or width > COLUMNS_MAX:
        raise ProtocolError(f"{where}: {len(table.key_columns)} key columns, {width} columns")
    if len(set(table.columns)) != width or len(set(table.key_columns)) != len(table.key_columns):
        raise ProtocolError(f"{where}: a column is named twice")
    lists = (
        ("keys", table.keys, len(table.key_columns)),
        ("masks", table.masks, mask_words(width) or min(1, len(table.masks))),
        ("values", table.values, width),
        ("late", table.late, width),
        ("seen", table.seen, width),
    )
    for name, literals, expected in lists:
        if len(literals) != expected:
            raise ProtocolError(f"{where}: {len(literals)} {name} where {expected} belong")
    if not table.ops or not table.hlcs:
        raise ProtocolError(f"{where}: rows without operation or hlc")
    for name, literals in (
        ("ops", [table.ops]),
        ("hlcs", [table.hlcs]),
        ("inserted", [table.inserted]),
        ("masks", table.masks),
        ("late", table.late),
    ):
        for literal in filter(None, literals):
            _check_literal(f"{where}: {name}", literal, literal.count(b",") + 1, table.rows)
    for literal in table.keys:
        _check_literal(f"{where}: keys", literal, _quoted_elements(literal), table.rows)
    for literal in filter(None, [*table.values, *table.seen]):
        _check_literal(f"{where}: values", literal, table.rows, table.rows)


def _check_literal(where: str, literal: bytes, elements: int, rows: int) -> None:
    if len(literal) < 3 or literal[:1] != b"{" or literal[-1:] != b"}":
        raise ProtocolError(f"{where} is not an array literal")
    if elements != rows:
        raise ProtocolError(f"{where} has {elements} elements for {rows} rows")


def _quoted_elements(literal: bytes) -> int:
    """How many quoted elements a literal has: the quotes that are not escaped, by two."""
    if b"\\" in literal:
        literal = literal.replace(b"\\\\", b"").replace(b'\\"', b"")
    return literal.count(b'"') // 2
