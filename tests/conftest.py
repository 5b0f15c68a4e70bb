"""Fixtures shared by all tests: one server per run, a fresh database per test, waiting for conditions."""

from __future__ import annotations

import gc
import itertools
import multiprocessing.util
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol

import psycopg
import pytest
from hypothesis import HealthCheck, settings
from psycopg import sql

from sidecar.lab.embedded import FAST_SETTINGS, EmbeddedPostgres, drop_database
from sidecar.lab.folders import memory_folder
from sidecar.lab.waiting import wait_until as _wait_until

if TYPE_CHECKING:
    from xdist.remote import Producer
    from xdist.scheduler import Scheduling

# Deadlines of single examples fail on a machine that is busy with other work; the run as a whole has a timeout.
settings.register_profile("local", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", parent=settings.get_profile("local"), derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "local")

# Throwaway servers live in memory where there is plenty; SIDECAR_LAB_DATA names another place.
if (_memory := memory_folder()) is not None:
    os.environ.setdefault("SIDECAR_LAB_DATA", str(_memory))

EMPTY_TEMPLATE = "template_for_tests"
RESTRICTED_ROLE = "restricted"
CONTAINER_IMAGE = "postgres:18"

_numbers = itertools.count(1)


def pytest_collection_finish() -> None:
    """What stands now, three thousand tests with their modules, stays to the end: no collection looks through it."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    """A worker ends without what interpreters do at exit, such as removing the folder of prepared processes."""
    if "tests.prepared" in sys.modules:
        multiprocessing.util._exit_function()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Scheduling:
    """Of runs with several workers only."""
    from tests.sharing import FromBothEnds

    return FromBothEnds(config, log)


class PostgresServer(Protocol):
    """What tests may do with the shared server, embedded or in a container."""

    def dsn(self, dbname: str = "postgres", user: str = "postgres") -> str: ...

    def create_database(self, name: str, template: str | None = None) -> str: ...

    def drop_database(self, name: str) -> None: ...

    @property
    def major(self) -> int: ...


class ContainerPostgres:
    """A server in a container; the same surface as :class:`EmbeddedPostgres` as far as tests share it."""

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port
        with psycopg.connect(self.dsn()) as connection:
            self.major = connection.info.server_version // 10_000

    def dsn(self, dbname: str = "postgres", user: str = "postgres") -> str:
        return f"postgresql://{user}@{self._host}:{self._port}/{dbname}"

    def create_database(self, name: str, template: str | None = None) -> str:
        statement = sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(
            sql.Identifier(name), sql.Identifier(template or "template1")
        )
        with psycopg.connect(self.dsn(), autocommit=True) as connection:
            connection.execute(statement)
        return self.dsn(name)

    def drop_database(self, name: str) -> None:
        drop_database(self.dsn(), name)


def _container_server() -> Iterator[PostgresServer]:
    try:
        engine = subprocess.run(["docker", "info"], capture_output=True, check=False, timeout=60)
        reason = "" if engine.returncode == 0 else engine.stderr.decode(errors="replace").strip().splitlines()[-1]
    except (OSError, subprocess.TimeoutExpired, IndexError) as error:
        reason = str(error) or "docker does not answer"
    if reason:
        pytest.skip(f"SIDECAR_TEST_POSTGRES=container, but no container engine runs: {reason}")
    from testcontainers.community.postgres import PostgresContainer

    container = PostgresContainer(CONTAINER_IMAGE, username="postgres", dbname="postgres", driver=None)
    container = container.with_env("POSTGRES_HOST_AUTH_METHOD", "trust").with_command(
        "-c wal_level=logical -c max_replication_slots=20 -c max_wal_senders=20 -c fsync=off"
    )
    with container:
        yield ContainerPostgres(container.get_container_host_ip(), int(container.get_exposed_port(5432)))


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """The server of this test run. Tests share it: use the ``database`` fixture, and do not restart it."""
    kind = os.environ.get("SIDECAR_TEST_POSTGRES", "embedded")
    if kind == "container":
        yield from _container_server()
        return
    if kind != "embedded":
        pytest.exit(f"SIDECAR_TEST_POSTGRES={kind}: say embedded or container", returncode=2)
    with EmbeddedPostgres(settings=FAST_SETTINGS) as server:
        yield server


@pytest.fixture(scope="session")
def _empty_template(postgres_server: PostgresServer) -> str:
    postgres_server.create_database(EMPTY_TEMPLATE)
    return EMPTY_TEMPLATE


@pytest.fixture
def database(postgres_server: PostgresServer, _empty_template: str) -> Iterator[str]:
    """The DSN of a fresh, empty database; the user is a superuser."""
    name = f"test_{os.getpid()}_{next(_numbers)}"
    yield postgres_server.create_database(name, _empty_template)
    postgres_server.drop_database(name)


@pytest.fixture
def restricted_dsn(database: str) -> str:
    """The DSN of ``database`` for a role with LOGIN and REPLICATION only; it owns nothing and may create nothing."""
    with psycopg.connect(database) as connection:
        known = connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [RESTRICTED_ROLE]).fetchone()
        if known is None:
            connection.execute(sql.SQL("CREATE ROLE {} LOGIN REPLICATION").format(sql.Identifier(RESTRICTED_ROLE)))
    return database.replace("//postgres@", f"//{RESTRICTED_ROLE}@")


@pytest.fixture
def wait_until():  # type: ignore[no-untyped-def]
    """``await wait_until(condition, deadline_s, what)``, see :func:`sidecar.lab.waiting.wait_until`."""
    return _wait_until
