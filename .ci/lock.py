"""Write requirements.lock to stdout: exact versions of everything pyproject.toml needs, as installed here."""

from __future__ import annotations

import importlib.metadata
import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

HEADER = """\
# Exact versions of everything `make venv` installs: the package's dependencies with its lab and dev extras, and its
# build backend. After a change in pyproject.toml: install what is new into .venv, then `make lock`.
"""


def closure(wanted: list[Requirement]) -> dict[str, str]:
    """Lock lines by name: version and platform marker, dependencies of dependencies included."""
    lines: dict[str, str] = {}
    done: set[tuple[str, frozenset[str]]] = set()
    while wanted:
        requirement = wanted.pop()
        name = canonicalize_name(requirement.name)
        extras = frozenset(requirement.extras)
        if (name, extras) in done:
            continue
        done.add((name, extras))
        distribution = importlib.metadata.distribution(requirement.name)
        marker = f" ; {requirement.marker}" if requirement.marker and "sys_platform" in str(requirement.marker) else ""
        lines.setdefault(name, f"{name}=={distribution.version}{marker}")
        for text in distribution.requires or []:
            further = Requirement(text)
            contexts = [{"extra": extra} for extra in (extras or {""})]
            if further.marker is None or any(further.marker.evaluate(context) for context in contexts):
                wanted.append(further)
    return lines


def main() -> int:
    document = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))
    project = document["project"]
    texts = [*project["dependencies"], *document["build-system"]["requires"]]
    for extra in project["optional-dependencies"].values():
        texts += extra
    sys.stdout.write(HEADER)
    for line in sorted(closure([Requirement(text) for text in texts]).values()):
        sys.stdout.write(line + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
