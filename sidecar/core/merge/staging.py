"""Array-literal parameters -> staged rows: the part that capture, check and merge statements share.

A staged row ``g`` has ``ord`` (1-based position), ``op``, ``hlc``, ``ins`` (hlc of the insert), ``k_<attnum>`` (typed
key) and per carried column ``a_<attnum>`` (assigned?), ``h_<attnum>`` (its hlc), and ``val_<attnum>`` (typed
value), ``d_<attnum>`` (delta) or ``c_<attnum>`` (change of a set or map, jsonb).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

from sidecar.core.catalog import ColumnSpec, TableSpec
from sidecar.core.changes import DELETE, INSERT, MASK_BITS, REPLACE, TableChanges

Argument = str | int | list[int] | list[list[int]] | None


@dataclass(frozen=True, slots=True)
class Statement:
    """SQL text with positional parameters; ``names[i]`` says what ``$<i + 1>`` is (see :func:`bind`)."""

    sql: str
    names: tuple[str, ...]


@dataclass(slots=True)
class Parameters:
    """Hands out ``$n``, once per name."""

    names: list[str] = field(default_factory=list)

    def text(self, name: str) -> str:
        """The placeholder of ``name``, passed as text."""
        if name not in self.names:
            self.names.append(name)
        return f"${self.names.index(name) + 1}::text"

    def number(self, name: str) -> str:
        """The placeholder of ``name``, passed as int8."""
        if name not in self.names:
            self.names.append(name)
        return f"${self.names.index(name) + 1}::int8"

    def numbers(self, name: str) -> str:
        """The placeholder of ``name``, passed as int8[]. Not as text: array_in is not immutable, so a text cast would
        be parsed anew for every row and column that looks into the array."""
        if name not in self.names:
            self.names.append(name)
        return f"${self.names.index(name) + 1}::int8[]"

    def statement(self, sql: str) -> Statement:
        return Statement(sql, tuple(self.names))


@dataclass(frozen=True)
class Shape:
    """Which statement of a table: the columns it mentions and what can happen to rows in it.

    A *full* shape mentions every column; it is used whenever rows are inserted or deleted, or many different sets of
    columns occur. Otherwise only the carried ones are mentioned, so that a narrow update of a wide table stays cheap.
    """

    columns: tuple[ColumnSpec, ...]
    words: int
    full: bool
    reinsert: bool = False

    @cached_property
    def attnums(self) -> frozenset[int]:
        return frozenset(column.attnum for column in self.columns)


def full_shape(spec: TableSpec, *, reinsert: bool = False) -> Shape:
    """The shape that fits every batch of the table."""
    return Shape(spec.columns, max(1, -(-len(spec.columns) // MASK_BITS)), full=True, reinsert=reinsert)


def shape_for(spec: TableSpec, changes: TableChanges) -> Shape:
    """The narrowest shape for a batch: full when it holds inserts or deletes."""
    carried = set(changes.columns)
    only_updates = not any(op in changes.ops for op in (INSERT, DELETE, REPLACE))
    if not only_updates or len(changes.masks) > 1:
        return full_shape(spec)
    return Shape(tuple(column for column in spec.columns if column.name in carried), 1, full=False)


def _assigned(column: ColumnSpec, shape: Shape, parameters: Parameters) -> str:
    bit = parameters.number(f"bit:{column.attnum}")
    if shape.words == 1:
        return f"coalesce(u.m0 & {bit} <> 0, false)"
    word = parameters.number(f"word:{column.attnum}")
    masks = ", ".join(f"u.m{i}" for i in range(shape.words))
    return f"coalesce((ARRAY[{masks}])[{word}::int4] & {bit} <> 0, false)"


def staged(spec: TableSpec, shape: Shape, parameters: Parameters, extra: tuple[tuple[str, str], ...] = ()) -> str:
    """The text of ``SELECT ... FROM unnest(...)``; ``extra`` are further (parameter name, array type) pairs whose
    elements appear under the parameter's name with ``:`` replaced by ``_``."""
    arrays: list[tuple[str, str]] = []
    select: list[str] = ["u.ord"]

    def array(name: str, kind: str, alias: str) -> None:
        arrays.append((f"{parameters.text(name)}::{kind}[]", alias))

    array("ops", '"char"', "op")
    array("hlcs", "int8", "hlc")
    array("inserted", "int8", "ins")
    select += ["u.op", "u.hlc", "u.ins"]
    for i in range(shape.words):
        array(f"mask:{i}", "int8", f"m{i}")
    for column in spec.key:
        array(f"key:{column.attnum}", "text", f"k{column.attnum}")
        select.append(f"u.k{column.attnum}::{column.cast_name} AS k_{column.attnum}")
    for column in shape.columns:
        n = column.attnum
        array(f"value:{n}", "text", f"v{n}")
        assigned = _assigned(column, shape, parameters)
        select.append(f"{assigned} AS a_{n}")
        if column.is_counter:
            select.append(f"coalesce(u.v{n}::numeric, 0) AS d_{n}")
            continue
        array(f"late:{n}", "int8", f"l{n}")
        select.append(f"coalesce(u.l{n}, u.hlc) AS h_{n}")
        if column.is_element:
            select.append(f"u.v{n}::jsonb AS c_{n}")
        else:
            select.append(f"u.v{n}::{column.cast_name} AS val_{n}")
    for name, kind in extra:
        alias = name.replace(":", "_")
        array(name, kind, alias)
        select.append(f"u.{alias}")
    sources = ", ".join(text for text, _ in arrays)
    aliases = ", ".join(alias for _, alias in arrays)
    return (
        f"SELECT {', '.join(select)}\n    FROM unnest({sources}) WITH ORDINALITY AS u({aliases}, ord)\n"
        f"    WHERE u.ord BETWEEN {parameters.number('first')} AND {parameters.number('last')}"
    )


def staged_keys(spec: TableSpec, parameters: Parameters) -> str:
    """Only ``ord``, ``op``, ``ins`` and the typed keys, for the lock and check statements."""
    keys = ", ".join(f"{parameters.text(f'key:{column.attnum}')}::text[]" for column in spec.key)
    sources = f'{parameters.text("ops")}::"char"[], {parameters.text("inserted")}::int8[], {keys}'
    aliases = ", ".join(["op", "ins", *(f"k{column.attnum}" for column in spec.key)])
    select = ", ".join(f"u.k{c.attnum}::{c.cast_name} AS k_{c.attnum}" for c in spec.key)
    return (
        f"SELECT u.ord, u.op, u.ins, {select}\n    FROM unnest({sources}) WITH ORDINALITY AS u({aliases}, ord)\n"
        f"    WHERE u.ord BETWEEN {parameters.number('first')} AND {parameters.number('last')}"
    )


def _literal(data: bytes) -> str | None:
    return data.decode() if data else None


def bind(statement: Statement, spec: TableSpec, changes: TableChanges, others: dict[str, Argument]) -> list[Argument]:
    """The arguments of a statement for one :class:`TableChanges`, in parameter order.

    Columns are matched by name, because attribute numbers and column order differ between nodes; a column of the
    statement that is not carried gets bit 0 and NULL arrays. ``others`` gives everything that is not in ``changes``;
    ``first`` and ``last`` default to all rows.
    """
    position = {name: i for i, name in enumerate(changes.columns)}
    key_position = {name: i for i, name in enumerate(changes.key_columns)}
    by_attnum = {column.attnum: column for column in (*spec.key, *spec.columns)}
    values: dict[str, Argument] = {"first": 1, "last": changes.rows, **others}
    arguments: list[Argument] = []
    for name in statement.names:
        kind, _, rest = name.partition(":")
        if name in values:
            arguments.append(values[name])
        elif kind in ("ops", "hlcs", "inserted"):
            arguments.append(_literal(getattr(changes, kind)))
        elif kind == "mask":
            word = int(rest)
            arguments.append(_literal(changes.masks[word]) if word < len(changes.masks) else None)
        elif kind == "key":
            arguments.append(_literal(changes.keys[key_position[by_attnum[int(rest)].name]]))
        elif kind in ("value", "late", "seen", "bit", "word"):
            at = position.get(by_attnum[int(rest)].name)
            arguments.append(_column_argument(changes, kind, at))
        else:
            raise KeyError(f"statement parameter {name!r} has no value")
    return arguments


def _column_argument(changes: TableChanges, kind: str, at: int | None) -> Argument:
    if kind == "bit":
        return 0 if at is None else 1 << (at % MASK_BITS)
    if kind == "word":
        return 1 if at is None else at // MASK_BITS + 1
    if at is None:
        return None
    arrays = {"value": changes.values, "late": changes.late, "seen": changes.seen}[kind]
    return _literal(arrays[at]) if at < len(arrays) else None
