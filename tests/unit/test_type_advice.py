"""Advice about columns without a type of their own, by name and type."""

from __future__ import annotations

from typing import Any

import pytest

from sidecar.postgres.facts import Column, Facts, Relation, Role
from sidecar.postgres.type_advice import PAGE, advise


def column(name: str, base_type: str, comment: str | None = None, **facts: Any) -> Column:
    defaults: dict[str, Any] = {"is_ordered": True, "not_null": False, "generated": False, "virtual": False}
    defaults |= {"identity": "", "increment": None, "key_position": 0, "loose_collation": False, "default_sql": None}
    defaults |= {"parts": [base_type], "inner_collated": [], "delimiter": ","}
    return Column(
        relation=7,
        attnum=2,
        name=name,
        type_name=base_type,
        base_type=base_type,
        type_oid=1,
        checked=False,
        comment=comment,
        **(defaults | facts),
    )


def advice(*columns: Column, annotated: bool = True) -> list[str]:
    relation = Relation(
        oid=7,
        schema="shop",
        name="Item",
        kind="r",
        persistence="p",
        is_partition=False,
        inherits=False,
        replica_identity="f",
        forces_row_security=False,
        comment="@crdt",
        owner="o",
        is_owner=True,
        may_use_schema=True,
        is_published=True,
        is_referenced=False,
    )
    facts = Facts(Role("o", False, False), [relation], [], columns={7: list(columns)})
    return [problem.line() for problem in advise(facts, frozenset([7] if annotated else []))]


@pytest.mark.parametrize(
    ("name", "base_type", "says"),
    [
        ("likes", "integer", "pn_counter"),
        ("view_count", "bigint", "pn_counter"),
        ("viewCount", "bigint", "pn_counter"),
        ("stock", "numeric", "pn_counter"),
        ("qty", "smallint", "pn_counter"),
        ("tags", "text[]", "or_set"),
        ("settings", "jsonb", "lww_map"),
        ("price", "money", "no type makes safe"),
        ("balance", "numeric", "no type makes safe"),
        ("seats", "integer", "no type makes safe"),
        ("amount_available", "bigint", "no type makes safe"),
    ],
)
def test_a_warning_says_what_is_lost_and_where_to_read_on(name: str, base_type: str, says: str) -> None:
    (line,) = advice(column(name, base_type))
    assert line.startswith(f"warning: shop.Item.{name}: ")
    assert says in line
    assert PAGE in line
    assert f"""COMMENT ON COLUMN "shop"."Item"."{name}" IS '@crdt(lww_register)'""" in line


@pytest.mark.parametrize(
    ("name", "base_type"),
    [
        ("account", "integer"),
        ("country", "integer"),
        ("stock", "text"),
        ("balance", "text"),
        ("price", "numeric"),
        ("author_id", "bigint"),
        ("name", "text"),
        ("document", "json"),
    ],
)
def test_other_columns_are_left_alone(name: str, base_type: str) -> None:
    assert advice(column(name, base_type)) == []


@pytest.mark.parametrize("word", ["lww_register", "pn_counter", "no such word"])
def test_a_comment_with_a_type_settles_it(word: str) -> None:
    assert advice(column("likes", "integer", f"Likes. @crdt({word})")) == []
    assert len(advice(column("likes", "integer", "Likes."))) == 1


def test_keys_generated_columns_and_tables_that_are_not_replicated_are_left_alone() -> None:
    assert advice(column("count", "integer", key_position=1), column("score", "integer", generated=True)) == []
    assert advice(column("likes", "integer"), annotated=False) == []
