"""``sidecar init``: attach this sidecar to its database."""

from __future__ import annotations

from typing import Annotated

import typer

from sidecar.cli import console
from sidecar.cli.check import counted, examine
from sidecar.postgres.admin import connect
from sidecar.postgres.attach import InitReport, initialise
from sidecar.postgres.problem import Problem, errors
from sidecar.settings import Settings


def command(
    config: console.ConfigOption = console.DEFAULT_CONFIG,
    moved: Annotated[
        bool,
        typer.Option(
            "--moved",
            help="The database came here as a whole from another server, which is gone for good (pg_upgrade).",
        ),
    ] = False,
    json: console.JsonOption = False,
) -> None:
    """Prepare the database: schemas, publication, slot and state tables. Safe to run again.

    Every problem is shown. While the server or the role is not fit, nothing is done. A table that cannot be replicated
    as annotated is refused; the other tables are attached, and the exit status is 2.
    """
    settings = console.settings_of(config)
    if console.run_async(_init(settings, moved=moved, json=json)):
        raise typer.Exit(console.EXIT_USAGE)


async def _init(settings: Settings, *, moved: bool, json: bool) -> list[Problem]:
    """The errors; each was shown as one line."""
    async with await connect(settings.node.dsn, autocommit=True) as conn:
        found = await examine(conn)
        for problem in found.problems:
            console.note(problem.line())
        if unfit := [problem for problem in errors(found.problems) if not problem.table]:
            console.note(f"nothing was done: {counted(found.problems)}")
            return unfit
        result = await initialise(conn, settings, moved=moved, progress=console.note)
    # Attaching sees more than the checks, such as a column whose type changed since its state was made.
    for problem in result.problems:
        if problem not in found.problems:
            console.note(problem.line())
    if json:
        console.print_json(_facts(settings, result))
    else:
        console.fact(_summary(settings, result))
    return errors(result.problems)


def _facts(settings: Settings, result: InitReport) -> dict[str, object]:
    return {
        "node": {"name": settings.node.name, "id": settings.node.id, "cluster": settings.node.cluster},
        "migrations": result.migrations,
        "publication_created": result.publication_created,
        "slot": result.slot,
        "slot_created": result.slot_created,
        "tables": [table.qualified for table in result.tables],
        "attached": result.attached,
        "changed": result.changed,
        "detached": result.detached,
        "problems": result.problems,
    }


def _summary(settings: Settings, result: InitReport) -> str:
    node = f"node {settings.node.name} (id {settings.node.id}, cluster {settings.node.cluster})"
    new = "attached" if result.node_created else "was attached before"
    tables = f"{len(result.tables)} tables replicated, {len(result.attached)} of them newly attached"
    refused = len({problem.table for problem in errors(result.problems)})
    following = f"{refused} refused, see the errors" if refused else "next: sidecar run"
    return f"{node} {new}; {tables}; {following}"
