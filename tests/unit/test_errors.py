"""The error tree: one line with its mend, an action for every error, and what a user sees of it."""

from __future__ import annotations

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st

from sidecar.cli import console
from sidecar.cli.main import main
from sidecar.errors import (
    Action,
    ApplyError,
    ConfigurationError,
    DirtyRowsError,
    FatalError,
    HeldError,
    LinkRefusedError,
    SidecarError,
    TransientError,
    UsageError,
    action_for,
)


class ServerError(Exception):
    """As a driver raises it."""

    def __init__(self, sqlstate: str | None) -> None:
        super().__init__("refused")
        self.sqlstate = sqlstate


@given(st.text(max_size=80), st.text(max_size=80))
def test_an_error_is_one_line(message: str, mend: str) -> None:
    line = SidecarError(message, mend=mend).line()
    assert len(line.splitlines()) <= 1
    assert line == line.strip()


def test_the_mend_follows_the_message() -> None:
    assert SidecarError("the slot\nis gone", mend="run  sidecar init").line() == "the slot is gone; run sidecar init"
    assert SidecarError("alone").line() == "alone"


@pytest.mark.parametrize(
    ("error", "action"),
    [
        (FatalError("x"), Action.FATAL),
        (ConfigurationError("x"), Action.FATAL),
        (DirtyRowsError("x"), Action.RETRY_NOW),
        (HeldError("x"), Action.RETRY_LATER),
        (TransientError("x"), Action.RETRY_LATER),
        (LinkRefusedError("x"), Action.RETRY_LATER),
        (ApplyError("x", sqlstate="40001"), Action.OPERATOR),
        (ConnectionResetError(), Action.RETRY_LATER),
        (TimeoutError(), Action.RETRY_LATER),
        (ServerError("40001"), Action.RETRY_NOW),
        (ServerError("40P01"), Action.RETRY_NOW),
        (ServerError("55P03"), Action.RETRY_NOW),
        (ServerError("55006"), Action.RETRY_LATER),
        (ServerError("57014"), Action.RETRY_NOW),
        (ServerError("57P01"), Action.RETRY_LATER),
        (ServerError("53100"), Action.RETRY_LATER),
        (ServerError("25006"), Action.RETRY_LATER),
        (ServerError("23505"), Action.OPERATOR),
        (ServerError("22003"), Action.OPERATOR),
        (ServerError("42501"), Action.OPERATOR),
        (ServerError("28P01"), Action.FATAL),
        (ServerError("3D000"), Action.FATAL),
        (ServerError("ZZ999"), Action.OPERATOR),
        (ServerError(None), Action.OPERATOR),
        (ValueError("x"), Action.OPERATOR),
    ],
)
def test_every_error_has_its_action(error: Exception, action: Action) -> None:
    assert action_for(error) is action


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (UsageError("wrong", mend="do it right"), 2, "error: wrong; do it right"),
        (ConfigurationError("bad key"), 2, "error: bad key"),
        (TransientError("gone"), 1, "error: gone"),
        (FatalError("two\nlines"), 1, "error: two lines"),
        (
            ValueError("one\ntwo"),
            1,
            "error: unexpected ValueError: one two; run again with SIDECAR_DEBUG=1 for the traceback",
        ),
        (KeyError(), 1, "error: unexpected KeyError; run again with SIDECAR_DEBUG=1 for the traceback"),
        (
            SidecarError("postgresql://u:secret@host/db is away"),
            1,
            "error: postgresql://u:***@host/db is away",
        ),
    ],
)
def test_the_command_line_shows_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, error: Exception, status: int, line: str
) -> None:
    monkeypatch.delenv("SIDECAR_DEBUG", raising=False)
    assert console.report(error) == status
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == line + "\n"


def test_the_traceback_is_there_for_those_who_ask(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIDECAR_DEBUG", "1")
    with pytest.raises(ValueError, match="secret") as caught:
        int("postgresql://u:secret@host/db")
    console.report(caught.value)
    shown = capsys.readouterr().err
    assert "Traceback" in shown
    assert "secret" not in shown


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "--nonsense"], "--nonsense"),
        (["nonsense"], "nonsense"),
        (["annotate"], "FILE"),
        (["conflicts", "--limit", "0"], "--limit"),
        (["conflicts", "--limit", "many"], "--limit"),
        (["conflicts", "--since", "yesterdayish"], "--since"),
        (["run", "--log-level", "loud"], "--log-level"),
        (["check", "-c", "/nowhere/node.toml"], "/nowhere/node.toml"),
        (["init", "-c", "/nowhere/node.toml"], "/nowhere/node.toml"),
        (["run", "-c", "/nowhere/node.toml"], "/nowhere/node.toml"),
        (["status", "-c", "/nowhere/node.toml"], "/nowhere/node.toml"),
        (["annotate", "/nowhere/schema.sql"], "/nowhere/schema.sql"),
    ],
)
def test_bad_usage_is_one_line_and_status_2(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, arguments: list[str], words: str
) -> None:
    monkeypatch.delenv("SIDECAR_NODE__NAME", raising=False)
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert words in captured.err


@pytest.mark.parametrize(("raised", "status"), [(KeyboardInterrupt(), 130), (typer.Abort(), 130), (OSError("x"), 1)])
def test_interruption_and_surprises(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, raised: BaseException, status: int
) -> None:
    def fail(config: object) -> None:
        raise raised

    monkeypatch.setattr(console, "settings_of", fail)
    assert main(["check"]) == status
    shown = capsys.readouterr().err
    assert shown.count("\n") == (0 if status == 130 else 1)
    assert "Traceback" not in shown


def test_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("sidecar ")
    assert main([]) == 2
    captured = capsys.readouterr()
    assert "Usage: sidecar" in captured.out
    assert captured.err == "error: no command was given; name one of those above\n"


@pytest.mark.parametrize("command", ["check", "annotate", "init", "run", "status", "conflicts", "demo", "bench"])
def test_each_help_has_an_example(capsys: pytest.CaptureFixture[str], command: str) -> None:
    assert main([command, "--help"]) == 0
    shown = capsys.readouterr().out
    assert f"Example: sidecar {command}" in shown
