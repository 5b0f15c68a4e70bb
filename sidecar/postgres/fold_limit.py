"""A time limit for merge functions, which are the application's: one that never returns would stop every merge.

The statement that calls them runs under a ``statement_timeout``, which can end it but not a single row of it. So the
function that was interrupted, if it alone ran longer than the limit, names itself and the values that it was given
(``crdt_state.fold_siblings``), the transaction is tried again, and those values are then not given to it any more:
the column shows the highest ``(hlc, node)``, with the reason on record. A statement of many rows none of which is slow
gets twice the time with each try. So each try either ends or makes one more row's function be left out.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg

from sidecar.core.catalog import ColumnSpec
from sidecar.errors import SidecarError
from sidecar.postgres.session import Session

SLOW_KEPT_MAX = 64
"""Values known to be too slow for their function; the oldest go first. Each costs its digest with every statement that
may call a merge function; one that was forgotten costs another try."""

SLOW_VALUES_MAX = 8
"""Slow values of one function after which it is not called at all for SLOW_PAUSE_S: one that never returns would else
stop the merge, and capture with it, for the limit with each concurrent write."""

SLOW_PAUSE_S = 60.0
"""How long slow values, and functions, are left out. Then somebody may have mended them."""

TRIES_DOUBLED_MAX = 12
"""How often a statement without a slow function gets twice the time: up to two hours, which no batch takes."""

_SET = (
    "SELECT set_config('statement_timeout', $1, true), set_config('crdt.merge_function_ms_max', $2, true),"
    " set_config('crdt.slow_folds', $3, true)"
)


class SlowFunctionError(SidecarError):
    """A merge function ran for too long; the next try does without it, or takes longer."""

    sqlstate = "57014"


class FoldLimit:
    """The limit of one session. ``function_ms_max``: how long a function may take for the values of one column."""

    def __init__(self, session: Session, function_ms_max: int) -> None:
        self._session = session
        self._limit_ms = function_ms_max
        self._slow: dict[str, float] = {}
        self._counts: dict[str, int] = {}
        self._doubled = 0

    @asynccontextmanager
    async def over(self, columns: tuple[ColumnSpec, ...]) -> AsyncIterator[None]:
        """Runs a statement that carries these columns, inside a transaction. Raises :class:`SlowFunctionError`."""
        if not any(column.crdt == "merge" for column in columns):
            yield
            return
        # Half as long again as the function may take: what is interrupted had mostly begun before that half was over.
        timeout_ms = (self._limit_ms + self._limit_ms // 2) << self._doubled
        await self._session.connection.execute(_SET, str(timeout_ms), str(self._limit_ms), ",".join(self._left_out()))
        try:
            yield
        except asyncpg.QueryCanceledError as error:
            raise self._slower(error) from None
        await self._session.connection.execute("SET LOCAL statement_timeout = 0")
        self._doubled = 0

    def _left_out(self) -> list[str]:
        now = time.monotonic()
        self._slow = {name: since for name, since in self._slow.items() if now - since < SLOW_PAUSE_S}
        if not self._slow:
            self._counts.clear()
        return list(self._slow)

    def _slower(self, error: asyncpg.QueryCanceledError) -> SlowFunctionError:
        function, _, values = str(getattr(error, "detail", None) or "").partition(".")
        if not values:
            self._doubled = min(self._doubled + 1, TRIES_DOUBLED_MAX)
            return SlowFunctionError(
                f"a merge with merge functions was interrupted: {error}",
                mend="it is tried again with twice the time; make the functions faster",
            )
        self._counts[function] = self._counts.get(function, 0) + 1
        left_out = function if self._counts[function] >= SLOW_VALUES_MAX else f"{function}.{values}"
        self._slow.pop(left_out, None)
        if len(self._slow) >= SLOW_KEPT_MAX:
            del self._slow[next(iter(self._slow))]
        self._slow[left_out] = time.monotonic()
        return SlowFunctionError(str(error), mend="limits.merge_function_ms_max is the time that it has")
