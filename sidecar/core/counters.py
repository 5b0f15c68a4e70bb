"""Exact arithmetic on the text images of counter columns (smallint, integer, bigint, numeric).

Never a binary float: integers are ``int``, everything else is ``Decimal`` with room for any ``numeric``
(131072 digits before the point and 16383 after it, https://www.postgresql.org/docs/current/datatype-numeric.html).
"""

from __future__ import annotations

from decimal import Context, Decimal, Inexact, InvalidOperation

from sidecar.errors import ProtocolError

Number = int | Decimal

NOT_FINITE = (b"NaN", b"Infinity", b"-Infinity")
"""What a ``numeric`` may be and no sum can take in."""

_NUMERIC_DIGITS = 131_072 + 16_383
# 32 digits more than a numeric: room for the sum of 10**32 values. A rounded sum must never pass: Inexact is trapped.
_EXACT = Context(prec=_NUMERIC_DIGITS + 32, Emax=999_999, Emin=-999_999, traps=[Inexact, InvalidOperation])


def counter_delta(old: bytes | None, new: bytes | None) -> Number:
    """``new - old``. NULL counts as 0, and so do ``NaN`` and infinities."""
    try:
        return int(new or 0) - int(old or 0)
    except ValueError:
        return _EXACT.subtract(_decimal(new), _decimal(old))


def finite(image: bytes | None) -> bytes | None:
    """The image as the sums take it."""
    return b"0" if image in NOT_FINITE else image


def counter_sum(a: Number, b: Number) -> Number:
    """The sum of two deltas."""
    if type(a) is int and type(b) is int:
        return a + b
    return _EXACT.add(Decimal(a), Decimal(b))


def counter_text(value: Number) -> bytes:
    """Decimal text without an exponent."""
    if type(value) is int and -(10**18) < value < 10**18:
        return b"%d" % value
    return format(Decimal(value), "f").encode() if value else b"0"


def _decimal(text: bytes | None) -> Decimal:
    try:
        return Decimal((finite(text) or b"0").decode())
    except (InvalidOperation, UnicodeDecodeError):
        raise ProtocolError(f"{text!r} is not the value of a counter column") from None
