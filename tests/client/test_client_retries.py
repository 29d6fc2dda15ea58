"""Blocking calls that fail: which are made again, and at which server."""

from __future__ import annotations

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from time import monotonic
from typing import Any

import grpc
import numpy as np
import pytest
from fake_servers import NOT_READY, HoldingProcess, echo, failing, free_address
from google.rpc.error_details_pb2 import RetryInfo

import headrace
from headrace import Client, Retry
from headrace_proto.v1 import inference_pb2 as pb

X = np.arange(6, dtype=np.float32).reshape(2, 3)
QUICK = Retry(backoff_seconds=0.01)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, headrace.InvalidInput),
        (grpc.StatusCode.NOT_FOUND, headrace.ModelNotFound),
        (grpc.StatusCode.DEADLINE_EXCEEDED, headrace.DeadlineExceeded),
        (grpc.StatusCode.UNIMPLEMENTED, headrace.NotSupported),
        (grpc.StatusCode.UNAUTHENTICATED, headrace.Unauthenticated),
        (grpc.StatusCode.PERMISSION_DENIED, headrace.Forbidden),
        (grpc.StatusCode.UNKNOWN, headrace.RequestFailed),
        (grpc.StatusCode.DATA_LOSS, headrace.RequestFailed),
    ],
)
def test_an_error_that_another_try_cannot_mend(serve: Any, code: grpc.StatusCode, kind: type) -> None:
    servers = [serve(failing(code, "the reason")), serve(failing(code, "the reason"))]
    with Client(",".join(server.address for server in servers)) as client, pytest.raises(kind) as caught:
        client.infer("m", {"x": X})
    error = caught.value
    assert type(error) is kind
    assert (error.code, error.message, error.attempts) == (code, "the reason", 1)
    assert error.endpoint in [server.address for server in servers]
    assert sum(server.calls for server in servers) == 1


@pytest.mark.parametrize(
    "code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED, grpc.StatusCode.INTERNAL]
)
def test_another_server_answers_instead(serve: Any, code: grpc.StatusCode) -> None:
    bad, good = serve(failing(code)), serve()
    with Client(f"{bad.address},{good.address}") as client:
        for _ in range(50):
            client.infer("m", {"x": X})
            if bad.calls:
                break
    assert bad.calls == 1
    assert good.calls >= 1


def test_a_model_that_is_not_ready_costs_no_answer_and_ejects_no_server(serve: Any) -> None:
    """Every call that meets it goes elsewhere, however small the budget; other models still come."""
    bad, good = serve(NOT_READY), serve()
    retry = Retry(budget_burst=1, budget_ratio=0)
    with Client(f"{bad.address},{good.address}", retry=retry) as client:
        for _ in range(100):
            client.infer("m", {"x": X})
    assert good.calls == 100
    assert bad.calls > 20


def test_a_model_that_is_ready_nowhere(serve: Any) -> None:
    server = serve(NOT_READY)
    with Client(server.address, retry=QUICK) as client, pytest.raises(headrace.ModelNotReady) as caught:
        client.infer("m", {"x": X})
    assert (caught.value.message, caught.value.attempts) == ("loading", 3)
    assert isinstance(caught.value, headrace.Unavailable)


def test_an_engine_that_failed_is_not_asked_twice(serve: Any) -> None:
    server = serve(failing(grpc.StatusCode.INTERNAL, "broke (error 4711)"))
    with Client(server.address) as client, pytest.raises(headrace.EngineFailed, match="error 4711"):
        client.infer("m", {"x": X})
    assert server.calls == 1


def test_two_engines_that_failed_are_enough(serve: Any) -> None:
    servers = [serve(failing(grpc.StatusCode.INTERNAL)) for _ in range(4)]
    target = ",".join(server.address for server in servers)
    with Client(target) as client, pytest.raises(headrace.EngineFailed) as caught:
        client.infer("m", {"x": X})
    assert caught.value.attempts == 2
    assert sorted(server.calls for server in servers) == [0, 0, 1, 1]


def test_another_server_is_asked_at_once_when_one_is_overloaded(serve: Any) -> None:
    delay = RetryInfo()
    delay.retry_delay.seconds = 60
    bad, good = serve(failing(grpc.StatusCode.RESOURCE_EXHAUSTED, "full", delay)), serve()
    with Client(f"{bad.address},{good.address}", timeout_seconds=20) as client:
        for _ in range(50):
            client.infer("m", {"x": X})
    assert good.calls == 50
    assert bad.calls > 5


def test_an_overloaded_server_is_asked_again_when_it_said_so(serve: Any) -> None:
    asked: list[float] = []

    def full_once(request: pb.ModelInferRequest, context: grpc.ServicerContext) -> pb.ModelInferResponse:
        asked.append(monotonic())
        if len(asked) == 1:
            context.set_trailing_metadata((("grpc-status-details-bin", _retry_details(0.4)),))
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "full")
        return echo(request)

    with Client(serve(full_once).address) as client:
        client.infer("m", {"x": X})
    assert 0.2 <= asked[1] - asked[0] < 5.0


def test_an_overloaded_server_without_time_to_wait(serve: Any) -> None:
    def full(request: pb.ModelInferRequest, context: grpc.ServicerContext) -> pb.ModelInferResponse:
        context.set_trailing_metadata((("grpc-status-details-bin", _retry_details(60.0)),))
        context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "full")
        raise AssertionError

    server = serve(full)
    with Client(server.address) as client, pytest.raises(headrace.Overloaded) as caught:
        client.infer("m", {"x": X}, timeout_seconds=5)
    assert caught.value.retry_after_seconds == 60.0
    assert server.calls == 1


def _retry_details(seconds: float) -> bytes:
    from google.rpc.status_pb2 import Status as RpcStatus

    info = RetryInfo()
    info.retry_delay.FromNanoseconds(int(seconds * 1e9))
    status = RpcStatus(code=8, message="full")
    status.details.add().Pack(info)
    return status.SerializeToString()


def test_all_servers_down_is_told_soon_and_without_a_storm() -> None:
    with Client(f"{free_address()},{free_address()}", retry=QUICK) as client:
        for _ in range(3):
            started = monotonic()
            with pytest.raises(headrace.Unavailable) as caught:
                client.infer("m", {"x": X})
            assert caught.value.attempts == 3
            assert monotonic() - started < 5.0


def test_retries_stay_a_fraction_of_the_calls(serve: Any) -> None:
    server = serve(failing(grpc.StatusCode.UNAVAILABLE))
    retry = Retry(backoff_seconds=0.0, budget_burst=10, budget_ratio=0.1)
    with Client(server.address, retry=retry) as client:
        for _ in range(100):
            with pytest.raises(headrace.Unavailable):
                client.infer("m", {"x": X})
    assert 100 < server.calls <= 100 + 10 + 10


def test_no_attempt_is_repeated_if_told_so(serve: Any) -> None:
    bad = serve(failing(grpc.StatusCode.UNAVAILABLE))
    with Client(bad.address, retry=Retry(attempts=1)) as client, pytest.raises(headrace.Unavailable):
        client.infer("m", {"x": X})
    assert bad.calls == 1


def test_a_killed_server_costs_nobody_an_answer(serve: Any, holding: HoldingProcess) -> None:
    """Calls that hang in a process that is killed are answered by another one."""
    good = serve()
    retry = Retry(budget_burst=100)
    target = f"{holding.address},{good.address}"
    with Client(target, retry=retry) as client, ThreadPoolExecutor(16) as threads:
        calls = [threads.submit(client.infer, "m", {"x": X}) for _ in range(64)]
        for _ in range(8):
            assert holding.line() == "call"
        holding.kill()
        for call in calls:
            np.testing.assert_array_equal(call.result(20)["x"], X)
    assert good.calls == 64


def test_a_server_that_hangs_is_left_when_it_answers_no_ping(serve: Any, holding: HoldingProcess) -> None:
    good = serve()
    target = f"{holding.address},{good.address}"
    with Client(target, keepalive_seconds=0.2) as client, ThreadPoolExecutor(8) as threads:
        calls = [threads.submit(client.infer, "m", {"x": X}) for _ in range(16)]
        assert holding.line() == "call"
        os.kill(holding.pid, signal.SIGSTOP)
        for call in calls:
            np.testing.assert_array_equal(call.result(10)["x"], X)
    assert good.calls == 16
