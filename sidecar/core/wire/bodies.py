"""The body of a change set part: ``zstd(msgpack([TableChanges, ...]))``.

It is written once at the origin and travels unchanged through journal and wire. A reader opens it with limits: what it
may grow to is decided from the zstd header, before anything is decompressed.
"""

from __future__ import annotations

from collections import deque
from typing import Annotated

import msgspec
import zstandard

from sidecar.core.changes import DELETE, INSERT, MASK_BITS, REPLACE, TRUNCATE, UPDATE, TableChanges, is_truncation
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

TABLES_MAX = 10_000
"""Tables of one body, as many as a Hello may name: a small body must not become millions of small objects."""

CARRIED_COLUMNS_MAX = 200_000
"""Columns of all tables of one body: two thousand changed tables of a hundred columns. Each costs some 100 bytes."""

POOLED_MAX = 4
"""Idle (de)compressors kept. Making one costs more than compressing a small body; one per worker thread suffices."""

_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(Annotated[list[msgspec.Raw], msgspec.Meta(max_length=TABLES_MAX)])
_TABLE_DECODER = msgspec.msgpack.Decoder(TableChanges)
_NUMBERS_DECODER = msgspec.json.Decoder(list[int | None])

_OPERATIONS = frozenset(form for op in (INSERT, UPDATE, DELETE, REPLACE, TRUNCATE) for form in (op, b'"' + op + b'"'))
"""Elements of ops; TOUCH never travels."""

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
    """The tables of a body, checked for consistency (:func:`check_table`), but not against their header
    (:func:`check_versions`).

    Raises :class:`ProtocolError` when it is damaged, malformed, or would take more than ``limit_bytes``.
    """
    try:
        tables, columns = [], 0
        for raw in _DECODER.decode(_decompress(body, limit_bytes)):
            tables.append(_TABLE_DECODER.decode(raw))
            columns += len(tables[-1].columns)
            if columns > CARRIED_COLUMNS_MAX:
                raise ProtocolError(f"change set body with more than {CARRIED_COLUMNS_MAX} columns")
    except zstandard.ZstdError as error:
        raise ProtocolError(f"change set body cannot be decompressed: {error}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolError(f"malformed change set body: {error}") from None
    for table in tables:
        check_table(table)
    return tables


def check_size(body: bytes, limit_bytes: int) -> None:
    """What a body says that it grows to; raises :class:`ProtocolError`, :class:`zstandard.ZstdError` when it says
    nothing. Costs nothing, so that a bomb is found when it is received."""
    size = zstandard.frame_content_size(body)
    if size < 0:
        raise ProtocolError("change set body does not say its size")
    if size > limit_bytes:
        raise ProtocolError(
            f"change set body of {size} bytes, at most {limit_bytes} are taken",
            mend="raise frame_bytes_max in [limits] if the peer is one of yours",
        )


def _decompress(body: bytes, limit_bytes: int) -> bytes:
    check_size(body, limit_bytes)
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
    in braces; those of numbers and operations hold nothing else, and ``rows`` of them; keys, which are never NULL, have
    ``rows`` quoted texts. Literals of values are looked at more closely where they meet those of another node
    (:mod:`sidecar.core.merge.combine`).
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
    _check_literal(f"{where}: ops", table.ops, table.ops.count(b",") + 1, table.rows)
    if not _OPERATIONS.issuperset(table.ops[1:-1].split(b",")):
        raise ProtocolError(f"{where}: an operation is none of I, U, D, R, Z")
    if is_truncation(table) and (table.rows > 1 or table.columns):
        raise ProtocolError(f"{where}: a TRUNCATE with {table.rows} rows, {width} columns")
    for name, literals in (
        ("hlcs", [table.hlcs]),
        ("inserted", [table.inserted]),
        ("masks", table.masks),
        ("late", table.late),
    ):
        for literal in filter(None, literals):
            _check_literal(f"{where}: {name}", literal, literal.count(b",") + 1, table.rows)
            if literal.translate(None, b"0123456789,NUL") != b"{}":
                raise ProtocolError(f"{where}: {name} has something else than numbers")
    for literal in table.keys:
        _check_literal(f"{where}: keys", literal, _quoted_elements(literal), table.rows)
    for literal in filter(None, [*table.values, *table.seen]):
        _check_literal(f"{where}: values", literal, table.rows, table.rows)


def check_versions(table: TableChanges, from_hlc: int, to_hlc: int) -> None:
    """Whether all versions are of the change set's interval ``(from_hlc, to_hlc]``, which the receiver has judged: a
    row from the future would win over every write to come. Raises :class:`ProtocolError`."""
    for name, literals in (("hlcs", [table.hlcs]), ("inserted", [table.inserted]), ("late", table.late)):
        for literal in filter(None, literals):
            try:
                numbers = _NUMBERS_DECODER.decode(b"[" + literal[1:-1].replace(b"NULL", b"null") + b"]")
            except msgspec.DecodeError:
                numbers = [0]
            known = [number for number in numbers if number is not None]
            if (known and not from_hlc < min(known) <= max(known) <= to_hlc) or (name == "hlcs" and None in numbers):
                raise ProtocolError(
                    f"table {table.schema}.{table.name}: {name} outside the change set's ({from_hlc}, {to_hlc}]"
                )


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
