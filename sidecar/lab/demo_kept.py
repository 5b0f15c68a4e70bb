"""A demo that was left running: what a later command needs to stop it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from sidecar.errors import SidecarError, UsageError
from sidecar.lab.cluster import STOP_DEADLINE_S, LabCluster
from sidecar.lab.embedded import stop_leftover
from sidecar.lab.process import is_alive

RECORD = "demo.json"
POLL_S = 0.05


@dataclass(frozen=True, slots=True)
class KeptNode:
    """One region of a kept demo. ``data_dir`` may lie outside the demo's folder."""

    name: str
    dsn: str
    http_url: str
    config: str
    sidecar_pid: int
    data_dir: str


def record(cluster: LabCluster) -> list[KeptNode]:
    """Write ``demo.json`` into the cluster's folder; the nodes in it."""
    nodes = [
        KeptNode(
            name=node.name,
            dsn=node.dsn,
            http_url=node.http_url,
            config=str(node.config_path),
            sidecar_pid=node.sidecar_process.pid if node.sidecar_process is not None else 0,
            data_dir=str(node.server.data_dir),
        )
        for node in cluster.nodes
    ]
    (cluster.folder / RECORD).write_text(json.dumps([asdict(node) for node in nodes], indent=1))
    return nodes


def discard(cluster: LabCluster) -> None:
    """Have the cluster's end take its files with it, although they were to be kept."""
    cluster.keep = False
    for node in cluster.nodes:
        node.server.keep = False


def read(folder: Path) -> list[KeptNode]:
    """The nodes of a kept demo; :class:`UsageError` when the folder holds none."""
    path = folder / RECORD
    try:
        return [KeptNode(**entry) for entry in json.loads(path.read_text())]
    except OSError:
        raise UsageError(
            f"{folder} holds no kept demo", mend="name the folder that sidecar demo --keep printed"
        ) from None
    except (ValueError, TypeError):
        raise UsageError(f"{path} is damaged", mend="end its processes by hand, then remove the folder") from None


def stop(folder: Path) -> None:
    """Stop the sidecars, then the servers, and remove all files. What has ended by itself is no error."""
    nodes = read(folder)
    _stop_sidecars([node for node in nodes if _runs(node)])
    for node in nodes:
        data_dir = Path(node.data_dir)
        stop_leftover(data_dir)
        shutil.rmtree(data_dir, ignore_errors=True)
        if not data_dir.is_relative_to(folder.resolve()) and data_dir.parent.is_dir():
            shutil.rmtree(data_dir.parent, ignore_errors=True)  # the temporary folder that was made for it
    shutil.rmtree(folder, ignore_errors=True)


def _runs(node: KeptNode) -> bool:
    """Whether the process is still that sidecar: a pid may have changed hands."""
    try:
        words = Path(f"/proc/{node.sidecar_pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return os.fsencode(node.config) in words and is_alive(node.sidecar_pid)


def _stop_sidecars(nodes: Sequence[KeptNode]) -> None:
    for node in nodes:
        os.kill(node.sidecar_pid, signal.SIGTERM)
    deadline = time.monotonic() + STOP_DEADLINE_S
    while left := [node for node in nodes if is_alive(node.sidecar_pid)]:
        if time.monotonic() > deadline:
            raise SidecarError(
                f"the sidecar of {left[0].name} (pid {left[0].sidecar_pid}) does not stop", mend="end it with kill -9"
            )
        time.sleep(POLL_S)
