"""Triton's own client, the one whose calls wait, unchanged against the server."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from typing import Any

import ml_dtypes
import numpy as np
import pytest

triton = pytest.importorskip("tritonclient.grpc", reason="tritonclient is not installed: no Triton client")
import triton_calls as calls  # noqa: E402  # only where it is installed
from tritonclient.utils import InferenceServerException  # noqa: E402

PATIENCE_SECONDS = 20.0
HERE = {"async_infer", "start_stream", "async_stream_infer", "stop_stream", "close"}
HERE |= {"plugin", "register_plugin", "unregister_plugin"}
"""What this client has beside the calls that both have; each is tried in this module."""


@pytest.fixture
def client(address: str) -> Iterator[Any]:
    with triton.InferenceServerClient(address) as client:
        yield client


@pytest.fixture
def heard() -> queue.Queue[tuple[Any, Any]]:
    return queue.Queue()


def test_every_public_call_is_tried() -> None:
    assert calls.public(triton.InferenceServerClient) == {*calls.COVERS, *HERE}


@pytest.mark.parametrize("name", calls.COVERS)
def test_call(client: Any, name: str) -> None:
    do = calls.Recorder(client, lambda call, *arguments, **options: call(*arguments, **options))
    calls.COVERS[name](do)
    assert name in do.made


@pytest.mark.parametrize("exercise", calls.MORE)
def test_feature(client: Any, exercise: calls.Exercise) -> None:
    exercise(calls.Recorder(client, lambda call, *arguments, **options: call(*arguments, **options)))


@pytest.mark.parametrize(
    ("datatype", "rows"),
    [
        ("BOOL", np.array([[True, False, True]])),
        ("INT8", np.array([[-1, 0, 1]], np.int8)),
        ("UINT64", np.array([[2**64 - 1, 0, 1]], np.uint64)),
        ("FP16", np.array([[0.5, -2, 3]], np.float16)),
        ("FP64", np.array([[0.1, -2, 3]])),
        ("BF16", np.array([[0.5, -2, 3]], ml_dtypes.bfloat16)),
        ("BYTES", np.array([[b"a", b"", "€".encode()]], object)),
    ],
)
def test_datatypes(client: Any, datatype: str, rows: np.ndarray[Any, Any]) -> None:
    result = client.infer(f"identity_{datatype}", [calls.tensor(rows, datatype)])
    assert result.as_numpy("y").tolist() == rows.tolist()


def test_asynchronous_calls(client: Any, heard: queue.Queue[tuple[Any, Any]]) -> None:
    for _ in range(30):
        client.async_infer("simple", calls.pair(), lambda result, error: heard.put((result, error)))
    for _ in range(30):
        result, error = heard.get(timeout=PATIENCE_SECONDS)
        assert error is None
        np.testing.assert_array_equal(result.as_numpy("OUTPUT0"), 2 * calls.ROWS)


def test_an_asynchronous_call_is_taken_back(client: Any, heard: queue.Queue[tuple[Any, Any]]) -> None:
    slow = calls.tensor(np.array([[300]], np.int32), "INT32")
    call = client.async_infer("slow", [slow], lambda result, error: heard.put((result, error)))
    call.cancel()
    _, error = heard.get(timeout=PATIENCE_SECONDS)
    assert error.status() == "StatusCode.CANCELLED"


def test_a_stream_of_answers_and_errors(client: Any, heard: queue.Queue[tuple[Any, Any]]) -> None:
    client.start_stream(lambda result, error: heard.put((result, error)))
    for number in range(20):
        model = "simpel" if number % 5 == 4 else "simple"
        client.async_stream_infer(model, calls.pair(), request_id=str(number))
    answers = [heard.get(timeout=PATIENCE_SECONDS) for _ in range(20)]
    client.stop_stream()
    good = {result.get_response().id for result, error in answers if error is None}
    assert good == {str(number) for number in range(20) if number % 5 != 4}
    assert sum("there is no model 'simpel'" in str(error) for _, error in answers if error) == 4


def test_a_decoupled_model(client: Any, heard: queue.Queue[tuple[Any, Any]]) -> None:
    client.start_stream(lambda result, error: heard.put((result, error)))
    values = calls.tensor(np.array([3, 5, 8], np.int32), "INT32")
    client.async_stream_infer("repeat", [values], request_id="r", enable_empty_final_response=True)
    answers = []
    while not answers or not answers[-1].get_response().parameters["triton_final_response"].bool_param:
        result, error = heard.get(timeout=PATIENCE_SECONDS)
        assert error is None
        answers.append(result)
    client.stop_stream()
    assert [one.as_numpy("y").item() for one in answers[:-1]] == [3, 5, 8]
    assert not answers[-1].get_response().outputs


def test_a_sequence_on_a_stream(client: Any, heard: queue.Queue[tuple[Any, Any]]) -> None:
    client.start_stream(lambda result, error: heard.put((result, error)))
    for value in (1, 10, 100):
        given = calls.tensor(np.array([[value]], np.int32), "INT32")
        client.async_stream_infer(
            "running_sum", [given], sequence_id=7002, sequence_start=value == 1, sequence_end=value == 100
        )
    sums = [heard.get(timeout=PATIENCE_SECONDS)[0].as_numpy("y").item() for _ in range(3)]
    client.stop_stream()
    assert sums == [1, 11, 111]


def test_errors_of_a_stream_as_its_status(client: Any, heard: queue.Queue[tuple[Any, Any]]) -> None:
    client.start_stream(
        lambda result, error: heard.put((result, error)), headers={"triton_grpc_error": "true"}
    )
    client.async_stream_infer("lookup", [calls.tensor(np.array([[9]]), "INT64")])
    _, error = heard.get(timeout=PATIENCE_SECONDS)
    assert isinstance(error, InferenceServerException)
    assert error.status() == "StatusCode.INTERNAL"
    client.stop_stream()


def test_a_plugin_sees_every_call(client: Any) -> None:
    class Plugin(triton.InferenceServerClientPlugin):  # type: ignore[misc]  # the package has no types
        def __call__(self, request: Any) -> None:
            request.headers["x-mine"] = "1"

    plugin = Plugin()
    client.register_plugin(plugin)
    assert client.plugin() is plugin
    assert client.is_server_live()
    client.unregister_plugin()
    assert client.plugin() is None


def test_a_client_that_was_closed_is_made_anew(address: str) -> None:
    for _ in range(2):
        client = triton.InferenceServerClient(address, keepalive_options=triton.KeepAliveOptions())
        assert client.is_server_ready()
        client.close()
