"""What the tests start in the place of ``python -m sidecar.cli.main`` is a process like it."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sidecar.lab.cluster import COMMAND
from sidecar.lab.ports import HOST, free_port
from sidecar.lab.process import is_alive
from sidecar.lab.waiting import wait_until
from tests.prepared import Prepared, run, start

DEADLINE_S = 60.0

# Ends without a word to its child, as a run that is killed.
KILLED = """
import os, pathlib, sys
from tests.prepared import start
folder = pathlib.Path(sys.argv[1])
print(start(["run", "-c", "node.toml"], cwd=folder, env={}, output=folder / "log").pid, flush=True)
os.kill(os.getpid(), 9)
"""


@pytest.fixture
def waiting(tmp_path: Path) -> Path:
    """A folder with the file of a node that waits for its server until it is ended."""
    listen, dsn = f"{HOST}:{free_port()}", f"postgresql://postgres@{HOST}:{free_port()}/app"
    (tmp_path / "node.toml").write_text(f'[node]\nname = "a"\nid = 1\ndsn = "{dsn}"\nlisten = "{listen}"\n')
    return tmp_path


@pytest.mark.parametrize("arguments", [["--version"], ["run", "--help"], ["nonsense"], ["status"]], ids=" ".join)
def test_it_says_and_returns_the_same(tmp_path: Path, arguments: list[str]) -> None:
    env = {**os.environ, "COLUMNS": "100"}
    anew = subprocess.run(
        [*COMMAND, *arguments], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=DEADLINE_S, check=False
    )
    done = run(arguments, cwd=tmp_path, env=env, timeout_s=DEADLINE_S)
    assert (done.returncode, done.stdout, done.stderr) == (anew.returncode, anew.stdout, anew.stderr)


def test_the_environment_is_the_one_given(waiting: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIDECAR_NODE__LISTEN", "nowhere")
    done = run(["check"], cwd=waiting, env={"SIDECAR_NODE__ID": "many"}, timeout_s=DEADLINE_S)
    assert "SIDECAR_NODE__ID" in done.stderr
    assert "SIDECAR_NODE__LISTEN" not in done.stderr


async def begun(process: Prepared, log: Path) -> None:
    await wait_until(lambda: log.exists() and "cannot connect" in log.read_text(), DEADLINE_S, "it runs")
    assert process.poll() is None


async def test_it_is_killed_stopped_and_waited_for(waiting: Path) -> None:
    for number, status in ((signal.SIGKILL, -signal.SIGKILL), (signal.SIGTERM, 0)):
        log = waiting / f"log {number}"
        process = start(["run"], cwd=waiting, env={}, output=log)
        await begun(process, log)
        assert os.getsid(process.pid) == process.pid
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.01)
        process.send_signal(number)
        assert process.wait(DEADLINE_S) == process.returncode == status
        assert not is_alive(process.pid)
        process.kill()  # of one that has ended is nothing


async def test_it_does_not_outlive_the_tests(waiting: Path) -> None:
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", KILLED, str(waiting), stdout=subprocess.PIPE)
    output, _ = await asyncio.wait_for(process.communicate(), DEADLINE_S)
    assert process.returncode == -signal.SIGKILL
    pid = int(output)
    await wait_until(lambda: not is_alive(pid), DEADLINE_S, "it is gone")
