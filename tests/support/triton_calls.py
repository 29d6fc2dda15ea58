"""What is tried of Triton's client, written once for its calls that wait and those that are awaited.

Each exercise is given `do`, which makes a call of the client by its name and returns what comes of it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import pytest
import tritonclient.grpc as triton
from oip import graphs
from tritonclient.utils import InferenceServerException
from tritonclient.utils import shared_memory as shm

Do = Callable[..., Any]
Exercise = Callable[[Do], None]

ROWS: Final = np.arange(32, dtype=np.int32).reshape(2, 16)
_REGION_BYTES: Final = 256


def tensor(rows: np.ndarray[Any, Any], datatype: str = "FP32", name: str = "x") -> Any:
    """Return an input of Triton's."""
    given = triton.InferInput(name, list(rows.shape), datatype)
    given.set_data_from_numpy(rows)
    return given


def pair() -> list[Any]:
    """Return the inputs of `simple`."""
    return [tensor(ROWS, "INT32", "INPUT0"), tensor(ROWS, "INT32", "INPUT1")]


def fails(do: Do, status: str, name: str, *arguments: Any, **options: Any) -> str:
    """Expect a call to fail with this status, and return what it says."""
    with pytest.raises(InferenceServerException) as refused:
        do(name, *arguments, **options)
    assert refused.value.status() == f"StatusCode.{status}", refused.value
    return str(refused.value.message())


def live(do: Do) -> None:
    assert do("is_server_live")


def ready(do: Do) -> None:
    assert do("is_server_ready")


def model_ready(do: Do) -> None:
    assert do("is_model_ready", "simple")
    assert do("is_model_ready", "every_version", "2")
    assert not do("is_model_ready", "simple", "9")
    assert not do("is_model_ready", "simpel")


def server_metadata(do: Do) -> None:
    metadata = do("get_server_metadata")
    assert metadata.name == "headrace"
    assert {"sequence", "classification", "system_shared_memory"} <= set(metadata.extensions)
    assert do("get_server_metadata", as_json=True)["name"] == "headrace"


def model_metadata(do: Do) -> None:
    metadata = do("get_model_metadata", "simple")
    assert [one.name for one in metadata.inputs] == ["INPUT0", "INPUT1"]
    assert list(do("get_model_metadata", "every_version").versions) == ["1", "2", "3"]
    assert "simpel" in fails(do, "NOT_FOUND", "get_model_metadata", "simpel")


def model_config(do: Do) -> None:
    assert do("get_model_config", "simple").config.max_batch_size == 8
    assert do("get_model_config", "repeat").config.model_transaction_policy.decoupled
    as_json = do("get_model_config", "scores", as_json=True)["config"]
    assert as_json["output"][0]["label_filename"] == "classes.txt"


def repository_index(do: Do) -> None:
    states = {(one.name, one.version): one.state for one in do("get_model_repository_index").models}
    assert states["simple", "1"] == "READY"
    assert states["never_asked", ""] == ""


def control(do: Do) -> None:
    do("load_model", "spare")
    assert do("is_model_ready", "spare", "2")
    do("unload_model", "spare")
    assert not do("is_model_ready", "spare")
    row = {"data_type": "TYPE_FP32", "dims": [1]}
    config = {
        "backend": "onnxruntime",
        "max_batch_size": 4,
        "input": [{"name": "x", **row}],
        "output": [{"name": "y", **row}],
    }
    files = {"file:5/model.onnx": graphs.adder(5).SerializeToString()}
    do("load_model", "spare", config=json.dumps(config), files=files)
    answer = do("infer", "spare", [tensor(np.ones((1, 1), np.float32))])
    assert answer.as_numpy("y").tolist() == [[6]]
    do("unload_model", "spare", unload_dependents=True)
    assert "simpel" in fails(do, "NOT_FOUND", "load_model", "simpel")


def statistics(do: Do) -> None:
    (before,) = do("get_inference_statistics", "simple").model_stats
    do("infer", "simple", pair())
    (after,) = do("get_inference_statistics", "simple", "1").model_stats
    assert after.inference_count == before.inference_count + 2
    assert len(do("get_inference_statistics").model_stats) > 20


def trace_settings(do: Do) -> None:
    changed = do("update_trace_settings", settings={"trace_rate": "5"})
    assert list(changed.settings["trace_rate"].value) == ["5"]
    assert list(do("get_trace_settings", "simple").settings["trace_rate"].value) == ["5"]
    cleared = do("update_trace_settings", settings={"trace_rate": None}, as_json=True)
    assert cleared["settings"]["trace_rate"]["value"] == ["1000"]


def log_settings(do: Do) -> None:
    changed = do("update_log_settings", {"log_verbose_level": 1, "log_warning": False})
    assert changed.settings["log_verbose_level"].uint32_param == 1
    assert not do("get_log_settings").settings["log_warning"].bool_param
    restored = do("update_log_settings", {"log_verbose_level": 0, "log_warning": True}, as_json=True)
    assert restored["settings"]["log_warning"]["bool_param"]


def shared_memory(do: Do) -> None:
    handle = shm.create_shared_memory_region("headrace_clients", "/headrace_clients", _REGION_BYTES)
    try:
        shm.set_shared_memory_region(handle, [ROWS])
        do("register_system_shared_memory", "headrace_clients", "/headrace_clients", _REGION_BYTES)
        assert "headrace_clients" in do("get_system_shared_memory_status").regions
        inputs = [triton.InferInput(name, [2, 16], "INT32") for name in ("INPUT0", "INPUT1")]
        for one in inputs:
            one.set_shared_memory("headrace_clients", ROWS.nbytes)
        output = triton.InferRequestedOutput("OUTPUT0")
        output.set_shared_memory("headrace_clients", ROWS.nbytes, ROWS.nbytes)
        answer = do("infer", "simple", inputs, outputs=[output])
        assert answer.get_output("OUTPUT0").parameters["shared_memory_region"].string_param
        assert not any(answer.get_response().raw_output_contents)
        came = shm.get_contents_as_numpy(handle, np.int32, [2, 16], ROWS.nbytes)
        np.testing.assert_array_equal(came, 2 * ROWS)
        do("unregister_system_shared_memory", "headrace_clients")
        assert not do("get_system_shared_memory_status").regions
    finally:
        do("unregister_system_shared_memory")
        shm.destroy_shared_memory_region(handle)


def cuda_memory(do: Do) -> None:
    assert not do("get_cuda_shared_memory_status").regions
    do("unregister_cuda_shared_memory")
    said = fails(do, "INVALID_ARGUMENT", "register_cuda_shared_memory", "c", b"aGFuZGxl", 0, 8)
    assert "region 'c'" in said


def inference(do: Do) -> None:
    answer = do("infer", "simple", pair(), request_id="7", model_version="1", client_timeout=20.0)
    assert answer.get_response().id == "7"
    np.testing.assert_array_equal(answer.as_numpy("OUTPUT0"), 2 * ROWS)
    chosen = do("infer", "simple", pair(), outputs=[triton.InferRequestedOutput("OUTPUT1")])
    assert chosen.as_numpy("OUTPUT0") is None
    assert chosen.get_output("OUTPUT1").datatype == "INT32"
    given = {"a": 1, "b": "c", "d": True, "e": 2.5}
    row = tensor(np.ones((1, 1), np.float32))
    echoed = do("infer", "echo_parameters", [row], parameters=given, priority=1, timeout=9_000_000)
    assert json.loads(echoed.as_numpy("said")[0, 0]) == given
    for algorithm in ("gzip", "deflate"):
        packed = do("infer", "simple", pair(), compression_algorithm=algorithm, headers={"x-mine": "1"})
        np.testing.assert_array_equal(packed.as_numpy("OUTPUT1"), 0 * ROWS)


def classification(do: Do) -> None:
    scores = tensor(np.array([[0.1, 0.5, 0.2, 0.9, 0.3]], np.float32))
    answer = do("infer", "scores", [scores], outputs=[triton.InferRequestedOutput("y", class_count=2)])
    assert answer.as_numpy("y").tolist() == [[b"0.900000:3:fir", b"0.500000:1:elm"]]


def sequence(do: Do) -> None:
    sums = [
        do(
            "infer", "running_sum", [tensor(np.array([[value]], np.int32), "INT32")],
            sequence_id=7001, sequence_start=start, sequence_end=end,
        ).as_numpy("y")[0, 0]
        for value, start, end in ((1, True, False), (10, False, False), (100, False, True))
    ]  # fmt: skip
    assert sums == [1, 11, 111]


def errors(do: Do) -> None:
    row = tensor(np.ones((1, 3), np.float32))
    fails(do, "NOT_FOUND", "infer", "simpel", [row])
    fails(do, "NOT_FOUND", "infer", "identity_FP32", [row], model_version="9")
    fails(do, "INVALID_ARGUMENT", "infer", "simple", [row])
    fails(do, "UNAVAILABLE", "infer", "never_asked", [row])
    fails(do, "UNIMPLEMENTED", "infer", "repeat", [tensor(np.ones(1, np.int32), "INT32")])
    fails(do, "UNIMPLEMENTED", "infer", "simple", pair(), sequence_id=5, sequence_start=True)
    fails(do, "INTERNAL", "infer", "lookup", [tensor(np.array([[9]]), "INT64")])
    slow = tensor(np.array([[400]], np.int32), "INT32")
    fails(do, "DEADLINE_EXCEEDED", "infer", "slow", [slow], client_timeout=0.05)


COVERS: Final[dict[str, Exercise]] = {
    "is_server_live": live,
    "is_server_ready": ready,
    "is_model_ready": model_ready,
    "get_server_metadata": server_metadata,
    "get_model_metadata": model_metadata,
    "get_model_config": model_config,
    "get_model_repository_index": repository_index,
    "load_model": control,
    "unload_model": control,
    "get_inference_statistics": statistics,
    "update_trace_settings": trace_settings,
    "get_trace_settings": trace_settings,
    "update_log_settings": log_settings,
    "get_log_settings": log_settings,
    "get_system_shared_memory_status": shared_memory,
    "register_system_shared_memory": shared_memory,
    "unregister_system_shared_memory": shared_memory,
    "get_cuda_shared_memory_status": cuda_memory,
    "register_cuda_shared_memory": cuda_memory,
    "unregister_cuda_shared_memory": cuda_memory,
    "infer": inference,
}
"""The calls that both clients have, and what tries each."""

MORE: Final[tuple[Exercise, ...]] = (classification, sequence, errors)


class Recorder:
    """Notes which calls of a client were made."""

    def __init__(self, client: Any, call: Callable[..., Any]) -> None:
        self.made: set[str] = set()
        self._client = client
        self._call = call

    def __call__(self, name: str, *arguments: Any, **options: Any) -> Any:
        self.made.add(name)
        return self._call(getattr(self._client, name), *arguments, **options)


def public(client: type[Any]) -> set[str]:
    """Return the names of all that a client class offers."""
    return {name for name in dir(client) if not name.startswith("_")}
