"""Whether the versions inside a peer's changes of sets and maps are of their change set: an element that was added in
the future could not be removed by anybody, and a stamp of the future would win over every one to come."""

from __future__ import annotations

import msgspec

from sidecar.core.catalog import TableSpec
from sidecar.core.changes import TableChanges
from sidecar.core.elements import array_elements
from sidecar.errors import ProtocolError


class _Travelled(msgspec.Struct, gc=False):
    """The members of a change that hold versions; see :mod:`sidecar.core.elements`."""

    full: int = 0
    added: dict[str, int | tuple[int, msgspec.Raw]] = msgspec.field(default_factory=dict, name="add")
    gone: dict[str, int] = msgspec.field(default_factory=dict, name="del")

    def newest(self) -> int:
        added = (stamp if isinstance(stamp, int) else stamp[0] for stamp in self.added.values())
        return max(self.full, *added, *self.gone.values(), 0)


_DECODER = msgspec.json.Decoder(_Travelled)


def check_element_versions(spec: TableSpec, changes: TableChanges, to_hlc: int) -> None:
    """Raises :class:`ProtocolError` for a version above ``to_hlc``. What cannot be read says nothing here: the merge
    finds it, row by row."""
    for column in spec.elements:
        if column.name not in changes.columns:
            continue
        literal = changes.values[changes.columns.index(column.name)]
        for text in array_elements(literal.decode()) if literal else ():
            try:
                newest = _DECODER.decode(text).newest() if text is not None else 0
            except msgspec.DecodeError:
                continue
            if newest > to_hlc:
                raise ProtocolError(
                    f"{spec.qualified}.{column.name}: an element of version {newest}, its change set ends at {to_hlc}"
                )
