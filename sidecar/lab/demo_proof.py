"""The proof at the end of the demo: what every node holds, judged against the writers' books."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass, field

import asyncpg

from sidecar.lab.convergence import table_checksum
from sidecar.lab.workload import Cell, Ledger

TABLES = ("profiles", "posts", "stock", "carts", "beats")
COUNTERS = (("posts", "id", "likes"), ("posts", "id", "views"), ("stock", "sku", "quantity"))
ELEMENTS = {
    ("posts", "tags"): "SELECT id::text, (SELECT jsonb_object_agg(tag, 1) FROM unnest(tags) AS tag)::text FROM posts",
    ("carts", "items"): "SELECT customer, items::text FROM carts",
}
"""What reads the elements of sets and carts: key, and a JSON object of element to quantity."""
EXAMPLES = 3
COMMAND_TIMEOUT_S = 20.0


@dataclass(frozen=True, slots=True)
class Conflict:
    """One concurrent overwrite, readable: ``row`` is a person's handle or a key, ``detected_by`` one of the nodes."""

    table: str
    row: str
    column: str
    winner: str
    winner_value: str | None
    loser: str
    loser_value: str | None


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """What one node's database holds. ``checksums``: table to md5; ``conflicts``: the ids it recorded."""

    name: str
    checksums: dict[str, str]
    rows: dict[str, int]
    counters: dict[Cell, int]
    elements: dict[Cell, dict[str, int]] = field(default_factory=dict)
    conflicts: frozenset[str] = frozenset()
    quarantined: int = 0
    examples: tuple[Conflict, ...] = ()


@dataclass(frozen=True, slots=True)
class TableProof:
    table: str
    rows: int
    checksums: dict[str, str]

    @property
    def equal(self) -> bool:
        return len(set(self.checksums.values())) == 1


@dataclass(frozen=True, slots=True)
class CounterProof:
    """A counter column: ``increments`` were sent, which makes ``expected`` in all; ``sums`` is what the nodes show;
    ``wrong`` counts the cells (row and node) that differ from the books."""

    column: str
    increments: int
    expected: int
    sums: dict[str, int]
    wrong: int

    @property
    def exact(self) -> bool:
        return self.wrong == 0 and set(self.sums.values()) == {self.expected}


@dataclass(frozen=True, slots=True)
class Proof:
    """The judgement; ``problems`` is empty when everything holds, one readable line each otherwise."""

    tables: list[TableProof]
    counters: list[CounterProof]
    problems: list[str] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        return not self.problems


def judge(ledger: Ledger, nodes: Sequence[NodeFacts]) -> Proof:
    """Compare the nodes with each other and with the books; pure.

    A post that somebody deleted may be gone, or back by a concurrent like; then its counters are exact as well.
    """
    tables = [
        TableProof(table, nodes[0].rows[table], {node.name: node.checksums[table] for node in nodes})
        for table in TABLES
    ]
    counters = [_counter(ledger, nodes, table, column) for table, _, column in COUNTERS]
    problems = [f"table {proof.table} differs between the regions" for proof in tables if not proof.equal]
    for proof in counters:
        if not proof.exact:
            shown = ", ".join(f"{name} {value}" for name, value in proof.sums.items())
            problems.append(
                f"{proof.column} is wrong in {proof.wrong} rows: {proof.expected} by the writers' books, {shown}"
            )
    for node in nodes:
        if lost := [post for post in ledger.kept if ("posts", post, "likes") not in node.counters]:
            problems.append(f"{node.name} lost {len(lost)} posts that nobody deleted, for example {lost[0]}")
        known = {key for table, key, _ in ledger.counters if table == "posts"}
        if strange := {key for table, key, _ in node.counters if table == "posts"} - known:
            problems.append(f"{node.name} has {len(strange)} posts that nobody wrote, for example {min(strange)}")
        if wrong := [cell for cell, held in ledger.elements.items() if node.elements.get(cell) != held]:
            problems.append(
                f"{node.name} shows other elements than were written in {len(wrong)} sets or carts, for example"
                f" {' '.join(wrong[0])}: {node.elements.get(wrong[0])}, must be {ledger.elements[wrong[0]]}"
            )
        if node.quarantined:
            problems.append(f"{node.name} quarantined {node.quarantined} rows; see crdt.quarantine")
    return Proof(tables, counters, problems)


def _counter(ledger: Ledger, nodes: Sequence[NodeFacts], table: str, column: str) -> CounterProof:
    """One column: over the rows that are still there anywhere, or must be."""
    cells = {cell: value for cell, value in ledger.counters.items() if (cell[0], cell[2]) == (table, column)}
    there = {cell for node in nodes for cell in node.counters}
    due = {cell: value for cell, value in cells.items() if cell[1] not in ledger.deleted or cell in there}
    wrong = sum(node.counters.get(cell) != value for node in nodes for cell, value in due.items())
    sums = {
        node.name: sum(value for cell, value in node.counters.items() if (cell[0], cell[2]) == (table, column))
        for node in nodes
    }
    name = f"{table}.{column}"
    return CounterProof(name, ledger.increments[name], sum(due.values()), sums, wrong)


async def collect(name: str, dsn: str) -> NodeFacts:
    """Read a node's database; raises what the driver raises."""
    checksums = await asyncio.gather(*(table_checksum(dsn, table) for table in TABLES))
    connection = await asyncpg.connect(dsn, command_timeout=COMMAND_TIMEOUT_S)
    try:
        rows = {table: int(await connection.fetchval(f"SELECT count(*) FROM {table}")) for table in TABLES}
        counters: dict[Cell, int] = {}
        for table, key, column in COUNTERS:
            for row in await connection.fetch(f"SELECT {key}::text, {column}::int8 FROM {table}"):
                counters[table, str(row[0]), column] = int(row[1])
        elements: dict[Cell, dict[str, int]] = {}
        for (table, column), query in ELEMENTS.items():
            for key, held in await connection.fetch(query):
                elements[table, str(key), column] = json.loads(held or "{}")
        conflicts = await connection.fetch("SELECT id::text FROM crdt.conflicts")
        quarantined = int(await connection.fetchval("SELECT count(*) FROM crdt.quarantine"))
        examples = await _examples(connection)
    finally:
        await connection.close()
    return NodeFacts(
        name=name,
        checksums=dict(zip(TABLES, checksums, strict=True)),
        rows=rows,
        counters=counters,
        elements=elements,
        conflicts=frozenset(str(row[0]) for row in conflicts),
        quarantined=quarantined,
        examples=examples,
    )


async def _examples(connection: asyncpg.Connection) -> tuple[Conflict, ...]:
    """The newest conflict of each of a few columns, so that they are not all alike."""
    found = await connection.fetch(
        """
        SELECT f."table", coalesce(p.handle, f.key ->> 'sku', f.key ->> 'id') AS row, f."column",
               f.winner, f.winner_value, f.loser, f.loser_value
        FROM (SELECT DISTINCT ON ("table", "column") * FROM crdt.conflicts
              WHERE "column" IS NOT NULL ORDER BY "table", "column", detected DESC) AS f
        LEFT JOIN profiles AS p ON f."table" = 'public.profiles' AND p.id::text = f.key ->> 'id'
        ORDER BY f.detected DESC LIMIT $1
        """,
        EXAMPLES,
    )
    return tuple(Conflict(*row) for row in found)
