"""How the last calls of a server end."""

from __future__ import annotations

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import grpc
from hosted_server import connected, hosted, infer_request
from scripted_engines import ScriptedEngine, rows_spec, serving

from headrace_proto.v1.inference_pb2_grpc import InferenceServiceStub

PATIENCE_SECONDS = 20.0
CLIENTS = 4
CALLS_OF_EACH = 8
ROW = infer_request("m", ("x", "INT64", (1, 1), bytes(8)))


def told_until_nobody_is_there(stub: InferenceServiceStub, busy: threading.Event) -> Counter[str]:
    """Call again at once, whatever comes; return how often each status came."""
    came: Counter[str] = Counter()
    while True:
        try:
            stub.ModelInfer(ROW, timeout=PATIENCE_SECONDS)
            came["OK"] += 1
            busy.set()
        except grpc.RpcError as error:
            told = f"{error.code().name}: {error.details()}"
            if "failed to connect" in told:
                return came
            came[told] += 1


def test_invariant_5_clients_that_try_again_at_once_are_told_why() -> None:
    came: Counter[str] = Counter()
    with (
        serving(ScriptedEngine(rows_spec())) as served,
        hosted(served.service) as server,
        ThreadPoolExecutor(CLIENTS * CALLS_OF_EACH) as threads,
        ExitStack() as channels,
    ):
        stubs = [channels.enter_context(connected(server.address)) for _ in range(CLIENTS)]
        busy = threading.Event()
        callers = [
            threads.submit(told_until_nobody_is_there, stub, busy)
            for stub in stubs
            for _ in range(CALLS_OF_EACH)
        ]
        assert busy.wait(PATIENCE_SECONDS)
        server.begin_stop().result(PATIENCE_SECONDS)
        for caller in callers:
            came += caller.result(PATIENCE_SECONDS)
    assert came["OK"] == served.model.statistics.success.count
    # The completion queue serves even those that come last, and may so have nothing to tell.
    assert {"OK"} <= set(came) <= {"OK", "UNAVAILABLE: the server is stopping"}
