"""Which errors are about the data of some row, so that what else is in its batch can go on without it."""

from __future__ import annotations

from sidecar.errors import ApplyError

ROW_ERROR_CLASSES = frozenset({"21", "22", "23", "44", "54", "P0"})
"""SQLSTATE classes about a row's data: cardinality, data exception, integrity, check option, limits, raised."""

REASON_CHARS_MAX = 1000
"""Length of a reason in the quarantine; messages quote values, which may be long."""


def is_row_error(error: BaseException) -> bool:
    """Whether isolating the row helps."""
    if isinstance(error, ApplyError):
        return True
    sqlstate = getattr(error, "sqlstate", None)
    return isinstance(sqlstate, str) and sqlstate[:2] in ROW_ERROR_CLASSES


def reason_of(error: BaseException) -> str:
    """The error as one line of bounded length."""
    return " ".join(str(error).split())[:REASON_CHARS_MAX]
