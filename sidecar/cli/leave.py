"""``sidecar leave``: take this node out of its cluster in good order, and the sidecar out of its database."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

import psycopg
import typer

from sidecar.cli import console, logs, progress
from sidecar.core.membership import former_line
from sidecar.errors import ConfigurationError, SidecarError
from sidecar.postgres.admin import connect
from sidecar.postgres.detach import check_dependents, departure, detach
from sidecar.postgres.requests import Answer, Report, Requests
from sidecar.settings import Settings


def command(
    config: console.ConfigOption = console.DEFAULT_CONFIG,
    timeout: Annotated[float, typer.Option(min=1, max=86400, help="Seconds to wait for the other nodes.")] = 60.0,
    force: Annotated[
        bool, typer.Option("--force", help="Leave also without the nodes that are away, or that took this one off.")
    ] = False,
    keep_state: Annotated[
        bool, typer.Option("--keep-state", help="Keep the schemas crdt and crdt_state, to read them.")
    ] = False,
    json: console.JsonOption = False,
) -> None:
    """Take this node out of the cluster in good order, and the sidecar out of its database. Safe to run again.

    Works while sidecar run runs, which ends then, or in its place. First every other node gets everything that was
    committed here; then they are told, and keep nothing for this node any longer. Slot, publication and state are
    dropped; tables, rows, comments and crdt.uuidv7() stay. What is committed here from then on stays here. When a node
    is away, nothing is done after the timeout and exit status is 1.
    """
    settings = console.settings_of(config)
    with progress.lacking("leaving") as report:
        answer, done = console.run_async(
            _leave(settings, force=force, keep_state=keep_state, seconds=timeout, report=report)
        )
    if json:
        facts = {"node": settings.node.name, "id": settings.node.id, "left": answer.done, "text": answer.text}
        console.print_json({**facts, "done": done})
    elif answer.done:
        console.fact("; ".join([answer.text, *done]))
    if not answer.done:
        raise SidecarError(answer.text, mend=answer.mend)


async def _leave(
    settings: Settings, *, force: bool, keep_state: bool, seconds: float, report: Report
) -> tuple[Answer, list[str]]:
    async with await connect(settings.node.dsn, autocommit=True) as conn:
        requests = Requests(conn)
        own = await requests.own()
        if own is None:
            return await _gone(requests), []
        if own.id != settings.node.id:
            raise ConfigurationError(f"this database belongs to node {own.id}", mend="correct id or dsn in [node]")
        if not keep_state:
            await check_dependents(conn)
        if await departure(conn) == "left":
            answer = Answer(True, f"{own.name} (node {own.id}) has left before", "")
        else:
            answer = await _ask(conn, settings, force=force, seconds=seconds, report=report)
        if not answer.done:
            return answer, []
        report("taking the sidecar out of the database", 0)
        return answer, await detach(conn, keep_state=keep_state)


async def _gone(requests: Requests) -> Answer:
    """There is no node here: because it left before?"""
    former = await requests.former()
    if former is None:
        raise ConfigurationError("this database is not attached to a node", mend="there is nothing to leave")
    return Answer(True, f"{former_line(*former)}; nothing to do", "")


async def _ask(
    conn: psycopg.AsyncConnection[Any], settings: Settings, *, force: bool, seconds: float, report: Report
) -> Answer:
    """Let the running sidecar do it, or run the node here for as long as it takes."""
    requests = Requests(conn)
    running = await requests.is_running()
    asked = await requests.ask("leave", settings.node.id, forced=force, seconds=seconds)
    if running:
        return await requests.follow(asked, seconds=seconds, report=report)
    try:
        return await _in_place(settings, requests, asked, seconds=seconds, report=report)
    except SidecarError as error:
        if not force:
            raise
        return Answer(True, f"the others could not be told ({error.message}): run sidecar remove there", "")


async def _in_place(settings: Settings, requests: Requests, asked: int, *, seconds: float, report: Report) -> Answer:
    from sidecar.node.node import Node

    logs.configure(logs.LogLevel.ERROR, logs.LogFormat.AUTO, node=settings.node.name)
    report("starting the node, to leave with it", None)
    node = Node(settings, leaving=True)
    node.listen()
    running = asyncio.create_task(node.run(), name="node")
    following = asyncio.create_task(requests.follow(asked, seconds=seconds, report=report), name="request")
    try:
        await asyncio.wait({running, following}, return_when=asyncio.FIRST_COMPLETED)
        if not following.done():
            running.result()  # its error, if it did not end because it has left
        answer = await following
        if answer.done:
            await running
        return answer
    finally:
        for task in (running, following):
            task.cancel()
        await asyncio.wait({running, following})
