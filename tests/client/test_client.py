from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import numpy as np
import pytest
from fake_servers import echo, failing, free_address

import headrace
from headrace import Client, Retry
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


def test_the_deadline_is_for_the_whole_call(serve: Any, hang: Any) -> None:
    server = serve(hang)
    with Client(server.address, timeout_seconds=2.0) as client:
        assert client.ready(timeout_seconds=20.0)
        with pytest.raises(headrace.DeadlineExceeded):
            client.infer("m", {"x": X})
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
