"""Whether the server's memory grows with the requests that it has answered: `python -m bench.memory`."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Final

from bench.load import fixed_number
from bench.models import MODELS, write_repository
from bench.servers import KINDS, Server, start

_IN_FLIGHT: Final = 32
_MIB: Final = 1 << 20


def main() -> int:
    """Print the resident memory after the first requests, after all of them, and the difference."""
    parser = argparse.ArgumentParser(prog="python -m bench.memory", description=__doc__)
    parser.add_argument("--first", type=int, default=10_000, help="requests before the first look")
    parser.add_argument("--total", type=int, default=100_000, help="requests before the second look")
    parser.add_argument("--server", choices=[*KINDS], default="headrace")
    given = parser.parse_args()
    model = MODELS["mlp-small"]
    with tempfile.TemporaryDirectory(prefix="headrace-bench-") as folder:
        work = Path(folder)
        write_repository(work / "models", [model])
        with start(KINDS[given.server], model, work) as server:
            before = _rss_after(server, given.first, given.first)
            after = _rss_after(server, given.total - given.first, given.total)
    print(f"growth: {(after - before) / _MIB:+.1f} MiB")
    return 0


def _rss_after(server: Server, requests: int, total: int) -> int:
    """Send so many more requests, print the memory and return it in bytes."""
    load = fixed_number(server.target, _IN_FLIGHT, requests)
    rss_bytes = server.rss_bytes()
    print(f"after {total:,} requests: RSS {rss_bytes / _MIB:.1f} MiB, {load.failed} failed", flush=True)
    return rss_bytes


if __name__ == "__main__":
    sys.exit(main())
