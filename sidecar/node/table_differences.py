"""What a peer's tables are that this node's are not."""

from __future__ import annotations

from collections.abc import Mapping

from sidecar.core.wire.messages import Hello

TABLES_NAMED_MAX = 20
"""Tables of either kind named in the line about a peer's tables: a Hello may name thousands that are not here."""


def differences(own: Mapping[str, str], hello: Hello) -> str | None:
    """One line, with the mend, for ``schema.table`` -> digest here and in a Hello; ``None`` when all is well."""
    differing = [name for name, value in hello.fingerprints.items() if own.get(name, value) != value]
    missing = [name for name in hello.fingerprints if name not in own]
    lines = [f"table {name} differs from that on {hello.node_name}" for name in differing[:TABLES_NAMED_MAX]]
    lines += [f"table {name} of {hello.node_name} is not replicated here" for name in missing[:TABLES_NAMED_MAX]]
    unsaid = len(differing) + len(missing) - len(lines)
    lines += [f"and {unsaid} more"] if unsaid else []
    return "; ".join(lines) + "; make columns and annotations equal" if lines else None
