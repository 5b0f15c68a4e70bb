"""Cases of ``aw_set``: what an UPDATE says, and what it protects."""

from __future__ import annotations

from sidecar.core.crdt.aw_set import SetChange, apply, genesis, insert, merge, update, value


def test_an_update_is_the_whole_value() -> None:
    assert update(["a", "b"], ["b", "c"], hlc=7, node=1) == SetChange(1, 7, add={"b": 7, "c": 7}, full=True)
    assert update(["a"], None, hlc=7, node=1) == insert(None, hlc=7, node=1) == SetChange(1, 7, full=True, null=True)


def test_a_write_protects_what_it_keeps() -> None:
    start = genesis(["a", "b"])
    kept = apply(start, update(["a", "b"], ["a", "c"], hlc=10, node=1), start.context)
    removed = apply(start, update(["a", "b"], ["d"], hlc=11, node=2), start.context)
    assert value(merge(kept, removed)) == ("a", "c", "d")
    seen = apply(kept, update(["a", "c"], ["d"], hlc=12, node=2), {1: 10})
    assert value(seen) == ("d",)
