"""Tokens: a clock as compact printable text that may stand in a URL as it is (docs/protocol.md, section 8).

    v1.1-19c2f0a4b7c0000.3-19c2f0a4b810002

The format version, then per node its id and an hlc in hexadecimal. A token is covered by every clock that is at least
as high in each of its entries.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from sidecar.core.hlc import HLC_MAX
from sidecar.core.versions import NODE_ID_MAX, VersionVector
from sidecar.errors import UsageError

TOKEN_VERSION = 1

TOKEN_CHARS_MAX = 2 + NODE_ID_MAX * 22
"""Length of a token that names every possible node: four digits, sixteen digits, two marks."""

_FORM = re.compile(rf"v{TOKEN_VERSION}(?:\.[1-9][0-9]{{0,3}}-[0-9a-f]{{1,16}})*")


def encode_token(clock: Mapping[int, int]) -> str:
    """The token of a clock; entries of hlc 0 say nothing and are left out."""
    return f"v{TOKEN_VERSION}" + "".join(f".{node}-{hlc:x}" for node, hlc in sorted(clock.items()) if hlc)


def decode_token(text: str) -> VersionVector:
    """The clock of a token; raises :class:`UsageError`."""
    if len(text) > TOKEN_CHARS_MAX or _FORM.fullmatch(text) is None:
        raise _malformed(text)
    clock: VersionVector = {}
    for pair in text.split(".")[1:]:
        node_text, _, hlc_text = pair.partition("-")
        node, hlc = int(node_text), int(hlc_text, 16)
        if node > NODE_ID_MAX or hlc > HLC_MAX or node in clock:
            raise _malformed(text)
        clock[node] = hlc
    return clock


def _malformed(text: str) -> UsageError:
    return UsageError(f"{text[:60]!r} is not a token", mend="pass on what crdt.token() returned, unchanged")
