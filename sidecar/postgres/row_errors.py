"""Which errors are about the data of some row, so that what else is in its batch can go on without it."""

from __future__ import annotations

from sidecar.errors import ApplyError

OTHER_CLASSES = frozenset(
    {"00", "01", "02", "03", "08", "0A", "0B", "0L", "0P", "0Z", "25", "26", "28", "2B", "2D"}
    | {"3B", "3D", "3F", "40", "42", "53", "55", "57", "58", "72", "F0", "HV", "XX"}
)
"""SQLSTATE classes about the session, the server, the catalogue or a statement. All others are about a row's data, also
those that an application's functions and triggers make up for their own errors."""

FUNCTION_MEND = (
    "a function that a trigger, CHECK, generated column or index of the table calls: the sidecar's sessions have"
    " search_path = pg_catalog, so name tables and functions in it with their schema, or ALTER FUNCTION ... SET"
    " search_path"
)

REASON_CHARS_MAX = 1000
"""Length of a reason in the quarantine; messages quote values, which may be long."""


def is_row_error(error: BaseException) -> bool:
    """Whether isolating the row helps."""
    if isinstance(error, ApplyError):
        return True
    sqlstate = getattr(error, "sqlstate", None)
    return isinstance(sqlstate, str) and sqlstate[:2] not in OTHER_CLASSES


def reason_of(error: BaseException) -> str:
    """The error as one line of bounded length."""
    return " ".join(str(error).split())[:REASON_CHARS_MAX]


def waiting_line(error: BaseException) -> str:
    """Why a merge waits, with the place and the mend where the server tells of them."""
    sqlstate, context = getattr(error, "sqlstate", None), getattr(error, "context", None) or ""
    code = f" (SQLSTATE {sqlstate})" if sqlstate else ""
    line = f"the merge waits: {reason_of(error)}{code}"
    place = context.partition("\n")[0]
    return f"{line}, in {place}; {FUNCTION_MEND}" if "function" in place else line
