"""``python -m benchmarks``: the same as ``sidecar bench``."""

from __future__ import annotations

import sys

from sidecar.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["bench", *sys.argv[1:]]))
