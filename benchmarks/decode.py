"""Cost of reading and coalescing, without a server: microseconds of processor per single-row transaction.

    python benchmarks/decode.py [--transactions N] [--repeat N]

The row has 8 columns, as in the drain benchmark: key, uuid, two texts, a counter, a numeric, a boolean, a timestamp.
Each case is fed as raw XLogData messages (Begin, row, Commit), taken every 20,000 transactions; best of the repeats.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import random
import struct
import sys
import time
from collections.abc import Callable

from sidecar.core.catalog import ColumnSpec, TableSpec
from sidecar.core.pgoutput import XLOG_HEADER_BYTES, RowReader
from sidecar.node.intake import Intake
from sidecar.node.state import NodeState
from sidecar.settings import LimitSettings, NodeSettings, Settings

TAKE_TRANSACTIONS = 20_000
COLUMNS = (
    ("id", "bigint", "lww_register"),
    ("token", "uuid", "lww_register"),
    ("author", "text", "lww_register"),
    ("body", "text", "lww_register"),
    ("likes", "bigint", "pn_counter"),
    ("price", "numeric", "lww_register"),
    ("active", "boolean", "lww_register"),
    ("updated", "timestamp with time zone", "lww_register"),
)
OID = 16_400
Row = list[bytes | None]


def relation() -> bytes:
    """The relation message."""
    columns = b"".join(struct.pack(">B", 1) + name.encode() + struct.pack(">xIi", 25, -1) for name, _, _ in COLUMNS)
    head = struct.pack(">I", OID) + b"public\0posts\0f" + struct.pack(">H", len(COLUMNS))
    return xlog(b"R" + head + columns, 0x1000_0000)


def table() -> TableSpec:
    """The replicated table."""
    specs = tuple(ColumnSpec(n, i + 1, t, t, c) for i, (n, t, c) in enumerate(COLUMNS))
    return TableSpec(1, "public", "posts", specs[:1], specs[1:], relation_oid=OID)


def row(generator: random.Random, key: int) -> Row:
    """A row with values of varying length."""
    words = " ".join(
        generator.choice(("lorem", "ipsum", "dolor", "sit", "amet")) for _ in range(generator.randint(3, 9))
    )
    return [
        b"%d" % key,
        b"%08x-1c2d-7e3f-8a4b-5c6d7e8f9a0b" % generator.getrandbits(32),
        b"user %d" % generator.randint(1, 100_000),
        words.encode(),
        b"%d" % generator.randint(0, 5000),
        b"%d.%02d" % (generator.randint(0, 999), generator.randint(0, 99)),
        generator.choice((b"t", b"f")),
        b"2025-06-01 12:%02d:%02d.%06d+00" % tuple(generator.randint(0, 59) for _ in range(3)),
    ]


def tuple_data(values: Row) -> bytes:
    """The wire form of a tuple."""
    out = struct.pack(">H", len(values))
    for value in values:
        out += b"n" if value is None else b"t" + struct.pack(">I", len(value)) + value
    return out


def xlog(payload: bytes, lsn: int) -> bytes:
    """The payload inside XLogData."""
    return struct.pack(">cQQq", b"w", lsn, lsn, 800_000_000_000_000) + payload


def transactions(count: int, kind: str, rows: int) -> list[bytes]:
    """Raw messages of ``count`` single-row transactions on ``rows`` rows."""
    generator = random.Random(7)
    state = [row(generator, 1 + i) for i in range(rows)]
    messages = []
    for n in range(count):
        lsn = 0x1000_0000 + n * 200
        messages.append(xlog(b"B" + struct.pack(">QqI", lsn, 800_000_000_000_000 + n * 100, 1000 + n), lsn))
        i = n % rows if kind == "insert" else generator.randrange(rows)
        old = state[i]
        if kind == "insert":
            payload = b"I" + struct.pack(">Ic", OID, b"N") + tuple_data(old)
        elif kind == "delete":
            payload = b"D" + struct.pack(">Ic", OID, b"O") + tuple_data(old)
        else:
            new = change(generator, kind, old)
            payload = b"U" + struct.pack(">Ic", OID, b"O") + tuple_data(old) + b"N" + tuple_data(new)
            state[i] = new
        messages.append(xlog(payload, lsn))
        messages.append(xlog(b"C" + struct.pack(">BQQq", 0, lsn, lsn + 100, 800_000_000_000_000 + n * 100), lsn))
    return messages


def change(generator: random.Random, kind: str, old: Row) -> Row:
    """What an update statement does to a row."""
    new = list(old)
    fresh = row(generator, 0)
    if kind in ("counter", "mixed"):
        new[4] = b"%d" % (int(old[4] or 0) + 1)
    if kind in ("text", "mixed"):
        new[3] = fresh[3]
    if kind == "mixed":
        new[7] = fresh[7]
    if kind == "all":
        new[1:] = fresh[1:]
    return new


def drain(messages: list[bytes]) -> int:
    """What capture does with the messages, without the database."""
    limits = LimitSettings(batch_transactions_max=TAKE_TRANSACTIONS, batch_rows_max=TAKE_TRANSACTIONS)
    state = NodeState(Settings(node=NodeSettings(name="bench", id=1, dsn="postgresql://"), limits=limits))
    state.set_tables([table()])
    return asyncio.run(_take_in(Intake(state, resume_lsn=0, refresh_tables=_nothing_to_read), messages))


async def _take_in(intake: Intake, messages: list[bytes]) -> int:
    taken = 0
    intake.feed([relation(), *messages])
    while await intake.consume():
        taken += len(intake.held.take())
    taken += len(intake.held.take())
    assert taken, "the table was not recognised: nothing was measured"
    return taken


async def _nothing_to_read() -> None:
    """There is no catalogue here."""


def read_only(messages: list[bytes]) -> int:
    """Reading the rows alone."""
    reader = RowReader()
    for raw in messages[1::3]:
        reader.read(raw, XLOG_HEADER_BYTES)
    return len(messages)


def best(function: Callable[[list[bytes]], int], messages: list[bytes], repeat: int) -> float:
    """Processor seconds of the fastest run."""
    seconds = []
    for _ in range(repeat):
        gc.collect()
        start = time.process_time()
        function(messages)
        seconds.append(time.process_time() - start)
    return min(seconds)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--transactions", type=int, default=40_000)
    parser.add_argument("--repeat", type=int, default=5)
    arguments = parser.parse_args()
    count = arguments.transactions
    cases = [
        ("update, 1 counter of 8 columns", "counter", 100_000),
        ("update, 1 text of 8 columns", "text", 100_000),
        ("update, 3 of 8 columns", "mixed", 100_000),
        ("update, 7 of 8 columns", "all", 100_000),
        ("update, 1 counter, 100 hot rows", "counter", 100),
        ("update, 3 of 8 columns, 100 hot rows", "mixed", 100),
        ("insert", "insert", 100_000),
        ("delete", "delete", 100_000),
    ]
    print(f"{'microseconds per transaction':38} {'read':>8} {'all':>8}")
    for name, kind, rows in cases:
        messages = transactions(count, kind, rows)
        alone = best(read_only, messages, arguments.repeat) / count * 1e6
        whole = best(drain, messages, arguments.repeat) / count * 1e6
        print(f"{name:38} {alone:8.2f} {whole:8.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
