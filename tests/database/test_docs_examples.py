"""The examples of ``docs/choosing-types.md`` and ``docs/conflicts.md`` do what the pages say, on two nodes.

A step is a comment with a name and the statements below it; steps follow each other by the clock and have not seen
each other, until ``everywhere``, where both nodes exchange everything. Then each query must print, on every node (or
on one), the ``-->`` lines below it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
import pytest
from node_harness import HarnessNode, cluster, settle

ROOT = Path(__file__).parents[2]
PAGES = ("choosing-types", "conflicts")
NODES = ("us-east", "eu-west")
STEP = re.compile(r"^-- (setup|everywhere|on \S+|us-east|eu-west)$")
EXAMPLE = re.compile(r"^## (?P<title>[^\n]+)$|^```sql\n(?P<sql>.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass
class Step:
    """``where``: ``setup``, a node's name, ``everywhere`` or ``on <node>``. Queries with the lines they must print."""

    where: str
    lines: list[str] = field(default_factory=list)

    def queries(self) -> list[tuple[str, list[str]]]:
        found: list[tuple[str, list[str]]] = []
        for line in self.lines:
            if line.startswith("--> "):
                found[-1][1].append(line.removeprefix("--> "))
            else:
                found.append((line, []))
        return found


@dataclass(frozen=True)
class Example:
    name: str
    steps: list[Step]

    def __str__(self) -> str:
        return self.name


def examples(page: str) -> list[Example]:
    out: list[Example] = []
    title, number = "", 0
    for found in EXAMPLE.finditer((ROOT / f"docs/{page}.md").read_text(encoding="utf-8")):
        if found["title"]:
            title, number = found["title"], 0
            continue
        number += 1
        steps: list[Step] = []
        for line in found["sql"].splitlines():
            if step := STEP.match(line):
                steps.append(Step(step[1]))
            elif line:
                steps[-1].lines.append(line)
        out.append(Example(f"{page}: {title}{f' {number}' if number > 1 else ''}", steps))
    return out


ALL = [example for page in PAGES for example in examples(page)]


def printed(dsn: str, query: str) -> list[str]:
    with psycopg.connect(dsn, autocommit=True) as connection:
        result = connection.pgconn.exec_(query.encode())
        assert not result.error_message, f"{query}: {result.error_message.decode()}"
        rows = [[result.get_value(i, j) for j in range(result.nfields)] for i in range(result.ntuples)]
    return [" | ".join("NULL" if value is None else value.decode() for value in row) for row in rows]


async def take(step: Step, nodes: dict[str, HarnessNode]) -> None:
    if step.where not in nodes:
        await settle(list(nodes.values()))
        asked = [step.where.removeprefix("on ")] if step.where.startswith("on ") else list(nodes)
        for query, expected in step.queries():
            for name in asked:
                assert printed(nodes[name].dsn, query) == expected, f"{name}: {query}"
        return
    node = nodes[step.where]
    # What is written further down was written later, whatever the milliseconds say.
    node.state.hlc.observe(max(other.state.hlc.last for other in nodes.values()))
    await node.sql("\n".join(step.lines))
    await node.captured()


@pytest.mark.parametrize("example", ALL, ids=str)
async def test_an_example_does_what_the_page_says(postgres_server, example: Example) -> None:  # type: ignore[no-untyped-def]
    setup, *steps = example.steps
    assert setup.where == "setup"
    assert any(expected for step in steps for _, expected in step.queries()), "an example shows something"
    async with cluster(postgres_server, len(NODES), "\n".join(setup.lines)) as opened:
        nodes = dict(zip(NODES, opened, strict=True))
        for step in steps:
            await take(step, nodes)


def test_every_word_has_its_section_and_example() -> None:
    from sidecar.core.annotations import COLUMN_WORDS, ROW_RULES

    text = (ROOT / "docs/choosing-types.md").read_text(encoding="utf-8")
    titles = " ".join(line for line in text.splitlines() if line.startswith("## "))
    for word in COLUMN_WORDS:
        assert word in titles
    for rule in ROW_RULES:
        assert f"`row={rule}`" in text
