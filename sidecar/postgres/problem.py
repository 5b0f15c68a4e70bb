"""What is wrong, or worth knowing, about a server or a schema: plain values, reported all at once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Severity = Literal["error", "warning", "advice"]
"""error: cannot work, the table or the server is refused; warning: works and can hurt; advice: good to know."""

_ORDER: dict[Severity, int] = {"error": 0, "warning": 1, "advice": 2}


@dataclass(frozen=True, slots=True)
class Problem:
    """One finding. ``table`` is ``schema.name`` or empty (the server), ``column`` a name or empty. ``lasts``: what it
    did stays when it is mended, so a running node goes on to tell of it."""

    severity: Severity
    message: str
    mend: str = ""
    table: str = ""
    column: str = ""
    lasts: bool = False

    @property
    def place(self) -> str:
        """``schema.table.column``, ``schema.table`` or nothing."""
        return ".".join(part for part in (self.table, self.column) if part)

    def line(self) -> str:
        """One readable line: severity, place, message, mend."""
        start = f"{self.severity}: {self.place}: " if self.place else f"{self.severity}: "
        return " ".join(f"{start}{self.message}{f'; {self.mend}' if self.mend else ''}".split())


def errors(problems: Iterable[Problem]) -> list[Problem]:
    """Those that refuse something."""
    return [problem for problem in problems if problem.severity == "error"]


def in_order(problems: Iterable[Problem]) -> tuple[Problem, ...]:
    """Errors first, then warnings, then advice; by table, otherwise in the order of finding."""
    return tuple(sorted(problems, key=lambda problem: (_ORDER[problem.severity], problem.table)))
