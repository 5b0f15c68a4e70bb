"""Output of the commands: facts to stdout (tables, or JSON), everything else to stderr as single lines.

Drivers, settings and tables are imported where they are used: every command imports this module, and most need little.
"""

from __future__ import annotations

import asyncio
import os
import sys
import traceback
from collections.abc import Coroutine, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import msgspec
import typer

from sidecar.core.addresses import redact_dsn
from sidecar.errors import ConfigurationError, SidecarError, UsageError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from sidecar.settings import Settings

T = TypeVar("T")

EXIT_DONE = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130  # 128 + SIGINT, the shells' convention

# Without a terminal there is no width to fit; wide enough that a table's rows stay whole in a log file.
WIDTH_WITHOUT_TERMINAL = 200

# A table cell; --json has values whole.
VALUE_CHARACTERS_MAX = 60

ConfigOption = Annotated[
    Path,
    typer.Option("--config", "-c", metavar="FILE", envvar="SIDECAR_CONFIG", help="The node's TOML file."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
DEFAULT_CONFIG = Path("node.toml")


def settings_of(config: Path) -> Settings:
    """The settings a command works with; raises ConfigurationError."""
    from sidecar.settings import load

    return load(config)


def stdout() -> Console:
    """A console on the present stdout; made on each call, because tests and pipes replace the stream."""
    from rich.console import Console

    return Console(file=sys.stdout, width=None if sys.stdout.isatty() else WIDTH_WITHOUT_TERMINAL, highlight=False)


def note(text: str) -> None:
    """One line to stderr."""
    sys.stderr.write(redact_dsn(" ".join(text.split())) + "\n")
    sys.stderr.flush()


def fact(text: str) -> None:
    """One line to stdout."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def print_json(value: object) -> None:
    """Any msgspec-encodable value, indented."""
    fact(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def print_json_line(value: object) -> None:
    """Any msgspec-encodable value on one line, for streams of records."""
    fact(msgspec.json.encode(value).decode())


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> Table:
    """A table of plain values (no markup is read from them); ``None`` shows as a dash."""
    from rich.table import Table
    from rich.text import Text

    out = Table(title=title, title_justify="left", title_style="bold", header_style="bold")
    for column in columns:
        out.add_column(column, overflow="fold")
    for row in rows:
        out.add_row(*(Text("-" if cell is None else _printable(str(cell))) for cell in row))
    return out


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)


def shortened(text: str) -> str:
    """One printable piece of at most VALUE_CHARACTERS_MAX characters: values come from users' tables, and a terminal
    obeys escape sequences."""
    plain = _printable(text[: VALUE_CHARACTERS_MAX + 1])
    return plain if len(plain) <= VALUE_CHARACTERS_MAX else plain[: VALUE_CHARACTERS_MAX - 1] + "…"


def size(count: int | None) -> str:
    """Bytes for people."""
    if count is None:
        return "-"
    for unit, length in (("GiB", 1024**3), ("MiB", 1024**2), ("KiB", 1024)):
        if count >= length:
            return f"{count / length:.1f} {unit}"
    return f"{count} B"


def age(milliseconds: float | None) -> str:
    """A time span for people."""
    if milliseconds is None:
        return "-"
    for unit, length in (("d", 86_400_000), ("h", 3_600_000), ("min", 60_000), ("s", 1000)):
        if abs(milliseconds) >= length:
            return f"{milliseconds / length:.1f} {unit}"
    return f"{milliseconds:.1f} ms"


def run_async(main: Coroutine[Any, Any, T]) -> T:
    """Run one command's coroutine to its end."""
    return asyncio.run(main)


def report(error: BaseException) -> int:
    """Print an error as one line to stderr; the exit status that goes with it."""
    import psycopg

    if isinstance(error, psycopg.errors.InsufficientPrivilege):
        reason = error.diag.message_primary or str(error)
        error = ConfigurationError(
            f"the role in the DSN may not do this: {reason}",
            mend="use the role that ran sidecar init, or grant what is missing",
        )
    if isinstance(error, SidecarError):
        note(f"error: {error.line()}")
        status = EXIT_USAGE if isinstance(error, UsageError) else EXIT_FAILED
    elif isinstance(error, psycopg.Error):
        reason = error.diag.message_primary or str(error) or type(error).__name__
        note(f"error: the database refused: {reason}; {error.diag.message_hint or 'see the server log'}")
        status = EXIT_FAILED
    else:
        text = " ".join(str(error).split())
        detail = f"{type(error).__name__}: {text}" if text else type(error).__name__
        note(f"error: unexpected {detail}; run again with SIDECAR_DEBUG=1 for the traceback")
        status = EXIT_FAILED
    if os.environ.get("SIDECAR_DEBUG"):
        sys.stderr.write(redact_dsn("".join(traceback.format_exception(error))))
    return status
