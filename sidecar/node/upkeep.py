"""Periodic work on a session of its own: heartbeats with a closed hlc, new tables, peers, trimming."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

from sidecar.core.hlc import HLC_MAX, to_ms
from sidecar.errors import TransientError
from sidecar.node.links import NodeLinks
from sidecar.node.state import CaptureProgress, NodeState
from sidecar.peers.mesh import PeerMesh
from sidecar.peers.status import PeerPhase
from sidecar.postgres.identity import MetStore
from sidecar.postgres.journal import JournalWriter
from sidecar.postgres.journal_reader import JournalReader
from sidecar.postgres.relay import RelayStore

CLOSE_WAIT_S = 5.0
"""How long a heartbeat waits for capture to pass its position; capture that is further behind closes nothing."""

ANSWER_S = 30.0
"""How long the database may take for the end of its log, which takes it no time; what stands before it in the session
takes seconds at most. A connection that hangs (a firewall that forgot it, a server that moved) ends by nothing else."""

PEERS_STORED_S = 1.0
"""How often the state of the links is written for crdt.nodes and crdt.lag."""

CANCEL_AGAIN_S = 1.0
"""A loop that has not ended so long after it was cancelled is cancelled again."""

TRIM_S = 10.0
"""How often acknowledged journal partitions and old conflict records are dropped."""


async def heartbeat_loop(
    state: NodeState, progress: CaptureProgress, writer: JournalWriter, reader: JournalReader, links: NodeLinks
) -> None:
    """Close this node's past and tell the peers: the time is taken with a position of the log and closed once capture
    has passed it, so whatever is captured later was committed later (invariant 7). The hlc is issued only then: issued
    with the position, it would push up the transactions that were committed before it and are captured after it, and
    they would win against later ones of other nodes. While the clock is not believed, heartbeats tell the time only."""
    interval_s = state.settings.timing.heartbeat_ms / 1000
    while True:
        await asyncio.sleep(interval_s)
        state.watch.check(to_ms(state.hlc.last))
        if state.watch.held:
            links.beat()
            continue
        taken_ms = state.now_ms()
        lsn = await _answered(reader.log_end())
        progress.saw_log_end(lsn, asyncio.get_running_loop().time())
        if await progress.captured(lsn, CLOSE_WAIT_S):
            async with state.writer_lock:
                # What has its hlc and is not durable yet is below this one: the clock may not pass it, and will soon
                # move by it.
                if state.pending_since_ms is None:
                    hlc = state.hlc.issue(taken_ms)
                    await writer.close_interval(lsn, hlc)
                    state.advance(state.node_id, hlc)
        links.beat()


async def _answered(question: Awaitable[int]) -> int:
    """What the database says, or :class:`TransientError`: everything is opened anew then."""
    try:
        async with asyncio.timeout(ANSWER_S):
            return await question
    except TimeoutError:
        raise TransientError(
            f"the database has not answered for {ANSWER_S:.0f} s", mend="the connections are opened anew"
        ) from None


async def catalogue_loop(state: NodeState, refresh: Callable[[], Awaitable[None]]) -> None:
    """Take up newly annotated tables without a restart."""
    while True:
        await asyncio.sleep(state.settings.timing.catalog_poll_ms / 1000)
        await refresh()


async def peers_loop(state: NodeState, reader: JournalReader, links: NodeLinks, mesh: PeerMesh) -> None:
    """Write down the peers, trim the journal and the conflicts."""
    loop = asyncio.get_running_loop()
    trimmed = loop.time() - TRIM_S  # the first round also measures the journal
    while True:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PEERS_STORED_S):
                await links.identities.due.wait()
        for name, peer in mesh.states.items():
            if peer.peer_id is None or peer.peer_id in links.members.departed:
                continue
            await reader.store_peer(
                peer.peer_id,
                name,
                links.acknowledged_hlc.get(peer.peer_id, 0),
                connected=peer.state == PeerPhase.CONNECTED,
                last_seen_ms=peer.last_seen_ms,
                clock_offset_ms=peer.clock_offset_ms,
                round_trip_ms=peer.round_trip_ms,
                last_error=peer.last_error,
            )
        await links.identities.store(MetStore(reader))
        links.identities.forget_refusals(loop.time())
        if links.policy.any:
            await links.store_relay(RelayStore(reader))
        if loop.time() - trimmed >= TRIM_S:
            trimmed = loop.time()
            await _trim(state, reader, links)


async def _trim(state: NodeState, reader: JournalReader, links: NodeLinks) -> None:
    limits = state.settings.limits
    by_name = {name: links.acknowledged_hlc.get(peer_id, 0) for peer_id, name in links.names.items()}
    # A configured peer that was never seen has acknowledged nothing. One that only dials counts while it is linked; on
    # a node that is only dialled, every peer that was ever seen does.
    names = {peer.name for peer in state.settings.peers} | links.linked() if state.settings.peers else set(by_name)
    names = {name for name in names if links.gone(name) is None}
    slowest = min((by_name.get(name, 0) for name in names), default=HLC_MAX if links.members.departed else 0)
    relayed = partial(links.have_merged, names) if links.policy.any else None
    state.journal_bytes, lost = await reader.trim(slowest, limits.journal_bytes_max, relayed)
    for name in lost:
        state.problem(
            f"journal {name}",
            f"journal_bytes_max was reached: {name} has lost changes; make it anew, see docs/operations.md",
        )
    await reader.trim_conflicts(limits.conflict_age_days, limits.conflict_rows_max)
    await reader.trim_overtaking()


async def supervise(*loops: Awaitable[None]) -> None:
    """Run loops until one ends; its error is raised, and the others are cancelled and have ended when this returns."""
    tasks = [asyncio.ensure_future(loop) for loop in loops]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        await _end(tasks)


async def _end(tasks: Sequence[asyncio.Future[None]]) -> None:
    """Cancel tasks until they have ended. A cancellation can be overheard (libraries that use ``wait_for`` under Python
    3.11), and one that comes from outside meanwhile waits: what the tasks use is closed after this."""
    stopped: asyncio.CancelledError | None = None
    while pending := [task for task in tasks if not task.done()]:
        for task in pending:
            task.cancel()
        try:
            await asyncio.wait(pending, timeout=CANCEL_AGAIN_S)
        except asyncio.CancelledError as error:
            stopped = error
    for task in tasks:
        if not task.cancelled():
            task.exception()  # looked at: only the first to end tells its error
    if stopped is not None:
        raise stopped
