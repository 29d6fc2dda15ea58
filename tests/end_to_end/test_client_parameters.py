"""What `headrace.Client` says beside tensors, as a real server and its programs hear it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from server_process import ServerProcess

from headrace import Client, InvalidInput, Request

ADDS_UP = """
from headrace_engines.python_model import *
class Model:
    inputs = [Tensor("x", "INT64", [1])]
    outputs = [Tensor("sum", "INT64", [1])]
    max_batch_size = 1
    sum = 0
    def execute(self, batch):
        (request,) = batch.requests
        self.sum = int(batch["x"][0, 0]) + (0 if request.sequence.start else self.sum)
        return {"sum": [[self.sum]]}
"""
HEARS = """
import numpy as np
from headrace_engines.python_model import *
class Model:
    inputs = [Tensor("x", "INT64", [1])]
    outputs = [Tensor("heard", "BYTES", [1]), Tensor("scores", "FP32", [3])]
    def execute(self, batch):
        (request,) = batch.requests
        scores = np.array([0.25, 0.5, 0.125], np.float32)
        return {"heard": [repr((request.id, dict(request.parameters)))], "scores": scores}
"""
FILES = {
    "sums/1/model.py": ADDS_UP,
    "sums/config.pbtxt": "sequence_batching { direct { } }",
    "hears/1/model.py": HEARS,
}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    repository = tmp_path_factory.mktemp("repository")
    for path, text in FILES.items():
        (repository / path).parent.mkdir(parents=True, exist_ok=True)
        Path(repository / path).write_text(text, encoding="utf-8")
    with (
        ServerProcess(repository, "--allow-python-models") as process,
        Client(process.ready()["grpc"]) as client,
    ):
        yield client


def row(value: int) -> dict[str, Any]:
    return {"x": np.array([[value]])}


def test_a_program_reads_its_own_parameters_and_the_id(client: Client) -> None:
    own = {"style": "terse", "depth": 3, "share": 0.5, "loud": False}
    outputs = client.infer("hears", {"x": np.array([1])}, parameters=own, request_id="mine")
    assert ast.literal_eval(outputs["heard"].item().decode()) == ("mine", own)


def test_an_output_as_its_best_classes(client: Client) -> None:
    outputs = client.infer("hears", {"x": np.array([1])}, outputs={"scores": 2, "heard": 0})
    assert [one.split(b":")[1] for one in outputs["scores"].ravel()] == [b"1", b"0"]
    assert b"{}" in outputs["heard"].item()


def test_a_sequence_by_single_calls(client: Client) -> None:
    with pytest.raises(InvalidInput, match="sequence_id"):
        client.infer("sums", row(1))
    sums = [
        client.infer("sums", row(n), parameters={"sequence_id": 7, "sequence_start": n == 1})["sum"].item()
        for n in (1, 2, 3)
    ]
    assert sums == [1, 3, 6]


def test_the_turns_of_a_stream_are_executed_in_their_order(client: Client) -> None:
    turns = [(n, Request(row(n), {"sequence_start": n == 0, "sequence_end": n == 199})) for n in range(200)]
    outcomes = list(client.stream(turns, model="sums", parameters={"sequence_id": "all"}))
    assert [outcome["sum"].item() for _, outcome in outcomes if isinstance(outcome, dict)] == [
        sum(range(n + 1)) for n in range(200)
    ]
