"""The demo: it proves what it says, it fails when it must, and a kept one can be stopped."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import psycopg
import pytest

from sidecar.cli import demo_tables
from sidecar.cli.main import main
from sidecar.lab.binaries import ENVIRONMENT_BIN, ENVIRONMENT_MAJOR
from sidecar.lab.demo import Outcome, Times
from sidecar.lab.demo_kept import KeptNode
from sidecar.lab.demo_lag import Sample, percentile
from sidecar.lab.demo_proof import TABLES, NodeFacts, judge
from sidecar.lab.process import is_alive
from sidecar.lab.workload import Cell, Ledger

COMMAND = (sys.executable, "-m", "sidecar.cli.main", "demo")
RUN_SECONDS_MAX = 120  # a hang fails; set-up takes 5 s and writing 4 s on an idle machine


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments], capture_output=True, text=True, timeout=RUN_SECONDS_MAX, check=False, env=os.environ
    )


def test_three_regions_converge_through_a_cut() -> None:
    done = run("--seconds", "4", "--seed", "7")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    for table in TABLES:
        found = re.search(
            rf"^ {table} +[\d,]+ +([0-9a-f]{{12}}) +([0-9a-f]{{12}}) +([0-9a-f]{{12}}) +equal", done.stdout, re.M
        )
        assert found, done.stdout
        assert len(set(found.groups())) == 1
    for counter in ("posts.likes", "posts.views", "stock.quantity"):
        found = re.search(rf"^ {counter} +[\d,]+ +([\d,]+) +([\d,]+) +([\d,]+) +([\d,]+) +exact", done.stdout, re.M)
        assert found, done.stdout
        assert len(set(found.groups())) == 1
    conflicts = re.search(r"Conflicts: (\d+) concurrent", done.stdout)
    assert conflicts
    assert int(conflicts[1]) > 0, "both sides of the cut wrote the same profiles"
    assert "PROVEN" in done.stdout


def test_a_kept_demo_goes_on_and_can_be_stopped() -> None:
    done = run("--keep", "--seconds", "3", "--seed", "7")
    found = re.search(r"sidecar demo --stop (\S+)", done.stdout)
    assert found, done.stdout + done.stderr
    folder = Path(found[1])
    nodes = [KeptNode(**node) for node in json.loads((folder / "demo.json").read_text())]
    try:
        assert done.returncode == 0, done.stdout
        assert all(is_alive(node.sidecar_pid) for node in nodes)
        with psycopg.connect(nodes[1].dsn) as connection:
            connection.execute("UPDATE stock SET quantity = quantity - 1 WHERE sku = 'sku-00'")
    finally:
        stopped = run("--stop", str(folder))
    assert stopped.returncode == 0, stopped.stderr
    assert not folder.exists()
    assert not any(Path(node.data_dir).exists() for node in nodes)
    assert not any(is_alive(node.sidecar_pid) for node in nodes)
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(nodes[0].dsn)
    again = run("--stop", str(folder))
    assert (again.returncode, again.stdout, again.stderr.count("\n")) == (2, "", 1)
    assert "no kept demo" in again.stderr


def test_without_a_server_there_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(ENVIRONMENT_BIN, raising=False)
    monkeypatch.delenv(ENVIRONMENT_MAJOR, raising=False)
    monkeypatch.setattr("sidecar.lab.binaries.installed", lambda major: None)
    assert main(["demo"]) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert "pip install 'pg-active-sidecar[lab]'" in captured.err


# -- the judgement ---------------------------------------------------------------------------------------------------


def books() -> Ledger:
    """One post that was kept, one that was deleted, one article."""
    ledger = Ledger(kept=["p1"], deleted={"p2"})
    for post in ("p1", "p2"):
        for column in ("likes", "views"):
            ledger.start("posts", post, column, 0)
    ledger.start("stock", "s1", "quantity", 100)
    ledger.add("posts", "p1", "likes", 3)
    ledger.add("posts", "p2", "likes", 1)
    ledger.add("stock", "s1", "quantity", -2)
    ledger.put("carts", "c1", "items", "s1", 2)
    ledger.put("carts", "c1", "items", "s1", 1)
    ledger.put("posts", "p1", "tags", "calm")
    return ledger


def node(
    name: str, *, posts_sum: str = "aa", quarantined: int = 0, cart: int = 2, tag: str = "calm", **changed: int | None
) -> NodeFacts:
    """What a node should hold; ``changed`` by ``<key>_<column>``, ``None`` takes the cell away."""
    cells: dict[Cell, int] = {
        ("posts", "p1", "likes"): 3,
        ("posts", "p1", "views"): 0,
        ("stock", "s1", "quantity"): 98,
    }
    for word, value in changed.items():
        key, _, column = word.partition("_")
        cell = ("stock" if column == "quantity" else "posts", key, column)
        cells.pop(cell, None)
        if value is not None:
            cells[cell] = value
    sums = {**dict.fromkeys(TABLES, "bb"), "posts": posts_sum}
    elements = {("carts", "c1", "items"): {"s1": cart}, ("posts", "p1", "tags"): {tag: 1}}
    return NodeFacts(name, sums, dict.fromkeys(TABLES, 1), cells, elements, quarantined=quarantined)


def test_equal_nodes_with_exact_counters_hold() -> None:
    proof = judge(books(), [node("a"), node("b"), node("c")])
    assert proof.problems == []
    assert [(c.column, c.increments, c.expected) for c in proof.counters] == [
        ("posts.likes", 2, 3),
        ("posts.views", 0, 0),
        ("stock.quantity", 1, 98),
    ]


def test_a_deleted_post_may_be_back_with_its_whole_count() -> None:
    back = [node(name, p2_likes=1, p2_views=0) for name in "abc"]
    assert judge(books(), back).holds
    assert not judge(books(), [node(name, p2_likes=0, p2_views=0) for name in "abc"]).holds


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (node("c", posts_sum="ab"), "table posts differs"),
        (node("c", p1_likes=4), "posts.likes is wrong in 1 rows: 3 by the writers' books, a 3, b 3, c 4"),
        (node("c", s1_quantity=97), "stock.quantity is wrong in 1 rows"),
        (node("c", p1_likes=None, p1_views=None), "c lost 1 posts"),
        (node("c", p3_likes=0, p3_views=0), "c has 1 posts that nobody wrote"),
        (node("c", quarantined=2), "c quarantined 2 rows"),
        (node("c", cart=1), "carts c1 items: {'s1': 1}, must be {'s1': 2}"),
        (node("c", tag="dusk"), "posts p1 tags: {'dusk': 1}, must be {'calm': 1}"),
    ],
)
def test_one_difference_fails(wrong: NodeFacts, words: str) -> None:
    proof = judge(books(), [node("a"), node("b"), wrong])
    assert not proof.holds
    assert any(words in line for line in proof.problems), proof.problems


def test_equal_nodes_that_are_all_off_by_one_fail() -> None:
    assert not judge(books(), [node(name, p1_views=1) for name in "abc"]).holds


@pytest.mark.parametrize(("likes", "status"), [(3, 0), (4, 1)])
def test_the_exit_status_follows_the_proof(monkeypatch: pytest.MonkeyPatch, likes: int, status: int) -> None:
    facts = [node("a"), node("b"), node("c", p1_likes=likes)]

    async def outcome(*_words: object, **_named: object) -> Outcome:
        return Outcome(judge(books(), facts), facts, {}, [], Times(), {})

    monkeypatch.setattr("sidecar.cli.demo._run", outcome)
    assert main(["demo"]) == status


def test_refused_statements_of_the_application_fail_too() -> None:
    proof = judge(books(), [node("a"), node("b"), node("c")])
    assert Outcome(proof, [], {}, [], Times(), {"a": Counter()}).problems == []
    errors = {"a": Counter({"40P01 deadlock detected": 1})}
    assert "40P01" in Outcome(proof, [], {}, [], Times(), errors).problems[0]


# -- measuring -------------------------------------------------------------------------------------------------------


def test_nearest_rank_percentiles() -> None:
    values = [float(n) for n in range(100, 0, -1)]
    assert (percentile(values, 0.5), percentile(values, 0.99), percentile(values, 1.0)) == (50.0, 99.0, 100.0)
    assert percentile([7.0], 0.5) == 7.0
    assert percentile([], 0.5) is None


def test_lags_of_the_cut_are_kept_apart() -> None:
    times = Times(cut=10.0, healed=15.0, caught_up=16.0)
    samples = [Sample("a", "b", *moments) for moments in ((9.0, 9.01), (9.9, 15.5), (12.0, 15.5), (16.5, 16.52))]
    outcome = Outcome(judge(books(), [node("a"), node("b")]), [], {}, samples, times, {})
    assert [round(value) for value in outcome.lags_ms("a", "b", whole=True)] == [10, 20]
    assert len(outcome.lags_ms("a", "b", whole=False)) == 2
    assert outcome.lags_ms("b", "a", whole=True) == []


def test_what_a_value_shows_is_short_and_printable() -> None:
    assert demo_tables.quoted(None) == "NULL"
    assert demo_tables.quoted("Oslo") == "'Oslo'"
    assert "\x1b" not in demo_tables.quoted("\x1b[31m")
    assert len(demo_tables.quoted("x" * 100)) <= demo_tables.VALUE_CHARACTERS + 2
