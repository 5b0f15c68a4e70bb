"""Schema migrations: the files of ``migrations/``, in order, each once, with its checksum."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from sidecar.errors import ConfigurationError, FatalError
from sidecar.postgres.admin import own_transaction
from sidecar.postgres.statements import folder, load

LOCK_KEY = int.from_bytes(b"crdt_mig", "big") >> 1
"""Advisory lock held while migrating (advisory locks are per database); below 2**63."""

_FILE = re.compile(r"^(\d{4})_([a-z0-9_]+)\.sql$")
_SQL = load("migrations")


@dataclass(frozen=True, slots=True)
class Migration:
    """One file. ``checksum`` is the SHA-256 of its bytes in hex."""

    version: int
    name: str
    checksum: str
    text: str


def read_migrations(path: Path | None = None) -> tuple[Migration, ...]:
    """The migrations of this release in order; versions count up from 1 without a gap."""
    found = []
    for file in sorted((path or folder("migrations")).glob("*.sql")):
        match = _FILE.match(file.name)
        if match is None:
            raise ValueError(f"migration file {file.name} is not named NNNN_name.sql")
        content = file.read_bytes()
        checksum = hashlib.sha256(content).hexdigest()
        found.append(Migration(int(match[1]), match[2], checksum, content.decode("utf-8")))
    if [m.version for m in found] != list(range(1, len(found) + 1)):
        raise ValueError("migration versions must count up from 0001 without a gap")
    return tuple(found)


async def migrate(conn: psycopg.AsyncConnection[Any], migrations: tuple[Migration, ...] | None = None) -> list[str]:
    """Bring the schemas ``crdt_state`` and ``crdt`` up to date; returns the applied files' names.

    All in one transaction under an advisory lock, so two sidecars that start together do not meet, and a failure leaves
    nothing behind. The connection must be idle. Raises :class:`FatalError` when the database was migrated by a newer
    release or by other files, :class:`ConfigurationError` when a privilege is missing.
    """
    wanted = read_migrations() if migrations is None else migrations
    try:
        async with own_transaction(conn):
            await conn.execute(_SQL["lock"], (LOCK_KEY,))
            applied = await _applied(conn)
            _verify(wanted, applied)
            pending = [m for m in wanted if m.version not in applied]
            for migration in pending:
                # Without parameters: the simple protocol, which takes several statements.
                await conn.execute(migration.text)
                await conn.execute(_SQL["create_table"])
                await conn.execute(_SQL["record"], (migration.version, migration.name, migration.checksum))
    except psycopg.errors.InsufficientPrivilege as error:
        raise ConfigurationError(
            f"the role may not create the sidecar's schemas: {error.diag.message_primary}",
            mend="GRANT CREATE ON DATABASE to the sidecar's role, and let it own the schemas crdt and crdt_state",
        ) from None
    return [f"{m.version:04}_{m.name}" for m in pending]


async def _applied(conn: psycopg.AsyncConnection[Any]) -> dict[int, tuple[str, str]]:
    """Version -> (name, checksum) of what the database has."""
    row = await (await conn.execute(_SQL["read_presence"])).fetchone()
    assert row is not None
    schemas, has_table = row
    if not has_table:
        if schemas:
            raise ConfigurationError(
                f"schema {schemas[0]!r} exists, but the sidecar did not make it",
                mend=f"rename or drop the schema {schemas[0]}",
            )
        return {}
    cursor = await conn.execute(_SQL["read_applied"])
    return {version: (name, checksum) for version, name, checksum in await cursor.fetchall()}


def _verify(wanted: tuple[Migration, ...], applied: dict[int, tuple[str, str]]) -> None:
    known = {m.version: m for m in wanted}
    newer = sorted(version for version in applied if version not in known)
    if newer:
        raise FatalError(
            f"the database's sidecar schema is at version {newer[-1]}, this release knows {max(known, default=0)}",
            mend="upgrade this sidecar to the release that migrated the database, or a later one",
        )
    for version, (name, checksum) in sorted(applied.items()):
        if known[version].checksum != checksum:
            raise FatalError(
                f"migration {version:04}_{name} was applied with other content than this release has",
                mend="run the release that migrated the database",
            )
