"""One node: its sessions and loops, started in order, restarted after errors that pass.

The links live as long as the process; the database loops (capture, merge, upkeep) form a group that is torn down and
started anew when the database goes away. What was received stays in the inbox meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial

from sidecar.core.hlc import to_ms
from sidecar.core.membership import FORMER_MEND, told
from sidecar.core.pgoutput import parse_lsn
from sidecar.errors import Action, ConfigurationError, SidecarError, TransientError, action_for
from sidecar.node.apply import Applier
from sidecar.node.capture import Capture
from sidecar.node.inbox import Inbox
from sidecar.node.leaving import Leaving
from sidecar.node.links import NodeLinks
from sidecar.node.membership import Membership
from sidecar.node.pulse import Pulse
from sidecar.node.removal import Removal
from sidecar.node.requests import Requests
from sidecar.node.ship import Tail
from sidecar.node.state import CaptureProgress, NodeState
from sidecar.node.status import NodeStatusSource
from sidecar.node.upkeep import catalogue_loop, heartbeat_loop, peers_loop, supervise
from sidecar.node.waits import ClockWaits, Waits
from sidecar.peers.mesh import PeerMesh
from sidecar.postgres.catalogue_session import CatalogueSession
from sidecar.postgres.identity import MetStore, begin_start, check_end, require_place
from sidecar.postgres.journal import JournalStart, JournalWriter
from sidecar.postgres.journal_reader import JournalReader
from sidecar.postgres.membership import MembershipStore
from sidecar.postgres.merge import Merger
from sidecar.postgres.overtaken import Overtaking
from sidecar.postgres.problem import errors
from sidecar.postgres.relay import RelayStore, RelayWriter
from sidecar.postgres.replication import ReplicationStream
from sidecar.postgres.session import Session, told_as_lost
from sidecar.postgres.wait_board import WaitBoard
from sidecar.settings import Settings

RESTART_FIRST_S = 0.2
"""First pause before the database loops start anew; doubles up to retry_ms_max."""

FIRST_ANSWER_S = 3.0
"""A database that has never answered this process for so long is taken for a mistake in the DSN: the process says so
and ends, and whoever supervises it starts it again. One that was there before is waited for without end."""

SETTLED_S = 30.0
"""A group of loops that ran this long was healthy: its next restart does not wait long."""


@dataclass(slots=True)
class _Sessions:
    capture: Session
    merge: Session
    upkeep: Session
    waits: Session
    catalogue: CatalogueSession


class Node:
    """Build it, then :meth:`run` until cancelled, or until the node has left. ``had_database``: this process has served
    the database a moment ago, and the server may not have let go of its sessions yet. ``leaving``: to leave is what it
    is for, and it may have begun. ``has_clock`` is set while the clock is that of the database."""

    def __init__(self, settings: Settings, *, had_database: bool = False, leaving: bool = False) -> None:
        self.state = NodeState(settings)
        self._leaving = leaving
        self._inbox = Inbox(
            queue_bytes_max=settings.limits.receive_queue_bytes_max, spool_bytes_max=settings.limits.spool_bytes_max
        )
        self._tail = Tail()
        self._boot_id = uuid.uuid4().hex
        self._links = NodeLinks(self.state, self._inbox, self._tail, self._boot_id)
        self._mesh = PeerMesh(settings, self._links, now_ms=self.state.now_ms)
        self._membership = Membership(self.state, self._inbox, self._links, self._mesh)
        self._pulse = Pulse()
        self._warned: set[str] = set()
        self._reader: JournalReader | None = None
        self._served = had_database
        self.has_clock = self._links.ready
        self.peers = self._mesh.states
        self.name_of = self._links.name_of
        self.progress = CaptureProgress(self._nudge)
        self.waits = ClockWaits(self.state, self._links)
        self.status = NodeStatusSource(self.state, self._pulse, self.progress, self._inbox, self._links, self._mesh)

    def listen(self) -> None:
        """Open the peer port; fails early with a configuration error when it is taken."""
        self._mesh.listen()

    async def run(self) -> None:
        """Run until cancelled, until the node has left, or until an error that no waiting mends."""
        try:
            await supervise(self._link(), self._database())
        finally:
            self._mesh.close()

    async def _link(self) -> None:
        """Links come once the clock is read: a hello without it would ask for everything from the beginning."""
        await self._links.ready.wait()
        await self._mesh.run()

    async def _nudge(self) -> None:
        """Flush the log, so that what was committed without waiting for it can be decoded."""
        if self._reader is not None:
            await self._reader.nudge()

    async def _database(self) -> None:
        """The database loops, again and again."""
        loop = asyncio.get_running_loop()
        first = loop.time()
        failures = 0
        while True:
            started = loop.time()
            try:
                async with told_as_lost():
                    await self._serve()
            except Exception as error:
                if action_for(error) is Action.FATAL:
                    raise
                if isinstance(error, TransientError) and not self._served and loop.time() - first > FIRST_ANSWER_S:
                    raise ConfigurationError(error.message, mend=error.mend) from None
                failures = 1 if loop.time() - started > SETTLED_S else failures + 1
                text = error.line() if isinstance(error, SidecarError) else str(error)
                line = " ".join(text.split()) or type(error).__name__
                self._pulse.database_error = line
                self._pulse.capture_state = "retrying"
                self._pulse.capture_error = line
                # One outage is one problem, whatever each try meets: refused, starting up, the slot still in use.
                self.state.problem("database", line, restate=True)
                self.state.counters.retry("database")
            else:
                return
            finally:
                self.progress.connect(None)
                self._reader = None
                self._links.reader = None
                self._links.ready.clear()
            longest = self.state.settings.timing.retry_ms_max / 1000
            pause: float = min(longest, RESTART_FIRST_S * 2.0 ** min(failures, 10))
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311

    async def _serve(self) -> None:
        async with contextlib.AsyncExitStack() as stack:
            sessions = await self._open_sessions(stack)
            state, limits = self.state, self.state.settings.limits
            overtaking = Overtaking()
            partitions = (limits.journal_partition_rows, limits.journal_partition_bytes_max)
            writer = JournalWriter(sessions.capture, overtaking, state.node_id, *partitions)
            start = await writer.start()
            reader = self._reader = JournalReader(sessions.upkeep)
            members = MembershipStore(reader)
            await self._restore(start, reader, members)
            await self._refresh(sessions.catalogue)
            stream = await ReplicationStream.connect(
                state.settings.node.dsn,
                slot=start.slot,
                start_lsn=parse_lsn(start.lsn),
                status_interval_ms=state.settings.timing.status_interval_ms,
            )
            stack.push_async_callback(stream.aclose)
            self.progress.connect(stream.ping)
            refresh = partial(self._refresh, sessions.catalogue)
            capture = Capture(
                state,
                stream,
                writer,
                self.progress,
                self._pulse,
                resume_lsn=parse_lsn(start.lsn),
                publish=self._links.publish,
                refresh_tables=refresh,
            )
            applier = self._applier(sessions.merge, writer, overtaking, refresh)
            waits = Waits(state, self.progress, WaitBoard(sessions.waits, reader), reader, self._links)
            identities = self._links.identities
            identities.own = await begin_start(state.settings.node.dsn, self._boot_id, known=identities.own)
            self._started()
            state.log.info("replicating", tables=sorted(state.tables), resumed_at=start.lsn)
            await supervise(
                capture.run(),
                applier.run(),
                heartbeat_loop(state, self.progress, writer, reader, self._links),
                catalogue_loop(state, refresh),
                peers_loop(state, reader, self._links, self._mesh),
                self._membership.run(members),
                self._requests(members, reader).attend(),
                waits.attend(),
                waits.store_acknowledgements(),
                waits.answer_barriers(),
                waits.store_answers(),
            )

    async def _restore(self, start: JournalStart, reader: JournalReader, members: MembershipStore) -> None:
        """Take over what the database knows. One that is not what it was, or not where, captures and sends nothing."""
        self._check_owner(start)
        await require_place(self.state.settings.node.dsn)
        check_end(self.state.clock.get(self.state.node_id, 0), start.clock.get(self.state.node_id, 0))
        self._resume(start)
        await self._start_relay(RelayStore(reader), start)
        await self._check_member(await self._membership.load(members))
        self._links.reader = reader
        await self._links.restore(reader)
        await self._links.identities.restore(MetStore(reader))

    def _applier(
        self,
        session: Session,
        writer: JournalWriter,
        overtaking: Overtaking,
        refresh_tables: Callable[[], Awaitable[None]],
    ) -> Applier:
        state, limits, relays = self.state, self.state.settings.limits, self._links.policy.any
        merger = Merger(
            session,
            self.progress,
            state.writer_lock,
            overtaking,
            wait_locked_ms=limits.capture_wait_locked_ms,
            function_ms_max=limits.merge_function_ms_max,
            beat=self._pulse.merge_beats,
            relay=RelayWriter(writer) if relays else None,
        )
        return Applier(
            state,
            self._inbox,
            merger,
            self._pulse,
            acknowledge=self._links.acknowledge,
            resync=self._links.resync,
            publish=self._links.publish_relayed if relays else None,
            refresh_tables=refresh_tables,
        )

    def _requests(self, members: MembershipStore, reader: JournalReader) -> Requests:
        removal = Removal(self.state, self._links, self._mesh, reader)
        leaving = Leaving(self.state, self.progress, self._links, self._mesh, reader)
        return Requests(self.state, members, removal, leaving)

    def _started(self) -> None:
        """From here on the node takes part."""
        self._links.ready.set()
        self._served = True
        self._pulse.restart(asyncio.get_running_loop().time())
        self._pulse.capture_state = "streaming"
        self._pulse.capture_error = self._pulse.database_error = None
        self.state.problems.pop("database", None)  # solved, as the next line of the log says
        self.state.rewrites_due.set()

    async def _check_member(self, unsaid: frozenset[int]) -> None:
        """A node that has left does not run; one that has begun to captures nothing more, and is brought to its end."""
        own = self._links.members.own
        if own is None:
            return
        if self.state.node_id not in unsaid:
            raise ConfigurationError(told(own), mend=FORMER_MEND)
        if not self._leaving:
            raise ConfigurationError("this node is leaving the cluster", mend="bring it to its end: sidecar leave")
        if not self.state.writer_lock.locked():
            await self.state.writer_lock.acquire()

    async def _start_relay(self, store: RelayStore, start: JournalStart) -> None:
        """Whether what is merged from now on is put into the journal."""
        if self._links.policy.any:
            await store.begin()
            await self._links.restore_relay(store)
        elif start.relaying:
            await store.stop()

    async def _open_sessions(self, stack: contextlib.AsyncExitStack) -> _Sessions:
        settings = self.state.settings
        dsn = settings.node.dsn
        upkeep = await Session.open(dsn, purpose="upkeep", origin=False)
        stack.push_async_callback(upkeep.close)
        await upkeep.own_node(again=self._served)
        capture = await Session.open(dsn, purpose="capture", origin=True)
        stack.push_async_callback(capture.close)
        merge = await Session.open(
            dsn,
            purpose="merge",
            origin=True,
            settings={"lock_timeout": f"{settings.limits.lock_timeout_ms}ms"},
        )
        stack.push_async_callback(merge.close)
        waits = await Session.open(dsn, purpose="waits", origin=False)
        stack.push_async_callback(waits.close)
        catalogue = await CatalogueSession.open(settings)
        stack.push_async_callback(catalogue.close)
        if not merge.privileges.replica_role:
            self.state.problem(
                "replica role",
                "session_replication_role may not be set: triggers and foreign keys fire when merging; "
                "GRANT SET ON PARAMETER session_replication_role TO this role",
            )
        return _Sessions(capture, merge, upkeep, waits, catalogue)

    def _check_owner(self, start: JournalStart) -> None:
        if start.node_id != self.state.node_id:
            raise ConfigurationError(
                f"this database belongs to node {start.node_id}, the configuration says {self.state.node_id}",
                mend="correct id or dsn in [node]",
            )

    def _resume(self, start: JournalStart) -> None:
        state = self.state
        state.clock.clear()
        state.clock.update(start.clock)
        state.context = dict(start.context)
        state.journal_end = start.end_hlc
        state.hlc.observe(max([start.hlc, start.to_hlc, *start.clock.values()]))
        state.watch.start(to_ms(state.hlc.last), has_peers=bool(state.settings.peers))
        self.progress.restart(parse_lsn(start.lsn))
        self._tail.start(start.seq)
        self._links.backlog.start(start.seq, start.to_hlc)

    async def _refresh(self, catalogue: CatalogueSession) -> None:
        """Attach newly annotated tables; the common case is one cheap query."""
        tables, problems = await catalogue.refresh()
        if tables is None:
            return
        self.state.busy_tables = catalogue.busy
        if self.state.set_tables(tables):
            if self._pulse.capture_state == "streaming":
                self.state.log.info("tables_changed", tables=sorted(self.state.tables))
            self._links.tables_changed()
        found: dict[str, str] = {}
        for problem in errors(problems):
            line = problem.line().removeprefix("error: ")
            found[problem.place] = f"{found[problem.place]}; {line}" if problem.place in found else line
        self.state.set_catalogue_problems(found)
        for problem in (problem for problem in problems if problem.lasts):
            place = problem.place or "publication"
            self.state.problem(f"not captured {place}", problem.line().removeprefix("warning: "))
        warnings = {problem.line() for problem in problems if problem.severity == "warning" and not problem.lasts}
        for line in sorted(warnings - self._warned):
            self.state.log.warning("table_warning", reason=line)
        self._warned = warnings
