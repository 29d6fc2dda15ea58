"""Calls with messages of any size, run as a child process: prints what `bench.generator` prints.

That sends at once what fits a stream's first window, and is cheaper for it; images do not fit, so here
gRPC's own library sends them.
"""

from __future__ import annotations

import argparse
import itertools
import queue
import time
from pathlib import Path
from typing import Any, Final

import grpc

from bench.generator import Tally

_CHANNELS: Final = 4
_PATIENCE_SECONDS: Final = 20.0
_HEAD_BYTES: Final = 5
_OPTIONS: Final = [
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
    ("grpc.max_send_message_length", -1),
]


def main() -> None:
    """Keep calls in flight for a time."""
    parser = argparse.ArgumentParser(prog="bench.gpu_check.caller", description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--path", required=True)
    parser.add_argument("--body", type=Path, required=True, help="file with a message framed for gRPC")
    parser.add_argument("--reply-bytes", type=int, required=True, help="size of a good reply, framed")
    parser.add_argument("--connections", type=int, default=_CHANNELS)
    parser.add_argument("--in-flight", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=1.0)
    given = parser.parse_args()
    message = given.body.read_bytes()[_HEAD_BYTES:]
    channels = [
        grpc.insecure_channel(f"127.0.0.1:{given.port}", options=_OPTIONS) for _ in range(given.connections)
    ]
    methods: list[Any] = [channel.unary_unary(given.path) for channel in channels]
    print(_loop(methods, message, given.reply_bytes - _HEAD_BYTES, given.in_flight, given.seconds))
    for channel in channels:
        channel.close()


def _loop(methods: list[Any], message: bytes, reply_bytes: int, in_flight: int, seconds: float) -> str:
    ended: queue.SimpleQueue[tuple[int, Any]] = queue.SimpleQueue()
    turn = itertools.cycle(methods)

    def send() -> None:
        begun_ns = time.perf_counter_ns()
        call = next(turn).future(message, timeout=_PATIENCE_SECONDS)
        call.add_done_callback(lambda done: ended.put((begun_ns, done)))

    tally, begun = Tally(), time.perf_counter()
    for _ in range(in_flight):
        send()
    while (elapsed := time.perf_counter() - begun) < seconds:
        begun_ns, call = ended.get(timeout=_PATIENCE_SECONDS)
        if call.code() is grpc.StatusCode.OK and len(call.result()) == reply_bytes:
            tally.latencies_ns.append(time.perf_counter_ns() - begun_ns)
        else:
            tally.failed += 1
        send()
    for _ in range(in_flight):  # servers are not left with calls whose client has gone
        ended.get(timeout=_PATIENCE_SECONDS)
    return tally.summary(elapsed)


if __name__ == "__main__":
    main()
