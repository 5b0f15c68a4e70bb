"""``sidecar leave``: this node leaves in good order, while applications may go on writing elsewhere.

First it waits, as one node among the others, until each of them has everything that was committed here before the
command. Then nothing more is captured or merged (the writer lock is kept to the end), the departure is written down
here, and told. It counts once another node has it durably: from there it reaches everybody.
"""

from __future__ import annotations

import asyncio

from sidecar.core.membership import told
from sidecar.core.wire.messages import Departure
from sidecar.errors import FatalError
from sidecar.node.links import NodeLinks
from sidecar.node.removal import Outcome, until
from sidecar.node.state import CaptureProgress, NodeState
from sidecar.peers.mesh import PeerMesh
from sidecar.postgres.journal_reader import JournalReader
from sidecar.postgres.membership import MembershipStore, Request

CAPTURE_ROUND_S = 0.5
"""How long one wait for capture lasts, between two words to who waits."""

LOCKED_S = 2.0
"""How long capture and merge are held up for the last acknowledgements; then they go on, and it is tried again."""

LOOK_S = 0.1
"""Between two looks at who has what."""

LINKING_S = 5.0
"""By force it is left without the peers that are not linked after so long: a sidecar that just started links within a
second."""

TELL_S = 10.0
"""How long linked peers, which have just acknowledged everything, may take to write the departure down."""


class Leaving:
    """:attr:`left`: this node has left, and its process may end."""

    def __init__(
        self,
        state: NodeState,
        progress: CaptureProgress,
        links: NodeLinks,
        mesh: PeerMesh,
        reader: JournalReader,
    ) -> None:
        self._state = state
        self._progress = progress
        self._links = links
        self._mesh = mesh
        self._reader = reader

    async def leave(self, request: Request, store: MembershipStore) -> Outcome:
        """Do it, or say why not: then the node goes on as before. The writer lock is held when it was done."""
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        ends_s = began_s + request.left_s
        if self._links.members.own is None:
            if (refused := await self._capture(request, store, ends_s)) is not None:
                return refused
            while True:
                if not request.forced and (disowned := self._disowned()) is not None:
                    return disowned
                if await self._hold_complete(request, began_s):
                    break
                behind = self._behind(request, began_s)
                if loop.time() >= ends_s:
                    return self._refused(behind)
                lacking = sum(self._links.unacknowledged(peer) or 0 for peer in self._ids(behind))
                names = ", ".join(sorted(behind)) or "the peers"
                await store.progress(request, f"waiting until {names} have everything from here", lacking)
                await asyncio.sleep(LOOK_S)
        try:
            if self._links.members.own is None and not await self._is_wanted(request, store):
                self._state.writer_lock.release()
                return Outcome(False, "nobody waits for it any more: this node goes on as before", "run it again")
            return await self._part(request, store, began_s)
        except BaseException:
            if self._links.members.own is None:
                self._state.writer_lock.release()
            raise

    async def _is_wanted(self, request: Request, store: MembershipStore) -> bool:
        """Whether the command still waits: one that was interrupted has taken its request back."""
        present = await store.request()
        return present is not None and present.id == request.id

    async def _capture(self, request: Request, store: MembershipStore, ends_s: float) -> Outcome | None:
        """Wait until everything that was committed before the command is in the journal."""
        loop = asyncio.get_running_loop()
        lsn = await self._reader.log_end()
        while not await self._progress.captured(lsn, CAPTURE_ROUND_S):
            await store.progress(request, "capturing what was committed here")
            if loop.time() >= ends_s:
                return Outcome(False, "what was committed here is not captured yet: nothing was done", "try again")
        return None

    async def _hold_complete(self, request: Request, began_s: float) -> bool:
        """Hold capture and merge up; whether everybody has everything then. If not, they go on."""
        if self._behind(request, began_s):
            return False
        lock = self._state.writer_lock
        await lock.acquire()
        complete = False
        try:
            ends_s = asyncio.get_running_loop().time() + LOCKED_S
            complete = await until(lambda: not self._behind(request, began_s), ends_s, LOOK_S)
        finally:
            if not complete:
                lock.release()
        return complete

    def _behind(self, request: Request, began_s: float) -> dict[str, str]:
        """The peers that lack something or cannot be told, and why. By force those that are away do not count."""
        links = self._links
        linked, ids = links.linked(), {name: peer for peer, name in links.names.items()}
        ends = {**self._state.context}
        patient = not request.forced or asyncio.get_running_loop().time() < began_s + LINKING_S
        behind = {}
        for name in self._members():
            peer = ids.get(name, 0)
            if self._knows(name):
                continue  # it wants nothing more
            if name not in linked:
                if patient:
                    lacks = self._lacks(peer)
                    behind[name] = f"{name} is not linked" + (f" and{lacks}" if lacks else "")
            elif links.acknowledged_hlc.get(peer, 0) < self._state.journal_end:
                behind[name] = f"{name}{self._lacks(peer) or ' has not acknowledged everything'}"
            elif links.policy.any and not links.have_merged([name], ends):
                behind[name] = f"{name} lacks changes of other nodes that are in this journal"
        return behind

    def _disowned(self) -> Outcome | None:
        """Others have removed this node: it can tell them nothing more."""
        found = next((peer for name, peer in sorted(self._mesh.states.items()) if peer.disowned), None)
        if found is None:
            return None
        return Outcome(
            False,
            f"{found.name} takes this node for departed: {found.last_error}",
            "what it has written and nobody has stays here alone; sidecar leave --force takes the sidecar out",
        )

    def _lacks(self, peer: int) -> str:
        count = self._links.unacknowledged(peer)
        return f" lacks {count} change sets" if count else ""

    def _members(self) -> set[str]:
        """Who is to have everything: as for the journal, the configured peers and those that dial."""
        configured = {peer.name for peer in self._state.settings.peers}
        names = configured | self._links.linked() if configured else set(self._links.names.values())
        return {name for name in names if self._links.gone(name) is None}

    def _ids(self, names: dict[str, str]) -> list[int]:
        return [peer for peer, name in self._links.names.items() if name in names]

    def _knows(self, name: str) -> bool:
        """Whether a peer has this node's departure: it has said so, or refuses the node for it."""
        confirmed = {self._links.names.get(peer) for peer in self._links.members.confirmed}
        return name in confirmed or (name in self._mesh.states and self._mesh.states[name].disowned)

    def _refused(self, behind: dict[str, str]) -> Outcome:
        reasons = "; ".join(behind[name] for name in sorted(behind)) or "the last changes are not acknowledged"
        return Outcome(
            False,
            f"{reasons}: this node has not left and goes on as before",
            "bring that node up, or sidecar remove it if it is gone for good; --force leaves without it",
        )

    async def _part(self, request: Request, store: MembershipStore, began_s: float) -> Outcome:
        """Write the departure down and tell everybody; from here on there is no way back."""
        loop, links, state = asyncio.get_running_loop(), self._links, self._state
        await store.progress(request, "telling the others")
        own = links.members.own
        if own is None:
            holders = [peer for peer, hlc in links.acknowledged_hlc.items() if hlc >= state.journal_end]
            own = Departure(
                node=state.node_id,
                name=state.settings.node.name,
                kind="left",
                at_ms=max(0, state.now_ms()),
                by=state.settings.node.name,
                holder=min(holders, default=state.node_id),
                change_hlc=state.journal_end,
                hlc=max(state.journal_end, state.clock.get(state.node_id, 0)),
            )
            await store.store([own], leaving=True)
            links.members.own = own
        links.tell_members()
        everybody = self._members()

        def unsaid() -> set[str]:
            patient = not request.forced or loop.time() < began_s + LINKING_S
            return {name for name in everybody if not self._knows(name) and (patient or name in links.linked())}

        await until(lambda: not unsaid(), loop.time() + TELL_S, LOOK_S)
        knowing = sorted(name for name in everybody if self._knows(name))
        if everybody and not knowing and not request.forced:
            raise FatalError(
                "this node is leaving, and nobody has confirmed it yet", mend="bring it to its end: sidecar leave"
            )
        await store.store([own])
        line = told(own)
        line += f"; {', '.join(knowing)} know it" if knowing else ""
        others = sorted(everybody - set(knowing))
        if others and knowing:
            line += f"; {', '.join(others)} will learn it from them"
        elif others:
            line += f"; nobody could be told: run sidecar remove {own.name} on one of {', '.join(others)}"
        return Outcome(True, line)
