"""Intake: what the stream does not tell about the tables in force."""

from __future__ import annotations

import asyncio

from sidecar.core.catalog import ColumnSpec, TableSpec
from sidecar.core.pgoutput import Relation, RelationColumn
from sidecar.node.intake import Intake
from sidecar.node.state import NodeState
from sidecar.settings import NodeSettings, Settings


def table(*columns: str) -> TableSpec:
    specs = tuple(ColumnSpec(name, i, "text", "text") for i, name in enumerate(columns, start=2))
    key = (ColumnSpec("id", 1, "integer", "integer"),)
    return TableSpec(1, "public", "doc", key=key, columns=specs, relation_oid=77)


async def test_capture_follows_a_change_of_the_tables_that_the_stream_does_not_tell() -> None:
    """A comment changes no relation: nothing is sent again."""
    state = NodeState(Settings(node=NodeSettings(name="a", id=1, dsn="postgresql://a@127.0.0.1:1/app")))
    state.set_tables([table("title")])
    intake = Intake(state, resume_lsn=0, refresh_tables=_nothing)
    columns = tuple(RelationColumn(0, name, 25, -1) for name in ("id", "title", "note"))
    relation = Relation(77, "public", "doc", "f", columns)
    intake._relations[77] = relation
    place = (77).to_bytes(4, "big")
    intake._plans[place] = plan = await intake._plan(relation)
    assert plan is not None
    assert [c.name for c in plan.spec.columns] == ["title"]
    state.set_tables([table("title", "note")])
    intake.feed([])
    plan = intake._plans[place]
    assert plan is not None
    assert [c.name for c in plan.spec.columns] == ["title", "note"]
    state.set_tables([])
    intake.feed([])
    assert intake._plans[place] is None


async def _nothing() -> None:
    await asyncio.sleep(0)
