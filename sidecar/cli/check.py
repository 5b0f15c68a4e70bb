"""``sidecar check``: everything that is wrong with the server and the annotated tables, at once."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from sidecar.cli import console

if TYPE_CHECKING:
    import psycopg

    from sidecar.core.catalog import TableSpec
    from sidecar.postgres.catalogue import Problem


@dataclass(frozen=True, slots=True)
class Findings:
    """What the checks saw: the tables that can be replicated, and every problem of the server and the schema."""

    tables: Sequence[TableSpec]
    problems: Sequence[Problem]


def command(
    schemas: Annotated[
        list[str] | None, typer.Argument(metavar="[SCHEMA]...", help="Only tables of these schemas; all by default.")
    ] = None,
    config: console.ConfigOption = console.DEFAULT_CONFIG,
    json: console.JsonOption = False,
) -> None:
    """Report every problem of the server's settings, the privileges and the annotated tables. Changes nothing.

    Exit status 0 when nothing stands in the way (warnings may be shown), 2 when something must be mended first.
    """
    settings = console.settings_of(config)
    found = console.run_async(_check(settings.node.dsn, tuple(schemas or ())))
    if json:
        console.print_json({"tables": [table.qualified for table in found.tables], "problems": found.problems})
    else:
        print_problems(found.problems)
        console.fact(f"{len(found.tables)} tables can be replicated; {_counted(found.problems)}")
    if has_error(found.problems):
        raise typer.Exit(console.EXIT_USAGE)


async def _check(dsn: str, schemas: tuple[str, ...]) -> Findings:
    from sidecar.postgres.admin import connect

    async with await connect(dsn, autocommit=True) as conn:
        return await examine(conn, schemas)


async def examine(conn: psycopg.AsyncConnection[Any], schemas: tuple[str, ...] = ()) -> Findings:
    """Check the server and read the annotated tables; ``schemas`` narrows the tables, not the server's checks."""
    from sidecar.postgres.catalogue import read_catalogue
    from sidecar.postgres.server_check import check_server

    problems = list(await check_server(conn))
    catalogue = await read_catalogue(conn)
    tables = [table for table in catalogue.tables if not schemas or table.schema in schemas]
    problems += [p for p in catalogue.problems if not schemas or _schema_of(p) in schemas]
    return Findings(tables, problems)


def _schema_of(problem: Problem) -> str:
    return (problem.table or "").partition(".")[0]


def has_error(problems: Sequence[Problem]) -> bool:
    """Whether one of them must be mended first."""
    return any(problem.severity == "error" for problem in problems)


def _counted(problems: Sequence[Problem]) -> str:
    errors = sum(problem.severity == "error" for problem in problems)
    return f"{errors} errors, {len(problems) - errors} warnings"


def print_problems(problems: Sequence[Problem], *, to_stderr: bool = False) -> None:
    """A table of the problems, errors first; nothing when there are none."""
    if not problems:
        return
    rows = [
        (p.severity, p.table or None, p.column or None, p.message, p.mend)
        for p in sorted(problems, key=lambda p: (p.severity != "error", p.table or "", p.column or ""))
    ]
    target = Console(file=sys.stderr, highlight=False) if to_stderr else console.stdout()
    target.print(console.table("Problems", ("severity", "table", "column", "what is wrong", "mend"), rows))
