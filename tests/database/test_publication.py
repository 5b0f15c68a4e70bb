"""Somebody alters the publication while a node runs: it is put right at the next look, and what was lost is told."""

from __future__ import annotations

from collections.abc import AsyncIterator

import psycopg
import pytest

from sidecar.postgres.admin import connect
from sidecar.postgres.attach import initialise
from sidecar.postgres.catalogue_session import CatalogueSession
from sidecar.postgres.problem import Problem
from sidecar.settings import NodeSettings, Settings

TABLES = """
CREATE TABLE posts (id int PRIMARY KEY, title text); COMMENT ON TABLE posts IS '@crdt';
CREATE TABLE stock (id int PRIMARY KEY, amount int); COMMENT ON TABLE stock IS '@crdt';
"""
WHOLE = """
SELECT p.pubinsert AND p.pubupdate AND p.pubdelete AND p.pubtruncate,
       (SELECT array_agg(r.prrelid::regclass::text ORDER BY r.prrelid) FROM pg_publication_rel AS r
        WHERE r.prpubid = p.oid AND coalesce(to_jsonb(r) ->> 'prqual', to_jsonb(r) ->> 'prattrs') IS NULL)
FROM pg_publication AS p WHERE p.pubname = 'crdt'
"""


class Lab:
    """An attached database, the running node's view of it, and somebody who interferes."""

    def __init__(self, view: CatalogueSession, somebody: psycopg.AsyncConnection[tuple[object, ...]]) -> None:
        self.view = view
        self.somebody = somebody

    async def look(self) -> list[Problem]:
        """What the node finds to tell at its next look."""
        _, problems = await self.view.refresh()
        return [problem for problem in problems if problem.severity != "advice"]


@pytest.fixture
async def lab(database: str) -> AsyncIterator[Lab]:
    settings = Settings(node=NodeSettings(name="a", id=871, dsn=database))
    async with (
        await connect(database) as admin,
        await psycopg.AsyncConnection.connect(database, autocommit=True) as somebody,
    ):
        await somebody.execute(TABLES)
        await initialise(admin, settings)
        view = await CatalogueSession.open(settings)
        try:
            made = Lab(view, somebody)
            assert await made.look() == []
            yield made
        finally:
            await view.close()
            await somebody.execute("SELECT pg_drop_replication_slot('sidecar_871')")


@pytest.mark.parametrize(
    ("interference", "told"),
    [
        ("ALTER PUBLICATION crdt SET (publish = 'insert')", ["publication crdt did not publish every kind of change"]),
        ("ALTER PUBLICATION crdt DROP TABLE posts", ["posts: was taken out of the publication"]),
        ("ALTER PUBLICATION crdt SET TABLE posts WHERE (id > 5), stock", ["posts: was taken out of the publication"]),
        ("ALTER PUBLICATION crdt SET TABLE posts, stock (id)", ["stock: was taken out of the publication"]),
        ("DROP PUBLICATION crdt", ["publication crdt was dropped", "posts: was taken", "stock: was taken"]),
    ],
)
async def test_it_is_put_right_and_what_was_lost_is_told(lab: Lab, interference: str, told: list[str]) -> None:
    narrows = "WHERE" in interference or "(id)" in interference
    if narrows and lab.somebody.info.server_version < 150_000:
        pytest.skip("PostgreSQL 14 publishes whole tables")
    await lab.somebody.execute(interference)
    problems = await lab.look()
    assert len(problems) == len(told)
    for problem, text in zip(problems, told, strict=True):
        assert text in problem.line()
        assert "compare the nodes" in problem.mend
        assert problem.lasts
    row = await (await lab.somebody.execute(WHOLE)).fetchone()
    assert row == (True, ["posts", "stock"])
    assert await lab.look() == []


async def test_what_was_altered_while_the_sidecar_was_down_is_told_at_its_start(lab: Lab, database: str) -> None:
    await lab.somebody.execute("ALTER PUBLICATION crdt SET (publish = 'insert')")
    settings = Settings(node=NodeSettings(name="a", id=871, dsn=database))
    started = Lab(await CatalogueSession.open(settings), lab.somebody)
    try:
        assert ["did not publish every kind" in problem.line() for problem in await started.look()] == [True]
        row = await (await lab.somebody.execute(WHOLE)).fetchone()
        assert row == (True, ["posts", "stock"])
    finally:
        await started.view.close()


async def test_it_is_looked_at_though_a_table_cannot_be_attached(lab: Lab) -> None:
    await lab.somebody.execute(
        "CREATE FUNCTION refuse() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN"
        " IF current_query() LIKE '%ADD TABLE%' THEN RAISE 'not today'; END IF; END $$;"
        "CREATE EVENT TRIGGER refuse ON ddl_command_start WHEN TAG IN ('ALTER PUBLICATION') EXECUTE FUNCTION refuse();"
        "CREATE TABLE late (id int PRIMARY KEY); COMMENT ON TABLE late IS '@crdt'"
    )
    assert ["not today" in problem.line() for problem in await lab.look()] == [True]
    await lab.somebody.execute("ALTER PUBLICATION crdt SET (publish = 'insert')")
    lines = " ".join(problem.line() for problem in await lab.look())
    assert "did not publish every kind" in lines
    await lab.somebody.execute("DROP EVENT TRIGGER refuse")


async def test_one_that_is_not_ours_any_more_is_told_and_the_node_goes_on(lab: Lab) -> None:
    await lab.somebody.execute("DROP PUBLICATION crdt; CREATE PUBLICATION crdt FOR ALL TABLES")
    (problem, *_) = await lab.look()
    assert problem.severity == "error"
    assert "FOR ALL TABLES" in problem.line()
