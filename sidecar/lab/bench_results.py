"""What a benchmark found: rows of a table, and the facts behind them for the JSON file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Target:
    """What ``ratio`` (or the sidecar's value, when ``absolute``) must reach."""

    bound: float
    at_most: bool
    absolute: bool = False

    def met(self, value: float) -> bool:
        return value <= self.bound if self.at_most else value >= self.bound

    def __str__(self) -> str:
        return f"{'<=' if self.at_most else '>='} {self.bound:g}{'' if self.absolute else ' x'}"


@dataclass(frozen=True, slots=True)
class Measure:
    """One line: what the baseline and the sidecar took, in ``unit``. ``baseline_name``: what the baseline is."""

    section: str
    what: str
    unit: str
    sidecar: float | None
    baseline: float | None = None
    baseline_name: str = "built-in"
    target: Target | None = None

    @property
    def ratio(self) -> float | None:
        """Sidecar over baseline."""
        return self.sidecar / self.baseline if self.sidecar is not None and self.baseline else None

    @property
    def verdict(self) -> str | None:
        """``met`` or ``missed``; ``None`` without a target or a number."""
        value = self.sidecar if self.target is not None and self.target.absolute else self.ratio
        if self.target is None or value is None:
            return None
        return "met" if self.target.met(value) else "missed"


@dataclass(slots=True)
class Findings:
    """What one section found. ``diverged``: where nodes that must be equal were not."""

    measures: list[Measure] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    diverged: list[str] = field(default_factory=list)


def percentile(values: Sequence[float], percent: float) -> float | None:
    """The nearest-rank percentile: the smallest value with at least so many per cent at or below it."""
    if not values:
        return None
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * percent // 100).__int__() - 1)]


def median(values: Sequence[float]) -> float | None:
    """The lower median."""
    return percentile(values, 50)
