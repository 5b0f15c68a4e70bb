"""SQL fragments about genesis rows: those that were there before anybody wrote them.

A TRUNCATE deletes all of them at once (:mod:`.truncate`), and its node does not know their keys any more. That delete
has seen genesis, which everybody has, and nothing else. So it is older than every write, and the order in which it
comes does not matter: a row that somebody has written meanwhile stays (``row=remove_wins``: that was inserted).
Nor does its node know what genesis held in counters; so that counts nowhere after a TRUNCATE.
"""

from __future__ import annotations

from sidecar.core.catalog import TableSpec


def truncated(spec: TableSpec) -> str:
    """Whether the table was ever truncated. Mentions no row: looked up once per statement, and only if asked."""
    return f"EXISTS (SELECT FROM crdt_state.truncation AS e WHERE e.table_id = {spec.table_id})"


def lost(spec: TableSpec, row: str, state: str = "s", user: str = "t") -> str:
    """Whether the update in ``row`` is of a genesis row that is gone without a trace."""
    return f"{state}.ctid IS NULL AND {user}.ctid IS NULL AND {row}.op = 'U' AND {truncated(spec)}"
