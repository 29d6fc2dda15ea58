"""Programs in a real server, as clients meet them: those that docs/python-models.md shows, and others."""

from __future__ import annotations

import queue
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from digits import PACKAGES
from server_process import ServerProcess

PAGE = (Path(__file__).parents[2] / "docs" / "python-models.md").read_text(encoding="utf-8")
CALLERS = re.findall(r"```py\n(.*?)```", PAGE, re.DOTALL)
SHOWN_ADDRESS = "127.0.0.1:8001"
HEAD = "import numpy as np\nfrom headrace_engines.python_model import *\n"

triton = pytest.importorskip("tritonclient.grpc", reason="tritonclient is not installed")
Refused = triton.InferenceServerException

MODELS = {
    "talks": """
print("talks: imported")
class Model:
    inputs = [Tensor("x", "INT64", [1])]
    outputs = [Tensor("y", "INT64", [1])]
    max_batch_size = 4
    def load(self, context):
        print("talks: loaded")
    def execute(self, batch):
        print("talks: executed")
        x = int(batch["x"][0, 0])
        if x == 1: raise InputError("x: 1 is odd")
        if x == 2: raise ExecutionError("the index is being rebuilt")
        if x == 3: raise ValueError("a secret")
        if x == 4: raise SystemExit(1)
        return {"y": batch["x"]}
""",
    "endless": """
class Model:
    inputs = [Tensor("x", "INT64", [1])]
    outputs = [Tensor("y", "INT64", [1])]
    decoupled = True
    def execute(self, batch):
        number = 0
        try:
            while True:
                yield Response(batch.requests[0], {"y": [number]})
                number += 1
        finally:
            print("endless: closed")
""",
    "broken": "\nx = 1 / 0\n",
}  # fmt: skip


def documented() -> dict[str, str]:
    """Return the files that the page shows, by path in the repository."""
    shown = re.findall(r"`models/([^`\n]*)`:\n\n```(?:python)?\n(.*?)```", PAGE, re.DOTALL)
    return dict(shown)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ServerProcess, str]]:
    repository = tmp_path_factory.mktemp("repository")
    files = {**documented(), **{f"{name}/1/model.py": HEAD + code for name, code in MODELS.items()}}
    for path, text in files.items():
        (repository / path).parent.mkdir(parents=True, exist_ok=True)
        (repository / path).write_text(text, encoding="utf-8")
    with ServerProcess(repository, "--allow-python-models", "--metrics-port", "0") as process:
        ready = process.ready()
        assert sorted(ready["models"]) == ["endless", "softmax", "talks", "total", "words"]
        yield process, ready["grpc"]
        process.signal(signal.SIGTERM)
        assert process.exit_code() == 0
        assert process.rest_of_stdout() == ""


@pytest.fixture
def client(server: tuple[ServerProcess, str]) -> Iterator[Any]:
    with triton.InferenceServerClient(server[1]) as client:
        yield client


def number(value: int, *, batches: bool = True) -> Any:
    tensor = triton.InferInput("x", [1, 1] if batches else [1], "INT64")
    tensor.set_data_from_numpy(np.full([1, 1] if batches else [1], value, np.int64))
    return tensor


@pytest.mark.parametrize(
    "code", re.findall(r"```py\n(.*?)```", PAGE, re.DOTALL), ids=["batch", "many", "state"]
)
def test_the_callers_that_the_page_shows_get_what_it_says(
    server: tuple[ServerProcess, str], code: str
) -> None:
    program = f"import sys; sys.path[:0] = {PACKAGES!r}\n" + code.replace(SHOWN_ADDRESS, server[1])
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("value", "code", "text"),
    [
        (1, "INVALID_ARGUMENT", "^x: 1 is odd$"),
        (2, "INTERNAL", "the index is being rebuilt .error "),
        (3, "INTERNAL", "the engine failed .error "),
        (4, "INTERNAL", "the engine failed .error "),
    ],
)
def test_what_a_program_raises_becomes_a_status(client: Any, value: int, code: str, text: str) -> None:
    with pytest.raises(Refused) as refused:
        client.infer("talks", [number(value)])
    assert refused.value.status() == f"StatusCode.{code}"
    assert re.search(text, refused.value.message())
    assert client.infer("talks", [number(5)]).as_numpy("y") == [[5]]


def test_what_a_program_prints_is_in_the_log(server: tuple[ServerProcess, str], client: Any) -> None:
    client.infer("talks", [number(5)])
    for line in ("imported", "loaded", "executed"):
        server[0].await_log(f"talks: {line}")


def test_a_program_that_fails_to_load_says_where(client: Any) -> None:
    index = {model.name: model for model in client.get_model_repository_index().models}
    assert index["broken"].state == "UNAVAILABLE"
    assert "model.py:4: ZeroDivisionError: division by zero" in index["broken"].reason


def test_a_decoupled_program_is_reached_by_streams_alone(client: Any) -> None:
    assert client.get_model_config("words").config.model_transaction_policy.decoupled
    text = triton.InferInput("text", [1], "BYTES")
    text.set_data_from_numpy(np.array([b"a"], object))
    with pytest.raises(Refused, match="decoupled") as refused:
        client.infer("words", [text])
    assert refused.value.status() == "StatusCode.UNIMPLEMENTED"


def test_a_caller_who_leaves_ends_the_program_that_answers_endlessly(
    server: tuple[ServerProcess, str], client: Any
) -> None:
    answers: queue.Queue[Any] = queue.Queue()
    client.start_stream(lambda result, error: answers.put(error or result))
    client.async_stream_infer("endless", [number(1, batches=False)])
    for expected in range(300):
        assert answers.get(timeout=20).as_numpy("y").tolist() == [expected]
    client.stop_stream(cancel_requests=True)
    server[0].await_log("endless: closed")


def test_sequences_of_several_callers_do_not_mix(client: Any) -> None:
    value = triton.InferInput("value", [1, 1], "INT64")
    for turn in range(1, 5):
        for sequence in range(1, 7):
            value.set_data_from_numpy(np.array([[sequence]]))
            answer = client.infer(
                "total", [value], sequence_id=sequence, sequence_start=turn == 1, sequence_end=turn == 4
            )
            assert answer.as_numpy("total") == [[sequence * turn]]


def test_a_sequence_must_be_begun(client: Any) -> None:
    value = triton.InferInput("value", [1, 1], "INT64")
    value.set_data_from_numpy(np.array([[1]]))
    with pytest.raises(Refused, match="must specify the START flag on the first request") as refused:
        client.infer("total", [value], sequence_id=99)
    assert refused.value.status() == "StatusCode.INVALID_ARGUMENT"


def test_programs_are_not_executed_unless_that_is_allowed(tmp_path: Path) -> None:
    path = tmp_path / "models" / "m" / "1" / "model.py"
    path.parent.mkdir(parents=True)
    path.write_text(f"open({str(tmp_path / 'executed')!r}, 'w')")
    with ServerProcess(tmp_path / "models", "--metrics-port", "0") as process:
        assert process.exit_code() == 1
        process.await_log("--allow-python-models")
    assert not (tmp_path / "executed").exists()
