"""What sessions of the application wait for, and what the sidecar tells them (``migrations/0004_sessions.sql``)."""

from __future__ import annotations

import enum
from collections.abc import Collection

from sidecar.core.pgoutput import parse_lsn, show_lsn
from sidecar.postgres.journal_reader import JournalReader
from sidecar.postgres.session import Session
from sidecar.postgres.statements import load


class Reason(enum.Enum):
    """What a session waits for; the values are the words of the SQL functions."""

    CAPTURE = "capture"
    ACKNOWLEDGEMENT = "acknowledgement"
    BARRIER = "barrier"


class WaitBoard:
    """On a session of its own, which :meth:`waiters` occupies while nobody waits; what comes from peers meanwhile is
    written through ``shared``."""

    def __init__(self, session: Session, shared: JournalReader) -> None:
        self._session = session
        self._shared = shared
        self._sql = load("waits")

    async def start(self) -> None:
        """Wipe the board: what an earlier start said holds no longer."""
        await self._session.connection.execute(self._sql["start"])

    async def waiters(self, known: Collection[Reason], seconds: float, pause_s: float) -> set[Reason]:
        """The reasons somebody waits for: as soon as there is one beyond those ``known``, else after ``seconds``. The
        server looks every ``pause_s``."""
        words = await self._session.connection.fetchval(
            self._sql["await_waiters"], [reason.value for reason in known], seconds, pause_s
        )
        return {Reason(word) for word in words}

    async def log_end(self) -> int:
        """The end of the log: everything committed so far lies before it."""
        return parse_lsn(str(await self._session.connection.fetchval(self._sql["log_end"])))

    async def captured(self, lsn: int) -> None:
        """Everything committed before ``lsn`` is in the journal."""
        await self._session.connection.execute(self._sql["captured"], show_lsn(lsn))

    async def asked(self) -> int:
        """The number of a request to the peers that is sent now: the position of the log."""
        return parse_lsn(str(await self._session.connection.fetchval(self._sql["asked"])))

    async def store_acknowledged(self, peer_id: int, name: str, acknowledged: int) -> None:
        """A peer has durably merged this node's changes up to an hlc."""
        await self._shared.execute(self._sql["store_acknowledged"], peer_id, name, acknowledged)

    async def store_answer(self, peer_id: int, number: int, token: str) -> None:
        """What a peer had when it read the request ``number``, as a token."""
        await self._shared.execute(self._sql["store_answer"], peer_id, show_lsn(number), token)
