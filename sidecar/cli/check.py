"""``sidecar check``: everything that is wrong with the server and the annotated tables, at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import psycopg
import typer

from sidecar.cli import console
from sidecar.core.catalog import TableSpec
from sidecar.errors import UsageError
from sidecar.postgres.admin import connect
from sidecar.postgres.attach import attached_problems
from sidecar.postgres.catalogue import read_catalogue
from sidecar.postgres.orphans import find_orphans
from sidecar.postgres.problem import Problem, errors, in_order
from sidecar.postgres.server_check import check_server
from sidecar.postgres.statements import load
from sidecar.postgres.type_advice import advise


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
    found = console.run_async(_check(settings.node.dsn, schemas or []))
    if json:
        console.print_json({"tables": [table.qualified for table in found.tables], "problems": found.problems})
    else:
        if found.problems:
            rows = [(p.severity, p.table or None, p.column or None, p.message, p.mend) for p in found.problems]
            columns = ("severity", "table", "column", "what is wrong", "mend")
            console.stdout().print(console.table("Problems", columns, rows))
        console.fact(f"{len(found.tables)} tables can be replicated; {counted(found.problems)}")
    if errors(found.problems):
        raise typer.Exit(console.EXIT_USAGE)


async def _check(dsn: str, schemas: Sequence[str]) -> Findings:
    async with await connect(dsn, autocommit=True) as conn:
        found = await examine(conn, schemas)
        lost, orphans = await attached_problems(conn), await find_orphans(conn, found.tables)
        return Findings(found.tables, in_order([*lost, *found.problems, *orphans]))


async def examine(conn: psycopg.AsyncConnection[Any], schemas: Sequence[str] = ()) -> Findings:
    """Check the server and read the annotated tables; ``schemas`` narrows the tables, not the server's checks."""
    found = list(await check_server(conn))
    missing = await (await conn.execute(load("cli")["read_missing_schemas"], {"schemas": list(schemas)})).fetchall()
    if missing:
        raise UsageError(
            f"schema {missing[0][0]!r} does not exist", mend="name schemas of the database, or none for all"
        )
    catalogue = await read_catalogue(conn)
    # A problem names its table as schema.name.
    wanted = tuple(f"{schema}." for schema in schemas) or ("",)
    tables = [table for table in catalogue.tables if table.qualified.startswith(wanted)]
    of_tables = [*catalogue.problems, *advise(catalogue.facts, catalogue.annotated)]
    found += [problem for problem in of_tables if problem.table.startswith(wanted)]
    return Findings(tables, in_order(found))


def counted(problems: Sequence[Problem]) -> str:
    """``1 errors, 2 warnings, 0 pieces of advice``."""
    severities = Counter[str](problem.severity for problem in problems)
    return f"{severities['error']} errors, {severities['warning']} warnings, {severities['advice']} pieces of advice"
