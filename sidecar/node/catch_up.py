"""The end of a join: the node runs until it has what the copied node had when the copy ended."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from sidecar.core.hlc import to_ms
from sidecar.errors import TransientError
from sidecar.node.node import Node
from sidecar.settings import Settings

LOOK_S = 0.1
"""How often the clock is looked at."""

STALL_S = 60.0
"""Without any progress for so long nobody brings what is lacking: heartbeats move the clock several times a second."""

Behind = Callable[[int, int], None]
"""How far the node has come on its way to the goal, and the length of the way, in milliseconds of versions."""


def lacking_ms(goal: Mapping[int, int], clock: Mapping[int, int]) -> dict[int, int]:
    """What a clock lacks of a goal: node -> milliseconds of its versions, at least one."""
    return {
        node: max(1, to_ms(hlc) - to_ms(clock.get(node, 0))) for node, hlc in goal.items() if clock.get(node, 0) < hlc
    }


async def catch_up(settings: Settings, goal: Mapping[int, int], behind: Behind) -> None:
    """Run the node until its clock covers ``goal``, then end it cleanly. Raises :class:`TransientError` when nobody
    brings what is lacking, and what the node raises."""
    node = Node(settings, had_database=True)
    node.listen()
    running = asyncio.create_task(node.run(), name="node")
    watching = asyncio.create_task(_watch(node, goal, behind), name="catching up")
    try:
        await asyncio.wait({running, watching}, return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            running.result()
        watching.result()
    finally:
        watching.cancel()
        running.cancel()
        await asyncio.wait({running, watching})


async def _watch(node: Node, goal: Mapping[int, int], behind: Behind) -> None:
    await node.has_clock.wait()
    loop = asyncio.get_running_loop()
    clock = node.state.clock
    seen, moved_at = dict(clock), loop.time()
    way = max(lacking_ms(goal, clock).values(), default=0)
    while lacking := lacking_ms(goal, clock):
        behind(max(0, way - max(lacking.values())), way)
        if any(clock.get(n, 0) != seen.get(n, 0) for n in lacking):
            seen, moved_at = dict(clock), loop.time()
        if loop.time() - moved_at > STALL_S:
            raise _stalled(node, lacking)
        await asyncio.sleep(LOOK_S)
    behind(way, way)


def _stalled(node: Node, lacking: Mapping[int, int]) -> TransientError:
    names = ", ".join(f"{node.name_of(n) or f'node {n}'} ({ms / 1000:.1f} s)" for n, ms in sorted(lacking.items()))
    reasons = [f"{name}: {peer.last_error}" for name, peer in node.peers.items() if peer.last_error]
    reasons += node.state.problems.values()
    why = f"; {'; '.join(reasons)}" if reasons else ""
    return TransientError(
        f"the copy is complete, but what came after it does not arrive from {names}{why}",
        mend="link this node to them and start sidecar run; where a journal lacks changes, start the join again",
    )
