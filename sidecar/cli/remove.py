"""``sidecar remove``: take a node that is gone for good off the list of members."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from sidecar.cli import console, progress
from sidecar.errors import ConfigurationError, SidecarError, UsageError
from sidecar.postgres.admin import connect
from sidecar.postgres.requests import Answer, Known, Report, Requests
from sidecar.settings import Settings


def command(
    node: Annotated[str, typer.Argument(metavar="NODE", help="The name of the node that is gone.")],
    config: console.ConfigOption = console.DEFAULT_CONFIG,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    force: Annotated[
        bool,
        typer.Option("--force", help="Also one that seems alive, or of which not everybody has the same."),
    ] = False,
    timeout: Annotated[float, typer.Option(min=1, max=3600, help="Seconds it may take.")] = 60.0,
    json: console.JsonOption = False,
) -> None:
    """Remove a node that is gone for good from the cluster. Run it on any other node. Safe to run again.

    From then on nothing is kept for it, nobody dials it or waits for it, and it is refused when it comes back. Its id
    is never used again. What it had written and somebody has stays. The other nodes are told; who is down now learns it
    from whoever it is linked with first. A node that is alive is taken out with sidecar leave, on itself.
    """
    settings = console.settings_of(config)
    with progress.lacking("removing") as report:
        known, answer = console.run_async(_remove(settings, node, yes=yes, force=force, seconds=timeout, report=report))
    if json:
        console.print_json({"node": known.name, "id": known.id, "removed": answer.done, "text": answer.text})
    elif answer.done:
        console.fact(answer.text)
    if not answer.done:
        raise SidecarError(answer.text, mend=answer.mend)


async def _remove(
    settings: Settings, name: str, *, yes: bool, force: bool, seconds: float, report: Report
) -> tuple[Known, Answer]:
    async with await connect(settings.node.dsn, autocommit=True) as conn:
        requests = Requests(conn)
        own = await requests.own()
        if own is None:
            raise ConfigurationError("this database is not attached to a node", mend="run it on a node of the cluster")
        known = await requests.find(name)
        if known.id == own.id:
            raise UsageError(f"{name} is this node itself", mend="sidecar leave takes it out of the cluster")
        if known.departed is not None:
            return known, Answer(True, f"{known.told()}; nothing to do", "")
        _confirm(known, yes=yes)
        if await requests.is_running():
            asked = await requests.ask("remove", known.id, forced=force, seconds=seconds)
            return known, await requests.follow(asked, seconds=seconds, report=report)
        if not force:
            return known, Answer(
                False,
                f"no sidecar runs here that could ask the others what they have of {known.name}",
                "run it on a node that is up; --force writes the removal down as it is",
            )
        await requests.remove(known)
        told = (await requests.find(str(known.id))).told()
        return known, Answer(True, f"{told}; the others will be told when sidecar run links this node with them", "")


def _confirm(node: Known, *, yes: bool) -> None:
    """Asks a person; a script has said what it wants."""
    if not yes and sys.stdin.isatty():
        typer.confirm(f"Remove {node.name} (node {node.id}) for good?", abort=True, err=True)
