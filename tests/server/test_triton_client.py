"""Triton's own client, unchanged, against the server."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from typing import Any

import ml_dtypes
import numpy as np
import pytest

triton = pytest.importorskip("tritonclient.grpc", reason="tritonclient is not installed: no Triton client")
from tritonclient.utils import InferenceServerException  # noqa: E402  # only where it is installed

PATIENCE_SECONDS = 20.0


@pytest.fixture
def client(conformant: Any) -> Iterator[Any]:
    with triton.InferenceServerClient(conformant.server.address) as client:
        yield client


def tensor(rows: np.ndarray[Any, Any], datatype: str = "FP32", name: str = "x") -> Any:
    given = triton.InferInput(name, rows.shape, datatype)
    given.set_data_from_numpy(rows)
    return given


ROWS = np.arange(8, dtype=np.float32).reshape(2, 4)


def test_states_and_descriptions(client: Any) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("mlp")
    assert client.is_model_ready("mlp", "3")
    assert not client.is_model_ready("broken")
    assert client.get_server_metadata().name == "headrace"
    assert [one.name for one in client.get_model_metadata("mlp").inputs] == ["x"]
    assert client.get_model_config("mlp").config.max_batch_size == 8
    assert client.get_inference_statistics("mlp").model_stats[0].name == "mlp"
    index = {one.name: one.state for one in client.get_model_repository_index().models}
    assert (index["mlp"], index["broken"]) == ("READY", "UNAVAILABLE")


def test_an_inference(client: Any) -> None:
    result = client.infer("mlp", [tensor(ROWS)], request_id="5", model_version="3", timeout=10_000_000)
    assert result.as_numpy("y").shape == (2, 3)
    assert result.get_response().id == "5"
    chosen = client.infer("mlp", [tensor(ROWS)], outputs=[triton.InferRequestedOutput("y")])
    np.testing.assert_array_equal(chosen.as_numpy("y"), result.as_numpy("y"))


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
    result = client.infer(f"identity_{datatype}", [tensor(rows, datatype)])
    assert result.as_numpy("y").tolist() == rows.tolist()


@pytest.mark.parametrize(
    ("model", "options", "status"),
    [
        ("none", {}, "StatusCode.NOT_FOUND"),
        ("broken", {}, "StatusCode.UNAVAILABLE"),
        ("mlp", {"model_version": "7"}, "StatusCode.NOT_FOUND"),
        ("mlp", {"sequence_id": 5, "sequence_start": True}, "StatusCode.UNIMPLEMENTED"),
        ("embedding", {}, "StatusCode.INVALID_ARGUMENT"),
    ],
)
def test_errors(client: Any, model: str, options: dict[str, Any], status: str) -> None:
    with pytest.raises(InferenceServerException) as refused:
        client.infer(model, [tensor(ROWS)], **options)
    assert refused.value.status() == status


def test_what_is_not_served(client: Any) -> None:
    for call in (
        client.get_trace_settings,
        client.get_log_settings,
    ):
        with pytest.raises(InferenceServerException, match="is not supported"):
            call()


def test_a_stream_of_answers_and_errors(client: Any) -> None:
    heard: queue.Queue[tuple[Any, Any]] = queue.Queue()
    client.start_stream(lambda result, error: heard.put((result, error)))
    for number in range(20):
        wrong = number % 5 == 4
        client.async_stream_infer("none" if wrong else "mlp", [tensor(ROWS)], request_id=str(number))
    answers = [heard.get(timeout=PATIENCE_SECONDS) for _ in range(20)]
    client.stop_stream()
    good = {result.get_response().id for result, error in answers if error is None}
    assert good == {str(number) for number in range(20) if number % 5 != 4}
    assert sum("there is no model 'none'" in str(error) for _, error in answers if error) == 4


def test_asynchronous_calls(client: Any) -> None:
    heard: queue.Queue[tuple[Any, Any]] = queue.Queue()
    for _ in range(30):
        client.async_infer("mlp", [tensor(ROWS)], lambda result, error: heard.put((result, error)))
    for _ in range(30):
        result, error = heard.get(timeout=PATIENCE_SECONDS)
        assert error is None
        assert result.as_numpy("y").shape == (2, 3)
