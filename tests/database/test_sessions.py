"""crdt.token, wait_for, sync and barrier on one server, with a test in the place of the sidecar."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sidecar.core.hlc import HLC_MAX
from sidecar.core.token import TOKEN_CHARS_MAX, decode_token, encode_token
from sidecar.errors import UsageError
from sidecar.lab.waiting import wait_until
from sidecar.postgres.admin import connect
from sidecar.postgres.attach import initialise
from sidecar.postgres.journal_reader import JournalReader
from sidecar.postgres.session import Session
from sidecar.postgres.wait_board import Reason, WaitBoard
from sidecar.settings import NodeSettings, Settings

APPLICATION = "crdt_sessions_application"
OWN, EU, AP = 1, 2, 3
PAST = 1 << 40
DEADLINE_S = 60.0
PAUSE_S = 0.005


@dataclass
class Node:
    """``client`` is an application's session without rights, ``admin`` sees the state, ``board`` is the sidecar's."""

    dsn: str
    client: asyncpg.Connection
    admin: asyncpg.Connection
    board: WaitBoard
    bell: Session

    async def merged(self, node: int, hlc: int) -> None:
        """This database has merged a node's changes up to an hlc; its own: has captured."""
        await self.admin.execute(
            "INSERT INTO crdt_state.clock VALUES ($1, $2, $2)"
            " ON CONFLICT (node) DO UPDATE SET hlc = $2, change_hlc = $2",
            node,
            hlc,
        )

    async def capture_all(self) -> None:
        """As the sidecar says it when capture has passed the end of the log."""
        await self.board.captured(await self.board.log_end())

    async def attend(self, *reasons: Reason) -> None:
        """Until somebody waits for all of these."""
        known: set[Reason] = set()
        while not set(reasons) <= known:
            known |= await self.board.waiters(known, DEADLINE_S, PAUSE_S)


@pytest.fixture
async def node(database: str) -> AsyncIterator[Node]:
    async with await connect(database) as conn:
        await initialise(conn, Settings(node=NodeSettings(name="us-east", id=OWN, dsn=database)))
    admin = await asyncpg.connect(database)
    if not await admin.fetchval("SELECT 1 FROM pg_roles WHERE rolname = $1", APPLICATION):
        await admin.execute(f"CREATE ROLE {APPLICATION} LOGIN")
    await admin.execute("CREATE TABLE notes (n int)")
    await admin.execute(f"GRANT ALL ON notes TO {APPLICATION}")
    await admin.execute("INSERT INTO crdt_state.peer (id, name) VALUES (2, 'eu-west'), (3, 'ap-south')")
    client = await asyncpg.connect(database.replace("//postgres@", f"//{APPLICATION}@"))
    bell = await Session.open(database, purpose="waits", origin=False)
    shared = await Session.open(database, purpose="upkeep", origin=False)
    board = WaitBoard(bell, JournalReader(shared))
    await board.start()
    yield Node(database, client, admin, board, bell)
    for one in (client, admin):
        one.terminate()
    for session in (bell, shared):
        await session.close()


async def locks(node: Node) -> int:
    return int(await node.admin.fetchval("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid > 1"))


# -- tokens --


async def test_a_token_waits_until_the_commits_are_captured_and_names_ends_of_change_sets(node: Node) -> None:
    await node.merged(EU, 0x50)
    await node.admin.execute(
        "UPDATE crdt_state.clock SET hlc = 9999 WHERE node = 2"
    )  # a heartbeat: another may not know
    await node.client.execute("INSERT INTO notes VALUES (1)")
    asking = asyncio.create_task(node.client.fetchval("SELECT crdt.token('30 seconds')"))
    await node.attend(Reason.CAPTURE)
    assert not asking.done()
    await node.merged(OWN, 0x40)
    await node.capture_all()
    assert await asking == "v1.1-40.2-50" == encode_token({1: 0x40, 2: 0x50})
    assert await locks(node) == 0
    # Nothing was written since, so the next one asks nobody.
    await node.admin.execute("UPDATE crdt_state.position SET lsn = crdt_state.log_end() + 1000000::numeric")
    assert await node.client.fetchval("SELECT crdt.token(interval '0')") == "v1.1-40.2-50"


async def test_a_token_without_a_sidecar_is_an_error_in_time(node: Node) -> None:
    await node.client.execute("INSERT INTO notes VALUES (1)")
    with pytest.raises(asyncpg.ObjectNotInPrerequisiteStateError, match="has not captured") as caught:
        await node.client.fetchval("SELECT crdt.token('50 ms')")
    assert "sidecar status" in caught.value.hint
    assert await locks(node) == 0


async def test_a_token_may_be_taken_in_a_read_only_transaction(node: Node) -> None:
    await node.client.execute("BEGIN READ ONLY; SELECT * FROM notes")
    asking = asyncio.create_task(node.client.fetchval("SELECT crdt.token()"))
    await node.attend(Reason.CAPTURE)
    await node.capture_all()
    assert await asking == "v1"
    asking = asyncio.create_task(node.client.fetchrow("SELECT * FROM crdt.barrier(0)"))
    await node.attend(Reason.BARRIER)
    await node.board.asked()
    assert (await asking)["complete"]


@pytest.mark.parametrize("call", ["crdt.token()", "crdt.sync(1)"])
async def test_own_uncommitted_writes_are_refused(node: Node, call: str) -> None:
    await node.client.execute("BEGIN; INSERT INTO notes VALUES (1)")
    with pytest.raises(asyncpg.ActiveSQLTransactionError, match="own transaction has written") as caught:
        await node.client.fetchval(f"SELECT {call}")
    assert "COMMIT first" in caught.value.hint


@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
@pytest.mark.parametrize("call", ["crdt.token()", "crdt.wait_for('v1')", "crdt.sync(1)", "crdt.barrier(1)"])
async def test_a_transaction_that_sees_no_news_is_refused(node: Node, level: str, call: str) -> None:
    await node.client.execute(f"BEGIN ISOLATION LEVEL {level}")
    with pytest.raises(asyncpg.InvalidTransactionStateError, match=f"in a {level} transaction") as caught:
        await node.client.fetchval(f"SELECT {call}")
    assert "READ COMMITTED" in caught.value.hint


@pytest.mark.parametrize(
    "call", ["crdt.token(NULL::interval)", "crdt.wait_for('v1', NULL::text)", "crdt.sync(1, NULL)"]
)
async def test_no_timeout_is_no_answer(node: Node, call: str) -> None:
    with pytest.raises(asyncpg.NullValueNotAllowedError, match="timeout is NULL"):
        await node.client.fetchval(f"SELECT {call}")


async def test_a_database_without_a_node_says_so(node: Node) -> None:
    await node.admin.execute("DELETE FROM crdt_state.node")
    with pytest.raises(asyncpg.ObjectNotInPrerequisiteStateError, match="not attached"):
        await node.client.fetchval("SELECT crdt.wait_for('v1')")


# -- wait_for --


async def test_wait_for_sees_what_is_merged_meanwhile(node: Node) -> None:
    await node.merged(OWN, PAST)
    waiting = asyncio.create_task(node.client.fetchval("SELECT crdt.wait_for($1, '30 s')", encode_token({2: 7, 1: 5})))
    await node.merged(EU, 6)
    await asyncio.sleep(0.03)
    assert not waiting.done()
    await node.merged(EU, 7)
    assert await asyncio.wait_for(waiting, DEADLINE_S) is True


async def test_wait_for_ends_with_false(node: Node) -> None:
    for timeout in ("interval '30 ms'", "'30 ms'", "'30 ms'::text", "interval '0'", "interval '-1 s'"):
        assert await node.client.fetchval(f"SELECT crdt.wait_for('v1.2-7', {timeout})") is False
    await node.merged(EU, 7)
    assert await node.client.fetchval("SELECT crdt.wait_for('v1.2-7', interval '0')") is True
    assert await node.client.fetchval("SELECT crdt.wait_for('v1', interval '0')") is True


async def test_a_node_that_is_not_known_is_refused_unless_it_becomes_known(node: Node) -> None:
    with pytest.raises(asyncpg.UndefinedObjectError, match="node 9, which is not known") as caught:
        await node.client.fetchval("SELECT crdt.wait_for('v1.9-1', '20 ms')")
    assert "crdt.nodes" in caught.value.hint
    waiting = asyncio.create_task(node.client.fetchval("SELECT crdt.wait_for('v1.9-1', '30 s')"))
    await node.merged(9, 1)
    assert await asyncio.wait_for(waiting, DEADLINE_S) is True


BAD = (
    "", "v1.", "v2.1-1", "V1", "v1.1", "v1.1-", "v1.0-1", "v1.01-1", "v1.1024-1", "v1.9999-1", "v1.1-8000000000000000",
    "v1.1-11111111111111111", "v1.1-1.1-2", "v1.1-G", "v1.1-1 ", " v1", "v1\n", "v1.1-1\nv1", "v1.-1-1", "v1.1--1",
    "v1" + ".1-1" * 10_000,
)  # fmt: skip


@pytest.mark.parametrize("text", BAD)
async def test_what_is_no_token_is_refused_by_both_readers(node: Node, text: str) -> None:
    with pytest.raises(UsageError, match="is not a token"):
        decode_token(text)
    with pytest.raises(asyncpg.InvalidParameterValueError, match="is not a token") as caught:
        await node.client.fetchval("SELECT crdt.wait_for($1)", text)
    assert caught.value.hint
    with pytest.raises(asyncpg.InvalidParameterValueError, match="NULL is not a token"):
        await node.client.fetchval("SELECT crdt.wait_for(NULL)")


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(clock=st.dictionaries(st.integers(1, 1023), st.integers(1, HLC_MAX), max_size=6))
async def test_both_readers_understand_the_same(node: Node, clock: dict[int, int]) -> None:
    token = encode_token(clock)
    assert decode_token(token) == clock
    numbers: list[int] = await node.admin.fetchval("SELECT crdt_state.read_token($1)", token)
    assert dict(zip(numbers[::2], numbers[1::2], strict=True)) == clock


async def test_the_longest_token_fits(node: Node) -> None:
    whole = dict.fromkeys(range(1, 1024), HLC_MAX)
    token = encode_token(whole)
    assert len(token) <= TOKEN_CHARS_MAX
    assert decode_token(token) == whole
    assert len(await node.admin.fetchval("SELECT crdt_state.read_token($1)", token)) == 2 * len(whole)


# -- sync --


async def answer(node: Node, call: str) -> dict[str, Any]:
    return dict(await node.client.fetchrow(f"SELECT * FROM {call}"))


async def test_sync_returns_when_so_many_peers_have_it(node: Node) -> None:
    await node.merged(OWN, 70)
    asking = asyncio.create_task(answer(node, "crdt.sync(1, '30 s')"))
    await node.attend(Reason.CAPTURE)
    await node.board.store_acknowledged(AP, "ap-south", 70)  # before it is captured nothing counts
    await asyncio.sleep(0.03)
    assert not asking.done()
    await node.merged(OWN, 80)
    await node.capture_all()
    await node.attend(Reason.ACKNOWLEDGEMENT)
    await asyncio.sleep(0.03)
    assert not asking.done(), "ap-south has less than what was captured"
    await node.board.store_acknowledged(EU, "eu-west", 80)
    assert await asking == {"complete": True, "reached": ["eu-west"], "missing": ["ap-south"]}
    await node.board.store_acknowledged(EU, "eu-west", 60)
    stored = await node.admin.fetchval("SELECT acknowledged FROM crdt_state.peer WHERE id = 2")
    assert stored == 80, "an acknowledgement that comes late takes nothing back"
    assert await locks(node) == 0


async def test_sync_that_is_not_complete_says_who_is_missing(node: Node) -> None:
    asking = asyncio.create_task(answer(node, "crdt.sync(2, '2 s')"))
    await node.merged(OWN, 80)
    await node.board.store_acknowledged(EU, "eu-west", 80)
    await node.attend(Reason.CAPTURE)
    await node.capture_all()
    assert await asking == {"complete": False, "reached": ["eu-west"], "missing": ["ap-south"]}


async def test_sync_without_a_sidecar_reaches_nobody(node: Node) -> None:
    await node.board.store_acknowledged(EU, "eu-west", PAST)
    assert await answer(node, "crdt.sync(1, '30 ms')") == {
        "complete": False, "reached": [], "missing": ["eu-west", "ap-south"],
    }  # fmt: skip


@pytest.mark.parametrize("call", ["crdt.sync(3)", "crdt.sync(-1)", "crdt.sync(NULL)", "crdt.barrier(3)"])
async def test_more_peers_than_there_are_are_refused(node: Node, call: str) -> None:
    with pytest.raises(asyncpg.InvalidParameterValueError, match="this node knows 2") as caught:
        await answer(node, call)
    assert "crdt.nodes" in caught.value.hint


# -- barrier --


async def test_a_barrier_waits_for_what_the_peers_had_when_they_were_asked(node: Node) -> None:
    await node.board.store_answer(EU, await node.board.asked(), "v1.2-1")  # an answer to an earlier question
    await node.merged(EU, 100)
    asking = asyncio.create_task(answer(node, "crdt.barrier(1, '30 s')"))
    await node.attend(Reason.BARRIER)
    number = await node.board.asked()
    await asyncio.sleep(0.03)
    assert not asking.done(), "it was not new"
    await node.board.store_answer(EU, number, encode_token({EU: 120, AP: 50}))
    await node.merged(EU, 120)
    await asyncio.sleep(0.03)
    assert not asking.done(), "what eu-west had merged of ap-south is not here"
    await node.merged(AP, 50)
    assert await asking == {"complete": True, "reached": ["eu-west"], "missing": ["ap-south"]}
    assert await locks(node) == 0


async def test_a_later_answer_does_not_put_a_barrier_off(node: Node) -> None:
    """Other sessions ask too, and what the peers have by then is not what this one asked for."""
    asking = asyncio.create_task(answer(node, "crdt.barrier(1, '30 s')"))
    await node.attend(Reason.BARRIER)
    await node.board.store_answer(EU, await node.board.asked(), "v1.2-64")
    await asyncio.sleep(0.05)
    await node.board.store_answer(EU, await node.board.asked(), "v1.2-ffff")
    await node.merged(EU, 0x64)
    assert (await asking)["complete"]


async def test_a_barrier_asks_again_and_names_who_did_not_answer(node: Node) -> None:
    asking = asyncio.create_task(answer(node, "crdt.barrier(2, '4 s')"))
    await node.attend(Reason.BARRIER)
    await node.board.asked()  # and the question is lost
    await wait_until(lambda: _nobody_asks(node), DEADLINE_S, "the end of the first question")
    await node.attend(Reason.BARRIER)
    await node.board.store_answer(AP, await node.board.asked(), "v1")
    assert await asking == {"complete": False, "reached": ["ap-south"], "missing": ["eu-west"]}


async def _nobody_asks(node: Node) -> bool:
    return await locks(node) == 0


async def test_an_answer_that_names_a_node_not_known_here_is_not_reached(node: Node) -> None:
    asking = asyncio.create_task(answer(node, "crdt.barrier(1, '200 ms')"))
    await node.attend(Reason.BARRIER)
    await node.board.store_answer(EU, await node.board.asked(), "v1.77-1")
    assert (await asking)["missing"] == ["eu-west", "ap-south"]


# -- waiting --


@pytest.mark.parametrize("call", ["crdt.token()", "crdt.sync(2)", "crdt.barrier(2)"])
async def test_a_wait_that_is_cancelled_leaves_nothing_behind(node: Node, call: str) -> None:
    """The session lives on, in a pool perhaps, and must not seem to wait for ever."""
    await node.client.execute("SET statement_timeout = '100ms'")
    with pytest.raises(asyncpg.QueryCanceledError):
        await node.client.fetchval(f"SELECT {call}")
    assert await locks(node) == 0
    await node.client.execute("RESET statement_timeout")
    assert await node.client.fetchval("SELECT 1") == 1


async def test_the_board_tells_what_is_new_at_once_and_else_keeps_quiet(node: Node) -> None:
    loop = asyncio.get_running_loop()
    began = loop.time()
    assert await node.board.waiters((), 0.2, PAUSE_S) == set()
    assert loop.time() - began >= 0.2
    await node.merged(OWN, PAST)
    await node.capture_all()
    waiting = asyncio.create_task(answer(node, "crdt.sync(2, '30 s')"))
    await node.attend(Reason.CAPTURE)
    await node.capture_all()
    await node.attend(Reason.ACKNOWLEDGEMENT)
    began = loop.time()
    assert await node.board.waiters({Reason.ACKNOWLEDGEMENT}, 0.2, PAUSE_S) == {Reason.ACKNOWLEDGEMENT}
    assert loop.time() - began >= 0.2, "known ones do not cut it short"
    node.client.terminate()
    with pytest.raises(asyncpg.ConnectionDoesNotExistError):
        await waiting


async def test_the_start_of_a_sidecar_wipes_what_an_earlier_one_said(node: Node) -> None:
    await node.board.captured(PAST)
    await node.board.store_answer(EU, PAST, "v1")
    await node.board.start()
    row = await node.admin.fetchrow("SELECT captured::text, asked::text FROM crdt_state.wait_board")
    assert tuple(row) == ("0/0", "0/0")
    assert await node.admin.fetchval("SELECT count(*) FROM crdt_state.barrier_answer") == 0


async def test_the_end_of_the_log_is_that_of_the_last_record(node: Node) -> None:
    """As sidecar.core.pgoutput.record_end; tests/unit has its cases at the borders of pages."""
    before = await node.admin.fetchval("SELECT pg_logical_emit_message(false, 'crdt', 'x')::text")
    assert await node.admin.fetchval("SELECT crdt_state.log_end() >= $1::text::pg_lsn", before)
