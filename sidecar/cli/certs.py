"""``sidecar certs``: an authority of one's own, and the certificates of the nodes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sidecar.cli import console
from sidecar.errors import UsageError
from sidecar.peers.authority import AUTHORITY_DAYS, DAYS_MAX, NODE_DAYS, Made, issue, make_authority

DEFAULT_FOLDER = Path("certs")

OutOption = Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder for the files; made when it is missing.")]
DaysOption = Annotated[int, typer.Option("--days", min=1, max=DAYS_MAX, help="Validity in days from now.")]

group = typer.Typer(name="certs", context_settings={"help_option_names": ["-h", "--help"]})


@group.callback(invoke_without_command=True)
def command(context: typer.Context) -> None:
    """Make an authority and the nodes' certificates for TLS between peers."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise UsageError("no command was given", mend="name one of those above")


@group.command("init", epilog="Example: sidecar certs init --out certs")
def init_command(
    out: OutOption = DEFAULT_FOLDER,
    cluster: Annotated[str, typer.Option("--cluster", metavar="NAME", help="Only for the authority's name.")] = "",
    days: DaysOption = AUTHORITY_DAYS,
    json: console.JsonOption = False,
) -> None:
    """Make an authority: ca.pem for every node, and ca.key, which signs and stays where it is.

    For development and for clusters without an authority of their own. Whoever has ca.key can speak for every node:
    keep it off the nodes.
    """
    made = make_authority(out, cluster=cluster or "development", days=days)
    _tell(made, f"authority {made.certificate}", "next: sidecar certs issue NODE_NAME", json=json)


@group.command("issue", epilog="Example: sidecar certs issue us-east --ca certs --host us-east.example.net")
def issue_command(
    name: Annotated[str, typer.Argument(metavar="NODE_NAME", help="The node's name, as in its configuration.")],
    ca: Annotated[Path, typer.Option("--ca", metavar="DIR", help="Folder of the authority.")] = DEFAULT_FOLDER,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="Folder for the files; the authority's, if left out."),
    ] = None,
    host: Annotated[
        list[str] | None,
        typer.Option(
            "--host", metavar="HOST", help="An address or host name to name as well; may be repeated. Links need none."
        ),
    ] = None,
    days: DaysOption = NODE_DAYS,
    renew: Annotated[
        bool, typer.Option("--renew", help="Replace the node's files; a running sidecar takes up the new ones.")
    ] = False,
    json: console.JsonOption = False,
) -> None:
    """Issue a node's certificate, for both directions of its links: NODE_NAME.pem and NODE_NAME.key."""
    made = issue(name, ca, ca if out is None else out, hosts=host or (), days=days, renew=renew)
    _tell(made, f"certificate of {name} {made.certificate}", "name the files in [tls]", json=json)


def _tell(made: Made, what: str, following: str, *, json: bool) -> None:
    if json:
        facts = {"certificate": str(made.certificate), "key": str(made.key), "until": made.until.isoformat()}
        console.print_json(facts)
    else:
        console.fact(f"{what}, key {made.key}, valid until {made.until:%Y-%m-%d}; {following}")
