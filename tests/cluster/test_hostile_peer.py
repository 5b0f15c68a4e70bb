"""A peer with a right certificate and bad intentions, on real nodes over TLS: it is cut or held, and nobody else is.

us-east and eu-west are real; the test plays ap-south by hand, with a certificate of the same authority. What it wants
merged it sends to both: a change that only one of them has holds up what that one writes after it, as it must.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import ssl
import struct
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import psycopg
import pytest
import pytest_asyncio
import trustme
import zstandard

from sidecar.core.changes import ChangeSetHeader, ChangeSetPart, TableChanges
from sidecar.core.hlc import HLC_MAX, from_ms
from sidecar.core.wire.bodies import pack_tables
from sidecar.core.wire.frames import encode_frame
from sidecar.core.wire.messages import Goodbye, Heartbeat, Hello, Message, Refuse
from sidecar.core.wire.session import Session
from sidecar.lab.cluster import LabCluster
from sidecar.lab.embedded import FAST_SETTINGS
from sidecar.lab.waiting import wait_until
from sidecar.settings import split_address
from tests.prepared import PreparedCluster

pytestmark = pytest.mark.asyncio(loop_scope="module")

DEADLINE_S = 60.0
HOSTILE_ID = 3
HOSTILE = "ap-south"

SCHEMA = """
CREATE TABLE notes (id int PRIMARY KEY, text text, n bigint NOT NULL DEFAULT 0);
COMMENT ON COLUMN notes.n IS '@crdt(pn_counter)';
CREATE TABLE secrets (id int PRIMARY KEY, text text);
INSERT INTO secrets VALUES (1, 'kept');
"""

_keys = itertools.count(1000)


@dataclass
class Scene:
    cluster: LabCluster
    context: ssl.SSLContext

    @property
    def east(self) -> str:
        return self.cluster.nodes[0].dsn

    @property
    def west(self) -> str:
        return self.cluster.nodes[1].dsn


def write_certificate(folder: Path, authority: trustme.CA, name: str) -> dict[str, str]:
    certificate = authority.issue_cert(name)
    paths = {"ca": folder / "ca.pem", "cert": folder / f"{name}.pem", "key": folder / f"{name}.key"}
    authority.cert_pem.write_to_path(paths["ca"])
    certificate.cert_chain_pems[0].write_to_path(paths["cert"])
    certificate.private_key_pem.write_to_path(paths["key"])
    return {kind: str(path) for kind, path in paths.items()}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def scene(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Scene]:
    folder = tmp_path_factory.mktemp("hostile")
    authority = trustme.CA()
    made = PreparedCluster(
        3, folder, schema_sql=SCHEMA, server_settings=FAST_SETTINGS, sections={"timing": {"reconnect_ms_max": 300}}
    )
    start_sidecar = made.start_sidecar

    async def only_the_honest(index: int, *, ready: bool = True) -> None:
        if index == HOSTILE_ID - 1:
            return
        tls = write_certificate(folder, authority, made.nodes[index].name)
        made.configure(index, {"node": {"insecure": False}, "tls": tls})
        await start_sidecar(index, ready=ready)

    made.start_sidecar = only_the_honest  # type: ignore[method-assign]
    async with made:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.load_verify_locations(folder / "ca.pem")
        authority.issue_cert(HOSTILE).configure_cert(context)
        scene = Scene(made, context)
        await honest_nodes_replicate(scene)
        yield scene


@pytest_asyncio.fixture(loop_scope="module")
async def fresh(scene: Scene) -> AsyncIterator[Scene]:
    """The honest nodes are linked and well, after the test before and after this one."""
    yield scene
    await honest_nodes_replicate(scene)


@pytest_asyncio.fixture(loop_scope="module")
async def forgetful(fresh: Scene) -> AsyncIterator[Scene]:
    """What is held of the hostile one goes with the process."""
    yield fresh
    await fresh.cluster.stop_sidecar(0)
    await fresh.cluster.start_sidecar(0)


def query(dsn: str, text: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(dsn, autocommit=True) as connection:
        cursor = connection.execute(text)  # type: ignore[call-overload]
        return cursor.fetchall() if cursor.description else []


async def honest_nodes_replicate(scene: Scene) -> None:
    """Both ways, now: a row each, seen by the other."""
    for here, there in ((scene.east, scene.west), (scene.west, scene.east)):
        key = next(_keys)
        query(here, f"INSERT INTO notes VALUES ({key}, 'honest', {key})")
        await wait_until(
            lambda there=there, key=key: query(there, f"SELECT 1 FROM notes WHERE id = {key} AND n = {key}"),  # type: ignore[misc]
            DEADLINE_S,
            "the honest nodes replicate",
        )
        assert scene.cluster.nodes[0].sidecar_process is not None
        assert scene.cluster.nodes[0].sidecar_process.poll() is None


class Attacker:
    """A hand-made link to us-east (0) or eu-west (1)."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.session = Session(1 << 20)
        self.heard: list[Message] = []

    @classmethod
    async def link(cls, scene: Scene, index: int = 0) -> Attacker:
        """Once it is not turned away any more for what was before."""
        while True:
            made = await cls.knock(scene, index)
            if not isinstance(made.heard[-1], Refuse):
                break
            assert made.heard[-1].temporary, made.heard[-1].reason
            await made.farewell()
        made.say(made.session.accept())
        assert made.session.peer is not None
        made.from_hlc = made.session.peer.clock.get(HOSTILE_ID, 0)
        return made

    @classmethod
    async def knock(cls, scene: Scene, index: int = 0) -> Attacker:
        """Until the node has accepted or refused."""
        reader, writer = await asyncio.open_connection(
            *split_address(scene.cluster.nodes[index].listen), ssl=scene.context, server_hostname="any"
        )
        made = cls(reader, writer)
        made.say(
            Hello(
                cluster="default",
                node_id=HOSTILE_ID,
                node_name=HOSTILE,
                protocol_max=2,
                boot_id=f"hostile-{time.time_ns()}",
                window_bytes=1 << 24,
                frame_bytes_max=1 << 24,
            )
        )
        while len(made.heard) < 2:
            await made.listen()
        return made

    from_hlc: int = 0

    async def listen(self) -> bool:
        """Whether there is more."""
        data = await asyncio.wait_for(self.reader.read(1 << 16), DEADLINE_S)
        self.heard += self.session.receive(data)
        return bool(data)

    def say(self, message: Message) -> None:
        self.writer.write(self.session.send(message))

    def shout(self, data: bytes) -> None:
        self.writer.write(data)

    async def farewell(self) -> str:
        """Why the node cut the link."""
        try:
            while await self.listen():
                pass
        except ConnectionResetError:
            pass
        self.writer.close()
        words = [message for message in self.heard if isinstance(message, Goodbye | Refuse)]
        assert words, "cut without a word"
        return words[-1].reason

    def part(self, *tables: TableChanges, body: bytes | None = None, **header: Any) -> ChangeSetPart:
        """A change set after what the node has, in the present."""
        facts: dict[str, Any] = {
            "origin": HOSTILE_ID,
            "from_hlc": self.from_hlc,
            "to_hlc": present(),
            "context": {},
            "rows": sum(table.rows for table in tables),
        }
        facts.update(header)
        return ChangeSetPart(header=ChangeSetHeader(**facts), body=pack_tables(list(tables)) if body is None else body)


def present() -> int:
    return from_ms(time.time_ns() // 1_000_000)


def rows(*keys: int, **wrong: Any) -> TableChanges:
    """Inserts into notes."""
    count = len(keys)
    facts: dict[str, Any] = {
        "schema": "public",
        "name": "notes",
        "key_columns": ["id"],
        "columns": ["text"],
        "rows": count,
        "ops": b"{" + b",".join([b"I"] * count) + b"}",
        "hlcs": b"{" + b",".join([b"%d" % (present() - 1000)] * count) + b"}",
        "inserted": b"{" + b",".join([b"%d" % (present() - 1000)] * count) + b"}",
        "masks": [b"{" + b",".join([b"1"] * count) + b"}"],
        "keys": [b"{" + b",".join(b'"%d"' % key for key in keys) + b"}"],
        "values": [b"{" + b",".join(b'"hostile %d"' % key for key in keys) + b"}"],
        "late": [b""],
        "seen": [b""],
    }
    facts.update(wrong)
    return TableChanges(**facts)


async def status_until(scene: Scene, words: str) -> dict[str, Any]:
    """The status of us-east in which a line about the hostile peer has these words."""
    found: dict[str, Any] = {}

    async def there() -> bool:
        found.update(await scene.cluster.status(0))
        (peer,) = [peer for peer in found["peers"] if peer["name"] == HOSTILE]
        return any(words in line for line in (*found["problems"], peer["last_error"] or ""))

    await wait_until(there, DEADLINE_S, f"us-east says {words!r}", tolerate=(OSError,))
    return found


@contextlib.asynccontextmanager
async def both(scene: Scene) -> AsyncIterator[Callable[..., None]]:
    """Links to both nodes; called: sends the same change set to both."""
    links = [await Attacker.link(scene, 0), await Attacker.link(scene, 1)]
    start = max(link.from_hlc for link in links)

    def send(*tables: TableChanges) -> None:
        nonlocal start
        end = max(present(), start + 1)
        part = links[0].part(*tables, from_hlc=min(start, *(link.from_hlc for link in links)), to_hlc=end)
        for link in links:
            link.say(part)
        start = end

    try:
        yield send
    finally:
        for link in links:
            link.writer.close()


# -- cut ---------------------------------------------------------------------------------------------------------------

BOMB = zstandard.ZstdCompressor().compress(bytes(400 << 20))
"""400 MiB of zeros in some 13 kB."""


async def test_an_honest_change_of_the_hand_made_peer_arrives(fresh: Scene) -> None:
    """So that the other tests fail for the reason they name."""
    key = next(_keys)
    async with both(fresh) as send:
        send(rows(key))
        for dsn in (fresh.east, fresh.west):
            await wait_until(
                lambda dsn=dsn: query(dsn, f"SELECT 1 FROM notes WHERE id = {key}"),  # type: ignore[misc]
                DEADLINE_S,
                "the row",
            )


CUT: dict[str, tuple[Any, str]] = {
    "giant length": (lambda a: a.shout(struct.pack("!BBHII", 0xC1, 5, 0, 0xFFFFFFF0, 0)), "frame"),
    "garbage": (lambda a: a.shout(b"\x00" * 100), "not a sidecar peer"),
    "malformed": (lambda a: a.shout(encode_frame(5, b"\xc1" * 50, a.session._frames_sent)), "malformed ChangeSet"),
    "credit": (lambda a: a.shout(encode_frame(6, b"\x92\x80\x05", a.session._frames_sent)), "credit of 5 bytes for 0"),
    "bomb": (lambda a: a.say(a.part(body=BOMB)), "change set body of 419430400 bytes, at most 268435456 are taken"),
    "unsized": (lambda a: a.say(a.part(body=b"\x28\xb5\x2f\xfd" + bytes(20))), "does not say its size"),
    "foreign dots": (lambda a: a.say(a.part(rows(1), origin=2)), "sent changes of node 2"),
    "own dots": (lambda a: a.say(a.part(rows(1), origin=1)), "sent changes of node 1"),
    "format": (lambda a: a.say(a.part(rows(1), format_version=99)), "format version 99"),
    "context": (lambda a: a.say(a.part(rows(1), context={5000: 1})), "context has hlc 1 of node 5000"),
    "parts": (lambda a: a.say(a.part(rows(1), part=7)), "part 7 of a change set came without the parts before it"),
}


@pytest.mark.parametrize("case", CUT)
async def test_it_is_cut_and_told_why(fresh: Scene, case: str) -> None:
    attack, reason = CUT[case]
    attacker = await Attacker.link(fresh)
    attack(attacker)
    assert reason in await attacker.farewell()
    log = fresh.cluster.nodes[0].log_path
    await wait_until(lambda: reason in log.read_text(), DEADLINE_S, "the log says so")
    status = await fresh.cluster.status(0)
    assert status["refused_links"]["protocol"] >= 1
    assert [peer["state"] for peer in status["peers"] if peer["name"] == "eu-west"] == ["connected"]
    assert query(fresh.east, "SELECT 1 FROM notes WHERE text LIKE 'hostile%' AND id < 1000") == []


async def test_one_that_comes_again_and_again_is_turned_away(fresh: Scene) -> None:
    attacker = await Attacker.link(fresh)
    attacker.shout(b"\x00")
    await attacker.farewell()
    again = await Attacker.knock(fresh)
    assert "the last link ended with a protocol error" in await again.farewell()


async def test_it_may_not_speak_for_another_node(fresh: Scene) -> None:
    """Its certificate says ap-south."""
    for name, node_id, reason in (
        ("eu-west", 2, "the certificate of 'eu-west' is made for ap-south"),
        ("ap-south", 2, "'ap-south' says it is node 2, which is 'eu-west' here"),
    ):
        reader, writer = await asyncio.open_connection(*split_address(fresh.cluster.nodes[0].listen), ssl=fresh.context)
        session = Session(1 << 20)
        writer.write(session.send(Hello(cluster="default", node_id=node_id, node_name=name, protocol_max=2)))
        answers = [message for data in [await reader.read()] for message in session.receive(data)]
        assert reason in answers[-1].reason  # type: ignore[union-attr]
        writer.close()
    status = await fresh.cluster.status(0)
    assert status["refused_links"]["certificate_name"] >= 1
    assert status["refused_links"]["id"] >= 1
    assert [peer["state"] for peer in status["peers"] if peer["name"] == "eu-west"] == ["connected"]


# -- held or put into quarantine ---------------------------------------------------------------------------------------


def future() -> int:
    return from_ms(time.time_ns() // 1_000_000 + 3_600_000)


HELD: dict[str, tuple[Any, str]] = {
    "unknown table": (lambda a: a.part(rows(1, name="nowhere")), "table public.nowhere wait"),
    "table that is not replicated": (lambda a: a.part(rows(1, name="secrets")), "table public.secrets wait"),
    "system table": (lambda a: a.part(rows(1, schema="crdt_state", name="clock")), "table crdt_state.clock wait"),
    "unknown column": (lambda a: a.part(rows(1, columns=["text; DROP TABLE notes"])), "is missing here"),
    "other key": (lambda a: a.part(rows(1, key_columns=["text"])), "primary key differs"),
    "future": (lambda a: a.part(rows(1), to_hlc=future()), "clock of node 3"),
    "row from the future": (lambda a: a.part(rows(1, hlcs=b"{%d}" % HLC_MAX)), "hlcs outside the change set's"),
    "foreign context": (lambda a: a.part(rows(1), context={1: HLC_MAX}), "node 3 has seen changes of this node"),
    "missing elements": (lambda a: a.part(rows(1, 2, keys=[b'{"1"}'])), "1 elements for 2 rows"),
    "operations": (lambda a: a.part(rows(1, ops=b"{T}")), "an operation is none of I, U, D, R"),
    "no numbers": (lambda a: a.part(rows(1, masks=[b"{1;}"])), "something else than numbers"),
    "no array": (lambda a: a.part(rows(1, values=[b'{"a"},{"b"}'])), "array"),
    "damaged body": (lambda a: a.part(body=pack_tables([rows(1)])[:-3]), "change set body cannot be decompressed"),
    "no table": (
        lambda a: a.part(body=zstandard.ZstdCompressor().compress(msgspec.msgpack.encode([[1]]))),
        "malformed",
    ),
}


@pytest.mark.parametrize("case", HELD)
async def test_it_is_held_and_nobody_else(forgetful: Scene, case: str) -> None:
    fresh = forgetful
    make, words = HELD[case]
    attacker = await Attacker.link(fresh)
    before = query(fresh.east, "SELECT hlc FROM crdt_state.clock WHERE node = 3")
    attacker.say(make(attacker))
    await status_until(fresh, words)
    await honest_nodes_replicate(fresh)
    assert query(fresh.east, "SELECT hlc FROM crdt_state.clock WHERE node = 3") == before, "nothing of it was merged"
    newest = query(fresh.east, "SELECT max(hlc) FROM crdt_state.clock WHERE node <> 3")[0][0]
    assert newest < from_ms(time.time_ns() // 1_000_000 + 60_000), "no clock was dragged along"
    assert query(fresh.east, "SELECT text FROM secrets") == [("kept",)]
    assert query(fresh.east, "SELECT 1 FROM notes WHERE id < 1000") == []
    attacker.writer.close()


async def test_a_heartbeat_from_the_future_drags_no_clock_along(forgetful: Scene) -> None:
    fresh = forgetful
    attacker = await Attacker.link(fresh)
    before = query(fresh.east, "SELECT hlc FROM crdt_state.clock WHERE node = 3")
    attacker.say(Heartbeat(hlc=HLC_MAX, from_hlc=attacker.from_hlc, sent_ms=time.time_ns() // 1_000_000))
    await status_until(fresh, "clock of node 3")
    await honest_nodes_replicate(fresh)
    assert query(fresh.east, "SELECT hlc FROM crdt_state.clock WHERE node = 3") == before
    attacker.writer.close()


async def test_values_of_the_wrong_type_go_into_quarantine_and_the_rest_applies(fresh: Scene) -> None:
    good = next(_keys)
    async with both(fresh) as send:
        send(rows(good, 1, columns=["n"], values=[b'{"5","many"}']))
        for dsn in (fresh.east, fresh.west):
            await wait_until(
                lambda dsn=dsn: query(dsn, f"SELECT 1 FROM notes WHERE id = {good}"),  # type: ignore[misc]
                DEADLINE_S,
                "the right row",
            )
    found = query(fresh.east, "SELECT sqlstate, row_key->>'id' FROM crdt_state.quarantine WHERE origin = 3")
    assert ("22P02", "1") in found
    assert query(fresh.east, f"SELECT n FROM notes WHERE id = {good}") == [(5,)]


async def test_its_arrays_do_not_move_the_rows_of_others(fresh: Scene) -> None:
    """Rows of several nodes that wait together share a statement: one element too many would shift those behind it."""
    async with both(fresh) as send:
        for _ in range(20):
            send(rows(next(_keys), values=[b'{"a","b"}']))
            with psycopg.connect(fresh.west, autocommit=True) as connection:
                for key in (next(_keys) for _ in range(5)):
                    connection.execute("INSERT INTO notes (id, text) VALUES (%s, %s)", (key, f"west {key}"))
        await honest_nodes_replicate(fresh)
    assert query(fresh.east, "SELECT id FROM notes WHERE text LIKE 'west%' AND text <> 'west ' || id") == []
    assert query(fresh.east, "SELECT count(*) FROM notes WHERE text LIKE 'west%'") == [(100,)]
