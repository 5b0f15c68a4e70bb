"""Cases of ``merge(fn)``: the order of the fold, and functions that do not do what they should."""

from __future__ import annotations

from sidecar.core.crdt.merge_function import MergeFunction, Shown, Siblings, assign, genesis, merge, value


def written(*values: str | None) -> Siblings:
    """Concurrent writes, the last one the latest."""
    state = genesis("x")
    for node, text in enumerate(values, start=1):
        state = merge(state, assign(genesis("x"), text, hlc=node, node=node))
    return state


def joined(winner: str | None, other: str | None) -> str | None:
    return f"({winner} {other})"


def test_folds_from_the_latest_down() -> None:
    assert value(written("a", "b", "c"), joined) == Shown("((c b) a)")


def test_one_value_is_shown_as_it_is() -> None:
    for function in (joined, None):
        assert value(written("a"), function) == Shown("a")
        assert value(genesis(None), function) == value(Siblings(), function) == Shown(None)


def test_null_is_an_argument() -> None:
    assert value(written("a", None), joined) == Shown("(None a)")


def test_a_function_that_raises() -> None:
    def raises_at_a(winner: str | None, other: str | None) -> str | None:
        if other == "a":
            raise ArithmeticError("cannot merge a")
        return winner

    assert value(written("a", "b", "c"), raises_at_a) == Shown("c", "the function failed: cannot merge a")


def test_a_function_that_returns_null_or_is_missing() -> None:
    silent: MergeFunction = lambda _winner, _other: None  # noqa: E731
    assert value(written("a", "b"), silent) == Shown("b", "the function returned NULL")
    assert value(written("a", "b"), None) == Shown("b", "the function does not exist")
