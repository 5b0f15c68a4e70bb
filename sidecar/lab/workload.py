"""The sample application at work: writers in every region, and a ledger of what they were told is committed.

The tables are those of ``sample_schema.sql``. All regions write the same rows; what a counter must show at the end is
known from the ledger alone, whatever the databases say.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import asyncpg

from sidecar.errors import SidecarError

WRITERS_PER_REGION = 4
WRITES_PER_S = 20.0  # per writer: 240/s in all, which leaves two cores room for three servers and three sidecars
POSTS = 24
STOCK_AT_START = 1_000
RECENT_POSTS = 60  # readers like what is new
COMMAND_TIMEOUT_S = 20.0  # a write takes milliseconds; one that takes this long is reported, never waited for

HANDLES = ("ada", "alan", "barbara", "claude", "donald", "edsger", "frances", "grace")
CITIES = ("Lima", "Oslo", "Pune", "Quito", "Riga", "Seoul", "Turin", "Umea", "Vigo", "Wuhan", "York", "Zagreb")
WORDS = ("amber", "brisk", "calm", "dusk", "ember", "frost", "grove", "haze", "iris", "jade", "kelp", "lunar")

Cell = tuple[str, str, str]
"""(table, key as text, column)."""

Connection = asyncpg.Connection


@dataclass(frozen=True, slots=True)
class Population:
    """How many rows all regions share: of people, goods and carts. By default so few that the regions meet in the same
    columns, most of all while a link is cut."""

    profiles: int = 24
    skus: int = 12
    carts: int = 24


@dataclass(frozen=True, slots=True)
class Shared:
    """The keys of the rows that all regions share."""

    profiles: list[str]
    skus: list[str]
    carts: list[str]


@dataclass(slots=True)
class Ledger:
    """What is committed, by the writers' own books: ``counters`` maps a cell to the value it must have (start value
    plus every increment), ``increments`` counts the increments per ``table.column``; ``kept`` posts were never deleted,
    ``deleted`` ones were (a concurrent like may bring one back, then with its whole count). ``elements`` maps a tagged
    post's and a cart's cell to what it must hold: a tag with 1, an item with the largest quantity ever written."""

    counters: dict[Cell, int] = field(default_factory=dict)
    increments: Counter[str] = field(default_factory=Counter)
    kept: list[str] = field(default_factory=list)
    deleted: set[str] = field(default_factory=set)
    elements: dict[Cell, dict[str, int]] = field(default_factory=dict)

    def put(self, table: str, key: str, column: str, element: str, quantity: int = 1) -> None:
        """An element of a set or a cart is committed with this quantity."""
        held = self.elements.setdefault((table, key, column), {})
        held[element] = max(quantity, held.get(element, 0))

    def start(self, table: str, key: str, column: str, value: int) -> None:
        """A row with a counter was inserted."""
        self.counters[table, key, column] = value

    def add(self, table: str, key: str, column: str, delta: int) -> None:
        """One committed increment (or decrement)."""
        self.counters[table, key, column] += delta
        self.increments[f"{table}.{column}"] += 1


@dataclass(slots=True)
class Region:
    """One region's writers: ``latencies_ms`` has one entry per committed transaction, statement to commit."""

    name: str
    dsn: str
    shared: Shared
    posts: list[str] = field(default_factory=list)
    """Own posts that are not deleted."""
    latencies_ms: list[float] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)
    """SQLSTATE and message of refused statements: there should be none, as it is the sidecar that gives way."""


async def seed(dsn: str, region: str, ledger: Ledger, population: Population) -> Shared:
    """Insert the rows that all regions share, on one node."""
    connection = await asyncpg.connect(dsn, command_timeout=COMMAND_TIMEOUT_S)
    try:
        async with connection.transaction():
            people = [
                (f"{HANDLES[n % len(HANDLES)]}{n // len(HANDLES) or ''}", CITIES[n % len(CITIES)])
                for n in range(population.profiles)
            ]
            profiles = [
                str(
                    await connection.fetchval(
                        "INSERT INTO profiles (handle, name, city) VALUES ($1, $2, $3) RETURNING id",
                        handle,
                        handle.title(),
                        city,
                    )
                )
                for handle, city in people
            ]
            posts = [
                str(
                    await connection.fetchval(
                        "INSERT INTO posts (region, title) VALUES ($1, $2) RETURNING id", region, f"welcome {n}"
                    )
                )
                for n in range(POSTS)
            ]
            skus = [f"sku-{n:02}" for n in range(population.skus)]
            await connection.executemany(
                "INSERT INTO stock (sku, price, quantity) VALUES ($1, 9.90, $2)",
                [(sku, STOCK_AT_START) for sku in skus],
            )
            carts = [f"customer-{n:02}" for n in range(population.carts)]
            await connection.executemany("INSERT INTO carts (customer) VALUES ($1)", [(cart,) for cart in carts])
    finally:
        await connection.close()
    for post in posts:
        _published(ledger, post)
    for sku in skus:
        ledger.start("stock", sku, "quantity", STOCK_AT_START)
    return Shared(profiles, skus, carts)


def _published(ledger: Ledger, post: str) -> None:
    ledger.kept.append(post)
    ledger.start("posts", post, "likes", 0)
    ledger.start("posts", post, "views", 0)


class Writer:
    """One connection that writes at a steady pace until it is told to stop."""

    def __init__(self, region: Region, ledger: Ledger, source: random.Random) -> None:
        self._region = region
        self._ledger = ledger
        self._random = source
        self._kinds: list[Callable[[Connection], Awaitable[bool]]] = []
        self._weights: list[int] = []
        for weight, kind in (
            (30, self._like),
            (15, self._view),
            (25, self._edit_profile),
            (10, self._order),
            (3, self._restock),
            (2, self._reprice),
            (5, self._tag),
            (5, self._fill_cart),
            (12, self._publish),
            (3, self._delete),
        ):
            self._weights.append(weight)
            self._kinds.append(kind)

    async def run(self, stop: asyncio.Event) -> None:
        """Write until ``stop`` is set; a refused statement is counted and the next one follows."""
        connection = await asyncpg.connect(self._region.dsn, command_timeout=COMMAND_TIMEOUT_S)
        try:
            due = time.monotonic() + self._random.uniform(0, 1 / WRITES_PER_S)
            while not stop.is_set():
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                due = max(due + 1 / WRITES_PER_S, time.monotonic())
                await self._write(connection)
        except (OSError, TimeoutError, asyncpg.InterfaceError) as error:
            raise SidecarError(
                f"{self._region.name}: a writer lost its database: {str(error) or type(error).__name__}"
            ) from error
        finally:
            await connection.close()

    async def _write(self, connection: Connection) -> None:
        kind = self._random.choices(self._kinds, self._weights)[0]
        started = time.perf_counter()
        try:
            done = await kind(connection)
        except asyncpg.PostgresError as error:
            self._region.errors[f"{getattr(error, 'sqlstate', '') or type(error).__name__} {error}"] += 1
            return
        if done:
            self._region.latencies_ms.append((time.perf_counter() - started) * 1000)

    # -- kinds of transactions: each returns whether it changed anything, and books what it changed -----------------

    async def _like(self, connection: Connection) -> bool:
        delta = self._random.choice((1, 1, 1, 1, -1))
        return await self._raise(connection, "likes", delta)

    async def _view(self, connection: Connection) -> bool:
        return await self._raise(connection, "views", self._random.randint(1, 5))

    async def _raise(self, connection: Connection, column: str, delta: int) -> bool:
        recent = self._ledger.kept[-RECENT_POSTS:] if self._random.random() < 0.4 else self._ledger.kept[:POSTS]
        post = self._random.choice(recent)
        done = await connection.execute(f"UPDATE posts SET {column} = {column} + $2 WHERE id = $1", post, delta)
        if done != "UPDATE 1":
            return False  # not here yet, or deleted
        self._ledger.add("posts", post, column, delta)
        return True

    async def _edit_profile(self, connection: Connection) -> bool:
        column, value = self._random.choice(
            (
                ("city", self._random.choice(CITIES)),
                ("motto", " ".join(self._random.choices(WORDS, k=3))),
                ("name", " ".join(self._random.choices(WORDS, k=2)).title()),
            )
        )
        profile = self._random.choice(self._region.shared.profiles)
        await connection.execute(f"UPDATE profiles SET {column} = $2 WHERE id = $1", profile, value)
        return True

    async def _order(self, connection: Connection) -> bool:
        """Several goods leave the stock at once, or none; locks are taken in one order, so orders never deadlock."""
        goods = {sku: self._random.randint(1, 3) for sku in sorted(self._random.sample(self._region.shared.skus, 3))}
        async with connection.transaction():
            for sku, pieces in goods.items():
                await connection.execute("UPDATE stock SET quantity = quantity - $2 WHERE sku = $1", sku, pieces)
        for sku, pieces in goods.items():
            self._ledger.add("stock", sku, "quantity", -pieces)
        return True

    async def _restock(self, connection: Connection) -> bool:
        sku = self._random.choice(self._region.shared.skus)
        await connection.execute("UPDATE stock SET quantity = quantity + 20 WHERE sku = $1", sku)
        self._ledger.add("stock", sku, "quantity", 20)
        return True

    async def _reprice(self, connection: Connection) -> bool:
        sku = self._random.choice(self._region.shared.skus)
        price = self._random.randint(100, 2000)
        await connection.execute("UPDATE stock SET price = $2::numeric / 100 WHERE sku = $1", sku, price)
        return True

    async def _tag(self, connection: Connection) -> bool:
        post, tag = self._random.choice(self._ledger.kept[:POSTS]), self._random.choice(WORDS)
        done = await connection.execute(
            "UPDATE posts SET tags = array_append(tags, $2) WHERE id = $1 AND NOT tags @> ARRAY[$2]", post, tag
        )
        if done == "UPDATE 1":
            self._ledger.put("posts", post, "tags", tag)
        return bool(done == "UPDATE 1")

    async def _fill_cart(self, connection: Connection) -> bool:
        cart, sku = self._random.choice(self._region.shared.carts), self._random.choice(self._region.shared.skus)
        quantity = await connection.fetchval(
            "UPDATE carts SET items = items || jsonb_build_object($2::text, coalesce((items ->> $2)::int, 0) + 1)"
            " WHERE customer = $1 RETURNING (items ->> $2)::int",
            cart,
            sku,
        )
        if quantity is not None:
            self._ledger.put("carts", cart, "items", sku, quantity)
        return quantity is not None

    async def _publish(self, connection: Connection) -> bool:
        title = " ".join(self._random.choices(WORDS, k=4))
        post: Any = await connection.fetchval(
            "INSERT INTO posts (region, title) VALUES ($1, $2) RETURNING id", self._region.name, title
        )
        _published(self._ledger, str(post))
        self._region.posts.append(str(post))
        return True

    async def _delete(self, connection: Connection) -> bool:
        if not self._region.posts:
            return False
        post = self._region.posts.pop(self._random.randrange(len(self._region.posts)))
        self._ledger.kept.remove(post)
        self._ledger.deleted.add(post)  # booked first: whatever becomes of the statement, it may be gone from now on
        await connection.execute("DELETE FROM posts WHERE id = $1", post)
        return True
