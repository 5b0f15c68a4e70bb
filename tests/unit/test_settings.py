"""Configuration: what is accepted, what wins, and that every mistake is one line that names its place."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.core.addresses import duration_ms
from sidecar.errors import ConfigurationError
from sidecar.settings import Settings, is_loopback, load, redact_dsn, split_address

SECRET = "open-sesame"

NODE = f"""
[node]
name = "us-east"
id = 1
dsn = "postgresql://sidecar:{SECRET}@127.0.0.1:5432/app"
"""
PEER = """
[[peers]]
name = "eu-west"
address = "127.0.0.1:7102"
"""
INSECURE = NODE + "insecure = true\n" + PEER


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.upper().startswith("SIDECAR_"):
            monkeypatch.delenv(name)


@pytest.fixture
def write(tmp_path: Path):
    def _write(text: str, name: str = "node.toml") -> Path:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return _write


def line_of(path: Path) -> str:
    with pytest.raises(ConfigurationError) as caught:
        load(path)
    line = caught.value.line()
    assert "\n" not in line
    assert SECRET not in line
    return line


def test_the_least_file(write) -> None:
    settings = load(write(NODE))
    assert (settings.node.name, settings.node.id, settings.node.cluster) == ("us-east", 1, "default")
    assert settings.peers == ()
    assert settings.http is None
    assert settings.tls is None
    assert settings.timing.max_clock_drift_ms == 500


def test_the_full_file(write, tmp_path: Path) -> None:
    for name in ("ca.pem", "us-east.pem", "us-east.key"):
        (tmp_path / name).touch()
    tls = '[http]\n[tls]\nca = "ca.pem"\ncert = "us-east.pem"\nkey = "us-east.key"\n'
    settings = load(write(NODE + 'listen = "0.0.0.0:7101"\n' + PEER + tls))
    assert settings.http is not None
    assert settings.http.listen == "127.0.0.1:8101"
    assert settings.tls is not None
    # Relative to the file, wherever the process stands.
    assert settings.tls.cert == tmp_path / "us-east.pem"
    assert not settings.node.insecure


@pytest.mark.parametrize(
    "text",
    [
        INSECURE,
        "insecure = true\n" + NODE + PEER,
        NODE + PEER + "[tls]\ninsecure = true\n",
    ],
)
def test_insecure_is_found_at_three_places(write, text: str) -> None:
    settings = load(write(text))
    assert settings.node.insecure
    assert settings.tls is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("max_clock_drift = 750\n" + NODE, 750),
        ('max_clock_drift = "750ms"\n' + NODE, 750),
        (NODE + 'max_clock_drift = "2s"\n', 2000),
        (NODE + "[timing]\nmax_clock_drift_ms = 750\n", 750),
        (NODE + '[timing]\nmax_clock_drift_ms = "1.5s"\n', 1500),
    ],
)
def test_max_clock_drift_has_aliases_and_units(write, text: str, expected: int) -> None:
    assert load(write(text)).timing.max_clock_drift_ms == expected


@pytest.mark.parametrize(
    ("text", "where", "what"),
    [
        ("", "node:", "is missing"),
        ("x = 1\n" + NODE, "'x'", "unknown section or key"),
        ("node = 5\n", "node:", "must be a section"),
        (NODE + "[limits]\nbatch_rows_max = 0\n", "limits.batch_rows_max:", "greater than"),
        (NODE + "[limits]\nbatch_rows = 1\n", "limits.batch_rows:", "not a known key"),
        (NODE + "color = 1\n", "node.color:", "not a known key"),
        (NODE.replace("id = 1", 'id = "one"'), "node.id:", "whole number"),
        (NODE.replace("id = 1", "id = true"), "node.id:", "whole number"),
        (NODE.replace("id = 1", "id = 1.5"), "node.id:", "whole number"),
        (NODE.replace("id = 1", "id = 0"), "node.id:", "greater than or equal to 1"),
        (NODE.replace("id = 1", "id = 1024"), "node.id:", "less than or equal to 1023"),
        (NODE.replace("id = 1\n", ""), "node.id:", "is missing"),
        (NODE.replace('"us-east"', "5"), "node.name:", "string in quotes"),
        (NODE.replace("us-east", "US East"), "node.name:", "a-z"),
        (NODE.replace("us-east", "x" * 64), "node.name:", "63"),
        (NODE.replace("postgresql://", "mysql://"), "node.dsn:", "postgresql://"),
        (NODE.replace(":5432", ":5432x"), "node.dsn:", "port"),
        (NODE + 'cluster = ""\n', "node.cluster:", "must be 1 to 63 of"),
        (NODE + 'insecure = "perhaps"\n', "node.insecure:", "true or false"),
        (NODE + 'listen = "7101"\n', "node.listen:", "host:port"),
        (NODE + 'listen = "::1:7101"\n', "node.listen:", "brackets"),
        (NODE + 'listen = "127.0.0.1:0"\n', "node.listen:", "1 to 65535"),
        (NODE + 'listen = "127.0.0.1:65536"\n', "node.listen:", "1 to 65535"),
        (NODE + '[http]\nlisten = "127.0.0.1:99999"\n', "http.listen:", "1 to 65535"),
        (NODE + '[http]\nlisten = "127.0.0.1:7101"\n', "http.listen:", "taken by node.listen"),
        (NODE + '[peers]\nname = "b"\naddress = "127.0.0.1:1"\n', "peers:", "[[peers]]"),
        (INSECURE.replace("7102", "port"), "peers.0.address:", "host:port"),
        (INSECURE.replace("eu-west", "us-east"), "peers:", "own name"),
        (INSECURE.replace("7102", "7101"), "peers:", "own address"),
        (INSECURE + PEER, "peers:", "twice"),
        (INSECURE + PEER.replace("eu-west", "ap"), "peers:", "twice"),
        (INSECURE + "[limits]\npeers_max = 1\n" + PEER.replace("eu-west", "ap").replace("7102", "7103"), "peers:", "2"),
        (INSECURE.replace("127.0.0.1:7102", "10.0.0.9:7102"), "peers.0.address:", "not a loopback"),
        (INSECURE.replace("127.0.0.1:7102", "db.example:7102"), "peers.0.address:", "not a loopback"),
        (NODE + 'insecure = true\nlisten = "0.0.0.0:7101"\n', "node.listen:", "not a loopback"),
        (NODE + PEER, "tls:", "insecure = true"),
        (NODE + PEER + "[tls]\n", "tls.ca:", "is missing"),
        (NODE + '[tls]\nca = "a"\ncert = "b"\nkey = "c"\n', "tls.ca:", "does not exist"),
        (NODE + '[tls]\nca = 1\ncert = "b"\nkey = "c"\n', "tls.ca:", "must be"),
        (NODE + '[tls]\ninsecure = true\nca = "a"\ncert = "b"\nkey = "c"\n', "node.insecure:", "keep one"),
        ("insecure = true\n" + NODE + "insecure = true\n", "insecure:", "twice"),
        ('max_clock_drift = "soon"\n' + NODE, "timing.max_clock_drift_ms:", "500ms"),
        ("max_clock_drift = 0\n" + NODE, "timing.max_clock_drift_ms:", "greater"),
        (NODE + "[timing]\nheartbeat_ms = 5000\n", "timing.link_silent_ms:", "heartbeat_ms"),
        (NODE + "[limits]\nframe_bytes_max = 65536\n", "limits.frame_bytes_max:", "batch_bytes_max"),
        ("[node\n", "is not valid TOML", "line 1"),
    ],
)
def test_a_mistake_is_one_line_with_file_and_key(write, text: str, where: str, what: str) -> None:
    path = write(text)
    line = line_of(path)
    assert str(path) in line
    assert where in line
    assert what in line


def test_further_mistakes_are_counted(write) -> None:
    assert "(and 1 more)" in line_of(write(NODE.replace("id = 1", "id = 0").replace("us-east", "US")))


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    assert "does not exist" in line_of(tmp_path / "none.toml")
    assert "cannot read" in line_of(tmp_path)
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    assert "UTF-8" in line_of(tmp_path / "binary.toml")


def test_the_environment_wins_over_the_file(write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIDECAR_NODE__DSN", "postgresql://other@127.0.0.1/app")
    monkeypatch.setenv("SIDECAR_NODE__ID", "7")
    monkeypatch.setenv("SIDECAR_HTTP__LISTEN", "127.0.0.1:8199")
    monkeypatch.setenv("SIDECAR_LIMITS__BATCH_ROWS_MAX", "123")
    monkeypatch.setenv("SIDECAR_TIMING__MAX_CLOCK_DRIFT_MS", "2s")
    monkeypatch.setenv("SIDECAR_PEERS", '[{"name": "ap", "address": "127.0.0.1:7103"}]')
    # Not keys of the file: other programs' variables with the same beginning.
    monkeypatch.setenv("SIDECAR_CONFIG", "elsewhere.toml")
    monkeypatch.setenv("SIDECAR_DEBUG", "1")
    settings = load(write("max_clock_drift = 9\n" + INSECURE))
    assert (settings.node.name, settings.node.id) == ("us-east", 7)
    assert settings.node.dsn == "postgresql://other@127.0.0.1/app"
    assert settings.http is not None
    assert settings.http.listen == "127.0.0.1:8199"
    assert settings.limits.batch_rows_max == 123
    assert settings.timing.max_clock_drift_ms == 2000
    assert [peer.name for peer in settings.peers] == ["ap"]


@pytest.mark.parametrize("variable", ["SIDECAR_NODE__INSECURE", "SIDECAR_TLS__INSECURE", "sidecar_node__insecure"])
def test_insecure_from_the_environment(write, monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setenv(variable, "true")
    assert load(write(NODE + PEER)).node.insecure


def test_the_environment_takes_insecure_back(write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIDECAR_NODE__INSECURE", "false")
    assert "insecure" in line_of(write("insecure = true\n" + NODE + PEER))


def test_the_environment_alone_is_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIDECAR_NODE__NAME", "us-east")
    monkeypatch.setenv("SIDECAR_NODE__ID", "1")
    monkeypatch.setenv("SIDECAR_NODE__DSN", "postgresql:///app?host=/run/postgresql")
    assert load(tmp_path / "none.toml").node.name == "us-east"


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("SIDECAR_NODE__ID", "0"),
        ("SIDECAR_NODE__ID", "one"),
        ("SIDECAR_NODE__NMAE", "us-east"),
        ("SIDECAR_NODE__DSN", f"host=127.0.0.1 password={SECRET}"),
        ("SIDECAR_NODE__DSN", f"postgresql://u:{SECRET}@[::1/app"),
        ("SIDECAR_NODE__DSN", f"postgresql://u:{SECRET}@host:port/app"),
        ("SIDECAR_NODE__LISTEN", "0.0.0.0:7101"),
        ("SIDECAR_NODE__MAX_CLOCK_DRIFT", "soon"),
        ("SIDECAR_HTTP__LISTEN", "8101"),
        ("SIDECAR_TLS__CA", "/nowhere/ca.pem"),
        ("SIDECAR_LIMITS__PEERS_MAX", "0"),
        ("SIDECAR_PEERS", "[oops"),
        ("SIDECAR_PEERS", '[{"name": "eu-west", "address": "127.0.0.1"}]'),
        ("SIDECAR_NODES__ID", "1"),
    ],
)
def test_a_mistake_in_the_environment_names_the_variable(
    write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    if variable == "SIDECAR_TLS__CA":
        (tmp_path / "b").touch()
        text = NODE + PEER + '[tls]\nca = "b"\ncert = "b"\nkey = "b"\n'
    else:
        text = INSECURE
    monkeypatch.setenv(variable, value)
    line = line_of(write(text))
    assert line.startswith(f"{variable}:")
    assert "node.toml" not in line


def test_passwords_are_in_no_representation(write) -> None:
    settings = load(write(NODE))
    assert SECRET in settings.node.dsn
    assert SECRET not in repr(settings)
    assert SECRET not in str(settings.node)


def test_settings_can_be_built_without_a_file() -> None:
    node = {"name": "a", "id": 1, "dsn": "postgresql://a@127.0.0.1/app", "insecure": True}
    assert Settings(node=node, peers=[{"name": "b", "address": "127.0.0.1:7102"}]).peers[0].name == "b"


@pytest.mark.parametrize(
    "dsn",
    [
        f"postgresql://u:{SECRET}@host:5432/db",
        f"postgresql://u:{SECRET}@h1:1,h2:2/db?sslmode=require",
        f"postgres://:{SECRET}@host/db",
        f"postgresql://u:p@{SECRET}/x@host/db",
        f"postgresql://host/db?user=u&password={SECRET}&sslmode=require",
        f"host=h password={SECRET} dbname=db",
        f"host=h password = '{SECRET} with \\' quote {SECRET}' dbname=db",
        f"cannot connect: postgresql://u:{SECRET}@host/db: refused",
    ],
)
def test_redact_dsn_hides_every_password(dsn: str) -> None:
    shown = redact_dsn(dsn)
    assert SECRET not in shown
    assert "***" in shown


@pytest.mark.parametrize("text", ["postgresql://u@host:5432/db", "nothing secret", "a: b@c"])
def test_redact_dsn_leaves_the_rest_alone(text: str) -> None:
    assert redact_dsn(text) == text


@given(st.from_regex(r"[a-zA-Z0-9!$%&'()*+,;=:@/?#~._-]{4,20}", fullmatch=True), st.sampled_from(["db", "a/b"]))
def test_redact_dsn_with_any_password(password: str, rest: str) -> None:
    marked = f"<{password}>"
    assert marked not in redact_dsn(f"postgresql://user:{marked}@host/{rest}")


@pytest.mark.parametrize(
    ("text", "expected"), [("500ms", 500), ("1.5s", 1500), ("10m", 600_000), ("1h", 3_600_000), (" 7 d ", 604_800_000)]
)
def test_durations(text: str, expected: int) -> None:
    assert duration_ms(text) == expected


@pytest.mark.parametrize("text", ["", "5", "ms", "-1s", "1w", "1 h 5 m"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="unit"):
        duration_ms(text)


def test_addresses() -> None:
    assert split_address("[::1]:80") == ("::1", 80)
    assert split_address("localhost:80") == ("localhost", 80)
    assert [is_loopback(host) for host in ("localhost", "127.9.9.9", "::1", "0.0.0.0", "10.0.0.1", "db")] == (
        [True, True, True, False, False, False]
    )


def test_a_wrong_clock_is_for_experiments_and_bounded(write) -> None:
    assert load(write(NODE)).lab.clock_skew_ms == 0
    assert load(write(NODE + "[lab]\nclock_skew_ms = -400\n")).lab.clock_skew_ms == -400
    assert "lab.clock_skew_ms: must be less than or equal to 316224000000" in line_of(
        write(NODE + "[lab]\nclock_skew_ms = 316224000001\n")
    )
