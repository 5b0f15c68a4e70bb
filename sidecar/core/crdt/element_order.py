"""The canonical order of a set's elements, which makes equal sets equal texts.

First come elements that were added earlier; among those of one hlc value numbers by value, then everything else by
its UTF-8 bytes (``COLLATE "C"``). Two images of one number, ``1.0`` and ``1.00``, are two elements: their bytes
decide. ``NaN`` is the greatest number, as in PostgreSQL (manual, 8.1.2).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from decimal import Decimal

_NUMBER = re.compile(r"-?(\d+(\.\d*)?([eE][+-]?\d+)?|Infinity)")
_ZERO = Decimal(0)

_NUMERIC, _NOT_A_NUMBER, _OTHER = range(3)


def in_order(elements: Iterable[tuple[int, str]], *, numbers: bool) -> tuple[str, ...]:
    """Elements, given with the hlc of their oldest add. ``numbers``: those that read as a number are compared as
    numbers (arrays of a numeric type, jsonb arrays, whose strings are quoted); else all are text."""
    return tuple(text for _, text in sorted(elements, key=lambda pair: (pair[0], order(pair[1], numbers=numbers))))


def order(element: str, *, numbers: bool) -> tuple[int, Decimal, bytes]:
    """What to sort an element's text image by."""
    image = element.encode()
    if numbers and element == "NaN":
        return _NOT_A_NUMBER, _ZERO, image
    if numbers and _NUMBER.fullmatch(element):
        return _NUMERIC, Decimal(element), image
    return _OTHER, _ZERO, image
