"""Changes of set and map columns, element by element: text images in, JSON text out.

An element of an array is its text image as ``array_out`` writes it; of a jsonb array its jsonb text image (``"a"`` with
the quotes, ``1.00``); a map's elements are its keys. Values are never interpreted: jsonb text is canonical, so equal
bytes are what "unchanged" means. NULL elements are none, duplicates collapse, dimensions are flattened.

A change as it travels is a JSON object without its empty members::

    {"full": <hlc>, "null": true, "add": {"<element>": <hlc>, ...}, "del": {"<element>": <hlc>, ...}}

``add`` of a map holds ``"<key>": [<hlc>, <value>]``. ``full``: what is not in ``add`` goes, as far as the writer had
seen it (an insert, or any write of an ``aw_set``). ``null``: the last write made the column NULL. The hlc of an element
is that of the transaction that touched it last. Sets and maps with stamps (``lww_set``, ``lww_map``) name in ``del``
what a full change removes, because a stamp alone does not tell what the writer had seen.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import msgspec

from sidecar.core.catalog import ColumnSpec
from sidecar.errors import ProtocolError, SchemaError

Elements = dict[str, msgspec.Raw | None]
"""The elements of one value in its order; the value of a map's key, ``None`` in a set."""


@dataclass(frozen=True, slots=True)
class ElementRules:
    """How a word reads a local write. ``stamps``: what is removed keeps a stamp. ``grows``: removals are undone.
    ``whole``: every write adds every element anew."""

    stamps: bool = False
    grows: bool = False
    whole: bool = False
    is_map: bool = False


RULES: dict[str, ElementRules] = {
    "g_set": ElementRules(grows=True),
    "or_set": ElementRules(),
    "aw_set": ElementRules(whole=True),
    "lww_set": ElementRules(stamps=True),
    "lww_map": ElementRules(stamps=True, is_map=True),
}


class ElementChange(msgspec.Struct, gc=False):
    """What one or more local writes did to a column.

    ``add``: element -> hlc, or (hlc, value) in a map; ``gone``: element -> hlc. What never travels: ``before``, the
    text image ahead of the first write (``None`` for NULL and for a row that was not there); ``undone``, removed
    elements of a set that only grows; ``foreign``, the last value that was no array or object and counts as empty.
    """

    full: int = 0
    null: bool = False
    add: dict[str, Any] = {}
    gone: dict[str, int] = {}
    before: bytes | None = None
    undone: dict[str, None] = {}
    foreign: bytes | None = None

    def text(self) -> bytes:
        """The change as JSON, as it travels."""
        members: dict[str, Any] = {}
        if self.full:
            members["full"] = self.full
        if self.null:
            members["null"] = True
        if self.add:
            members["add"] = self.add
        if self.gone:
            members["del"] = self.gone
        return msgspec.json.encode(members)

    def undone_text(self) -> bytes | None:
        """What of the write does not count, as JSON: the text image that was no array or object as a string, or the
        removed elements as an array of strings."""
        if self.foreign is not None:
            return msgspec.json.encode(self.foreign.decode())
        return msgspec.json.encode(list(self.undone)) if self.undone else None


@dataclass(frozen=True, slots=True)
class ElementColumn:
    """Reads the values of one column and makes its changes. ``where`` names it in messages."""

    where: str
    rules: ElementRules
    is_json: bool
    delimiter: str = ","

    @classmethod
    def of(cls, table: str, column: ColumnSpec) -> ElementColumn:
        """The reader of a ``column`` with :attr:`ColumnSpec.is_element`."""
        # The only built-in type with a delimiter of its own (pg_type.typdelim).
        delimiter = ";" if column.base_type == "box[]" else ","
        where = f"{table}: column {column.name!r}"
        return cls(where, RULES[column.crdt], column.base_type == "jsonb", delimiter)

    def written(self, old: bytes | None, new: bytes | None, hlc: int) -> ElementChange:
        """One UPDATE from ``old`` to ``new``."""
        after, foreign = self._read(new)
        rules = self.rules
        if rules.whole:
            change = self._full(after, hlc)
        else:
            before, _ = self._read(old)
            added = {e: value for e, value in after.items() if e not in before or before[e] != value}
            change = ElementChange(add=self._stamped(added, hlc))
            if rules.grows:
                change.undone = {e: None for e in before if e not in after}
            else:
                change.gone = {e: hlc for e in before if e not in after}
        change.null, change.before, change.foreign = new is None, old, foreign
        return change

    def inserted(
        self, new: bytes | None, hlc: int, deleted: bytes | None = None, held: ElementChange | None = None
    ) -> ElementChange:
        """An INSERT; ``deleted`` is the value that a delete of the same batch took away, ``held`` what the batch had
        written before that."""
        elements, foreign = self._read(new)
        change = self._full(elements, hlc)
        change.null, change.foreign = new is None, foreign
        change.before = deleted if held is None else held.before
        if self.rules.stamps:
            gone = {} if held is None else held.gone | dict.fromkeys(held.add, hlc)
            gone.update(dict.fromkeys(self._read(deleted)[0], hlc))
            change.gone = {e: at for e, at in gone.items() if e not in elements}
        return change

    def fold(self, held: ElementChange, old: bytes | None, new: bytes | None, hlc: int) -> ElementChange:
        """A later UPDATE of the same batch: per element the last operation counts. Changes ``held`` or replaces it."""
        later = self.written(old, new, hlc)
        if later.full:
            later.before = held.before
            return later
        for element, added in later.add.items():
            held.gone.pop(element, None)
            held.undone.pop(element, None)
            held.add[element] = added
        for element in later.gone:
            held.add.pop(element, None)
            # A full change of dots removes what it does not add.
            if self.rules.stamps or not held.full:
                held.gone[element] = hlc
        held.undone.update(later.undone)
        held.null = later.null
        if later.foreign is not None:
            held.foreign = later.foreign
        return held

    def _full(self, elements: Elements, hlc: int) -> ElementChange:
        return ElementChange(full=hlc, add=self._stamped(elements, hlc))

    def _stamped(self, elements: Elements, hlc: int) -> dict[str, Any]:
        if self.rules.is_map:
            # Copied: a decoder's Raw keeps the whole text alive.
            return {key: (hlc, value and value.copy()) for key, value in elements.items()}
        return dict.fromkeys(elements, hlc)

    def _read(self, text: bytes | None) -> tuple[Elements, bytes | None]:
        """The elements of a text image, and the image itself where it is no array (object) and so has none."""
        if text is None:
            return {}, None
        try:
            if not self.is_json:
                return dict.fromkeys(e for e in array_elements(text.decode(), self.delimiter) if e is not None), None
            elements = json_members(text) if self.rules.is_map else json_elements(text)
        except UnicodeDecodeError:
            raise SchemaError(
                f"{self.where} holds text that is not UTF-8", mend="use a database whose encoding is not SQL_ASCII"
            ) from None
        return ({}, text) if elements is None else (elements, None)


# A quoted element, or one that needs no quotes. array_out quotes whatever holds a brace, the delimiter, a quote, a
# backslash or white space, the empty text, and the word NULL (https://www.postgresql.org/docs/current/arrays.html).
_TOKENS = {d: re.compile(rf'"([^"\\]*(?:\\.[^"\\]*)*)"|([^{{}}"\\{d}]+)', re.DOTALL) for d in ",;"}
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)


def array_elements(text: str, delimiter: str = ",") -> list[str | None]:
    """The elements of an array's output text, dimensions flattened, NULL as ``None``."""
    if text.startswith("["):
        text = text[text.find("=") + 1 :]
    if not (text.startswith("{") and text.endswith("}")):
        raise ProtocolError(f"{text[:40]!r} is not the text of an array")
    if text == "{}":
        return []
    if '"' not in text and "{" not in text[1:]:
        plain = text[1:-1].split(delimiter)
        return [None if e == "NULL" else e for e in plain] if "NULL" in text else list(plain)
    elements: list[str | None] = []
    for token in _TOKENS[delimiter].finditer(text):
        quoted, bare = token.groups()
        if quoted is None:
            elements.append(None if bare == "NULL" else bare)
        else:
            elements.append(_ESCAPED.sub(r"\1", quoted) if "\\" in quoted else quoted)
    return elements


_ARRAY = msgspec.json.Decoder(list[msgspec.Raw])
_OBJECT = msgspec.json.Decoder(dict[str, msgspec.Raw])


def json_elements(text: bytes) -> Elements | None:
    """The text images of a jsonb array's elements; ``None`` for anything else."""
    if not text.startswith(b"["):
        return None
    try:
        return {bytes(raw).decode(): None for raw in _ARRAY.decode(text)}
    except RecursionError:
        return {part.decode(): None for part in _parts(text)}


def json_members(text: bytes) -> Elements | None:
    """The keys of a jsonb object with their values' text images; ``None`` for anything else."""
    if not text.startswith(b"{"):
        return None
    members: Elements = {}
    try:
        members.update(_OBJECT.decode(text))
    except RecursionError:
        parts = _parts(text)
        keys = [msgspec.json.decode(key, type=str) for key in parts[::2]]
        members.update(zip(keys, map(msgspec.Raw, parts[1::2]), strict=True))
    return members


_JSON_TOKEN = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|[\[\]{},:]', re.DOTALL)


def _parts(text: bytes) -> list[bytes]:
    """The elements of a jsonb array, or keys and values of an object in turn, however deeply nested: the decoder gives
    up near Python's limit of a thousand levels, PostgreSQL only at its stack's."""
    parts: list[bytes] = []
    depth, start = 0, 1
    for token in _JSON_TOKEN.finditer(text):
        mark = token.group()
        if mark in b"[{":
            depth += 1
        elif mark in b"]}":
            depth -= 1
        if (depth == 1 and mark in b",:") or depth == 0:
            parts.append(text[start : token.start()].strip())
            start = token.end()
    return [part for part in parts if part]
