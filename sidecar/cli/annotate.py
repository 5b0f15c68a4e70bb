"""``sidecar annotate``: the annotations of a DDL file as ``COMMENT ON`` statements, printed or applied."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import psycopg
import typer

from sidecar.cli import console
from sidecar.core.annotations import set_annotation
from sidecar.core.catalog import quote, quote_table
from sidecar.core.ddl import CommentStatement, read_annotations, render
from sidecar.errors import ConfigurationError, SchemaError, UsageError
from sidecar.postgres.admin import connect
from sidecar.postgres.statements import load

FILE_BYTES_MAX = 64 * 1024 * 1024
"""Far above any schema; a dump with its data, named by mistake, is refused before it is read."""

STDIN = Path("-")


def command(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="DDL with @crdt in its comments; - is standard input.")],
    apply: Annotated[bool, typer.Option("--apply", help="Set the comments in the node's database.")] = False,
    config: console.ConfigOption = console.DEFAULT_CONFIG,
    json: console.JsonOption = False,
) -> None:
    """Turn the @crdt words in a DDL file's comments into COMMENT ON statements, and print or apply them.

    Applied in one transaction: all of them or none. The text of a comment the database already has is kept.
    """
    statements = read_annotations(_text(file), file=str(file))
    if not statements:
        raise UsageError(f"{file} holds no @crdt annotation", mend="write -- @crdt(lww_register) at a column's line")
    if apply:
        settings = console.settings_of(config)
        statements = console.run_async(_apply(settings.node.dsn, statements))
    if json:
        console.print_json(statements)
    else:
        console.fact(render(statements).rstrip("\n"))
    if apply:
        console.note(f"{len(statements)} comments set")


def _text(file: Path) -> str:
    try:
        if file == STDIN:
            raw = sys.stdin.buffer.read(FILE_BYTES_MAX + 1)
        else:
            with file.open("rb") as stream:
                raw = stream.read(FILE_BYTES_MAX + 1)
        if len(raw) > FILE_BYTES_MAX:
            raise UsageError(f"{file} is larger than {console.size(FILE_BYTES_MAX)}", mend="dump with --schema-only")
        return raw.decode("utf-8-sig")
    except OSError as error:
        raise UsageError(f"cannot read {file}: {(error.strerror or '').lower()}", mend="name a DDL file") from None
    except UnicodeDecodeError:
        raise UsageError(f"{file} is not UTF-8 text", mend="save it as UTF-8") from None


async def _apply(dsn: str, statements: Sequence[CommentStatement]) -> list[CommentStatement]:
    """Set the comments; the statements as they were run. Raises SchemaError that names everything that is missing."""
    read_comment = load("cli")["read_comment"]
    async with await connect(dsn, autocommit=True) as conn:
        # Unqualified names in the file mean what they mean to the role's other sessions.
        await conn.execute("RESET search_path")
        done: list[CommentStatement] = []
        missing: list[str] = []
        try:
            async with conn.transaction():
                for statement in statements:
                    table = (
                        quote_table(statement.schema, statement.table) if statement.schema else quote(statement.table)
                    )
                    cursor = await conn.execute(read_comment, {"table": table, "column": statement.column})
                    row = await cursor.fetchone()
                    if row is None:
                        missing.append(f"{table}.{quote(statement.column)}" if statement.column else table)
                        continue
                    comment = set_annotation(row[0], statement.words) if row[0] else statement.comment
                    done.append(replace(statement, comment=comment or ""))
                    await conn.execute(done[-1].sql().encode())
                if missing:
                    raise SchemaError(
                        f"the database has no {', '.join(missing)}; no comment was set",
                        mend="create the tables first, or qualify their names with the schema",
                    )
        except psycopg.errors.InsufficientPrivilege as error:
            raise ConfigurationError(
                f"the comments cannot be set: {error.diag.message_primary}",
                mend="use the tables' owner, or print the statements and let the owner run them",
            ) from None
    return done
