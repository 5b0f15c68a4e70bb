"""A random application: clients on every node that record, inside each transaction, what they saw and what they did.

Every value a transaction changes was read by it before under a row lock (``SELECT ... FOR UPDATE``), so a
recorded change is exact. Each transaction also inserts a row into ``markers``, which is replicated like all others:
the marker's presence tells whether a transaction without an answer committed, its version the transaction's dot.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import uuid
from collections import Counter
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import psycopg
from psycopg import sql
from psycopg.rows import dict_row

from sidecar.lab.waiting import wait_until
from tests.oracle import Column

KEYS_PER_SEED = 1_000
"""Seeds on one cluster use keys of their own, so that they do not know of each other."""

ITEMS, HOT_ITEMS, GENESIS_ITEMS = 36, 3, 6
SLOTS = 8
LABELS_PER_NODE = 6
HITS_DECREASE = True
"""Whether applications also decrease the grow-only counter (which is undone)."""

COMMITTED_MIN = 100
"""Transactions that a run must have to show anything; an idle machine commits them in a second."""
COMMITTED_DEADLINE_S = 120.0

SCHEMA: dict[str, dict[str, Column]] = {
    "items": {
        "a": Column(),
        "b": Column(),
        "n": Column(type_name="integer"),
        "likes": Column("pn_counter", "bigint"),
        "stock": Column("pn_counter", "numeric(12,2)"),
        "hits": Column("g_counter", "integer"),
    },
    "slots": {"label": Column(), "note": Column()},
}
REGISTERS = ("a", "b", "n")
COUNTERS = ("likes", "stock", "hits")

Row = dict[str, Any]


def schema_sql(seeds: int) -> str:
    """The tables with their annotations, and for every seed the rows of before they are attached."""
    rows = [
        f"INSERT INTO items SELECT {seed} * {KEYS_PER_SEED} + i, 'genesis ' || i, NULL, i, 10 * i, i + 0.25, i"
        f" FROM generate_series(0, {GENESIS_ITEMS - 1}) AS i;"
        f" INSERT INTO slots SELECT {seed} * {KEYS_PER_SEED} + i, 'genesis ' || {seed} || '.' || i, NULL"
        f" FROM generate_series(0, {SLOTS - 1}) AS i;"
        for seed in range(1, seeds + 1)
    ]
    return (
        "CREATE TABLE items (id int PRIMARY KEY, a text, b text, n int, likes bigint NOT NULL DEFAULT 0,"
        " stock numeric(12,2) NOT NULL DEFAULT 0, hits int NOT NULL DEFAULT 0);"
        "COMMENT ON TABLE items IS '@crdt';"
        "COMMENT ON COLUMN items.likes IS '@crdt(pn_counter)';"
        "COMMENT ON COLUMN items.stock IS '@crdt(pn_counter)';"
        "COMMENT ON COLUMN items.hits IS '@crdt(g_counter)';"
        "CREATE TABLE slots (id int PRIMARY KEY, label text UNIQUE, note text);"
        "COMMENT ON TABLE slots IS '@crdt';"
        "CREATE TABLE markers (id uuid PRIMARY KEY);"
        "COMMENT ON TABLE markers IS '@crdt';" + "".join(rows)
    )


def genesis(seed: int) -> dict[str, dict[int, dict[str, str | None]]]:
    """What :func:`schema_sql` put into the tables for a seed, as text images."""
    base = seed * KEYS_PER_SEED
    return {
        "items": {
            base + i: {
                "a": f"genesis {i}",
                "b": None,
                "n": str(i),
                "likes": str(10 * i),
                "stock": f"{i}.25",
                "hits": str(i),
            }
            for i in range(GENESIS_ITEMS)
        },
        "slots": {base + i: {"label": f"genesis {seed}.{i}", "note": None} for i in range(SLOTS)},
    }


@dataclass(frozen=True)
class Change:
    """One row change as its transaction made it; see :class:`tests.oracle.Operation`."""

    kind: str
    table: str
    key: int
    assigned: dict[str, str | None] = field(default_factory=dict)
    deltas: dict[str, Decimal] = field(default_factory=dict)


@dataclass
class Transaction:
    """``acknowledged``: COMMIT was answered. ``durable``: it must then survive a crash of the server."""

    node: int
    marker: uuid.UUID
    durable: bool
    changes: list[Change] = field(default_factory=list)
    acknowledged: bool = False


def text(value: Any) -> str | None:
    return None if value is None else str(value)


class Session:
    """One open transaction: statements, and the record of what they did."""

    def __init__(self, connection: psycopg.AsyncConnection[Row], record: Transaction) -> None:
        self.connection = connection
        self.record = record

    async def read(self, table: str, key: int) -> Row | None:
        query = sql.SQL("SELECT * FROM {} WHERE id = %s FOR UPDATE").format(sql.Identifier(table))
        return await (await self.connection.execute(query, [key])).fetchone()

    def _note(self, kind: str, table: str, key: int, old: Row | None, new: Row) -> None:
        columns = SCHEMA[table]
        assigned: dict[str, str | None] = {}
        deltas: dict[str, Decimal] = {}
        for name, value in new.items():
            if name == "id":
                continue
            if columns[name].crdt == "lww_register":
                if old is None or text(old[name]) != text(value):
                    assigned[name] = text(value)
            elif delta := Decimal(value) - Decimal(old[name] if old else 0):
                deltas[name] = delta
        self.record.changes.append(Change(kind, table, key, assigned, deltas))

    async def insert(self, table: str, row: Row) -> None:
        names = sql.SQL(", ").join(map(sql.Identifier, row))
        values = sql.SQL(", ").join([sql.Placeholder()] * len(row))
        statement = sql.SQL("INSERT INTO {} ({}) VALUES ({})").format(sql.Identifier(table), names, values)
        await self.connection.execute(statement, list(row.values()))
        self._note("insert", table, row["id"], None, row)

    async def update(self, table: str, old: Row, new: Row) -> None:
        """Set the columns of ``new``, whether they differ or not; ``old`` is the row as read."""
        sets = sql.SQL(", ").join(sql.SQL("{} = %s").format(sql.Identifier(name)) for name in new)
        statement = sql.SQL("UPDATE {} SET {} WHERE id = %s").format(sql.Identifier(table), sets)
        cursor = await self.connection.execute(statement, [*new.values(), old["id"]])
        assert cursor.rowcount == 1, "a locked row stays where it is"
        self._note("update", table, old["id"], old, new)

    async def delete(self, table: str, old: Row) -> None:
        statement = sql.SQL("DELETE FROM {} WHERE id = %s").format(sql.Identifier(table))
        cursor = await self.connection.execute(statement, [old["id"]])
        assert cursor.rowcount == 1, "a locked row stays where it is"
        self._note("delete", table, old["id"], old, {})

    async def rename(self, table: str, old: Row, key: int) -> None:
        """Change the key: by the published rules a delete and an insert."""
        statement = sql.SQL("UPDATE {} SET id = %s WHERE id = %s").format(sql.Identifier(table))
        cursor = await self.connection.execute(statement, [key, old["id"]])
        assert cursor.rowcount == 1, "a locked row stays where it is"
        self._note("delete", table, old["id"], old, {})
        self._note("insert", table, key, None, {**old, "id": key})


class Workload:
    """Clients on all nodes until :meth:`stop`; everything they did is in ``transactions``. Between two of them a client
    pauses 8 ms on the average, ``think`` times that."""

    def __init__(self, seed: int, dsns: dict[int, str], clients_per_node: int = 3, think: float = 1.0) -> None:
        self.seed = seed
        self.base = seed * KEYS_PER_SEED
        self.transactions: list[Transaction] = []
        self.refused: Counter[str] = Counter()
        self._think = think
        self._stopping = False
        self._tasks = [
            asyncio.create_task(self._client(node, dsn, random.Random(f"{seed} {node} {number}")))
            for node, dsn in dsns.items()
            for number in range(clients_per_node)
        ]

    async def ran(self) -> None:
        """Wait until enough was committed to judge by: at once, unless the machine is very busy."""

        def enough() -> bool:
            for task in self._tasks:
                if task.done():
                    task.result()
            return sum(t.acknowledged for t in self.transactions) > COMMITTED_MIN

        await wait_until(enough, COMMITTED_DEADLINE_S, f"{COMMITTED_MIN} transactions")

    async def stop(self) -> None:
        """Let every client end its transaction; an error of a client is raised."""
        self._stopping = True
        await asyncio.gather(*self._tasks)

    async def _client(self, node: int, dsn: str, rng: random.Random) -> None:
        connection: psycopg.AsyncConnection[Row] | None = None
        while not self._stopping:
            try:
                if connection is None:
                    connection = await psycopg.AsyncConnection.connect(dsn, connect_timeout=10, row_factory=dict_row)
                await self._transaction(connection, node, rng)
            except (psycopg.errors.UniqueViolation, psycopg.errors.DeadlockDetected) as error:
                # Other clients of the same node and the merge may insert the key that was just found missing.
                self.refused[type(error).__name__] += 1
                assert connection is not None
                with contextlib.suppress(psycopg.OperationalError, psycopg.InterfaceError):
                    await connection.rollback()  # a server that was killed meanwhile shows with the next statement
            except (psycopg.OperationalError, psycopg.InterfaceError):
                if connection is not None:
                    await connection.close()
                connection = None
                self.refused["lost connection"] += 1
                await asyncio.sleep(0.05)
            await asyncio.sleep(self._think * rng.choice((0.0, 0.0, 0.002, 0.01, 0.03)))
        if connection is not None:
            await connection.close()

    async def _transaction(self, connection: psycopg.AsyncConnection[Row], node: int, rng: random.Random) -> None:
        record = Transaction(node, uuid.UUID(int=rng.getrandbits(128), version=4), durable=rng.random() > 0.1)
        session = Session(connection, record)
        if not record.durable:
            await connection.execute("SET LOCAL synchronous_commit = off")
        await connection.execute("INSERT INTO markers VALUES (%s)", [record.marker])
        # In key order and the slots once, or the clients would wait for each other in circles.
        keys = sorted(self._key(rng) for _ in range(rng.choice((1, 1, 1, 2, 3, 6))))
        while keys.count(self.base + ITEMS) > 1:
            keys.pop()
        for key in keys:
            await self._step(session, key, rng)
            if rng.random() < 0.05:
                await asyncio.sleep(rng.uniform(0, 0.03))
        if rng.random() < 0.07:
            await connection.rollback()
            self.refused["rolled back"] += 1
            return
        # From here on the outcome is unknown until the answer comes.
        self.transactions.append(record)
        await connection.commit()
        record.acknowledged = True

    def _key(self, rng: random.Random) -> int:
        """An item's; one after the last stands for the slots."""
        if rng.random() < 0.15:
            return self.base + ITEMS
        return self.base + rng.randrange(HOT_ITEMS if rng.random() < 0.4 else ITEMS)

    async def _step(self, session: Session, key: int, rng: random.Random) -> None:
        if rng.random() >= 0.12:
            await self._change(session, key, rng)
            return
        await session.connection.execute("SAVEPOINT step")
        kept = len(session.record.changes)
        await self._change(session, key, rng)
        if rng.random() < 0.5:
            await session.connection.execute("ROLLBACK TO SAVEPOINT step")
            del session.record.changes[kept:]
        else:
            await session.connection.execute("RELEASE SAVEPOINT step")

    async def _change(self, session: Session, key: int, rng: random.Random) -> None:
        if key == self.base + ITEMS:
            await self._slots(session, rng)
            return
        row = await session.read("items", key)
        if row is None:
            await self._absent_item(session, key, rng)
        else:
            await self._present_item(session, row, rng)

    # -- items -------------------------------------------------------------------------------------------------------

    def _new_item(self, key: int, rng: random.Random) -> Row:
        return {
            "id": key,
            "a": self._word(rng),
            "b": rng.choice((None, self._word(rng))),
            "n": rng.randrange(1000),
            "likes": rng.choice((0, rng.randrange(50))),
            "stock": Decimal(rng.randrange(10_000)) / 100,
            "hits": rng.choice((0, rng.randrange(20))),
        }

    @staticmethod
    def _word(rng: random.Random) -> str:
        return rng.choice(("", "x", "NULL", "a,b", '"q"', "{}", "\\", "ü€😀")) + str(rng.randrange(5))

    async def _absent_item(self, session: Session, key: int, rng: random.Random) -> None:
        if rng.random() < 0.3:
            return
        row = self._new_item(key, rng)
        await session.insert("items", row)
        if rng.random() < 0.1:
            await session.delete("items", row)
        elif rng.random() < 0.3:
            await self._present_item(session, row, rng)

    async def _present_item(self, session: Session, row: Row, rng: random.Random) -> None:
        fresh = self._new_item(row["id"], rng)
        match rng.choices(
            ("one", "several", "same", "whole", "count", "assign", "delete", "replace", "rename"),
            (22, 12, 10, 10, 30, 4, 5, 3, 4),
        )[0]:
            case "one":
                name = rng.choice(REGISTERS)
                await session.update("items", row, {name: fresh[name]})
            case "several":
                names = rng.sample(REGISTERS, 2)
                await session.update("items", row, {name: fresh[name] for name in names} | _counted(row, rng))
            case "same":
                await session.update("items", row, {name: value for name, value in row.items() if name != "id"})
            case "whole":
                # As an ORM writes: all columns, one of them new.
                same = {name: value for name, value in row.items() if name != "id"}
                await session.update("items", row, same | {"b": fresh["b"]})
            case "count":
                await session.update("items", row, _counted(row, rng))
            case "assign":
                name = rng.choice(COUNTERS)
                await session.update("items", row, {name: _kept(name, row, fresh[name])})
            case "delete":
                await session.delete("items", row)
            case "replace":
                await session.delete("items", row)
                await session.insert("items", fresh)
            case "rename":
                key = min(row["id"] + rng.choice((1, 1, 2, 5)), self.base + ITEMS - 1)
                if key != row["id"] and await session.read("items", key) is None:
                    await session.rename("items", row, key)

    # -- slots: values of a unique column move between rows ------------------------------------------------------------

    async def _slots(self, session: Session, rng: random.Random) -> None:
        """Each node only ever hands out labels of its own, and no slot is deleted, so nodes never really clash."""
        own = f"{self.seed}.{session.record.node}."
        first, second = (self.base + key for key in sorted(rng.sample(range(SLOTS), 2)))
        one, two = await session.read("slots", first), await session.read("slots", second)
        assert one is not None
        assert two is not None
        both_own = all(str(row["label"]).startswith(own) for row in (one, two))
        if both_own and rng.random() < 0.6:
            await session.update("slots", one, {"label": None})
            await session.update("slots", two, {"label": one["label"]})
            await session.update("slots", {**one, "label": None}, {"label": two["label"]})
        elif rng.random() < 0.7:
            label = own + str(rng.randrange(LABELS_PER_NODE))
            query = "SELECT id FROM slots WHERE label = %s"
            if await (await session.connection.execute(query, [label])).fetchone() is None:
                await session.update("slots", one, {"label": label})
        else:
            await session.update("slots", two, {"note": self._word(rng)})


def _counted(row: Row, rng: random.Random) -> Row:
    name = rng.choice(COUNTERS)
    if name == "stock":
        return {name: row[name] + Decimal(rng.randrange(-500, 500)) / 100}
    return {name: _kept(name, row, row[name] + rng.randrange(-3, 6))}


def _kept(name: str, row: Row, value: Any) -> Any:
    """The value, unless it decreases a grow-only counter and ``HITS_DECREASE`` says that none shall."""
    return max(value, row[name]) if name == "hits" and not HITS_DECREASE else value
