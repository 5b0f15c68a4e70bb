"""Cases of ``g_set``: what grows, what is undone, what starts anew."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sidecar.core.crdt.g_set import DotSet, apply, genesis, insert, merge, undone, update, value

values = st.none() | st.sets(st.sampled_from("abc"))


@given(st.lists(st.tuples(st.integers(1, 2), values), max_size=8))
def test_the_value_never_loses_an_element(writes: list[tuple[int, set[str] | None]]) -> None:
    nodes: dict[int, DotSet] = {1: genesis(["a"]), 2: genesis(["a"])}
    table: dict[int, set[str] | None] = {1: {"a"}, 2: {"a"}}
    for hlc, (node, new) in enumerate(writes, start=1):
        before = set(value(nodes[node]) or ())
        nodes[node] = apply(nodes[node], update(table[node], new, hlc=hlc, node=node), nodes[node].context)
        table[node] = new
        assert set(value(nodes[node]) or ()) >= before | (new or set())
    assert set(value(merge(nodes[1], nodes[2])) or ()) == set().union(*(value(n) or () for n in nodes.values()))


def test_what_is_undone() -> None:
    assert undone(["a", "b"], ["b", "c"]) == {"a"}
    assert undone(["a", "b"], None) == {"a", "b"}
    assert undone(None, ["a"]) == undone(["a"], ["a"]) == frozenset()


def test_an_insert_starts_anew_with_what_it_had_not_seen() -> None:
    start = genesis(["a"])
    elsewhere = apply(start, update(["a"], ["a", "y"], hlc=9, node=2), {})
    anew = apply(start, insert(["x"], hlc=10, node=1), start.context)
    assert value(anew) == ("x",)
    assert value(merge(anew, elsewhere)) == value(apply(elsewhere, insert(["x"], hlc=10, node=1), {})) == ("y", "x")
