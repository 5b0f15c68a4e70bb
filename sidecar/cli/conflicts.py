"""``sidecar conflicts``: concurrent writes of one column, with both values and the winner."""

from __future__ import annotations

import asyncio
import json as standard_json
from collections.abc import AsyncIterator, Iterable
from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer

from sidecar.cli import console
from sidecar.cli.reports import Conflict, Reports, reports
from sidecar.core.addresses import duration_ms, is_duration
from sidecar.errors import UsageError

POLL_SECONDS = 1.0
"""--follow looks this often: a person reads along, and one indexed query a second costs the database nothing."""

OVERLAP = timedelta(seconds=30)
"""A conflict is stamped when its merge began and seen when it committed, so each look reaches this far back. A merge
lasts some 20 ms, a batch under contention seconds."""

FOLLOW_ROWS_MAX = 100_000
"""Conflicts taken in by one look of --follow; bounds memory when somebody starts it amid a storm."""


def command(
    config: console.ConfigOption = console.DEFAULT_CONFIG,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on and print new ones as they come.")] = False,
    table: Annotated[
        str | None, typer.Option("--table", "-t", help="Only this table, as table or schema.table.")
    ] = None,
    since: Annotated[str | None, typer.Option(help="Only newer ones: 1h, 30m, 2d, or an ISO time.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1_000_000, help="At most so many of the newest.")] = 100,
    json: Annotated[bool, typer.Option("--json", help="One JSON array; with --follow one object per line.")] = False,
) -> None:
    """List the conflicts this node found: both values, who won, and by which rule. Oldest first."""
    start = None if since is None else parse_since(since, datetime.now(UTC))
    settings = console.settings_of(config)
    console.run_async(_conflicts(settings.node.dsn, table, start, limit, follow=follow, json=json))


def parse_since(text: str, now: datetime) -> datetime:
    """``1h`` before ``now``, or an ISO time (local time zone when it names none); raises UsageError."""
    try:
        if is_duration(text):
            return now - timedelta(milliseconds=duration_ms(text))
        return datetime.fromisoformat(text).astimezone()
    except (ValueError, OverflowError):
        raise UsageError(
            f"--since {text!r} is neither a duration nor a time", mend="write 1h, 30m, 2d or 2025-01-31T08:00"
        ) from None


async def _conflicts(
    dsn: str, table: str | None, since: datetime | None, limit: int, *, follow: bool, json: bool
) -> None:
    async with reports(dsn) as source:
        name = None if table is None else await source.resolve_table(table)
        if not follow:
            _print_all(await source.conflicts(name, since, limit), json=json)
            return
        # First what is known, then what is shown: what commits between the two is shown now or by the next look.
        newest = await source.conflicts(name, None, 1)
        known = await source.conflicts(name, _reach(newest), FOLLOW_ROWS_MAX)
        shown = await source.conflicts(name, since, limit)
        for conflict in shown:
            _print_one(conflict, json=json)
        async for conflict in _new(source, name, [*known, *shown]):
            _print_one(conflict, json=json)


def _reach(known: Iterable[Conflict]) -> datetime:
    """From when on a look may find something new; by the database's clock alone."""
    return max((conflict.detected for conflict in known), default=datetime.min.replace(tzinfo=UTC) + OVERLAP) - OVERLAP


async def _new(source: Reports, table: str | None, known: Iterable[Conflict]) -> AsyncIterator[Conflict]:
    """Conflicts beyond the known ones, for ever."""
    seen = {conflict.id: conflict for conflict in known}
    while True:
        reach = _reach(seen.values())
        seen = {key: conflict for key, conflict in seen.items() if conflict.detected >= reach}
        for conflict in await source.conflicts(table, reach, FOLLOW_ROWS_MAX):
            if conflict.id not in seen:
                seen[conflict.id] = conflict
                yield conflict
        await asyncio.sleep(POLL_SECONDS)


def _print_all(found: list[Conflict], *, json: bool) -> None:
    if json:
        console.print_json(found)
        return
    rows = [
        (
            _time(c.detected),
            c.table,
            _key(c),
            c.column,
            c.rule if c.kind == "overwrite" else f"{c.rule}: {c.kind}",
            f"{c.winner}: {_value(c.winner_value)}",
            f"{c.loser}: {_value(c.loser_value)}",
        )
        for c in found
    ]
    columns = ("detected", "table", "key", "column", "rule", "winner", "loser")
    console.stdout().print(console.table(f"{len(found)} conflicts", columns, rows))


def _print_one(c: Conflict, *, json: bool) -> None:
    if json:
        console.print_json_line(c)
        return
    place = f"{c.table} {_key(c)}" + (f" {c.column}" if c.column else "")
    console.fact(
        f"{_time(c.detected)} {place}: {c.winner} {_value(c.winner_value)} over {c.loser} {_value(c.loser_value)}"
        f" ({c.rule}{'' if c.kind == 'overwrite' else ': ' + c.kind}{'' if c.note is None else ', ' + c.note})"
    )


def _time(moment: datetime) -> str:
    return moment.astimezone().isoformat(sep=" ", timespec="milliseconds")


def _key(conflict: Conflict) -> str:
    return console.shortened(standard_json.dumps(conflict.key, ensure_ascii=False))


def _value(value: str | None) -> str:
    return "NULL" if value is None else console.shortened(repr(value))
