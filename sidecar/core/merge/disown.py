"""The row state of a row with a local change that cannot be captured: as if the change had not been made.

No other node will hear of it. What the user row shows now is therefore not what it was merged from:

- the xmin is the change's, so that the row is clean and what comes is merged;
- counters: what the change made the row show more is taken from the excess. So the true value stays the one that
  everybody has, and the row shows it from the next write or merge of the counter on;
- sets and maps: the state stands as it was before the change. Where there was none yet, it is made of the value before
  the change; made later, of the user row, it would hold what nobody else has.

The versions of registers stay, so every write that comes is later. A row that is not known yet counts as one of genesis
without anything in its counters, sets and maps.
"""

from __future__ import annotations

from sidecar.core.catalog import TableSpec
from sidecar.core.merge import capture_elements
from sidecar.core.merge.liveness import alive_here, rule_of
from sidecar.core.merge.staging import Parameters, Shape, Statement, staged
from sidecar.core.merge.state_tables import row_table


def disown_statement(spec: TableSpec, shape: Shape) -> Statement:
    """For the one row of a batch; ``shape`` has those of its counters, sets and maps that are to be kept right.
    Parameters besides the arrays: ``xids`` and ``old:<attnum>`` as for :func:`.capture.capture_statement`."""
    parameters = Parameters()
    sums = [c for c in spec.counters if c.attnum in shape.attnums]
    elements = capture_elements.carried(spec, shape)
    extra = [("xids", "xid"), *((f"old:{c.attnum}", "numeric") for c in sums)]
    rows = staged(spec, shape, parameters, (*extra, *capture_elements.old_images(elements)))
    keys = [f"k_{c.attnum}" for c in spec.key]
    values = dict.fromkeys(("row_node", "row_hlc", "live_node", "live_hlc"), "0")
    values["row_xmin"] = "CASE WHEN g.op <> 'D' THEN g.xids END"
    if rule_of(spec) is not None:
        values["alive"] = "true"
    # A row that is deleted shows nothing, and a deleted one showed nothing before.
    updates = {"row_xmin": f"CASE WHEN {alive_here(spec, 's')} THEN excluded.row_xmin END"}
    for column in sums:
        n = column.attnum
        written = f"CASE WHEN g.a_{n} THEN g.d_{n} ELSE 0 END"
        values[f"x_{n}"] = f"nullif(coalesce(g.old_{n}, 0) - {written}, 0)"
        updates[f"x_{n}"] = f"nullif(coalesce(s.x_{n}, 0) + coalesce(excluded.x_{n}, 0), 0)"
    for column in elements:
        n = column.attnum
        values[f"e_{n}"] = f"CASE WHEN g.a_{n} THEN {capture_elements.before(column)} END"
        updates[f"e_{n}"] = f"coalesce(s.e_{n}, excluded.e_{n})"
    join = capture_elements.state_before(spec, elements) if elements else ""
    sets = ", ".join(f"{name} = {value}" for name, value in updates.items())
    return parameters.statement(
        f"WITH g AS (\n    {rows}\n)\n"
        f"INSERT INTO {row_table(spec)} AS s ({', '.join([*keys, *values])})\n"
        f"SELECT {', '.join([*(f'g.{key}' for key in keys), *values.values()])} FROM g {join}\n"
        f"ON CONFLICT ({', '.join(keys)}) DO UPDATE SET {sets}"
    )
