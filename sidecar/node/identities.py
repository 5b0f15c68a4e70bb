"""Who this node is to the others, and who they were when they were linked last (:mod:`sidecar.core.wire.identity`)."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import Protocol

import msgspec

from sidecar.core.wire.identity import Known
from sidecar.core.wire.messages import Hello, Start
from sidecar.errors import LinkRefusedError
from sidecar.postgres.identity import MetStore, OwnIdentity

TOLD_S = 60.0
"""A refusal that has not come again for so long is over; a refused peer tries every 10 s."""


class Problem(Protocol):
    """Raises or clears a line for the operator: :meth:`sidecar.node.state.NodeState.problem`."""

    def __call__(self, key: str, line: str | None, *, restate: bool = False) -> None:
        """Under a key; ``restate``: another text is the same problem."""


class Identities:
    """``own`` is None before the database was read."""

    def __init__(self, problem: Problem) -> None:
        self.own: OwnIdentity | None = None
        self.met: dict[int, Known] = {}
        self._linked = False
        self._stored: dict[int, Known] = {}
        self._problem = problem
        self._refused_s: dict[str, float] = {}
        self.due = asyncio.Event()
        """Somebody was met: to be written down soon."""

    def introduce(self, hello: Hello) -> Hello:
        """A Hello with who this node is."""
        own = self.own
        if own is None:
            return hello
        return msgspec.structs.replace(
            hello, incarnation=own.incarnation, generation=own.generation, starts=list(own.starts)
        )

    def end_hlc(self, durable_hlc: int) -> int | None:
        """The highest hlc that anybody can have of this node. Before the first link of a start nobody has anything of
        it: what it has written down since then was told to nobody."""
        own = self.own
        if own is None or own.rejoined:
            return None
        return durable_hlc if self._linked else own.starts[-1].hlc

    def linked(self, hello: Hello) -> None:
        """A peer was taken for the one it says it is. One that joins is nobody yet."""
        self._linked = True
        if hello.joining:
            return
        start = hello.starts[-1] if hello.starts else Start(0, hello.boot_id, 0)
        told = hello.clock.get(hello.node_id, 0)
        former = self.met.get(hello.node_id)
        if former is not None and (former.start, former.boot_id) == (start.number, start.boot_id):
            told = max(told, former.told_hlc)
        self.met[hello.node_id] = Known(
            hello.node_name, hello.incarnation, hello.generation, start.number, start.boot_id, told
        )
        self.due.set()
        self._problem(f"identity {hello.node_name}", None)
        self._refused_s.pop(hello.node_name, None)

    def told(self, node: int, hlc: int) -> None:
        """A linked peer has told that its own changes end there, durably."""
        known = self.met.get(node)
        if known is not None and hlc > known.told_hlc:
            self.met[node] = replace(known, told_hlc=hlc)

    def known(self, names: Mapping[int, str]) -> dict[int, Known]:
        """The nodes of these names, with what is known of them."""
        return {node: replace(self.met.get(node, Known(name)), name=name) for node, name in names.items()}

    async def restore(self, store: MetStore) -> None:
        """Take up what was known when the process started."""
        self._stored = await store.read()
        self.met = {**self._stored, **self.met}

    async def store(self, store: MetStore) -> None:
        """Write down what :meth:`restore` takes up, as far as it changed."""
        self.due.clear()
        changed = {node: known for node, known in self.met.items() if self._stored.get(node) != known}
        if changed:
            written = await store.write(changed)
            self._stored.update((node, known) for node, known in changed.items() if node in written)

    def refused(self, name: str, error: LinkRefusedError, now_s: float) -> None:
        """There is no link because of who one of the two is."""
        self._refused_s[name] = now_s
        self._problem(f"identity {name}", error.line(), restate=True)

    def forget_refusals(self, now_s: float) -> None:
        """Those that did not come again are over."""
        for name in [name for name, told_s in self._refused_s.items() if now_s - told_s > TOLD_S]:
            del self._refused_s[name]
            self._problem(f"identity {name}", None)
