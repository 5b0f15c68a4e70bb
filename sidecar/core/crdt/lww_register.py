"""``lww_register``: the value of the latest write (Shapiro et al. 2011, section 3.2.1, "Last-Writer-Wins Register").

State: a value and the dot that wrote it. Order: by ``(hlc, node)``, total over writes because a dot is written once.
Laws: ``merge`` is the maximum of that order, hence commutative, associative and idempotent; ``assign`` moves up in it.
A hybrid logical clock value is above every value its node had seen, so a write that saw another always wins over it;
the order decides by wall clock only between writes that did not see each other.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LwwRegister:
    """A text image (``None`` is SQL NULL) with the dot of its write. Genesis is ``(hlc=0, node=0)``."""

    value: str | None = None
    hlc: int = 0
    node: int = 0


EMPTY = LwwRegister(hlc=-1)
"""Never written: below everything, genesis included."""


def assign(state: LwwRegister, value: str | None, *, hlc: int, node: int) -> LwwRegister:
    """The state after a local write, whose dot is above everything the node has seen."""
    new = LwwRegister(value, hlc, node)
    assert _stamp(new) > _stamp(state), "a local write is later than what its node has seen"
    return new


def merge(a: LwwRegister, b: LwwRegister) -> LwwRegister:
    """The later write: the higher hlc; tie: the higher node id."""
    assert _stamp(a) != _stamp(b) or a == b, "one dot wrote two values"
    return a if _stamp(a) >= _stamp(b) else b


def value(state: LwwRegister) -> str | None:
    """What the column shows."""
    return state.value


def _stamp(state: LwwRegister) -> tuple[int, int]:
    return state.hlc, state.node
