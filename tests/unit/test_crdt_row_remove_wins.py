"""Cases of ``row=remove_wins``; its laws are proven over histories in ``test_oracle_column_types.py``."""

from __future__ import annotations

from sidecar.core.crdt.row_remove_wins import GENESIS, RowRemoveWins, delete, insert, merge, value


def test_every_delete_must_be_seen_by_an_insert() -> None:
    one = delete(GENESIS, hlc=5, node=1, context={})
    both = delete(one, hlc=6, node=2, context={})
    assert both.deads == {1: 5, 2: 6}
    assert not value(insert(both, hlc=7, node=1, context={}))
    assert value(insert(both, hlc=7, node=1, context={2: 6}))
    assert merge(insert(one, hlc=7, node=1, context={}), delete(GENESIS, hlc=6, node=2, context={})).deads == {2: 6}


def test_an_insert_that_was_deleted_leaves_the_same_as_the_delete_alone() -> None:
    """So that capture may say one thing for both."""
    dead = delete(GENESIS, hlc=5, node=2, context={})
    came_and_went = delete(insert(dead, hlc=6, node=1, context={2: 5}), hlc=7, node=1, context={2: 5})
    assert came_and_went == delete(dead, hlc=7, node=1, context={2: 5})


def test_a_delete_does_not_come_back_by_an_old_state() -> None:
    dead = delete(GENESIS, hlc=5, node=1, context={})
    again = insert(dead, hlc=6, node=2, context={1: 5})
    for old in (dead, GENESIS, RowRemoveWins(), again):
        assert merge(again, old) == merge(old, again) == again
    assert value(again)


def test_a_row_that_was_never_inserted() -> None:
    assert not value(RowRemoveWins())
    assert not value(delete(RowRemoveWins(), hlc=1, node=1, context={}))
    assert value(insert(RowRemoveWins(), hlc=1, node=1, context={}))
    assert value(GENESIS)
