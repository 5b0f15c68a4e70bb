"""The command line starts fast: each command imports what it needs, and the list of all says what each one says."""

from __future__ import annotations

import gc
import importlib
import subprocess
import sys

import pytest

from sidecar.cli import run
from sidecar.cli.main import COMMANDS

LOADED = """
import sys
from sidecar.cli.main import main
status = main(sys.argv[1:])
HEAVY = ("psycopg", "asyncpg", "sqlglot", "pydantic_settings", "uvicorn", "sidecar.lab")
found = [name for name in HEAVY if name in sys.modules]
print("loaded:", *found)
sys.exit(status)
"""


def loaded_by(*arguments: str) -> set[str]:
    done = subprocess.run([sys.executable, "-c", LOADED, *arguments], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split()[1:])


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_the_list_of_commands_says_what_each_one_says(command) -> None:  # type: ignore[no-untyped-def]
    summary = importlib.import_module(command.module).command.__doc__.split("\n\n")[0]
    assert " ".join(summary.split()) == command.summary


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["run", "--help"]], ids=" ".join)
def test_help_loads_neither_drivers_nor_parsers(arguments: list[str]) -> None:
    # A module's own imports at its top count here, so this is what keeps the way to "run" short.
    assert loaded_by(*arguments) == set()


def test_a_running_node_does_without_the_ddl_parser() -> None:
    code = "import sys, sidecar.app; print('sqlglot' in sys.modules, 'typer' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_garbage_collection_is_spared() -> None:
    before = gc.get_threshold()
    gc.unfreeze()  # the tests have done the same
    try:
        run._spare_garbage_collection()
        assert gc.get_threshold() == run.GC_THRESHOLDS
        assert gc.get_freeze_count() > 10_000
    finally:
        gc.set_threshold(*before)
