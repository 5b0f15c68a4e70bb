"""From what clients recorded to the oracle's operations: dots and version vectors of committed transactions.

A transaction's dot is the version of the marker row it inserted (``row_node``, ``row_hlc`` of the row state). What its
node had seen (``seen``) is the context of the change set in the origin's journal that contains the dot. Both are
written when a change is captured, before any merge decides anything about it, and never by a merge.

What is assumed: the context is the origin's clock when the change set was captured, not when the transaction
committed, and transactions of one change set share it. So it may cover remote changes that were merged in between; but
not to a row the transaction wrote, because a merge touches clean rows only (every local commit on the row captured).
Per row it is therefore exact, and rows are compared one by one: given all rows at once, the oracle would rightly say
that an operation has seen a later one, of another row. If a merge did touch a row too early, that shows as just
this error of the oracle, or as a different value.

One thing shows nothing of itself to a merge: a key that was inserted and deleted again before capture came by. A remote
row may be put in behind it, and the changes of before count as before it, see :func:`overtaken`.
"""

from __future__ import annotations

import bisect
import uuid
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import msgspec
import psycopg

from sidecar.core.changes import ChangeSetHeader
from sidecar.core.hlc import show
from tests.cluster.workload import SCHEMA, Transaction, genesis
from tests.oracle import Operation, expected

Dot = tuple[int, int]
Rows = dict[tuple[str, int], dict[str, str | None]]


async def dots_of(dsn: str) -> dict[uuid.UUID, Dot]:
    """The version of every marker row, as this node knows it."""
    async with await psycopg.AsyncConnection.connect(dsn) as connection:
        query = (
            "SELECT t.table_id, c.attnum FROM crdt_state.replicated_table AS t"
            " JOIN crdt_state.replicated_column AS c USING (table_id)"
            " WHERE t.table_name = 'markers' AND t.detached IS NULL AND c.key_position = 1"
        )
        table_id, attnum = (await (await connection.execute(query)).fetchall())[0]
        states = f"SELECT k_{attnum}, row_node, row_hlc FROM crdt_state.row_{table_id}"
        return {marker: (node, hlc) for marker, node, hlc in await (await connection.execute(states)).fetchall()}


@dataclass(frozen=True)
class Journal:
    """The change sets of one origin, oldest first."""

    from_hlcs: list[int]
    headers: list[ChangeSetHeader]

    @classmethod
    async def read(cls, dsn: str) -> Journal:
        async with await psycopg.AsyncConnection.connect(dsn) as connection:
            query = "SELECT from_hlc, header FROM crdt_state.journal WHERE last AND origin IS NULL ORDER BY seq"
            rows = await (await connection.execute(query)).fetchall()
        headers = [msgspec.msgpack.decode(header, type=ChangeSetHeader) for _, header in rows]
        return cls([from_hlc for from_hlc, _ in rows], headers)

    def context_of(self, hlc: int) -> dict[int, int]:
        """What the origin had seen when it captured the transaction with this hlc."""
        header = self.headers[bisect.bisect_left(self.from_hlcs, hlc) - 1]
        assert header.from_hlc < hlc <= header.to_hlc, f"no change set contains {show(hlc)}"
        return {node: seen for node, seen in header.context.items() if node != header.origin}


def operations(
    transactions: Iterable[Transaction], dots: Mapping[uuid.UUID, Dot], journals: Mapping[int, Journal]
) -> list[Operation]:
    """The changes of the transactions that committed."""
    out = []
    for transaction in transactions:
        if transaction.marker not in dots:
            continue
        node, hlc = dots[transaction.marker]
        assert node == transaction.node, "a transaction belongs to the node its client was connected to"
        seen = journals[node].context_of(hlc)
        for order, change in enumerate(transaction.changes):
            if change.kind == "update" and not change.assigned and not any(change.deltas.values()):
                continue  # a write that leaves every value unchanged is not a write; it is never shipped
            out.append(
                Operation(node, hlc, change.kind, change.table, change.key, change.assigned, change.deltas, seen, order)  # type: ignore[arg-type]
            )
    return out


def lost(transactions: Iterable[Transaction], dots: Mapping[uuid.UUID, Dot]) -> list[Transaction]:
    """Transactions whose COMMIT was answered and that must have survived, and did not."""
    return [t for t in transactions if t.acknowledged and t.durable and t.marker not in dots]


def by_row(history: Iterable[Operation]) -> dict[tuple[str, int], list[Operation]]:
    rows: defaultdict[tuple[str, int], list[Operation]] = defaultdict(list)
    for operation in history:
        rows[operation.table, operation.key].append(operation)  # type: ignore[index]
    return rows


def overtaken(history: Sequence[Operation]) -> list[Operation]:
    """The operations on one row, where those that were over when a merge put a row in have not seen it, though the
    context of their change set names it: an insert of another node above a node's delete, which left nothing there."""
    out = []
    for operation in history:
        named = [o for o in history if o.hlc > operation.hlc and operation.seen.get(o.node, 0) >= o.hlc]
        first = min(named, key=lambda o: o.hlc, default=None)
        if first is not None and first.kind == "insert":
            own = [o for o in history if o.node == operation.node and o.hlc < first.hlc]
            if max(own, key=lambda o: (o.hlc, o.order)).kind == "delete":
                seen = dict(operation.seen)
                for other in named:
                    seen[other.node] = min(seen[other.node], other.hlc - 1)
                operation = replace(operation, seen=seen)
        out.append(operation)
    return out


def expected_rows(
    seed: int, rows: Mapping[tuple[str, int], list[Operation]]
) -> tuple[Rows, dict[tuple[str, int], str]]:
    """What must be there, row by row; and the rows whose history cannot be, with the oracle's reason."""
    before = genesis(seed)
    out: Rows = {}
    impossible: dict[tuple[str, int], str] = {}
    keys = {(table, key) for table, held in before.items() for key in held} | set(rows)
    for table, key in keys:
        held = {table: {key: before[table][key]}} if key in before[table] else None
        try:
            answer = expected(overtaken(rows.get((table, key), [])), SCHEMA, held)
        except ValueError as error:
            impossible[table, key] = str(error)
            continue
        if key in answer[table]:
            out[table, key] = answer[table][key]
    return out, impossible


def told(history: Iterable[Operation]) -> str:
    """The operations on one row, as people read them."""
    lines = []
    for o in sorted(history, key=lambda o: o.stamp):
        seen = " ".join(f"{node}:{show(hlc)}" for node, hlc in sorted(o.seen.items()))
        deltas = {name: str(delta) for name, delta in o.deltas.items()}
        lines.append(f"  {o.node}@{show(o.hlc)}#{o.order} {o.kind} {dict(o.assigned)} {deltas} seen {seen}")
    return "\n".join(lines)
