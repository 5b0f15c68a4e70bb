"""A whole cluster on one machine: N embedded servers, N sidecars as real processes, a proxy on every link."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

from sidecar.errors import SidecarError
from sidecar.lab import convergence
from sidecar.lab.embedded import EmbeddedPostgres
from sidecar.lab.ports import HOST, free_port
from sidecar.lab.process import last_lines, spawn
from sidecar.lab.proxy import Direction, LinkProxy
from sidecar.lab.waiting import wait_until

NODE_NAMES = ("us-east", "eu-west", "ap-south", "sa-east", "af-south")
DATABASE = "app"
READY_DEADLINE_S = 60.0  # imports and the first connections take a second each; more when all nodes start on few cores
STOP_DEADLINE_S = 12.0  # a sidecar promises a clean stop below 10 s
HTTP_TIMEOUT_S = 20.0  # answers come from memory; ten processes on two cores take turns
COMMAND = (sys.executable, "-m", "sidecar.cli.main")

Sections = Mapping[str, Mapping[str, Any]]


@dataclass(slots=True)
class LabNode:
    """One database with its sidecar. ``sidecar_process`` is ``None`` while it is meant to be down."""

    name: str
    id: int
    folder: Path
    server: EmbeddedPostgres
    dsn: str
    listen: str
    http_listen: str
    proxies: dict[str, LinkProxy] = field(default_factory=dict)
    sidecar_process: subprocess.Popen[bytes] | None = None

    @property
    def http_url(self) -> str:
        return f"http://{self.http_listen}"

    @property
    def config_path(self) -> Path:
        return self.folder / "node.toml"

    @property
    def log_path(self) -> Path:
        """The sidecar's output."""
        return self.folder / "sidecar.log"


class LabCluster:
    """``async with LabCluster(3, folder, schema_sql=...) as cluster: ...``

    Node i (0-based index, ids from 1) lives in ``folder/<name>``: ``node.toml``, ``sidecar.log``, ``server/``.
    ``schema_sql`` is run on every database before the sidecars attach. ``proxied``: node i dials node j through
    ``link(i, j)``. ``sections`` are further configuration keys by section, ``server_settings`` go to PostgreSQL,
    ``sidecar_env`` to the processes. ``keep`` leaves all files; ``detached`` lets everything go on when this
    process ends (then without proxies). ``command`` is the program that stands for ``sidecar``. ``edges`` are the
    links between nodes (pairs of indices, see :mod:`sidecar.lab.topologies`), by default all.
    """

    def __init__(
        self,
        size: int,
        folder: Path,
        *,
        schema_sql: str = "",
        proxied: bool = True,
        pg_bin: Path | None = None,
        server_settings: Mapping[str, str] | None = None,
        sections: Sections | None = None,
        sidecar_env: Mapping[str, str] | None = None,
        keep: bool = False,
        detached: bool = False,
        command: Sequence[str] = COMMAND,
        edges: Iterable[tuple[int, int]] | None = None,
    ) -> None:
        if not 1 <= size <= len(NODE_NAMES):
            raise SidecarError(f"a lab cluster has 1 to {len(NODE_NAMES)} nodes, not {size}")
        if detached and proxied:
            raise SidecarError("proxies end with this process", mend="a detached cluster must be proxied=False")
        self.folder = folder
        self.keep = keep
        self._detached = detached
        self._command = tuple(command)
        self._schema_sql = schema_sql
        self._proxied = proxied
        self._sections: dict[str, Mapping[str, Any]] = dict(sections or {})
        self._env = _environment(sidecar_env or {})
        pairs = itertools.combinations(range(size), 2) if edges is None else edges
        self.edges = sorted((min(pair), max(pair)) for pair in pairs)
        self.nodes = [self._node(index, pg_bin=pg_bin, server_settings=server_settings or {}) for index in range(size)]

    def _node(self, index: int, *, pg_bin: Path | None, server_settings: Mapping[str, str]) -> LabNode:
        name = NODE_NAMES[index]
        folder = self.folder / name
        folder.mkdir(parents=True, exist_ok=True)
        server = EmbeddedPostgres(
            folder / "server", bin_dir=pg_bin, settings=server_settings, keep=self.keep, detached=self._detached
        )
        return LabNode(
            name=name,
            id=index + 1,
            folder=folder,
            server=server,
            dsn="",
            listen=f"{HOST}:{free_port()}",
            http_listen=f"{HOST}:{free_port()}",
        )

    # -- life ------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Servers, databases, schema, proxies, ``sidecar init``, sidecars; returns when every node is ready.

        Raises :class:`SidecarError` with the last line of whoever failed; then everything started is stopped again.
        """
        try:
            await _all(self._start_database(node) for node in self.nodes)
            await self._write_configurations()
            await _all(self._init(node) for node in self.nodes)
            await _all(self.start_sidecar(index) for index in range(len(self.nodes)))
        except BaseException:
            await self.stop()
            raise

    async def _start_database(self, node: LabNode) -> None:
        def work() -> None:
            node.server.start()
            node.dsn = node.server.dsn(DATABASE)
            known = node.server.run_psql(f"SELECT 1 FROM pg_database WHERE datname = '{DATABASE}'")
            if not known:
                node.server.create_database(DATABASE)
                if self._schema_sql:
                    node.server.run_psql(self._schema_sql, DATABASE)

        await asyncio.to_thread(work)

    async def _write_configurations(self) -> None:
        for node in self.nodes:
            if self._proxied:
                for peer in self._peers(node):
                    host, _, port = peer.listen.rpartition(":")
                    node.proxies[peer.name] = LinkProxy((host, int(port)), seed=node.id * 1024 + peer.id)
                    await node.proxies[peer.name].start()
            self._write_configuration(node, {})

    def _write_configuration(self, node: LabNode, sections: Sections) -> None:
        addresses = {p.name: node.proxies[p.name].address if self._proxied else p.listen for p in self._peers(node)}
        merged = {
            name: {**self._sections.get(name, {}), **sections.get(name, {})} for name in {**self._sections, **sections}
        }
        node.config_path.write_text(_configuration(node, addresses, merged))

    def _peers(self, node: LabNode) -> list[LabNode]:
        """The nodes that a node is linked with."""
        index = self.nodes.index(node)
        return [self.nodes[a if b == index else b] for a, b in self.edges if index in (a, b)]

    def configure(self, index: int, sections: Sections) -> None:
        """Write a node's configuration anew, ``sections`` laid over those of the cluster; holds from its next start."""
        self._write_configuration(self.nodes[index], sections)

    async def _init(self, node: LabNode) -> None:
        process = await asyncio.create_subprocess_exec(
            *self._command,
            "init",
            "-c",
            str(node.config_path),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=self._env,
        )
        output, _ = await process.communicate()
        if process.returncode != 0:
            lines = output.decode("utf-8", "replace").strip().splitlines() or ["no output"]
            raise SidecarError(f"{node.name}: sidecar init failed: {' | '.join(lines[-3:])}")

    async def stop(self) -> None:
        """End everything: cleanly when the files are kept, at once otherwise."""
        await _all(
            self.stop_sidecar(index) if self.keep else self.kill_sidecar(index) for index in range(len(self.nodes))
        )
        for node in self.nodes:
            for proxy in node.proxies.values():
                await proxy.stop()
        await _all(asyncio.to_thread(node.server.close) for node in self.nodes)

    async def __aenter__(self) -> LabCluster:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    # -- faults ----------------------------------------------------------------------------------------------------

    async def start_sidecar(self, index: int, *, ready: bool = True) -> None:
        """Start the process; with ``ready``, return when ``/readyz`` agrees. An early end raises with its last line."""
        node = self.nodes[index]
        node.sidecar_process = self._spawn_sidecar(node)
        if ready:
            await wait_until(
                partial(self._is_ready, node), READY_DEADLINE_S, f"{node.name}: readiness", tolerate=(OSError,)
            )

    def _spawn_sidecar(self, node: LabNode) -> subprocess.Popen[bytes]:
        return spawn(
            [*self._command, "run", "-c", str(node.config_path)],
            log=node.log_path,
            cwd=node.folder,
            env=self._env,
            death_signal=None if self._detached else signal.SIGKILL,
        )

    async def _is_ready(self, node: LabNode) -> bool:
        self.check_processes()
        code, _ = await http_get(node.http_listen, "/readyz")
        return code == 200

    async def stop_sidecar(self, index: int) -> int | None:
        """SIGTERM; the exit status (``None``: it did not run). One that ignores the signal is killed and raises."""
        node = self.nodes[index]
        process, node.sidecar_process = node.sidecar_process, None
        if process is None:
            return None
        process.send_signal(signal.SIGTERM)
        try:
            return await asyncio.to_thread(process.wait, STOP_DEADLINE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            await asyncio.to_thread(process.wait)
            raise SidecarError(
                f"{node.name}: the sidecar did not stop within {STOP_DEADLINE_S:g} s", mend=f"read {node.log_path}"
            ) from None

    async def kill_sidecar(self, index: int) -> None:
        """SIGKILL. No-op when it does not run."""
        node = self.nodes[index]
        process, node.sidecar_process = node.sidecar_process, None
        if process is not None:
            process.kill()
            await asyncio.to_thread(process.wait)

    async def kill_server(self, index: int) -> None:
        """SIGKILL to PostgreSQL and all its processes."""
        await asyncio.to_thread(self.nodes[index].server.kill)

    async def start_server(self, index: int) -> None:
        """Start PostgreSQL again, on the same port and data."""
        await asyncio.to_thread(self.nodes[index].server.start)

    def link(self, dialler: int, listener: int) -> LinkProxy:
        """The proxy through which one node (index) dials another."""
        try:
            return self.nodes[dialler].proxies[self.nodes[listener].name]
        except KeyError:
            raise SidecarError(f"no proxy from node {dialler} to node {listener}", mend="use proxied=True") from None

    def links(self, a: int, b: int) -> tuple[LinkProxy, LinkProxy]:
        """Both proxies between two nodes: either may carry the link, as either side may have dialled."""
        return self.link(a, b), self.link(b, a)

    async def cut(self, a: int, b: int) -> None:
        """Cut the link between two nodes until :meth:`heal`."""
        for proxy in self.links(a, b):
            await proxy.cut()

    def cut_one_way(self, a: int, b: int) -> None:
        """Let nothing of node a reach node b until :meth:`heal`; a goes on to hear b."""
        self.link(a, b).black_hole(Direction.TO_TARGET)
        self.link(b, a).black_hole(Direction.TO_CLIENT)

    async def isolate(self, index: int) -> None:
        """Cut a node off from all others."""
        for a, b in self.edges:
            if index in (a, b):
                await self.cut(a, b)

    def heal(self) -> None:
        """Heal every link. Delays and bandwidths stay as they are."""
        for node in self.nodes:
            for proxy in node.proxies.values():
                proxy.heal()

    def heal_between(self, a: int, b: int) -> None:
        """Heal the link between two nodes; others that are cut stay so."""
        for proxy in self.links(a, b):
            proxy.heal()

    def check_processes(self) -> None:
        """Raise when a sidecar that should run has ended by itself."""
        for node in self.nodes:
            process = node.sidecar_process
            if process is not None and (status := process.poll()) is not None:
                line = (last_lines(node.log_path, 1) or ["no output"])[0]
                raise SidecarError(f"{node.name}: the sidecar ended with status {status}: {line}")

    # -- looking -----------------------------------------------------------------------------------------------------

    async def status(self, index: int) -> dict[str, Any]:
        """What ``/status`` says. Raises :class:`OSError` when nobody listens."""
        _, body = await http_get(self.nodes[index].http_listen, "/status")
        answer: dict[str, Any] = json.loads(body)
        return answer

    async def wait_linked(self, deadline_s: float = READY_DEADLINE_S) -> None:
        """Wait until every node says that all its peers are connected."""

        async def linked(index: int) -> bool:
            self.check_processes()
            peers = (await self.status(index))["peers"]
            wanted = len(self._peers(self.nodes[index]))
            return len(peers) == wanted and all(peer["state"] == "connected" for peer in peers)

        for index, node in enumerate(self.nodes):
            await wait_until(
                partial(linked, index),
                deadline_s,
                f"{node.name}: links to all peers",
                tolerate=(OSError,),
            )

    async def wait_converged(self, deadline_s: float) -> None:
        """Wait until every node has what every node had committed at the call; see :mod:`sidecar.lab.convergence`."""
        nodes = {node.id: (node.name, node.dsn) for node in self.nodes}
        await convergence.wait_converged(nodes, deadline_s, check=self.check_processes)

    async def table_checksum(self, index: int, table: str) -> str:
        """md5 of the table's rows in key order."""
        return await convergence.table_checksum(self.nodes[index].dsn, table)

    async def checksums(self, table: str) -> dict[str, str]:
        """Node name to :meth:`table_checksum`."""
        sums = await asyncio.gather(*(self.table_checksum(index, table) for index in range(len(self.nodes))))
        return dict(zip((node.name for node in self.nodes), sums, strict=True))


def _environment(extra: Mapping[str, str]) -> dict[str, str]:
    """The caller's environment without configuration of its own sidecar or libpq."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SIDECAR_", "PG"))}
    return {**kept, "PYTHONUNBUFFERED": "1", **extra}


def _configuration(node: LabNode, peers: Mapping[str, str], sections: Sections) -> str:
    """The node's TOML. JSON's strings, numbers, booleans and lists are TOML's too."""
    tables: dict[str, dict[str, Any]] = {
        "node": {"name": node.name, "id": node.id, "dsn": node.dsn, "listen": node.listen, "insecure": True},
        "http": {"listen": node.http_listen},
    }
    for section, keys in sections.items():
        tables.setdefault(section, {}).update(keys)
    lines = itertools.chain.from_iterable(
        [f"[{section}]", *(f"{key} = {json.dumps(value)}" for key, value in keys.items()), ""]
        for section, keys in tables.items()
    )
    listed = (f'[[peers]]\nname = "{name}"\naddress = "{address}"\n' for name, address in peers.items())
    return "\n".join([*lines, *listed])


async def _all(work: Iterable[Any]) -> None:
    """Run awaitables at the same time, wait for all of them, then raise the first error."""
    for result in await asyncio.gather(*work, return_exceptions=True):
        if isinstance(result, BaseException):
            raise result


async def http_get(address: str, path: str) -> tuple[int, bytes]:
    """GET over plain HTTP/1.0: status code and body. Raises :class:`OSError`, also when it takes too long."""
    host, _, port = address.rpartition(":")
    async with asyncio.timeout(HTTP_TIMEOUT_S):
        reader, writer = await asyncio.open_connection(host, int(port))
        try:
            writer.write(f"GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n".encode())
            head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        finally:
            writer.close()
    words = head.split(None, 2)
    if len(words) < 2 or not words[1].isdigit():
        raise ConnectionError(f"{address} did not answer in HTTP")
    return int(words[1]), body
