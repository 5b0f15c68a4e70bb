"""Dots and version vectors: the order of concurrent writes, and the lattice of vectors."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sidecar.core.versions import GENESIS, Dot, VersionVector, covers, difference, dominates, join, later

dots = st.builds(Dot, node=st.integers(1, 4), hlc=st.integers(1, 6))
vectors = st.dictionaries(st.integers(1, 4), st.integers(1, 6))


def _covered(vector: VersionVector) -> set[Dot]:
    """The meaning of a vector: the set of dots it stands for."""
    return {Dot(node, hlc) for node in range(1, 5) for hlc in range(1, 7) if covers(vector, Dot(node, hlc))}


def test_the_higher_hlc_wins_then_the_higher_node() -> None:
    assert later(Dot(1, 20), Dot(2, 10))
    assert later(Dot(2, 10), Dot(1, 10))
    assert not later(Dot(1, 10), Dot(2, 10))
    assert not later(Dot(1, 10), Dot(1, 10))


@given(dots, dots, dots)
def test_later_is_a_strict_total_order(a: Dot, b: Dot, c: Dot) -> None:
    assert later(a, b) + later(b, a) + (a == b) == 1
    assert not (later(a, b) and later(b, c)) or later(a, c)


def test_genesis_is_seen_by_everybody() -> None:
    assert covers({}, Dot(GENESIS, 0))
    assert not covers({}, Dot(1, 1))
    assert covers({1: 5}, Dot(1, 5))
    assert not covers({1: 5}, Dot(1, 6))


@given(vectors, vectors)
def test_dominates_means_covering_all_the_other_covers(a: VersionVector, b: VersionVector) -> None:
    assert dominates(a, b) == (_covered(a) >= _covered(b))


@given(vectors, vectors)
def test_join_covers_the_union(a: VersionVector, b: VersionVector) -> None:
    before = dict(a), dict(b)
    assert _covered(join(a, b)) == _covered(a) | _covered(b)
    assert (a, b) == before


@given(vectors, vectors, vectors)
def test_join_laws(a: VersionVector, b: VersionVector, c: VersionVector) -> None:
    assert join(a, b) == join(b, a)
    assert join(a, join(b, c)) == join(join(a, b), c)
    assert join(a, a) == a


@given(vectors, vectors)
def test_difference_is_enough_to_join_and_holds_nothing_else(base: VersionVector, new: VersionVector) -> None:
    sent = difference(new, base)
    assert join(base, sent) == join(base, new)
    assert all(hlc > base.get(node, 0) for node, hlc in sent.items())
