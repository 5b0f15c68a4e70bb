"""What the commands ask of the running sidecar: ``sidecar remove`` and ``sidecar leave``."""

from __future__ import annotations

import asyncio

from sidecar.errors import FatalError
from sidecar.node.leaving import Leaving
from sidecar.node.removal import Outcome, Removal
from sidecar.node.state import NodeState
from sidecar.postgres.membership import MembershipStore, Request

LOOK_S = 0.5
"""How often it is looked whether a command waits. A person does not notice; the look takes the server microseconds."""


class Requests:
    """One of the database loops."""

    def __init__(self, state: NodeState, store: MembershipStore, removal: Removal, leaving: Leaving) -> None:
        self._state = state
        self._store = store
        self._removal = removal
        self._leaving = leaving

    async def attend(self) -> None:
        """Do what is asked, one request after the other; until an error, or until this node has left."""
        while True:
            await asyncio.sleep(LOOK_S)
            request = await self._store.request()
            if request is None:
                continue
            self._state.log.info("requested", kind=request.kind, node=request.node, forced=request.forced)
            outcome = await self._do(request)
            self._state.log.info("request_ended", kind=request.kind, done=outcome.done, reason=outcome.text)
            await self._store.outcome(request, done=outcome.done, text=outcome.text, mend=outcome.mend)
            if request.kind == "leave" and outcome.done:
                return

    async def _do(self, request: Request) -> Outcome:
        if request.kind == "remove":
            return await self._removal.remove(request, self._store)
        try:
            return await self._leaving.leave(request, self._store)
        except FatalError as error:
            await self._store.outcome(request, done=False, text=error.message, mend=error.mend)
            raise
