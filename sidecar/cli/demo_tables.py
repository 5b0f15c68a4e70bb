"""What ``sidecar demo`` prints: the live table, the proof, what was measured, and what to play with."""

from __future__ import annotations

import shlex
import time
from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from sidecar.cli import console
from sidecar.lab.demo import Demo, Outcome, RegionView
from sidecar.lab.demo_kept import KeptNode
from sidecar.lab.demo_lag import percentile
from sidecar.lab.demo_proof import Conflict

CHECKSUM_CHARACTERS = 12
VALUE_CHARACTERS = 28
LATE_MS = 1000.0  # a region that is further behind is shown in yellow

GOOD, BAD, LATE = "green", "bold red", "yellow"


def _table(title: str, *columns: str) -> Table:
    """The first column is a name, the others are numbers."""
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left", no_wrap=True)
    return table


def _ms(value: float | None) -> str:
    """A latency for people: two digits are what a demo can tell."""
    if value is None:
        return "-"
    return console.age(value) if value >= 1000 else f"{value:.0f} ms" if value >= 10 else f"{value:.1f} ms"


# -- while it runs ---------------------------------------------------------------------------------------------------


def live_table(demo: Demo, views: Sequence[RegionView]) -> RenderableType:
    """One row per region: what it writes, how fast, and how far it is behind each other region."""
    names = [view.name for view in views]
    elapsed = min(demo.seconds, time.monotonic() - demo.times.started)
    table = _table("", "region", "writes/s", "commit p50", "p99", *(f"behind {name}" for name in names), "conflicts")
    for view in views:
        behind = (Text("·", "dim") if name == view.name else _behind(view, name) for name in names)
        table.add_row(
            view.name,
            f"{view.writes_per_s:.0f}",
            _ms(percentile(view.latencies_ms, 0.5)),
            _ms(percentile(view.latencies_ms, 0.99)),
            *behind,
            "-" if view.conflicts is None else str(view.conflicts),
        )
    head = Text.assemble((f"{elapsed:4.1f} of {demo.seconds:g} s  ", "dim"), (demo.phase, "bold"))
    return Group(head, table)


def _behind(view: RegionView, origin: str) -> Text:
    value = view.behind_ms[origin]
    if not view.linked[origin]:
        return Text(f"cut, {_ms(value)}", BAD)
    return Text(_ms(value), LATE if value is not None and value >= LATE_MS else "")


def progress_line(demo: Demo, views: Sequence[RegionView]) -> str:
    """The live table in one line."""
    elapsed = min(demo.seconds, time.monotonic() - demo.times.started)
    latencies = [value for view in views for value in view.latencies_ms]
    behind = max((value for view in views for value in view.behind_ms.values() if value is not None), default=None)
    down = sum(not up for view in views for up in view.linked.values())
    return (
        f"{elapsed:5.1f} s  {sum(view.writes_per_s for view in views):4.0f} writes/s,"
        f" commit p50 {_ms(percentile(latencies, 0.5))} p99 {_ms(percentile(latencies, 0.99))},"
        f" behind {_ms(behind)} at most, {'all links up' if not down else 'not all links up'}: {demo.phase}"
    )


# -- at the end --------------------------------------------------------------------------------------------------------


def show_outcome(out: Console, demo: Demo, outcome: Outcome) -> None:
    """The proof, the conflicts, the measurements, and the verdict in one line."""
    names = [facts.name for facts in outcome.facts]
    _show_run(out, demo, outcome)
    out.print(_checksums(outcome, names))
    out.print(_counters(outcome, names))
    _show_conflicts(out, outcome)
    out.print(_lags(outcome, names))
    if not outcome.problems:
        out.print(f"[{GOOD}]PROVEN[/]  equal checksums in all regions, every counter exact, nothing lost.")
        return
    for line in outcome.problems:
        out.print(f"[{BAD}]FAILED[/]  {escape(line)}")


def _show_run(out: Console, demo: Demo, outcome: Outcome) -> None:
    times = outcome.times
    writes = sum(len(values) for values in outcome.latencies_ms.values())
    out.print(
        f"{writes:,} transactions in {times.stopped - times.started:.0f} s."
        f" In the middle: {demo.fault} for {times.healed - times.cut:.1f} s;"
        f" {_ms((times.caught_up - times.healed) * 1000)} after it healed everybody had caught up."
        f" After the last write: converged within {_ms((times.converged - times.stopped) * 1000)}.\n"
    )


def _checksums(outcome: Outcome, names: Sequence[str]) -> Table:
    table = _table("Checksums of the tables", "table", "rows", *names, "")
    for proof in outcome.proof.tables:
        sums = (proof.checksums[name][:CHECKSUM_CHARACTERS] for name in names)
        table.add_row(proof.table, f"{proof.rows:,}", *sums, _verdict("equal" if proof.equal else None))
    return table


def _counters(outcome: Outcome, names: Sequence[str]) -> Table:
    table = _table("Counters: sums, against the writers' own books", "counter", "increments", "books", *names, "")
    for proof in outcome.proof.counters:
        sums = (f"{proof.sums[name]:,}" for name in names)
        verdict = _verdict("exact" if proof.exact else None)
        table.add_row(proof.column, f"{proof.increments:,}", f"{proof.expected:,}", *sums, verdict)
    return table


def _verdict(good: str | None) -> Text:
    return Text(good, GOOD) if good else Text("DIFFERENT", BAD)


def _show_conflicts(out: Console, outcome: Outcome) -> None:
    ids = frozenset[str]().union(*(facts.conflicts for facts in outcome.facts))
    noted = ", ".join(f"{facts.name} {len(facts.conflicts)}" for facts in outcome.facts)
    out.print(f"[bold]Conflicts[/]: {len(ids)} concurrent overwrites, same winner everywhere (recorded by {noted}).")
    for conflict in next((facts.examples for facts in outcome.facts if facts.examples), ()):
        out.print(Text(f"  {_conflict(conflict)}", "dim"))
    out.print()


def _conflict(c: Conflict) -> str:
    return (
        f"{c.table} {c.row} {c.column}: {c.winner} {_value(c.winner_value)} won over {c.loser} {_value(c.loser_value)}"
    )


def _value(value: str | None) -> str:
    if value is None:
        return "NULL"
    text = console.shortened(value)
    return repr(text if len(text) <= VALUE_CHARACTERS else text[: VALUE_CHARACTERS - 1] + "…")


def _lags(outcome: Outcome, names: Sequence[str]) -> Table:
    """One row per origin: its local writes, and when the others saw them."""
    table = _table(
        "Milliseconds (p50 / p99): local writes, and from commit to visible in another region",
        "written in",
        "local",
        *(f"seen in {name}" for name in names),
    )
    for origin in names:
        seen = (
            Text("·", "dim") if origin == name else _pair(outcome.lags_ms(origin, name, whole=True)) for name in names
        )
        table.add_row(origin, _pair(outcome.latencies_ms[origin]), *seen)
    late = [value for x in names for y in names if x != y for value in outcome.lags_ms(x, y, whole=False)]
    table.caption = f"Without the time from the cut until all had caught up: then up to {_ms(max(late, default=None))}."
    table.caption_justify = "left"
    return table


def _pair(values: list[float]) -> str:
    p50, p99 = percentile(values, 0.5), percentile(values, 0.99)
    return "-" if p50 is None or p99 is None else f"{p50:.1f} / {p99:.1f}"


def show_kept(out: Console, folder: Path, nodes: Sequence[KeptNode]) -> None:
    """Where everything is, and a few commands to paste."""
    table = _table("\nStill running", "region", "database", "sidecar")
    for node in nodes:
        table.add_row(node.name, node.dsn, f"{node.http_url}/status")
    for column in table.columns:
        column.justify = "left"
    out.print(table)
    first, second = nodes[0], nodes[1]
    lines = (
        f"psql {first.dsn} -c \"UPDATE stock SET quantity = quantity - 1 WHERE sku = 'sku-00'\"",
        f"psql {second.dsn} -c \"SELECT * FROM crdt.explain('stock', 'sku-00')\"",
        f"sidecar status -c {shlex.quote(second.config)}",
        f"sidecar conflicts --limit 10 -c {shlex.quote(first.config)}",
    )
    out.print("Paste, for example:")
    for line in lines:
        out.print(f"  {line}", markup=False, soft_wrap=True)
    out.print(f"Stop it, and remove its files:\n  sidecar demo --stop {shlex.quote(str(folder))}", soft_wrap=True)
