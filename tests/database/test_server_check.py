"""The check of the server: pure judgements, and one real server."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import psycopg
import pytest

from sidecar.postgres.admin import connect
from sidecar.postgres.problem import Problem, errors, in_order
from sidecar.postgres.server_check import SENDER_TIMEOUT_MS_MIN, VERSION_MIN, Server, check_server, judge

GOOD = Server(
    version_number=180000,
    version="18.0",
    in_recovery=False,
    wal_level="logical",
    slots_max=10,
    slots_used=9,
    senders_max=10,
    senders_used=9,
    slot_wal_keep_mb=65536,
    sender_timeout_ms=60_000,
    idle_slot_timeout=0,
    encoding="UTF8",
    database="app",
    role="sidecar",
    is_superuser=False,
    may_replicate=True,
    may_create=True,
    foreign_schemas=[],
    may_use_origins=True,
)


def test_a_good_server_has_no_problem() -> None:
    assert judge(GOOD, may_set_replica_role=True) == []


BAD: list[tuple[dict[str, Any], str, str, str]] = [
    ({"version_number": VERSION_MIN - 1, "version": "13.9"}, "error", "13.9 is too old", "upgrade to 14"),
    ({"in_recovery": True}, "error", "standby", "primary"),
    ({"encoding": "LATIN1"}, "error", "encoding LATIN1", "UTF8"),
    (
        {"wal_level": "replica"},
        "error",
        "wal_level is 'replica'",
        "ALTER SYSTEM SET wal_level = 'logical'; then restart",
    ),
    ({"slots_used": 10}, "error", "max_replication_slots is 10", "max_replication_slots = 14; then restart"),
    ({"senders_used": 10}, "error", "max_wal_senders is 10", "max_wal_senders = 14; then restart"),
    ({"may_replicate": False}, "error", "lacks REPLICATION", 'ALTER ROLE "sidecar" REPLICATION'),
    ({"may_create": False}, "error", "may not create", 'GRANT CREATE ON DATABASE "app" TO "sidecar"'),
    ({"foreign_schemas": ["crdt"]}, "error", "'crdt' belongs to another role", "OWNER TO"),
    ({"slot_wal_keep_mb": -1}, "warning", "until the disk is full", "max_slot_wal_keep_size"),
    ({"sender_timeout_ms": SENDER_TIMEOUT_MS_MIN - 1}, "warning", "wal_sender_timeout", "60s"),
    ({"idle_slot_timeout": 5}, "warning", "idle_replication_slot_timeout", "reload"),
    ({"may_use_origins": False}, "advice", "replication origins", "nothing has to be done"),
]


@pytest.mark.parametrize(("change", "severity", "message", "mend"), BAD, ids=[next(iter(b[0])) for b in BAD])
def test_each_finding_has_its_mend(change: dict[str, Any], severity: str, message: str, mend: str) -> None:
    problems = judge(replace(GOOD, **change), may_set_replica_role=True)
    assert len(problems) == 1
    assert problems[0].severity == severity
    assert message in problems[0].message
    assert mend in problems[0].mend


def test_a_switched_off_sender_timeout_is_fine() -> None:
    assert judge(replace(GOOD, sender_timeout_ms=0), may_set_replica_role=True) == []


def test_without_the_replica_role_the_difference_is_said() -> None:
    (problem,) = judge(GOOD, may_set_replica_role=False)
    assert (problem.severity, "triggers and foreign keys act" in problem.message) == ("advice", True)


def test_everything_is_reported_at_once_and_errors_come_first() -> None:
    everything: dict[str, Any] = {}
    for change, *_ in BAD:
        everything |= change
    problems = in_order(judge(replace(GOOD, **everything), may_set_replica_role=False))
    assert len(problems) == len(BAD) + 1
    assert [p.severity for p in problems] == sorted(
        (p.severity for p in problems), key=["error", "warning", "advice"].index
    )
    assert all(p.mend for p in problems)


def test_a_problem_is_one_line() -> None:
    problem = Problem("error", "is bad", "mend it", "public.t", "c")
    assert problem.line() == "error: public.t.c: is bad; mend it"
    assert Problem("advice", "x").line() == "advice: x"


async def test_the_lab_server_can_carry_a_sidecar(database: str) -> None:
    async with await connect(database) as conn:
        problems = await check_server(conn)
        assert conn.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
        row = await (await conn.execute("SELECT current_setting('session_replication_role')")).fetchone()
    assert errors(problems) == []
    assert row == ("origin",)
    assert [p for p in problems if "session_replication_role" in p.message] == []


async def test_a_restricted_role_is_told_everything_at_once(restricted_dsn: str) -> None:
    async with await connect(restricted_dsn) as conn:
        problems = await check_server(conn)
    messages = " ".join(problem.message for problem in problems)
    assert "may not create schemas" in messages
    assert "session_replication_role" in messages
    assert "replication origins" in messages
    assert "lacks REPLICATION" not in messages
    assert errors(problems) == problems[: len(errors(problems))]


async def test_a_role_without_replication_and_foreign_schemas(database: str) -> None:
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as app:
        await app.execute("CREATE ROLE plain_role LOGIN; CREATE SCHEMA crdt")
    try:
        async with await connect(database.replace("//postgres@", "//plain_role@")) as conn:
            messages = [problem.message for problem in await check_server(conn)]
        assert "role 'plain_role' lacks REPLICATION" in messages
        assert "schema 'crdt' belongs to another role" in messages
    finally:
        async with await psycopg.AsyncConnection.connect(database, autocommit=True) as app:
            await app.execute("DROP ROLE plain_role")
