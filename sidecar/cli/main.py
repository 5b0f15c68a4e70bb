"""Entry point of ``sidecar``: the commands, and the one place that turns errors into lines and exit statuses."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from sidecar import __version__
from sidecar.cli import annotate, check, conflicts, console, init, status
from sidecar.cli import run as run_command
from sidecar.errors import UsageError

# The command line library's errors share a class that it exports only through its subclasses.
_USAGE_ERROR: type = typer.BadParameter.__mro__[1]

app = typer.Typer(
    name="sidecar",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        console.fact(f"sidecar {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True, epilog="Example: sidecar init -c node.toml && sidecar run -c node.toml")
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


# In the order in which a new user needs them.
app.command("check", epilog="Example: sidecar check public -c node.toml")(check.command)
app.command("annotate", epilog="Example: sidecar annotate schema.sql")(annotate.command)
app.command("init", epilog="Example: sidecar init -c node.toml")(init.command)
app.command("run", epilog="Example: sidecar run -c node.toml --log-level debug")(run_command.command)
app.command("status", epilog="Example: sidecar status -c node.toml")(status.command)
app.command("conflicts", epilog="Example: sidecar conflicts --since 1h -c node.toml")(conflicts.command)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status; prints errors, raises nothing."""
    try:
        status = app(args=None if arguments is None else list(arguments), prog_name="sidecar", standalone_mode=False)
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
