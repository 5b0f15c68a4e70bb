"""Cases of ``row=add_wins``; its laws are proven over histories in ``test_oracle_column_types.py``."""

from __future__ import annotations

from sidecar.core.crdt.row_add_wins import GENESIS, RowAddWins, delete, merge, value, write


def test_a_delete_takes_only_what_it_saw() -> None:
    updated = write(GENESIS, hlc=5, node=2, context={})
    dead = delete(GENESIS, hlc=10, node=1, context={})
    assert not value(dead)
    assert value(merge(dead, updated))
    assert value(delete(updated, hlc=10, node=1, context={}))
    assert not value(delete(updated, hlc=10, node=1, context={2: 5}))
    assert merge(dead, updated) == write(dead, hlc=5, node=2, context={}) == delete(updated, hlc=10, node=1, context={})


def test_a_write_supersedes_the_writes_it_saw() -> None:
    both = merge(write(GENESIS, hlc=5, node=1, context={}), write(GENESIS, hlc=6, node=2, context={}))
    assert both.lives == {1: 5, 2: 6}
    assert write(both, hlc=7, node=1, context={2: 6}).lives == {1: 7}
    assert write(both, hlc=7, node=1, context={}).lives == {1: 7, 2: 6}


def test_a_dead_row_does_not_come_back_by_an_old_state() -> None:
    updated = write(GENESIS, hlc=5, node=2, context={})
    dead = delete(updated, hlc=10, node=1, context={2: 5})
    for old in (updated, GENESIS, RowAddWins(), dead):
        assert merge(dead, old) == merge(old, dead) == dead
    assert value(write(dead, hlc=11, node=1, context={}))
    assert not value(RowAddWins())
    assert value(GENESIS)
