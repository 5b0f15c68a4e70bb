"""TRUNCATE deletes, on every node, the rows that its node saw."""

from __future__ import annotations

import itertools
import random
from typing import Any

import pytest
from node_harness import HarnessNode, cluster, converged, settle

from sidecar.core.merge import truncate
from sidecar.errors import DirtyRowsError

SCHEMA = """
CREATE TABLE item (id int PRIMARY KEY, name text, hits int NOT NULL DEFAULT 0, likes bigint, tags text[]);
COMMENT ON TABLE item IS '@crdt(row={rule})';
COMMENT ON COLUMN item.hits IS '@crdt(pn_counter)';
COMMENT ON COLUMN item.likes IS '@crdt(g_counter)';
COMMENT ON COLUMN item.tags IS '@crdt(or_set)';
INSERT INTO item SELECT i, 'genesis', 10, NULL, '{{g}}' FROM generate_series(1, 6) AS i;
"""
PLAIN = SCHEMA.format(rule="lww")
RULES = ("lww", "add_wins", "remove_wins")


async def spread(origin: HarnessNode, others: list[HarnessNode]) -> None:
    await origin.captured()
    for node in others:
        await node.merge_from(origin)


async def nothing_quarantined(nodes: list[HarnessNode]) -> None:
    for node in nodes:
        assert [(row["table_name"], row["row_key"], row["reason"]) for row in await node.quarantine()] == []


@pytest.mark.parametrize("rule", RULES)
async def test_rows_written_by_anybody_and_rows_of_before_are_deleted_everywhere(
    postgres_server: Any, rule: str
) -> None:
    async with cluster(postgres_server, 3, SCHEMA.format(rule=rule)) as nodes:
        a, b, c = nodes
        await a.sql("UPDATE item SET hits = hits + 1, name = 'written' WHERE id = 1")
        await b.sql("INSERT INTO item VALUES (10, 'new', 3, 1, '{b}')")
        await c.sql("DELETE FROM item WHERE id = 2")
        await settle(nodes)
        await a.sql("TRUNCATE item")
        assert await converged(nodes, "item") == [[]]
        await nothing_quarantined(nodes)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("who", [0, 1])
async def test_rows_inserted_anew_are_as_inserted(postgres_server: Any, rule: str, who: int) -> None:
    """Also counters and sets of rows that were there at genesis, which the truncating node does not know any more."""
    async with cluster(postgres_server, 3, SCHEMA.format(rule=rule)) as nodes:
        await nodes[2].sql("UPDATE item SET hits = hits + 5, tags = tags || '{x}' WHERE id IN (1, 2)")
        await nodes[2].sql("INSERT INTO item VALUES (10, 'new', 3, 1, '{b}')")
        await settle(nodes)
        await nodes[0].sql("TRUNCATE item")
        await settle(nodes)
        await nodes[who].sql("INSERT INTO item SELECT i, 'again', 2, 1, '{y}' FROM generate_series(1, 10) AS i")
        await settle(nodes)
        await nodes[2].sql("UPDATE item SET hits = hits + 1, likes = likes + 1")
        assert await converged(nodes, "item") == [sorted(f"({i},again,3,2,{{y}})" for i in range(1, 11))]
        await nothing_quarantined(nodes)


@pytest.mark.parametrize("rule", RULES)
async def test_a_concurrent_insert_elsewhere_survives(postgres_server: Any, rule: str) -> None:
    async with cluster(postgres_server, 3, SCHEMA.format(rule=rule)) as nodes:
        await nodes[1].sql("INSERT INTO item VALUES (10, 'other', 1, 1, '{o}')")
        await nodes[1].captured()
        await nodes[0].sql("TRUNCATE item")
        await nodes[0].captured()
        assert await converged(nodes, "item") == [["(10,other,1,1,{o})"]]


@pytest.mark.parametrize("between", [False, True])
async def test_what_is_merged_before_the_truncate_is_captured(postgres_server: Any, between: bool) -> None:
    """An insert that came in after the TRUNCATE, but before capture saw it, is not deleted by it."""
    async with cluster(postgres_server, 3, PLAIN) as nodes:
        a, b, _ = nodes
        await b.sql("INSERT INTO item VALUES (10, 'other', 1, 1, '{o}')")
        await b.captured()
        a.hold_capture()
        await a.sql("TRUNCATE item")
        await a.sql("INSERT INTO item VALUES (3, 'mine', 4, 4, '{m}')")
        if between:
            await a.merge_from(b)
        await a.release_capture()
        assert await converged(nodes, "item") == [["(10,other,1,1,{o})", "(3,mine,4,4,{m})"]]


@pytest.mark.parametrize("order", list(itertools.permutations(range(2))))
async def test_concurrent_writes_of_known_rows_lose_when_they_are_earlier(
    postgres_server: Any, order: tuple[int, ...]
) -> None:
    async with cluster(postgres_server, 3, PLAIN) as nodes:
        a, b, c = nodes
        await c.sql("UPDATE item SET name = 'known'")
        await settle(nodes)
        await b.sql("UPDATE item SET name = 'b', hits = hits + 1, tags = tags || '{b}' WHERE id = 1")
        await b.sql("DELETE FROM item WHERE id = 2")
        await b.captured()
        await b.sql("INSERT INTO item VALUES (2, 'anew', 1, 1, '{b}')")
        await b.captured()
        a.state.hlc.observe(max(s.header.to_hlc for s in await b.sets()))
        await a.sql("TRUNCATE item")
        await a.captured()
        for i in order:
            await c.merge_from((a, b)[i])
        assert await converged(nodes, "item") == [[]]
        await nothing_quarantined(nodes)
        await c.sql("INSERT INTO item SELECT i, 'c', 1, 1, '{c}' FROM generate_series(1, 3) AS i")
        # Beside the increments that the TRUNCATE had not seen.
        assert await converged(nodes, "item") == [["(1,c,2,1,{c})", "(2,c,2,2,{c})", "(3,c,1,1,{c})"]]


async def test_a_concurrent_later_update_brings_the_row_back_on_the_others(postgres_server: Any) -> None:
    """Here its values are lost, which is written down."""
    async with cluster(postgres_server, 3, PLAIN) as nodes:
        a, b, c = nodes
        await a.sql("TRUNCATE item")
        await a.captured()
        b.state.hlc.observe(max(s.header.to_hlc for s in await a.sets()))
        await b.sql("UPDATE item SET name = 'later' WHERE id = 1")
        await b.captured()
        await settle(nodes)
        assert await b.copy("item") == await c.copy("item") == ["(1,later,0,0,{g})"]
        assert await a.copy("item") == []
        assert [(row["sqlstate"], row["row_key"]) for row in await a.quarantine()] == [("02000", '{"id": "1"}')]
        assert await b.quarantine() == await c.quarantine() == []


async def test_among_other_changes_of_one_transaction_and_one_batch(postgres_server: Any) -> None:
    async with cluster(postgres_server, 2, PLAIN) as nodes:
        a, _ = nodes
        a.hold_capture()
        await a.sql("INSERT INTO item VALUES (10, 'before', 1, 1, '{b}'), (11, 'before', 1, 1, '{b}')")
        async with a.app.transaction():
            await a.sql("UPDATE item SET name = 'too', hits = hits + 3 WHERE id IN (1, 10)")
            await a.sql("TRUNCATE item")
            await a.sql("INSERT INTO item VALUES (1, 'after', 2, 2, '{a}'), (11, 'after', 2, 2, '{a}')")
        await a.sql("UPDATE item SET hits = hits + 1")
        await a.release_capture()
        assert await converged(nodes, "item") == [["(1,after,3,2,{a})", "(11,after,3,2,{a})"]]
        await nothing_quarantined(nodes)


async def test_several_tables_and_those_that_refer_to_them(postgres_server: Any) -> None:
    schema = """
    CREATE TABLE author (id int PRIMARY KEY, name text);
    CREATE TABLE book (id int PRIMARY KEY, author int REFERENCES author, title text);
    CREATE TABLE local_notes (id int PRIMARY KEY, author int REFERENCES author);
    COMMENT ON TABLE author IS '@crdt'; COMMENT ON TABLE book IS '@crdt';
    INSERT INTO author VALUES (1, 'one'), (2, 'two'); INSERT INTO book VALUES (1, 1, 'a'), (2, 2, 'b');
    INSERT INTO local_notes VALUES (1, 1);
    """
    async with cluster(postgres_server, 2, schema) as nodes:
        a, b = nodes
        await b.sql("UPDATE book SET title = 'c' WHERE id = 1; DELETE FROM local_notes")
        await settle(nodes)
        await a.sql("TRUNCATE author RESTART IDENTITY CASCADE")
        await a.sql("INSERT INTO author VALUES (1, 'again')")
        assert await converged(nodes, "author", "book") == [["(1,again)"], []]
        await nothing_quarantined(nodes)


async def test_local_rows_that_are_not_captured_when_it_is_merged_stay(postgres_server: Any) -> None:
    async with cluster(postgres_server, 2, PLAIN) as nodes:
        a, b = nodes
        await a.sql("TRUNCATE item")
        await a.captured()
        await b.captured()
        b.hold_capture()
        await b.sql("INSERT INTO item VALUES (10, 'mine', 1, 1, '{m}')")
        (change_set,) = await a.sets()
        with pytest.raises(DirtyRowsError):
            await b.try_merge(change_set)
        with pytest.raises(DirtyRowsError, match="not captured yet"):
            await b.merger.merge_locked([b.opened(change_set)], b.observe)
        assert len(await b.copy("item")) == 7
        await b.release_capture()
        await b.merge(change_set)
        assert await b.copy("item") == ["(10,mine,1,1,{m})"]
        assert await converged(nodes, "item") == [["(10,mine,1,1,{m})"]]


async def test_many_rows_go_in_several_parts(postgres_server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(truncate, "CHUNK_ROWS", 7)
    async with cluster(postgres_server, 2, PLAIN, limits={"batch_rows_max": 10}) as nodes:
        a, b = nodes
        await b.sql("INSERT INTO item SELECT i, 'b', 1, 1, '{b}' FROM generate_series(100, 140) AS i")
        await settle(nodes)
        await a.sql("TRUNCATE item")
        await a.captured()
        (change_set,) = await a.sets()
        assert [part.header.rows for part in change_set.parts] == [7] * 5 + [6, 1]
        assert [part.header.part for part in change_set.parts] == list(range(7))
        assert await converged(nodes, "item") == [[]]


@pytest.mark.parametrize("order", list(itertools.permutations(range(2))))
async def test_two_nodes_truncate_at_once(postgres_server: Any, order: tuple[int, ...]) -> None:
    async with cluster(postgres_server, 3, PLAIN) as nodes:
        a, b, c = nodes
        await a.sql("INSERT INTO item VALUES (10, 'a', 1, 1, '{a}')")
        await b.sql("UPDATE item SET hits = hits + 1 WHERE id = 1")
        await settle(nodes)
        for node in (a, b):
            await node.captured()
            await node.sql("TRUNCATE item")
            await node.sql(f"INSERT INTO item VALUES ({20 + node.id}, 'anew', 1, 1, '{{n}}')")
            await node.captured()
        for i in order:
            await c.merge_from((a, b)[i])
        assert await converged(nodes, "item") == [["(21,anew,1,1,{n})", "(22,anew,1,1,{n})"]]
        await b.sql("TRUNCATE item")
        assert await converged(nodes, "item") == [[]]
        await nothing_quarantined(nodes)


STAMPED = """
CREATE TABLE marked (id int PRIMARY KEY, title text, marks text[], attrs jsonb NOT NULL DEFAULT '{{}}');
COMMENT ON TABLE marked IS '@crdt(row={rule})';
COMMENT ON COLUMN marked.marks IS '@crdt(lww_set)';
COMMENT ON COLUMN marked.attrs IS '@crdt(lww_map)';
INSERT INTO marked SELECT i, 'genesis', '{{g,h}}', '{{"g": 1, "h": 2}}' FROM generate_series(1, 4) AS i;
"""


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("who", [0, 1, 2])
async def test_rows_inserted_anew_hold_no_stamped_element_of_before(postgres_server: Any, rule: str, who: int) -> None:
    """Neither of genesis, which the truncating node does not know any more, nor written since."""
    async with cluster(postgres_server, 3, STAMPED.format(rule=rule)) as nodes:
        await nodes[2].sql("UPDATE marked SET marks = '{h,w}', attrs = attrs || '{\"w\": 3}' WHERE id < 3")
        await nodes[1].sql("UPDATE marked SET title = 'known' WHERE id = 3")
        await nodes[1].sql("INSERT INTO marked VALUES (10, 'new', '{n}', '{\"n\": 1}')")
        await settle(nodes)
        await nodes[0].sql("TRUNCATE marked")
        assert await converged(nodes, "marked") == [[]]
        await nodes[who].sql(
            "INSERT INTO marked SELECT i, 'again', '{a}', '{\"a\": 1}' FROM generate_series(1, 10) AS i"
        )
        rows = sorted(f'({i},again,{{a}},"{{""a"": 1}}")' for i in range(1, 11))
        assert await converged(nodes, "marked") == [rows]
        await nothing_quarantined(nodes)


async def test_a_row_that_stays_shows_the_stamped_elements_that_were_written(postgres_server: Any) -> None:
    """As its counters show what was counted since genesis. Also where the row came after the TRUNCATE."""
    async with cluster(postgres_server, 3, STAMPED.format(rule="lww")) as nodes:
        a, b, c = nodes
        await c.sql("UPDATE marked SET marks = marks || '{w}' WHERE id = 1")
        await settle(nodes)
        await a.sql("TRUNCATE marked")
        await a.captured()
        b.state.hlc.observe(max(s.header.to_hlc for s in await a.sets()))
        await b.sql("UPDATE marked SET marks = marks || '{x}', attrs = attrs || '{\"x\": 3}' WHERE id = 1")
        await b.sql("UPDATE marked SET title = 'later' WHERE id = 2")
        await b.captured()
        await c.merge_from(b)
        await settle(nodes)
        rows = ['(1,genesis,"{w,x}","{""x"": 3}")', "(2,later,{},{})"]
        assert await b.copy("marked") == await c.copy("marked") == rows
        await b.sql("UPDATE marked SET marks = '{y}', attrs = '{\"g\": 5}' WHERE id < 3")
        await settle(nodes)
        rows = ['(1,genesis,{y},"{""g"": 5}")', '(2,later,{y},"{""g"": 5}")']
        assert await b.copy("marked") == await c.copy("marked") == rows


async def _random_write(node: HarnessNode, rng: random.Random) -> None:
    key, n = rng.randint(1, 8), rng.randint(1, 9)
    statement = rng.choice(
        [
            f"UPDATE item SET name = 'n{n}' WHERE id = {key}",
            f"UPDATE item SET hits = hits + {n}, likes = coalesce(likes, 0) + 1 WHERE id = {key}",
            f"UPDATE item SET tags = tags || '{{t{n}}}' WHERE id = {key}",
            f"INSERT INTO item VALUES ({key}, 'i{n}', {n}, {n}, '{{i{n}}}', '{{i{n}}}', '{{\"i\": {n}}}')"
            " ON CONFLICT DO NOTHING",
            f"DELETE FROM item WHERE id = {key}",
            f"UPDATE item SET marks = marks || '{{m{n}}}', attrs = attrs || '{{\"k{n}\": {n}}}' WHERE id = {key}",
            f"UPDATE item SET marks = '{{g,m{n}}}', attrs = attrs - 'g' WHERE id = {key}",
            "TRUNCATE item" if rng.random() < 0.5 else f"UPDATE item SET hits = hits - 1 WHERE id > {key}",
        ]
    )
    await node.sql(statement)


EVERY_TYPE = """
ALTER TABLE item ADD marks text[] DEFAULT '{{g,h}}', ADD attrs jsonb DEFAULT '{{"g": 1, "h": 2}}';
COMMENT ON COLUMN item.marks IS '@crdt(lww_set)'; COMMENT ON COLUMN item.attrs IS '@crdt(lww_map)';
"""


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("seed", range(3))
async def test_random_writes_with_truncates_never_differ_without_a_word(
    postgres_server: Any, rule: str, seed: int
) -> None:
    """What is not in somebody's quarantine is equal everywhere."""
    rng = random.Random(f"{seed} {rule}")
    async with cluster(postgres_server, 3, (SCHEMA + EVERY_TYPE).format(rule=rule)) as nodes:
        for _ in range(12):
            for _ in range(rng.randint(1, 4)):
                await _random_write(rng.choice(nodes), rng)
            node, other = rng.sample(nodes, 2)
            await other.captured()
            await node.merge_from(other)
        await settle(nodes)
        apart = {row["row_key"] for node in nodes for row in await node.quarantine()}
        keys = [i for i in range(1, 9) if f'{{"id": "{i}"}}' not in apart]
        query = f"SELECT t::text FROM item AS t WHERE id IN ({', '.join(map(str, [0, *keys]))}) ORDER BY 1"
        for node in nodes[1:]:
            assert await node.rows(query) == await nodes[0].rows(query), (seed, apart)
