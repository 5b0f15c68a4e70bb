"""What names rows and conflicts in records, the same on every node."""

from __future__ import annotations

from sidecar.core.catalog import TableSpec, quote_literal


def row_key_json(spec: TableSpec, row: str) -> str:
    """The key as JSON object of text images."""
    pairs = ", ".join(f"{quote_literal(c.name)}, {row}.k_{c.attnum}::text" for c in spec.key)
    return f"jsonb_build_object({pairs})"


def conflict_id(
    spec: TableSpec, row_key: str, column: str, kind: str, element: str, one: tuple[str, str], other: tuple[str, str]
) -> str:
    """The id of a conflict between the dots ``one`` and ``other`` (node, hlc), a function of it alone: a version 7 UUID
    of the later dot's time and a digest of everything. All arguments are SQL; a missing column or element is NULL."""
    first, second = (f"{hlc} || '.' || {node}" for node, hlc in (one, other))
    digest = (
        f"md5(concat_ws(E'\\x01', {quote_literal(spec.qualified)}, {row_key}::text, {column}, {kind},"
        f" coalesce({element}, ''), least({first}, {second}), greatest({first}, {second})))"
    )
    stamp = f"lpad(to_hex(greatest({one[1]}, {other[1]}) >> 16), 12, '0')"
    text = f"{stamp} || '7' || substr(d.md5, 1, 3) || '8' || substr(d.md5, 4, 15)"
    return f"(SELECT ({text})::uuid FROM (SELECT {digest}) AS d(md5))"
