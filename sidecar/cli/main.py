"""Entry point of ``sidecar``: the commands, and the one place that turns errors into lines and exit statuses.

Only the module of the command that was named is imported: ``run`` starts without what ``annotate`` needs to read DDL.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import typer

from sidecar import __version__
from sidecar.cli import console
from sidecar.errors import UsageError

# The command line library's errors share a class that it exports only through its subclasses.
_USAGE_ERROR: type = typer.BadParameter.__mro__[1]


@dataclass(frozen=True, slots=True)
class _Command:
    """``module`` has the function ``command``, or ``group`` with commands below it; ``summary`` is the first line of
    ``command``'s docstring, for the list of all."""

    name: str
    module: str
    summary: str
    example: str


# In the order in which a new user needs them.
COMMANDS = (
    _Command(
        "check",
        "sidecar.cli.check",
        "Report every problem of the server's settings, the privileges and the annotated tables. Changes nothing.",
        "sidecar check public -c node.toml",
    ),
    _Command(
        "annotate",
        "sidecar.cli.annotate",
        "Turn the @crdt words in a DDL file's comments into COMMENT ON statements, and print or apply them.",
        "sidecar annotate schema.sql",
    ),
    _Command(
        "init",
        "sidecar.cli.init",
        "Prepare the database: schemas, publication, slot and state tables. Safe to run again.",
        "sidecar init -c node.toml",
    ),
    _Command(
        "join",
        "sidecar.cli.join",
        "Copy another node's rows and states into this node's database, so that it can take part. Safe to run again.",
        "sidecar join --from us-east -c node.toml",
    ),
    _Command(
        "run",
        "sidecar.cli.run",
        "Run this node: capture local changes, ship them, merge the peers' changes. Ends cleanly on SIGTERM and"
        " Ctrl-C.",
        "sidecar run -c node.toml --log-level debug",
    ),
    _Command(
        "status",
        "sidecar.cli.status",
        "Show this node, its peers and its tables. Exit status 1 when the sidecar is not running.",
        "sidecar status -c node.toml",
    ),
    _Command(
        "leave",
        "sidecar.cli.leave",
        "Take this node out of the cluster in good order, and the sidecar out of its database. Safe to run again.",
        "sidecar leave -c node.toml",
    ),
    _Command(
        "remove",
        "sidecar.cli.remove",
        "Remove a node that is gone for good from the cluster. Run it on any other node. Safe to run again.",
        "sidecar remove eu-west -c node.toml",
    ),
    _Command(
        "conflicts",
        "sidecar.cli.conflicts",
        "List the conflicts this node found: both values, who won, and by which rule. Oldest first.",
        "sidecar conflicts --since 1h -c node.toml",
    ),
    _Command(
        "certs",
        "sidecar.cli.certs",
        "Make an authority and the nodes' certificates for TLS between peers.",
        "sidecar certs init && sidecar certs issue us-east",
    ),
    _Command(
        "demo",
        "sidecar.cli.demo",
        "Show three regions that all take writes and converge, with a link that is cut and heals. Needs no database.",
        "sidecar demo --seconds 10",
    ),
    _Command(
        "bench",
        "sidecar.cli.bench",
        "Measure against built-in logical replication: same machine, server, settings, tables and data, same run.",
        "sidecar bench --only drain --scale 0.1",
    ),
)


def _print_version(wanted: bool) -> None:
    if wanted:
        console.fact(f"sidecar {__version__}")
        raise typer.Exit


def _sidecar(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version and exit.")
    ] = False,
) -> None:
    """Active-active PostgreSQL: one sidecar beside each database, local commits everywhere, tables that converge."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise UsageError("no command was given", mend="name one of those above")


def _not_loaded() -> None:
    raise AssertionError("a command that runs was named, so its module was loaded")


def application(named: str | None) -> typer.Typer:
    """The command line with the module of the ``named`` command loaded; the others have their summary only."""
    app = typer.Typer(
        name="sidecar",
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback(invoke_without_command=True, epilog="Example: sidecar init -c node.toml && sidecar run -c node.toml")(
        _sidecar
    )
    for known in COMMANDS:
        epilog = f"Example: {known.example}"
        module = importlib.import_module(known.module) if known.name == named else None
        if module is not None and hasattr(module, "group"):
            app.add_typer(module.group, name=known.name, epilog=epilog)
        elif module is not None:
            app.command(known.name, epilog=epilog)(module.command)
        else:
            app.command(known.name, help=known.summary, epilog=epilog)(_not_loaded)
    return app


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status; prints errors, raises nothing."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    # The options before a command take no values, so the first other word names it.
    named = next((word for word in given if not word.startswith("-")), None)
    try:
        status = application(named)(args=given, prog_name="sidecar", standalone_mode=False)
    except (KeyboardInterrupt, typer.Abort):
        return console.EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader went away (`sidecar conflicts | head`): nobody is left to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the interpreter flushes at exit
        return console.EXIT_FAILED
    except Exception as error:  # noqa: BLE001  # the last line of defence: a traceback to a user is a bug
        if isinstance(error, _USAGE_ERROR):
            return _usage(error)
        return console.report(error)
    return status if isinstance(status, int) else console.EXIT_DONE


def _usage(error: Exception) -> int:
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "sidecar"
    message = error.format_message() if hasattr(error, "format_message") else str(error)
    console.note(f"error: {message.rstrip('.')}; see {command} --help")
    return console.EXIT_USAGE


def run() -> None:
    """The console script."""
    sys.exit(main())


if __name__ == "__main__":
    run()
