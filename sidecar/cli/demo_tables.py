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


def _table(*columns: str) -> Table:
    """The first column is a name, the others are numbers. A title would be wrapped to the table: print it before."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold cyan")
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
    table = _table("region", "writes/s", "commit p50", "p99", *(f"behind {name}" for name in names), "conflicts")
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
    for title, table in (
        ("Tables: checksums of all rows, first digits", _checksums(outcome, names)),
        ("Counters: their sums, and what the writers' own books say", _counters(outcome, names)),
        ("Milliseconds, p50 / p99: to write locally, and from that commit until others see it", _lags(outcome, names)),
    ):
        out.print(f"[bold]{title}[/]")
        out.print(table)
    _show_conflicts(out, outcome)
    if not outcome.problems:
        out.print(
            f"[{GOOD}]PROVEN[/]  equal checksums in all regions, every counter exact,"
            " no tag and no item of a cart lost."
        )
        return
    for line in outcome.problems:
        out.print(f"[{BAD}]FAILED[/]  {escape(line)}")


def _show_run(out: Console, demo: Demo, outcome: Outcome) -> None:
    times = outcome.times
    writes = sum(len(values) for values in outcome.latencies_ms.values())
    late = max((sample.lag_ms for sample in outcome.samples if sample.visible > times.cut), default=None)
    for line in (
        f"{writes:,} transactions committed in {times.stopped - times.started:.0f} s, each in its own region alone.",
        f"{demo.fault} for {times.healed - times.cut:.1f} s: changes came up to {_ms(late)} late,"
        f" and {_ms((times.caught_up - times.healed) * 1000)} after it healed all had caught up.",
        f"After the last write all three were equal within {_ms((times.converged - times.stopped) * 1000)}.\n",
    ):
        out.print(line)


def _checksums(outcome: Outcome, names: Sequence[str]) -> Table:
    table = _table("table", "rows", *names, "")
    for proof in outcome.proof.tables:
        sums = (proof.checksums[name][:CHECKSUM_CHARACTERS] for name in names)
        table.add_row(proof.table, f"{proof.rows:,}", *sums, _verdict("equal" if proof.equal else None))
    return table


def _counters(outcome: Outcome, names: Sequence[str]) -> Table:
    table = _table("counter", "increments", "by the books", *names, "")
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
        f"{c.table} {c.row} {c.column}: {c.winner} {quoted(c.winner_value)} won over {c.loser} {quoted(c.loser_value)}"
    )


def quoted(value: str | None) -> str:
    """A value in quotes, cut short; it comes from a table, so nothing unprintable passes."""
    if value is None:
        return "NULL"
    text = console.shortened(value)
    return repr(text if len(text) <= VALUE_CHARACTERS else text[: VALUE_CHARACTERS - 1] + "…")


def _lags(outcome: Outcome, names: Sequence[str]) -> Table:
    """One row per origin: its local writes, and when the others saw them."""
    table = _table("written in", "local write", *(f"seen in {name}" for name in names))
    for origin in names:
        seen = (
            Text("·", "dim") if origin == name else _pair(outcome.lags_ms(origin, name, whole=True)) for name in names
        )
        table.add_row(origin, _pair(outcome.latencies_ms[origin]), *seen)
    return table


def _pair(values: list[float]) -> str:
    p50, p99 = percentile(values, 0.5), percentile(values, 0.99)
    return "-" if p50 is None or p99 is None else f"{p50:.1f} / {p99:.1f}"


def show_kept(out: Console, folder: Path, nodes: Sequence[KeptNode]) -> None:
    """Where everything is, and a few commands to paste."""
    out.print("\n[bold]Still running[/]")
    table = _table("region", "database", "sidecar")
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
