"""``sidecar init``: attach this sidecar to its database."""

from __future__ import annotations

from sidecar.cli import console
from sidecar.cli.check import examine, has_error, print_problems
from sidecar.errors import ConfigurationError
from sidecar.settings import Settings


def command(config: console.ConfigOption = console.DEFAULT_CONFIG, json: console.JsonOption = False) -> None:
    """Prepare the database: schemas, publication, slot and state tables. Safe to run again.

    Server settings, privileges and annotated tables are checked first; while one of them is wrong, nothing is done.
    """
    settings = console.settings_of(config)
    console.run_async(_init(settings, json=json))


async def _init(settings: Settings, *, json: bool) -> None:
    from sidecar.postgres.admin import connect
    from sidecar.postgres.attach import initialise

    async with await connect(settings.node.dsn, autocommit=True) as conn:
        found = await examine(conn)
        if found.problems:
            print_problems(found.problems, to_stderr=True)
        if has_error(found.problems):
            raise ConfigurationError(
                "nothing was done, because the checks found errors", mend="see the list above, then run init again"
            )
        result = await initialise(conn, settings, progress=console.note)
    if json:
        console.print_json(result)
    else:
        console.fact(f"node {settings.node.name} (id {settings.node.id}) is attached to its database")
