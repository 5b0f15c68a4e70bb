"""README, ARCHITECTURE and docs/ say what the code does: commands, settings, words, metrics, names, links, examples."""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

from sidecar.cli import console
from sidecar.cli.main import COMMANDS, main
from sidecar.core.annotations import COLUMN_WORDS, DEFAULT_ROW_RULE, ROW_RULES
from sidecar.core.merge.state_tables import COLUMNS_MAX
from sidecar.core.status import StatusSnapshot, StatusSource
from sidecar.http.metrics import METRICS, StatusCollector
from sidecar.http.server import application
from sidecar.postgres.server_check import VERSION_MIN
from sidecar.settings import Settings, load

ROOT = Path(__file__).parents[2]
DOCUMENTS = (
    "README.md",
    "ARCHITECTURE.md",
    "docs/operations.md",
    "docs/protocol.md",
    "docs/choosing-types.md",
    "docs/conflicts.md",
    "docs/testing.md",
)
TEXTS = {name: ROOT.joinpath(name).read_text(encoding="utf-8") for name in DOCUMENTS}
README, ARCHITECTURE, OPERATIONS, PROTOCOL = (TEXTS[name] for name in DOCUMENTS[:4])

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
HEREDOC = re.compile(r"<<'TOML'\n(.*?)^TOML$", re.MULTILINE | re.DOTALL)
GROUPS = frozenset(c.name for c in COMMANDS if hasattr(importlib.import_module(c.module), "group"))
"""Commands with commands below them."""
SECTIONS_LISTED = ("node", "http", "limits", "timing")

# Praise says nothing; and what is not finished has no place in a published page.
FORBIDDEN = (
    r"seamless\w*|effortless\w*|blazing\w*|cutting.edge|world.class|best.in.class|revolutionary|game.chang\w*",
    r"powerful|leverag\w+|state.of.the.art|enterprise.grade|battle.tested|lightning|simply|obviously|of course",
    r"TODO|FIXME|TBD|lorem ipsum|@SETTINGS@|@METRICS@",
    r"/(?:home|root|work|Users)/\S*",
)


def rows(text: str, header: str) -> list[list[str]]:
    """The cells of the one Markdown table whose header row begins with ``header``."""
    place = text.index(f"| {header} |")
    lines = text[place:].split("\n\n", 1)[0].splitlines()[2:]
    assert lines, header
    return [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in lines]


def fences(text: str, language: str) -> list[str]:
    return [body for name, body in FENCE.findall(text) if name == language]


def code(text: str) -> Iterator[str]:
    """What stands in code: inline spans, and the lines of shell blocks."""
    for block in fences(text, "sh"):
        yield from block.splitlines()
    yield from re.findall(r"`([^`\n]+)`", FENCE.sub("", text))


def plain(cell: str) -> str:
    return cell.strip("`")


# -- commands ----------------------------------------------------------------------------------------------------------


def test_the_table_of_commands_is_the_command_line() -> None:
    listed = [plain(row[0]) for row in rows(README, "command | does")]
    assert listed == [f"sidecar {command.name}" for command in COMMANDS]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_commands_and_options_in_code_exist(
    document: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("NO_COLOR", "1")
    known = {command.name for command in COMMANDS}
    for line in code(TEXTS[document]):
        found = re.match(r"\s*(?:\S+/bin/)?sidecar ([a-z]+)\b(.*)", line)
        if found is None:
            continue
        assert found[1] in known, line
        options = re.findall(r"(?<!\S)(--?[a-z][a-z-]*)", found[2])
        if options:
            below = re.match(r" ([a-z]+)\b", found[2])
            main([found[1], *([below[1]] if found[1] in GROUPS and below else []), "--help"])
            shown = capsys.readouterr().out
            for option in options:
                assert re.search(rf"(?<![\w-]){option}(?![\w-])", shown), line


@pytest.mark.parametrize("document", DOCUMENTS)
def test_make_targets_in_code_exist(document: str) -> None:
    targets = set(re.findall(r"^([a-z][a-z -]*):", ROOT.joinpath("Makefile").read_text(), re.MULTILINE))
    names = {name for target in targets for name in target.split()}
    for line in code(TEXTS[document]):
        if found := re.match(r"make ([a-z-]+)", line):
            assert found[1] in names, line


def test_exit_statuses() -> None:
    assert [int(row[0]) for row in rows(README, "exit status | meaning")] == [
        console.EXIT_DONE,
        console.EXIT_FAILED,
        console.EXIT_USAGE,
        console.EXIT_INTERRUPTED,
    ]


# -- settings and words ------------------------------------------------------------------------------------------------


def _settings() -> list[tuple[str, str]]:
    """Every key with its default as the README writes it."""
    found = []
    for section in SECTIONS_LISTED:
        annotation = Settings.model_fields[section].annotation
        models = [m for m in (annotation, *getattr(annotation, "__args__", ())) if hasattr(m, "model_fields")]
        for key, field in models[0].model_fields.items():
            value = field.default
            text = "-" if field.is_required() else f"`{value}`" if isinstance(value, str) else str(value).lower()
            found.append((f"{section}.{key}", text))
    return found


def test_the_table_of_settings_equals_the_settings() -> None:
    table = rows(README, "setting | default | meaning")
    assert [(plain(row[0]), row[1]) for row in table] == _settings()
    assert all(row[2] for row in table)


def test_settings_named_in_the_text_exist() -> None:
    known = {key for key, _ in _settings()}
    for name, text in TEXTS.items():
        for key in re.findall(rf"`((?:{'|'.join(SECTIONS_LISTED)})\.[a-z_]+)`", text):
            if not key.endswith((".py", ".toml")):
                assert key in known, (name, key)


def test_the_tables_of_annotations_equal_the_words() -> None:
    words = {plain(row[0]): row[1] for row in rows(README, "word | column type | concurrent writes merge to")}
    assert words == {word: entry.types for word, entry in COLUMN_WORDS.items()}
    rules = [
        row[0].replace("`", "") for row in rows(README, "row rule, on the table | a delete against a concurrent write")
    ]
    assert rules == [f"row={rule}" + (" (default)" if rule == DEFAULT_ROW_RULE else "") for rule in ROW_RULES]


def test_limits_in_the_text_are_those_of_the_code() -> None:
    assert f"PostgreSQL {VERSION_MIN // 10_000} or newer" in README
    assert f"{COLUMNS_MAX} columns beside the key" in README


# -- HTTP --------------------------------------------------------------------------------------------------------------


class _Source:
    def snapshot(self) -> StatusSnapshot:
        raise AssertionError("nothing is scraped when the application is built")


class _Covered:
    async def until_covered(self, clock: dict[int, int], timeout_s: float) -> bool:
        raise AssertionError("nobody waits when the application is built")


def test_the_pages() -> None:
    pages = [route.path for route in application(cast(StatusSource, _Source()), _Covered()).routes]  # type: ignore[attr-defined]
    assert sorted(plain(row[0]) for row in rows(README, "page | answers")) == sorted(pages)


def _always_there() -> set[str]:
    """The metrics that are not in the table METRICS, by the names they are scraped under."""
    source = Path(StatusCollector.collect.__code__.co_filename).read_text()
    return set(re.findall(r'(?:MetricFamily|_histogram)\(\s*"(sidecar_\w+)"', source))


def test_the_table_of_metrics() -> None:
    documented = {plain(row[0]) for row in rows(README, "metric | meaning")}
    assert documented == {metric.name for metric in METRICS} | _always_there()
    for name in re.findall(r"\bsidecar_[a-z_]+\b", OPERATIONS):
        assert name in documented, name


# -- names -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("document", ["README.md", "docs/operations.md"])
def test_database_objects_in_the_text_are_made_by_the_migrations(document: str) -> None:
    made = "\n".join(path.read_text() for path in sorted(ROOT.joinpath("migrations").glob("*.sql")))
    for schema, name in re.findall(r"\b(crdt|crdt_state)\.([a-z_0-9]+)", TEXTS[document]):
        if schema == "crdt_state" and name == "journal_":
            continue  # partitions of the journal, made as they are needed
        assert re.search(rf"(?:TABLE|VIEW|FUNCTION) (?:IF NOT EXISTS )?{schema}\.{name}\b", made), f"{schema}.{name}"


def test_every_room_of_the_package_is_in_the_architecture() -> None:
    named = {plain(row[0]) for row in rows(ARCHITECTURE, "room | what is in it")}
    package = ROOT / "sidecar"
    folders = {str(path.parent.relative_to(ROOT)) for path in package.rglob("__init__.py")} - {"sidecar"}
    modules = {f"sidecar/{path.name}" for path in package.glob("*.py")} - {"sidecar/__init__.py"}
    assert folders | modules <= named
    assert named - folders - modules == {"`sql`, `migrations`".strip("`")}


def test_files_in_the_architecture_exist() -> None:
    for name in re.findall(r"`((?:\w+/)*\w+\.(?:py|sql|toml))`", ARCHITECTURE):
        assert ROOT.joinpath("sidecar", name).is_file() or ROOT.joinpath(name).is_file(), name


def test_the_tests_that_show_the_invariants_exist() -> None:
    table = rows(ARCHITECTURE, "invariant | held in | shown by")
    assert len(table) >= 12
    for _, held_in, shown_by in table:
        assert held_in
        shown = re.findall(r"`((?:tests/\S+\.py)?)::(\w+)`", shown_by)
        assert shown, shown_by
        file = ""
        for path, test in shown:
            file = path or file
            assert re.search(rf"^(?:async )?def {test}\(", ROOT.joinpath(file).read_text(), re.MULTILINE), (file, test)


# -- links and examples ------------------------------------------------------------------------------------------------


def _anchors(text: str) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_internal_links_resolve(document: str) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", FENCE.sub("", TEXTS[document])):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        path = ROOT.joinpath(document).parent.joinpath(name) if name else ROOT / document
        assert path.exists(), target
        if anchor:
            assert anchor in _anchors(path.read_text(encoding="utf-8")), target


def _toml_examples() -> list[str]:
    found = [body for text in TEXTS.values() for body in fences(text, "toml")]
    return found + [body for text in TEXTS.values() for body in HEREDOC.findall(text)]


@pytest.mark.parametrize("example", _toml_examples())
def test_toml_examples_are_configurations(example: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.upper().startswith("SIDECAR_")]:
        monkeypatch.delenv(name)
    for file in re.findall(r'= "(certs/[\w.-]+)"', example):
        path = tmp_path / file
        path.parent.mkdir(exist_ok=True)
        path.touch()
    path = tmp_path / "node.toml"
    path.write_text(example)
    assert load(path).peers


def test_there_are_examples_for_two_and_three_nodes() -> None:
    assert {example.count("[[peers]]") for example in _toml_examples()} == {1, 2}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_no_praise_no_gaps_no_pictograms(document: str) -> None:
    text = TEXTS[document]
    for pattern in FORBIDDEN:
        found = re.search(rf"(?<!\w)(?:{pattern})", text, re.IGNORECASE)
        assert found is None, found
    assert not re.search("[\u2600-\u27bf\ufe0f\U0001f000-\U0001faff]", text)


def test_the_licence_is_the_one_that_is_declared() -> None:
    assert 'license = "Apache-2.0"' in ROOT.joinpath("pyproject.toml").read_text()
    assert "Apache License\n                           Version 2.0" in ROOT.joinpath("LICENSE").read_text()
