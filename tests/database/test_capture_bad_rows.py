"""Rows that capture cannot take are put aside one by one; everything beside and behind them is captured."""

from __future__ import annotations

import asyncio
import json
import random
from typing import Any

import pytest
from node_harness import HarnessNode, cluster, converged, settle

from sidecar.core.changes import ChangeSetHeader
from sidecar.postgres.put_aside import Isolation

SCHEMA = """
CREATE TABLE doc (
    id int PRIMARY KEY, title text, amount numeric NOT NULL DEFAULT 0, attrs jsonb NOT NULL DEFAULT '{}', tags text[]
);
COMMENT ON TABLE doc IS '@crdt';
COMMENT ON COLUMN doc.amount IS '@crdt(pn_counter)';
COMMENT ON COLUMN doc.attrs IS '@crdt(lww_map)';
COMMENT ON COLUMN doc.tags IS '@crdt(or_set)';
INSERT INTO doc SELECT i, 'genesis', 1, '{"g": 1}', '{g}' FROM generate_series(1, 4) AS i;
"""
DEEP = 4_000
"""Levels of a document that an application can store and a session with a small stack cannot read."""

DEEP_JSON = f"""('{{"deep": ' || repeat('[', {DEEP}) || repeat(']', {DEEP}) || '}}')::jsonb"""
HUGE = "9e131071::numeric"
"""Near the largest numeric: twice of it is none."""


async def small_stack(node: HarnessNode) -> None:
    """As where the role may not raise max_stack_depth, and the server's is small."""
    for session in (node.writer._session, node.merge_session):
        await session.connection.execute("SET max_stack_depth = '200kB'")


async def kept(node: HarnessNode) -> list[tuple[str, Any]]:
    return [(row["sqlstate"], row["row_key"] and json.loads(row["row_key"])) for row in await node.quarantine()]


def titles(node: HarnessNode) -> Any:
    return node.rows("SELECT id, title FROM doc ORDER BY id")


async def test_a_deep_document_stops_its_row_only(postgres_server: Any) -> None:
    async with cluster(postgres_server, 2, SCHEMA) as (a, b):
        await small_stack(a)
        a.hold_capture()
        await a.sql("UPDATE doc SET title = 'before' WHERE id = 1")
        await a.sql(f"UPDATE doc SET title = 'bad', attrs = {DEEP_JSON} WHERE id = 2")
        await a.sql("INSERT INTO doc (id, title) VALUES (10, 'beside')")
        await a.sql("DELETE FROM doc WHERE id = 3")
        await a.release_capture()
        await a.captured()
        await a.sql("UPDATE doc SET title = 'behind' WHERE id = 4")
        await a.captured()
        assert await kept(a) == [("54001", {"id": "2"})]
        (entry,) = await a.quarantine()
        assert json.loads(entry["change"])["values"]["title"] == "bad"
        assert "[[[[" in json.loads(entry["change"])["values"]["attrs"]
        assert 'row {"id":"2"}: its change was not replicated: stack depth' in a.state.problems["put aside public.doc"]
        assert a.state.counters.quarantined_rows == 1
        await b.merge_from(a)
        assert await titles(b) == [(1, "before"), (2, "genesis"), (4, "behind"), (10, "beside")]
        assert await titles(a) == [(1, "before"), (2, "bad"), (4, "behind"), (10, "beside")]


async def test_it_is_put_aside_once_also_over_restarts_and_later_changes(postgres_server: Any) -> None:
    async with cluster(postgres_server, 1, SCHEMA) as (a,):
        await small_stack(a)
        await a.sql(f"UPDATE doc SET attrs = {DEEP_JSON} WHERE id = 2")
        await a.captured()
        captured = await a.value("SELECT lsn FROM crdt_state.position")
        for i in range(3):
            await a.sql("UPDATE doc SET title = $1 WHERE id = 1", f"t{i}")
            await a.captured()
        assert len(await kept(a)) == 1
        assert await a.value("SELECT lsn > $1 FROM crdt_state.position", captured)


async def test_a_later_write_of_the_row_that_can_be_captured_is_shipped(postgres_server: Any) -> None:
    """What the bad change wrote besides stays here alone, until its column is written again: here or elsewhere."""
    async with cluster(postgres_server, 3, SCHEMA) as nodes:
        a, b, _ = nodes
        await a.sql(f"UPDATE doc SET amount = {HUGE}")
        await settle(nodes)
        await a.sql("UPDATE doc SET title = 'bad', tags = '{bad}', amount = -amount")
        await a.captured()
        assert [sqlstate for sqlstate, _ in await kept(a)] == ["22003"] * 4
        await a.sql("UPDATE doc SET tags = tags || '{good}' WHERE id = 1")
        await b.sql("UPDATE doc SET title = 'good' WHERE id = 1")
        await settle(nodes)
        for node in nodes:
            assert await node.rows("SELECT title, tags FROM doc WHERE id = 1") == [("good", ["g", "good"])]
        assert await a.rows("SELECT title, tags FROM doc WHERE id = 2") == [("bad", ["bad"])]
        assert await b.rows("SELECT title, tags FROM doc WHERE id = 2") == [("genesis", ["g"])]


async def test_a_counter_shows_what_everybody_has_from_its_next_change_on(postgres_server: Any) -> None:
    """The sum of all increases is out of range; the value itself is not."""
    async with cluster(postgres_server, 2, SCHEMA) as nodes:
        a, b = nodes
        for step in ("+ 9e131071", "- 9e131071", "+ 9e131071"):
            await a.sql(f"UPDATE doc SET amount = amount {step}::numeric WHERE id = 1")
            await a.captured()
        assert await kept(a) == [("22003", {"id": "1"})]
        await settle(nodes)
        assert await a.value("SELECT amount > 1e131000 FROM doc WHERE id = 1")
        await b.sql("UPDATE doc SET amount = amount + 5 WHERE id = 1")
        await settle(nodes)
        assert await a.value("SELECT amount FROM doc WHERE id = 1") == 6
        await a.sql("UPDATE doc SET title = 'next' WHERE id = 1")
        await a.sql("UPDATE doc SET amount = amount - 2 WHERE id = 1")
        assert (await converged(nodes, "doc"))[0][0] == '(1,next,4,"{""g"": 1}",{g})'


@pytest.mark.parametrize("earlier", [False, True], ids=["new", "over a deleted row"])
async def test_a_bad_insert_is_not_there_for_the_others(postgres_server: Any, earlier: bool) -> None:
    async with cluster(postgres_server, 3, SCHEMA) as nodes:
        a, b, _ = nodes
        if earlier:
            await b.sql("INSERT INTO doc VALUES (10, 'first', 3, '{\"f\": 1}', '{f}')")
            await settle(nodes)
            await b.sql("DELETE FROM doc WHERE id = 10")
            await settle(nodes)
        await small_stack(a)
        await a.sql(f"INSERT INTO doc VALUES (10, 'bad', 7, {DEEP_JSON}, '{{bad}}')")
        await a.captured()
        assert await kept(a) == [("54001", {"id": "10"})]
        await settle(nodes)
        assert await a.value("SELECT title FROM doc WHERE id = 10") == "bad"
        assert await b.value("SELECT title FROM doc WHERE id = 10") is None
        # The same key comes from elsewhere: a write as any other, and everybody has it.
        await b.sql("INSERT INTO doc VALUES (10, 'good', 2, '{\"k\": 1}', '{k}')")
        assert '(10,good,2,"{""k"": 1}",{k})' in (await converged(nodes, "doc"))[0]


@pytest.mark.parametrize("rule", ["lww", "add_wins", "remove_wins"])
async def test_a_row_sent_again_is_everywhere_as_it_is(postgres_server: Any, rule: str) -> None:
    """The mend: the bad value replaced, then deleted and inserted in one transaction."""
    schema = SCHEMA.replace("'@crdt';", f"'@crdt(row={rule})';", 1)
    async with cluster(postgres_server, 3, schema) as nodes:
        a, _, c = nodes
        await small_stack(a)
        await a.sql(f"INSERT INTO doc VALUES (10, 'new', 7, {DEEP_JSON}, '{{new}}')")
        await a.sql(f"UPDATE doc SET title = 'bad', amount = 50, tags = '{{bad}}', attrs = {DEEP_JSON} WHERE id = 2")
        await a.captured()
        assert {key["id"] for _, key in await kept(a)} == {"2", "10"}
        await c.sql("UPDATE doc SET amount = amount + 1 WHERE id = 2")
        await settle(nodes)
        async with a.app.transaction():
            await a.sql("UPDATE doc SET attrs = '{\"s\": 1}', amount = 8 WHERE id IN (2, 10)")
            await a.sql("CREATE TEMPORARY TABLE again ON COMMIT DROP AS SELECT * FROM doc WHERE id IN (2, 10)")
            await a.sql("DELETE FROM doc WHERE id IN (2, 10)")
            await a.sql("INSERT INTO doc SELECT * FROM again")
        rows = (await converged(nodes, "doc"))[0]
        assert '(10,new,8,"{""s"": 1}",{new})' in rows
        assert '(2,bad,8,"{""s"": 1}",{bad})' in rows
        assert len(await kept(a)) == 2


async def test_a_delete_of_a_bad_row_deletes_it_everywhere(postgres_server: Any) -> None:
    async with cluster(postgres_server, 2, SCHEMA) as nodes:
        a, b = nodes
        await small_stack(a)
        a.hold_capture()
        await a.sql(f"UPDATE doc SET title = 'bad', amount = amount + 1, attrs = {DEEP_JSON} WHERE id = 2")
        await a.sql("DELETE FROM doc WHERE id = 2")
        await a.release_capture()
        await a.captured()
        assert await kept(a) == [("54001", {"id": "2"})]
        assert "deleted on all nodes" in a.state.problems["put aside public.doc"]
        assert [row[:6] for row in (await converged(nodes, "doc"))[0]] == ["(1,gen", "(3,gen", "(4,gen"]
        await b.sql("INSERT INTO doc VALUES (2, 'again', 3, '{}', '{}')")
        assert "(2,again,3,{},{})" in (await converged(nodes, "doc"))[0]


async def test_bad_rows_in_every_part_of_a_large_transaction(postgres_server: Any) -> None:
    async with cluster(postgres_server, 2, SCHEMA, limits={"batch_rows_max": 50}) as nodes:
        a, b = nodes
        await small_stack(a)
        bad = (107, 149, 150, 199)
        attrs = f"CASE WHEN i IN {bad} THEN {DEEP_JSON} ELSE '{{}}' END"
        async with a.app.transaction():
            await a.sql(f"INSERT INTO doc SELECT i, 'n', 1, {attrs}, '{{t}}' FROM generate_series(101, 220) AS i")
            await a.sql("UPDATE doc SET title = 'twice' WHERE id > 100")
        await a.captured()
        [change_set] = await a.sets()
        assert len(change_set.parts) > 2
        assert {key["id"] for _, key in await kept(a)} == {str(i) for i in bad}
        await b.merge_from(a)
        assert await b.value("SELECT count(*) FROM doc WHERE title = 'twice'") == 120 - len(bad)
        assert await b.value("SELECT count(*) FROM doc WHERE id = ANY ($1)", list(bad)) == 0


async def test_a_key_that_cannot_be_read_any_more(postgres_server: Any) -> None:
    """The change was logged with the label of then."""
    schema = """
    CREATE TYPE kind AS ENUM ('one', 'two', 'three');
    CREATE TABLE entry (kind kind PRIMARY KEY, n int); COMMENT ON TABLE entry IS '@crdt';
    """
    async with cluster(postgres_server, 2, schema) as (a, b):
        a.hold_capture()
        await a.sql("INSERT INTO entry VALUES ('one', 1), ('two', 2), ('three', 3)")
        await a.sql("DELETE FROM entry WHERE kind = 'one'")
        await a.sql("ALTER TYPE kind RENAME VALUE 'one' TO 'first'")
        await a.release_capture()
        await a.captured()
        assert await kept(a) == [("22P02", {"kind": "one"})]
        await b.merge_from(a)
        assert await b.rows("SELECT kind::text, n FROM entry ORDER BY n") == [("two", 2), ("three", 3)]


async def test_many_bad_rows_among_many(postgres_server: Any) -> None:
    """Every other one: what is left travels as one table, and what is good is the state of a plain capture."""
    async with cluster(postgres_server, 2, SCHEMA) as (a, b):
        await small_stack(a)
        attrs = f"CASE WHEN i % 2 = 0 THEN {DEEP_JSON} ELSE '{{\"k\": 1}}' END"
        await a.sql(f"INSERT INTO doc SELECT i, 'n', 2, {attrs}, '{{t}}' FROM generate_series(11, 42) AS i")
        await a.captured()
        assert len(await kept(a)) == 16
        [change_set] = await a.sets()
        assert [table.rows for table in change_set.tables()] == [16]
        await b.merge_from(a)
        assert await b.rows("SELECT id FROM doc WHERE id > 10 ORDER BY id") == [(i,) for i in range(11, 43, 2)]
        await a.sql("UPDATE doc SET title = 'next', amount = amount + 1 WHERE id % 2 = 1")
        await a.captured()
        assert (await b.merge_from(a)).quarantined == 0
        assert await b.value("SELECT count(*) FROM doc WHERE title = 'next' AND amount = 3") == 16


async def test_what_fails_without_rows_puts_nothing_aside(
    postgres_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A statement that fails for every row is no reason to pass over what was written."""
    async with cluster(postgres_server, 1, SCHEMA) as (a,):
        spec = a.table("doc")
        await a.sql(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'no'; END $$;"
            f"CREATE TRIGGER refuse BEFORE INSERT ON crdt_state.row_{spec.table_id} EXECUTE FUNCTION refuse()"
        )
        await a.writer._session.connection.execute("SET session_replication_role = origin")
        await a.sql("UPDATE doc SET title = 'x'")
        with pytest.raises(Exception, match="no"):
            await a.captured()
        assert await kept(a) == []
        assert await a.value("SELECT count(*) FROM crdt_state.journal") == 0


async def test_merges_of_a_row_with_a_bad_change_go_on(postgres_server: Any) -> None:
    async with cluster(postgres_server, 2, SCHEMA) as nodes:
        a, b = nodes
        await small_stack(a)
        await a.sql(f"UPDATE doc SET title = 'bad', attrs = {DEEP_JSON} WHERE id = 2")
        await a.captured()
        for i in range(3):
            await b.sql("UPDATE doc SET title = $1, tags = tags || $2 WHERE id = 2", f"b{i}", [f"b{i}"])
            await b.captured()
            change_set = (await b.sets())[-1]
            await asyncio.wait_for(a.try_merge(change_set), 10)
        assert await a.rows("SELECT title, tags FROM doc WHERE id = 2") == [("b2", ["g", "b0", "b1", "b2"])]
        await b.sql("UPDATE doc SET attrs = attrs || '{\"b\": 1}' WHERE id = 2")
        assert '(2,b2,1,"{""b"": 1, ""g"": 1}","{g,b0,b1,b2}")' in (await converged(nodes, "doc"))[0]


async def test_every_try_is_a_sign_of_life(postgres_server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    beats: list[int] = []
    made = Isolation.__init__

    def counted(self: Isolation, session: Any, header: ChangeSetHeader, *rest: Any, beat: Any, **more: Any) -> None:
        made(self, session, header, *rest, beat=lambda: (beats.append(1), beat())[1], **more)

    monkeypatch.setattr(Isolation, "__init__", counted)
    async with cluster(postgres_server, 1, SCHEMA) as (a,):
        await small_stack(a)
        await a.sql(f"INSERT INTO doc SELECT i, 'n', 1, {DEEP_JSON}, '{{}}' FROM generate_series(11, 18) AS i")
        await a.captured()
        assert len(await kept(a)) == 8
        assert len(beats) == 15  # all of them, two halves, four quarters, eight rows


async def _random_write(node: HarnessNode, rng: random.Random) -> None:
    key, n = rng.randint(1, 6), rng.randint(1, 9)
    bad = DEEP_JSON if rng.random() < 0.3 else f"'{{\"n{n}\": {n}}}'"
    statement = rng.choice(
        [
            f"UPDATE doc SET title = 't{n}', attrs = {bad} WHERE id = {key}",
            f"UPDATE doc SET amount = amount + {n}, tags = tags || '{{t{n}}}' WHERE id = {key}",
            f"UPDATE doc SET amount = amount - 1, attrs = attrs || {bad} WHERE id = {key}",
            f"INSERT INTO doc VALUES ({key}, 'i{n}', {n}, {bad}, '{{i{n}}}') ON CONFLICT DO NOTHING",
            f"DELETE FROM doc WHERE id = {key}",
        ]
    )
    await node.sql(statement)


@pytest.mark.parametrize("rule", ["lww", "add_wins", "remove_wins"])
@pytest.mark.parametrize("seed", range(2))
async def test_random_writes_with_bad_ones_converge_when_the_rows_are_sent_again(
    postgres_server: Any, rule: str, seed: int
) -> None:
    rng = random.Random(f"{seed} {rule}")
    schema = SCHEMA.replace("'@crdt';", f"'@crdt(row={rule})';", 1)
    async with cluster(postgres_server, 3, schema) as nodes:
        for node in nodes:
            await small_stack(node)
        for _ in range(8):
            for _ in range(rng.randint(1, 4)):
                await _random_write(rng.choice(nodes), rng)
            node, other = rng.sample(nodes, 2)
            await other.captured()
            await node.merge_from(other)
        await settle(nodes)
        apart = {key["id"] for node in nodes for _, key in await kept(node)}
        keys = [i for i in range(1, 7) if str(i) not in apart]
        query = "SELECT t::text FROM doc AS t WHERE id = ANY ($1) ORDER BY 1"
        for node in nodes[1:]:
            assert await node.rows(query, keys) == await nodes[0].rows(query, keys), (seed, apart)
        for key in map(int, apart):
            for node in nodes:
                async with node.app.transaction():
                    await node.sql(
                        "CREATE TEMPORARY TABLE again ON COMMIT DROP AS SELECT id, title, amount, '{}'::jsonb, tags"
                        f" FROM doc WHERE id = {key}"
                    )
                    await node.sql("DELETE FROM doc WHERE id = $1", key)
                    await node.sql("INSERT INTO doc SELECT * FROM again")
                await settle(nodes)
        await converged(nodes, "doc")
