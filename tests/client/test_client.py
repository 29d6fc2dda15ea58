from __future__ import annotations

import os
import signal
import threading
from collections.abc import AsyncIterator
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
from headrace.endpoint import Endpoint, Status
from headrace_proto.v1 import inference_pb2 as pb

X = np.arange(6, dtype=np.float32).reshape(2, 3)
QUICK = Retry(backoff_seconds=0.01)


def test_a_prediction(serve: Any) -> None:
    with Client(serve().address) as client:
        outputs = client.infer("m", {"x": X, "n": np.array([7])})
    assert list(outputs) == ["x", "n"]
    np.testing.assert_array_equal(outputs["x"], X)
    assert outputs["x"].dtype == np.float32
    assert outputs["n"].dtype == np.int64


def test_what_is_asked_arrives(serve: Any) -> None:
    asked: list[pb.ModelInferRequest] = []

    def remember(request: pb.ModelInferRequest, context: grpc.ServicerContext) -> pb.ModelInferResponse:
        asked.append(request)
        assert 1.0 < context.time_remaining() < 2.1
        return echo(request)

    with Client(serve(remember).address) as client:
        client.infer("m", {"x": X}, version="3", outputs=["a", "b"], timeout_seconds=2)
    assert (asked[0].model_name, asked[0].model_version) == ("m", "3")
    assert [output.name for output in asked[0].outputs] == ["a", "b"]


def test_metadata(serve: Any) -> None:
    with Client(serve().address) as client:
        metadata = client.metadata("digits")
        with pytest.raises(headrace.ModelNotFound, match="no model 'digit'"):
            client.metadata("digit")
    assert metadata == headrace.ModelMetadata(
        name="digits",
        versions=("1", "2"),
        platform="onnxruntime_onnx",
        inputs=(headrace.TensorMetadata("image", "FP32", (-1, 64)),),
        outputs=(headrace.TensorMetadata("scores", "FP32", (-1, 10)),),
    )


def test_ready(serve: Any) -> None:
    server = serve()
    with Client(server.address) as client:
        assert client.ready()
        server.is_ready = False
        assert not client.ready()
    with Client(free_address(), retry=QUICK) as client:
        assert not client.ready()


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


def test_the_deadline_is_for_the_whole_call(serve: Any) -> None:
    release = threading.Event()

    def slow(request: pb.ModelInferRequest, context: grpc.ServicerContext) -> pb.ModelInferResponse:
        release.wait(10)
        return echo(request)

    server = serve(slow)
    with Client(server.address, timeout_seconds=0.2) as client:
        started = monotonic()
        with pytest.raises(headrace.DeadlineExceeded):
            client.infer("m", {"x": X})
        assert 0.2 <= monotonic() - started < 5.0
    release.set()
    assert server.calls == 1


@pytest.mark.parametrize("timeout_seconds", [0, -1, float("nan")])
def test_a_timeout_that_makes_no_sense(timeout_seconds: float) -> None:
    with pytest.raises(ValueError, match="timeout_seconds"):
        Client("127.0.0.1:1", timeout_seconds=timeout_seconds)
    with Client("127.0.0.1:1") as client, pytest.raises(ValueError, match="timeout_seconds"):
        client.infer("m", {"x": X}, timeout_seconds=timeout_seconds)


def test_a_closed_client(serve: Any) -> None:
    client = Client(serve().address)
    client.infer("m", {"x": X})
    client.close()
    client.close()
    with pytest.raises(headrace.ClientClosed, match="closed"):
        client.infer("m", {"x": X})
    never_used = Client("127.0.0.1:1")
    never_used.close()
    with pytest.raises(headrace.ClientClosed):
        never_used.infer("m", {"x": X})


@pytest.mark.parametrize("retry", [Retry(), Retry(attempts=1), Retry(budget_burst=0)])
def test_closing_ends_calls_under_way(serve: Any, retry: Retry) -> None:
    release = threading.Event()

    def slow(request: pb.ModelInferRequest, context: grpc.ServicerContext) -> pb.ModelInferResponse:
        release.wait(10)
        return echo(request)

    server = serve(slow)
    client = Client(server.address, retry=retry)
    with ThreadPoolExecutor(1) as threads:
        call = threads.submit(client.infer, "m", {"x": X})
        assert server.called.wait(5)
        client.close()
        with pytest.raises(headrace.ClientClosed):
            call.result(5)
    release.set()


def test_closing_ends_a_pause_before_a_retry(serve: Any) -> None:
    server = serve(failing(grpc.StatusCode.UNAVAILABLE))
    client = Client(server.address, retry=Retry(backoff_seconds=20, max_backoff_seconds=20))
    with ThreadPoolExecutor(1) as threads:
        call = threads.submit(client.infer, "m", {"x": X})
        assert server.called.wait(5)
        client.close()
        with pytest.raises(headrace.ClientClosed):
            call.result(5)


def test_many_threads_share_a_client(serve: Any) -> None:
    servers = [serve(), serve(), serve()]
    with Client(",".join(server.address for server in servers)) as client:

        def call(number: int) -> bool:
            array = np.full((1, 4), number)
            return bool((client.infer("m", {"x": array})["x"] == array).all())

        with ThreadPoolExecutor(16) as threads:
            assert all(threads.map(call, range(600)))
    assert sum(server.calls for server in servers) == 600
    assert min(server.calls for server in servers) > 100


def test_a_big_message(serve: Any) -> None:
    big = np.zeros((1, 3 << 20), np.float32)
    server = serve()
    # The server's own limit answers, not one of the client's.
    with Client(server.address) as client, pytest.raises(headrace.InvalidInput, match="larger than max"):
        client.infer("m", {"x": big})


class Script:
    """A look-up that says what it is told to."""

    def __init__(self, *sets: tuple[Endpoint, ...]) -> None:
        self._sets = iter(sets)
        self.go = threading.Semaphore(0)
        self.over = threading.Event()

    def next(self) -> None:
        self.go.release()

    async def watch(self) -> AsyncIterator[tuple[Endpoint, ...]]:
        import asyncio

        try:
            for endpoints in self._sets:
                await asyncio.to_thread(self.go.acquire)
                yield endpoints
            await asyncio.Event().wait()
        finally:
            self.over.set()


def test_calls_wait_for_the_first_set_and_follow_the_next(serve: Any) -> None:
    one, two = serve(), serve()
    script = Script((Endpoint(one.address),), (Endpoint(two.address),))
    with Client(script) as client, ThreadPoolExecutor(1) as threads:
        call = threads.submit(client.infer, "m", {"x": X})
        assert not one.calls
        script.next()
        call.result(5)
        assert one.calls == 1
        script.next()
        _until(lambda: client.infer("m", {"x": X}) is not None and two.calls > 0)
        calls = one.calls
        for _ in range(20):
            client.infer("m", {"x": X})
        assert one.calls == calls
    assert script.over.wait(5), "closing ends the look-up"


def _until(happened: Any, seconds: float = 5.0) -> None:
    end = monotonic() + seconds
    while not happened():
        assert monotonic() < end


def test_a_look_up_that_knows_nothing_yet(serve: Any) -> None:
    script = Script(())
    with Client(script) as client:
        with pytest.raises(headrace.Unavailable, match="has not answered yet"):
            client.infer("m", {"x": X}, timeout_seconds=0.1)
        script.next()
        started = monotonic()
        with pytest.raises(headrace.Unavailable, match="lists none") as caught:
            client.infer("m", {"x": X})
        assert monotonic() - started < 5.0
        assert caught.value.attempts == 0


def test_a_look_up_that_lists_servers_in_maintenance_only() -> None:
    script = Script((Endpoint("127.0.0.1:1", status=Status.MAINTENANCE),))
    script.next()
    with Client(script) as client, pytest.raises(headrace.Unavailable, match=r"all 1 .* maintenance"):
        client.infer("m", {"x": X})


def test_a_look_up_that_breaks_is_logged_and_ends_the_wait(caplog: pytest.LogCaptureFixture) -> None:
    class Broken:
        async def watch(self) -> AsyncIterator[tuple[Endpoint, ...]]:
            raise RuntimeError("a mistake")
            yield ()

    with Client(Broken()) as client, pytest.raises(headrace.Unavailable):
        client.infer("m", {"x": X})
    assert "a mistake" in caplog.text


def test_calls_on_a_critical_server_go_elsewhere_at_once(serve: Any) -> None:
    release = threading.Event()

    def hang(request: pb.ModelInferRequest, context: grpc.ServicerContext) -> pb.ModelInferResponse:
        release.wait(20)
        return echo(request)

    one, two = serve(hang), serve()
    script = Script(
        (Endpoint(one.address),),
        (Endpoint(one.address, status=Status.CRITICAL), Endpoint(two.address)),
    )
    with Client(script) as client, ThreadPoolExecutor(1) as threads:
        call = threads.submit(client.infer, "m", {"x": X})
        script.next()
        assert one.called.wait(5)
        script.next()
        np.testing.assert_array_equal(call.result(5)["x"], X)
        release.set()
    assert two.calls == 1


def test_connections_closed_under_the_calls_cost_no_answer(serve: Any) -> None:
    """Servers turn critical and back while calls are being started on them."""
    one, two = serve().address, serve().address
    critical = Status.CRITICAL
    turns = [
        (Endpoint(one), Endpoint(two, status=critical)),
        (Endpoint(one, status=critical), Endpoint(two)),
    ]
    script = Script(*turns * 40)
    retry = Retry(attempts=50, backoff_seconds=0.001, budget_burst=10_000)
    with Client(script, retry=retry) as client, ThreadPoolExecutor(4) as threads:
        calls = [threads.submit(client.infer, "m", {"x": X}) for _ in range(400)]
        streams = [
            threads.submit(lambda: list(client.stream([(1, {"x": X})] * 200, model="m"))) for _ in range(2)
        ]
        for _ in range(80):
            script.next()
            client.infer("m", {"x": X})
        for call in calls:
            assert call.result(20)
        for stream in streams:
            assert [type(result) for _, result in stream.result(20)] == [dict] * 200


def test_a_name_is_resolved(serve: Any) -> None:
    with Client(f"dns:///localhost:{serve().port}") as client:
        np.testing.assert_array_equal(client.infer("m", {"x": X})["x"], X)


def test_consul_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONSUL_HTTP_ADDR", free_address())
    with Client("consul:///inference") as client:
        with pytest.raises(headrace.Unavailable, match="consul:///inference has not answered yet"):
            client.infer("m", {"x": X}, timeout_seconds=0.2)
        outcomes = list(client.stream([(7, {"x": X})], model="m", timeout_seconds=0.2))
    assert [key for key, _ in outcomes] == [7]
    assert isinstance(outcomes[0][1], headrace.Unavailable | headrace.DeadlineExceeded)


@pytest.mark.parametrize(
    ("target", "text"), [("", "empty"), ("localhost", "no port"), ("http://a:1", "scheme")]
)
def test_a_target_that_makes_no_sense(target: str, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        Client(target)


def test_unknown_arguments() -> None:
    with pytest.raises(TypeError):
        Client("127.0.0.1:1", timeout=3)  # type: ignore[call-arg]  # the mistake that is tested
    with pytest.raises(TypeError, match="retry"):
        Client("127.0.0.1:1", retry=3)  # type: ignore[arg-type]  # the mistake that is tested
    with pytest.raises(TypeError, match="tls"):
        Client("127.0.0.1:1", tls=True)  # type: ignore[arg-type]  # the mistake that is tested


def test_wrong_input_is_refused_before_anything_is_sent(serve: Any) -> None:
    server = serve()
    with Client(server.address) as client:
        for inputs in ({}, {"x": [1, 2]}, {"x": np.array([1j])}, [X]):
            with pytest.raises(headrace.InvalidInput):
                client.infer("m", inputs)  # type: ignore[arg-type]  # the mistake that is tested
    assert server.calls == 0


def test_a_rolling_restart_without_failures(serve: Any) -> None:
    """A server that stops under load hands its calls back, and they are answered elsewhere."""
    servers = [serve(), serve()]
    stop = threading.Event()

    def calls(client: Client) -> int:
        count = 0
        while not stop.is_set():
            client.infer("m", {"x": X})
            count += 1
        return count

    with Client(",".join(s.address for s in servers)) as client, ThreadPoolExecutor(4) as threads:
        workers = [threads.submit(calls, client) for _ in range(4)]
        for server in servers:
            assert server.called.wait(5)
            server.stop(1.0)
            replacement = serve(port=server.port)
            assert replacement.called.wait(15), "the replacement gets calls again"
        stop.set()
        assert sum(worker.result(10) for worker in workers) > 0
