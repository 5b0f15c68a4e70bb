"""What the benchmarks' writer counts and what it times."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from sidecar.lab.bench_load import WARM_UP_S, Load, Transaction, _send


class Connection:
    """Answers at once."""

    async def execute(self, statement: str, *arguments: Any) -> None:
        return


async def sent(began_ago_s: float) -> Load:
    """Three transactions, the second with a probe, of a load that began so long ago."""
    load = Load(began_at=time.monotonic() - began_ago_s)
    due: asyncio.Queue[Transaction | None] = asyncio.Queue()
    for transaction in (Transaction("", ()), Transaction("", (), 7), Transaction("", ()), None):
        due.put_nowait(transaction)
    connection: Any = Connection()
    await _send(connection, due, load)
    return load


async def test_the_first_statements_of_a_connection_are_counted_and_not_timed() -> None:
    load = await sent(0.0)
    assert (load.transactions, load.commit_s, list(load.committed_at)) == (3, [], [7])


async def test_what_comes_after_the_warm_up_is_timed() -> None:
    load = await sent(WARM_UP_S)
    assert (load.transactions, len(load.commit_s), list(load.committed_at)) == (3, 3, [7])
