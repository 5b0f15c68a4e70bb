"""``sidecar status``: the node, its peers and tables, from the running sidecar or else from the database."""

from __future__ import annotations

import urllib.error
import urllib.request
from dataclasses import dataclass

import msgspec
import typer
from rich.console import Console

from sidecar.cli import console
from sidecar.cli.reports import reports
from sidecar.core.addresses import split_address
from sidecar.core.status import MergeStatus, StatusSnapshot, TableStatus
from sidecar.settings import Settings

ANSWER_SECONDS_MAX = 3.0
"""A running sidecar answers from memory within milliseconds; one that needs longer counts as not answering."""

ANSWER_BYTES_MAX = 16 * 1024 * 1024
"""Far above the status of a thousand peers and tables; bounds what a stranger on the port can make us read."""

ANY_HOSTS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  # nothing is bound: where a listener is asked


@dataclass(frozen=True, slots=True)
class Answer:
    """What the sidecar said, or why it did not."""

    snapshot: StatusSnapshot | None
    reason: str = ""


def command(config: console.ConfigOption = console.DEFAULT_CONFIG, json: console.JsonOption = False) -> None:
    """Show this node, its peers and its tables. Exit status 1 when the sidecar is not running.

    A running sidecar that listens for HTTP is asked; otherwise what the database knows is shown.
    """
    settings = console.settings_of(config)
    answer = ask(settings)
    if answer.snapshot is not None:
        if json:
            console.print_json({"running": True, "status": answer.snapshot})
        else:
            _print_snapshot(console.stdout(), answer.snapshot)
        return
    running = console.run_async(_from_database(settings, answer.reason, json=json))
    if not running:
        raise typer.Exit(console.EXIT_FAILED)


def ask(settings: Settings) -> Answer:
    """Ask the sidecar at ``http.listen``; never raises for a sidecar that is away."""
    if settings.http is None:
        return Answer(None, "the configuration has no [http] section to ask")
    host, port = split_address(settings.http.listen)
    host = ANY_HOSTS.get(host, host)
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}/status"
    # A proxy from the environment would be asked for its own loopback.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=ANSWER_SECONDS_MAX) as response:
            body = response.read(ANSWER_BYTES_MAX)
        snapshot = msgspec.json.decode(body, type=StatusSnapshot)
    except urllib.error.HTTPError as error:
        return Answer(None, f"{url} answers {error.code}")
    except OSError as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        text = reason.strerror if isinstance(reason, OSError) and reason.strerror else str(reason)
        return Answer(None, f"nothing answers at {url}: {text.lower()}")
    except (msgspec.DecodeError, ValueError):
        return Answer(None, f"what answers at {url} is no sidecar of this version")
    if (snapshot.node.id, snapshot.node.cluster) != (settings.node.id, settings.node.cluster):
        return Answer(None, f"at {url} another node answers: {snapshot.node.name} (id {snapshot.node.id})")
    return Answer(snapshot)


async def _from_database(settings: Settings, reason: str, *, json: bool) -> bool:
    """Print what the database knows; whether a sidecar is running (its slot is in use)."""
    async with reports(settings.node.dsn) as source:
        stored = await source.status()
    running = settings.http is None and stored.node.slot_active is True
    if not running:
        why = reason if settings.http else "its replication slot is not in use"
        console.note(f"warning: the sidecar is not running: {why}")
    if json:
        console.print_json({"running": running, "reason": reason, "database": stored})
        return running
    out = console.stdout()
    node = stored.node
    slot = {True: "in use", False: "not in use", None: "missing"}[node.slot_active]
    facts = [
        ("node", f"{node.name} (id {node.id}, cluster {node.cluster})"),
        ("slot", f"{node.slot or '-'} ({slot})"),
        ("captured up to", node.captured_lsn),
        ("not captured", console.size(node.lag_bytes)),
        ("conflicts", node.conflicts),
        ("quarantined rows", node.quarantined),
    ]
    out.print(console.table("Node (from the database)", ("what", "value"), facts))
    peers = [(p.name, p.id, console.age(p.lag_ms), p.unacknowledged_change_sets, p.last_error) for p in stored.peers]
    out.print(console.table("Peers", ("name", "id", "lag", "unacknowledged", "last error"), peers))
    _print_tables(out, stored.tables)
    return running


def _conflicts(merge: MergeStatus) -> str:
    rate = "" if merge.conflict_rate is None else f" ({merge.conflict_rate:.2%} of merged row changes)"
    return f"{merge.conflicts}{rate}"


def _print_snapshot(out: Console, snapshot: StatusSnapshot) -> None:
    node, capture, merge = snapshot.node, snapshot.capture, snapshot.merge
    retries = ", ".join(f"{cause} {count}" for cause, count in sorted(merge.retries.items()))
    facts = [
        ("node", f"{node.name} (id {node.id}, cluster {node.cluster}, version {node.version})"),
        ("capture", capture.state if capture.last_error is None else f"{capture.state}: {capture.last_error}"),
        ("capture lag", f"{console.age(capture.lag_ms)}, {console.size(capture.lag_bytes)}"),
        ("captured up to", capture.captured_lsn),
        ("captured", f"{capture.transactions} transactions in {capture.change_sets} change sets"),
        ("merged", f"{merge.rows} rows in {merge.change_sets} change sets, {merge.waiting_change_sets} waiting"),
        ("held", merge.held),
        ("conflicts", _conflicts(merge)),
        ("quarantined rows", merge.quarantined_rows),
        ("retries", retries or None),
        ("refused links", ", ".join(f"{c} {count}" for c, count in sorted(snapshot.refused_links.items())) or None),
        ("journal", console.size(snapshot.journal_bytes)),
    ]
    out.print(console.table("Node", ("what", "value"), facts))
    peers = [
        (
            peer.name,
            peer.id,
            peer.state,
            console.age(peer.lag_ms),
            peer.unacknowledged_change_sets,
            console.size(peer.bytes_in),
            console.size(peer.bytes_out),
            console.age(peer.round_trip_ms),
            console.age(peer.clock_offset_ms),
            peer.last_error,
        )
        for peer in snapshot.peers
    ]
    columns = ("name", "id", "state", "lag", "unacknowledged", "in", "out", "round trip", "clock offset", "last error")
    out.print(console.table("Peers", columns, peers))
    _print_tables(out, snapshot.tables)
    problems = [*snapshot.problems, *snapshot.unready(), *snapshot.unhealthy()]
    if problems:
        out.print(console.table("Problems", ("what is wrong",), [(line,) for line in problems]))


def _print_tables(out: Console, tables: tuple[TableStatus, ...] | list[TableStatus]) -> None:
    rows = [(t.name, t.row_rule, ", ".join(f"{c} {kind}" for c, kind in t.columns.items())) for t in tables]
    out.print(console.table("Tables", ("name", "row rule", "columns"), rows))
