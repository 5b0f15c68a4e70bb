"""The sidecar's side of crdt.token, crdt.sync and crdt.barrier, and of ``/wait``.

Sessions that wait are noticed by :meth:`WaitBoard.waiters`. For those whose commits must be captured the position of
the log is written down as soon as capture has passed it, which on an idle system no change set would do. While somebody
waits for acknowledgements they are stored as they come, instead of once per second. A barrier asks every linked peer
what it has.
"""

from __future__ import annotations

import asyncio
import contextlib

from sidecar.core.token import encode_token
from sidecar.core.versions import VersionVector, dominates
from sidecar.errors import UsageError
from sidecar.node.links import NodeLinks
from sidecar.node.state import CaptureProgress, NodeState
from sidecar.postgres.journal_reader import JournalReader
from sidecar.postgres.wait_board import Reason, WaitBoard

LOOK_LASTS_S = 0.1
"""One look at the waiting sessions lasts this long at most. While it runs, no page of any table is rid of the versions
that died meanwhile, so that rows that are written often leave their pages and get new index entries; asking anew ten
times a second costs a fifth of a per cent of a core. It is also how soon the sidecar notices that nobody waits for
acknowledgements any more."""

QUIET_LOOK_PAUSE_S = 0.02
"""Between two looks of the server while nobody waits: half a per cent of a core, and 10 ms for who comes first."""

LOOK_PAUSE_S = 0.005
"""The same where somebody waited within the last ``ATTENTIVE_S``: who waits once mostly does so again."""

ATTENTIVE_S = 5.0

CAPTURE_ROUND_S = 0.25
"""How long one round waits for capture; then it looks for other reasons and goes on."""

ROUND_PAUSE_S = 0.002
"""Pause after each round in which somebody waited: several sessions share the next one."""

UNKNOWN_S = 2.0
"""For how long a node that a token names may be unknown: a node that is just joining is linked within this time."""

LOOK_S = 0.5
"""A wait for the clock looks at it at least this often: after an outage it is read anew without being told."""


class Waits:
    """The loops, made anew with the sessions."""

    def __init__(
        self, state: NodeState, progress: CaptureProgress, board: WaitBoard, reader: JournalReader, links: NodeLinks
    ) -> None:
        self._state = state
        self._progress = progress
        self._board = board
        self._reader = reader
        self._links = links
        self._wanted_lsn: int | None = None
        self._acknowledgements_wanted = False
        self._stored: dict[int, int] = {}

    async def attend(self) -> None:
        """Do what sessions wait for, until an error."""
        await self._board.start()
        loop = asyncio.get_running_loop()
        known: set[Reason] = set()
        waited_at_s = 0.0
        while True:
            pause_s = LOOK_PAUSE_S if loop.time() < waited_at_s + ATTENTIVE_S else QUIET_LOOK_PAUSE_S
            reasons = await self._board.waiters(known, LOOK_LASTS_S, pause_s)
            waited_at_s = loop.time() if reasons else waited_at_s
            known = reasons & {Reason.ACKNOWLEDGEMENT}
            if known and not self._acknowledgements_wanted:
                self._links.acknowledged_moved.set()  # some may have come since the last were stored
            self._acknowledgements_wanted = bool(known)
            if Reason.BARRIER in reasons:
                self._links.ask_barrier(await self._board.asked())
            if Reason.CAPTURE in reasons:
                await self._capture()
            if reasons - known:
                await asyncio.sleep(ROUND_PAUSE_S)

    async def _capture(self) -> None:
        """Say how far the log was captured. A position that took longer than a round stays the one to reach: a later
        one would be further away each time."""
        if self._wanted_lsn is None:
            self._wanted_lsn = await self._board.log_end()
        if await self._progress.captured(self._wanted_lsn, CAPTURE_ROUND_S):
            await self._board.captured(self._wanted_lsn)
            self._wanted_lsn = None

    async def store_acknowledgements(self) -> None:
        """Store acknowledgements at once while somebody waits for them, and the first of a peer in any case: it makes
        the peer known to the SQL functions."""
        links = self._links
        while True:
            await links.acknowledged_moved.wait()
            links.acknowledged_moved.clear()
            for peer_id, hlc in list(links.acknowledged_hlc.items()):
                stored, name = self._stored.get(peer_id), links.names.get(peer_id)
                if name is not None and (stored is None or (self._acknowledgements_wanted and hlc > stored)):
                    await self._board.store_acknowledged(peer_id, name, hlc)
                    self._stored[peer_id] = hlc

    async def answer_barriers(self) -> None:
        """Tell peers that ask what this node has: everything that was committed here before the question was read."""
        mail = self._links.barriers
        while True:
            await mail.requested.wait()
            requests = mail.take_requests()
            lsn = await self._reader.log_end()
            while not await self._progress.captured(lsn, CAPTURE_ROUND_S):
                pass
            clock = self._state.ends()
            for link, number in requests:
                link.answer_barrier(number, clock)

    async def store_answers(self) -> None:
        """Hand the peers' answers to the sessions that wait for them."""
        mail = self._links.barriers
        while True:
            await mail.answered.wait()
            for peer_id, answer in mail.take_answers().items():
                await self._board.store_answer(peer_id, answer.number, encode_token(answer.clock))


class ClockWaits:
    """Waiting in memory until this node has merged what a clock names; for ``/wait``."""

    def __init__(self, state: NodeState, links: NodeLinks) -> None:
        self._state = state
        self._links = links

    async def until_covered(self, clock: VersionVector, timeout_s: float) -> bool:
        """True as soon as everything up to ``clock`` is durably merged here, False after ``timeout_s``. Raises
        :class:`UsageError` for a clock that names a node which this one has never heard of."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        moved = self._state.clock_moved
        while not dominates(self._state.clock, clock):
            left_s = began + timeout_s - loop.time()
            if left_s <= 0 or loop.time() > began + UNKNOWN_S:
                self._check_known(clock)
            if left_s <= 0:
                return False
            moved.clear()  # everybody who waits for it now is woken by the next set()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(left_s, LOOK_S)):
                    await moved.wait()
        return True

    def _check_known(self, clock: VersionVector) -> None:
        if not self._state.clock:
            return  # not read yet
        unknown = clock.keys() - {self._state.node_id, *self._state.clock, *self._links.names, *self._links.far_names}
        if unknown:
            raise UsageError(
                f"the token speaks of node {min(unknown)}, which is not known here",
                mend="is it from a node of this cluster? crdt.nodes shows who is known",
            )
