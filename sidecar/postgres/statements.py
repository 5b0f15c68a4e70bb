"""Loader of the static SQL in ``sql/*.sql`` and ``migrations/*.sql``.

A file holds named statements::

    -- name: read_tables
    -- One row per ... (the comment says what comes back)
    SELECT ...

Both folders ship inside the wheel as ``sidecar/_sql`` and ``sidecar/_migrations``; in an editable checkout they stand
beside the package.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

_PACKAGE = Path(__file__).resolve().parent.parent
_HEADER = re.compile(r"^-- name: *([a-z][a-z0-9_]*) *$", re.MULTILINE)


def folder(name: str) -> Path:
    """The folder ``sql`` or ``migrations``, in the wheel or in the checkout."""
    for candidate in (_PACKAGE / f"_{name}", _PACKAGE.parent / name):
        if candidate.is_dir():
            return candidate
    raise FileNotFoundError(f"the package is damaged: it ships no folder {name!r}")


def parse(text: str, source: str) -> dict[str, str]:
    """Split a file into its statements, by name. ``ValueError`` for a doubled name, an empty statement or SQL that
    stands before the first name."""
    pieces = _HEADER.split(text)
    if _code(pieces[0]):
        raise ValueError(f"{source}: SQL stands before the first '-- name:' header")
    statements: dict[str, str] = {}
    for name, body in zip(pieces[1::2], pieces[2::2], strict=True):
        if name in statements:
            raise ValueError(f"{source}: statement {name!r} stands twice")
        if not _code(body):
            raise ValueError(f"{source}: statement {name!r} is empty")
        statements[name] = body.strip().removesuffix(";")
    return statements


def _code(text: str) -> str:
    return "".join(line for line in text.splitlines() if not line.lstrip().startswith("--")).strip()


@functools.cache
def load(name: str) -> Mapping[str, str]:
    """The statements of ``sql/<name>.sql`` by name; read once."""
    path = folder("sql") / f"{name}.sql"
    return MappingProxyType(parse(path.read_text(encoding="utf-8"), path.name))
