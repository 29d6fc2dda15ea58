"""The load generator, run as a child process so that its cost is its own: prints one JSON object.

Closed loop: a number of calls in flight, each answer begins the next call. Open loop: calls begin at
times that were drawn beforehand (a Poisson process), however slow the answers are, and latency counts
from those times, so that a stall is paid by every call that came during it.
"""

from __future__ import annotations

import argparse
import json
import select
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np

from bench.http2 import Calls, Messages

_DRAIN_SECONDS: Final = 5.0

Connection = Calls | Messages


class Tally:
    """Latencies of good answers in nanoseconds, and the number of others."""

    def __init__(self) -> None:
        self.latencies_ns: list[int] = []
        self.failed = 0

    def collect(self, connection: Connection) -> int:
        """Take what has come on the connection; return how many calls it ended."""
        answers = connection.receive()
        now_ns = time.perf_counter_ns()
        good = [now_ns - begun_ns for begun_ns, is_good in answers if is_good]
        self.latencies_ns += good
        self.failed += len(answers) - len(good)
        return len(answers)

    def summary(self, seconds: float) -> str:
        """Return the result as JSON; times in milliseconds."""
        p50, p99 = np.percentile(self.latencies_ns or [0], (50, 99)) / 1e6
        return json.dumps(
            {
                "replies": len(self.latencies_ns),
                "failed": self.failed,
                "seconds": seconds,
                "p50_ms": p50,
                "p99_ms": p99,
            }
        )


def closed_loop(connections: Sequence[Connection], in_flight: int, seconds: float, requests: int) -> str:
    """Keep `in_flight` calls open until the time is over, or `requests` have begun where that is not 0."""
    tally = Tally()
    begin = time.perf_counter()
    left = requests or -1
    for connection in connections:
        connection.send(time.perf_counter_ns(), in_flight // len(connections))
        left -= in_flight // len(connections)
    while (left > 0) if requests else (time.perf_counter() - begin < seconds):
        for connection in select.select(connections, (), (), 1.0)[0]:
            ended = tally.collect(connection)
            again = min(ended, left) if requests else ended
            if again:
                connection.send(time.perf_counter_ns(), again)
                left -= again
    elapsed = time.perf_counter() - begin
    # What ends after the time does not count; servers are not left with calls whose client has gone.
    _drain(connections, tally if requests else Tally())
    return tally.summary(elapsed)


def open_loop(connections: Sequence[Connection], rate: float, seconds: float) -> str:
    """Begin `rate` calls a second on average, in turn on each connection."""
    gaps = np.random.default_rng(0).exponential(1 / rate, int(rate * seconds))
    tally = Tally()
    begin_ns = time.perf_counter_ns()
    due_ns: list[int] = (begin_ns + np.cumsum(gaps) * 1e9).astype(np.int64).tolist()
    for number, at_ns in enumerate(due_ns):
        wait_seconds = 1.0
        while wait_seconds > 0:
            wait_seconds = (at_ns - time.perf_counter_ns()) / 1e9
            for connection in select.select(connections, (), (), max(0.0, wait_seconds))[0]:
                tally.collect(connection)
        connections[number % len(connections)].send(at_ns)
    elapsed = (time.perf_counter_ns() - begin_ns) / 1e9
    _drain(connections, tally)
    return tally.summary(elapsed)


def _drain(connections: Sequence[Connection], tally: Tally) -> None:
    """Wait for the calls that are open; those that do not end in time have failed."""
    end = time.perf_counter() + _DRAIN_SECONDS
    while any(connection.open_calls for connection in connections) and time.perf_counter() < end:
        for connection in select.select(connections, (), (), 0.1)[0]:
            tally.collect(connection)
    tally.failed += sum(connection.open_calls for connection in connections)


def main() -> None:
    """Read the arguments, make the connections, run one loop."""
    parser = argparse.ArgumentParser(prog="bench.generator")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--path", required=True)
    parser.add_argument("--body", type=Path, required=True, help="file with a message framed for gRPC")
    parser.add_argument("--reply-bytes", type=int, required=True, help="size of a good reply, framed")
    parser.add_argument("--connections", type=int, default=1)
    parser.add_argument("--in-flight", type=int, default=1)
    parser.add_argument("--rate", type=float, default=0.0, help="calls a second; 0 runs a closed loop")
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--requests", type=int, default=0, help="end after so many instead of after a time")
    parser.add_argument(
        "--stream", action="store_true", help="one stream of messages on each connection instead of calls"
    )
    given = parser.parse_args()
    body = given.body.read_bytes()
    kind = Messages if given.stream else Calls
    connections: Sequence[Connection] = [
        kind(given.port, given.path, body, given.reply_bytes) for _ in range(given.connections)
    ]
    if given.rate:
        print(open_loop(connections, given.rate, given.seconds))
    else:
        print(closed_loop(connections, given.in_flight, given.seconds, given.requests))
    for connection in connections:
        connection.close()


if __name__ == "__main__":
    main()
