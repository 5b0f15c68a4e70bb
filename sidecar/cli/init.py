"""``sidecar init``: attach this sidecar to its database."""

from __future__ import annotations

from sidecar.cli import console
from sidecar.cli.check import counted, examine
from sidecar.errors import ConfigurationError
from sidecar.postgres.admin import connect
from sidecar.postgres.attach import InitReport, initialise
from sidecar.postgres.problem import errors
from sidecar.settings import Settings


def command(config: console.ConfigOption = console.DEFAULT_CONFIG, json: console.JsonOption = False) -> None:
    """Prepare the database: schemas, publication, slot and state tables. Safe to run again.

    Server settings, privileges and annotated tables are checked first; while one of them is wrong, nothing is done.
    """
    settings = console.settings_of(config)
    console.run_async(_init(settings, json=json))


async def _init(settings: Settings, *, json: bool) -> None:
    async with await connect(settings.node.dsn, autocommit=True) as conn:
        found = await examine(conn)
        for problem in found.problems:
            console.note(problem.line())
        if errors(found.problems):
            raise ConfigurationError(
                f"nothing was done, the checks found {counted(found.problems)}",
                mend="mend the errors above, then run init again",
            )
        result = await initialise(conn, settings, progress=console.note)
    if json:
        console.print_json(_facts(settings, result))
    else:
        console.fact(_summary(settings, result))
    # Attaching sees more than the checks, such as a column whose type changed since its state was made.
    later = [problem for problem in result.problems if problem not in found.problems]
    for problem in later:
        console.note(problem.line())
    if errors(later):
        raise ConfigurationError(
            f"not every table could be attached: {counted(later)}", mend="mend the errors above, then run init again"
        )


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
    return f"{node} {new}; {tables}; next: sidecar run"
