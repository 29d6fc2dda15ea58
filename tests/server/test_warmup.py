from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto

from headrace_engines.declaration import Declaration
from headrace_engines.errors import EngineError
from headrace_engines.runtime.onnxruntime import OnnxRuntimeEngine
from headrace_engines.runtime.python import PythonEngine
from headrace_server.core.settings import ControlInput, SequenceControl, Sequences
from headrace_server.models.model_config_warmup import Filling, Warmup, WarmupInput
from headrace_server.models.warmup import warm_up

FP32 = np.dtype(np.float32)
NOTING = """
from headrace_engines.python_model import Tensor

class Model:
    inputs = [Tensor("x", "FP32", [2])]
    outputs = [Tensor("y", "FP32", [2])]
    max_batch_size = 4

    def load(self, context):
        self.seen = []

    def execute(self, batch):
        for request in batch.requests:
            self.seen.append((request.rows, sorted(request.inputs), request.sequence))
        if batch["x"][0, 0] > 5:
            raise RuntimeError("too warm")
        return {"y": batch["x"]}
"""


def sample(
    dtype: Any, dims: tuple[int, ...], filling: Filling, file: Path | None = None, **more: Any
) -> Warmup:
    return Warmup("w", more.pop("rows", 1), (WarmupInput("x", np.dtype(dtype), dims, filling, file),), **more)


class Watched(OnnxRuntimeEngine):
    """Keeps what it was given to run."""

    def __init__(self, path: Path, **more: Any) -> None:
        self.ran: list[Any] = []
        super().__init__(path, **more)

    def run(self, arrays: Any) -> Any:
        self.ran.append([None if array is None else np.array(array) for array in arrays])
        return super().run(arrays)


def program(tmp_path: Path) -> PythonEngine:
    path = tmp_path / "1" / "model.py"
    path.parent.mkdir()
    path.write_text(NOTING)
    return PythonEngine(path, Declaration(), max_batch_size=4, version="1")


def test_samples_are_executed_as_often_as_they_say(models, tmp_path) -> None:
    (tmp_path / "row").write_bytes(np.array([1, 2, 3], np.float32).tobytes())
    engine = Watched(models.unary("Neg", TensorProto.FLOAT), max_batch_size=4)
    engine.ran.clear()
    warm_up(
        engine,
        (
            sample(FP32, (3,), Filling.FILE, tmp_path / "row", rows=2, count=3),
            sample(FP32, (3,), Filling.ZEROS),
        ),
    )
    last = [arrays[0] for arrays in engine.ran[-4:]]
    for array in last[:3]:
        np.testing.assert_array_equal(array, [[1, 2, 3], [1, 2, 3]])
    np.testing.assert_array_equal(last[3], [[0, 0, 0]])
    engine.close()


def test_random_strings_are_bytes_as_those_of_callers(models) -> None:
    engine = Watched(models.unary("Identity", TensorProto.STRING), max_batch_size=4)
    warm_up(engine, (sample(object, (3,), Filling.RANDOM),))
    assert {type(item) for item in engine.ran[-1][0].ravel()} == {bytes}
    engine.close()


def test_a_model_without_a_batch_axis_gets_the_sample_as_it_is(models) -> None:
    engine = Watched(models.unary("Neg", TensorProto.FLOAT, (2, 3), (2, 3)))
    warm_up(engine, (sample(FP32, (2, 3), Filling.ZEROS),))
    assert engine.ran[-1][0].shape == (2, 3)
    engine.close()


@pytest.mark.parametrize(
    ("content", "told"),
    [(None, "No such file or directory"), (b"\0" * 11, "takes 12 bytes, got 11")],
)
def test_a_sample_whose_file_changed_fails_with_its_name(models, tmp_path, content, told) -> None:
    if content is not None:
        (tmp_path / "row").write_bytes(content)
    engine = OnnxRuntimeEngine(models.unary("Neg", TensorProto.FLOAT), max_batch_size=4)
    with pytest.raises(EngineError, match=f"warm-up sample 'w' failed: .*{told}"):
        warm_up(engine, (sample(FP32, (3,), Filling.FILE, tmp_path / "row"),))
    engine.close()


def test_a_sample_that_the_model_cannot_execute_fails_with_its_name(models) -> None:
    engine = OnnxRuntimeEngine(models.embedding(), max_batch_size=4)
    inputs = (
        WarmupInput("x", FP32, (3,), Filling.ZEROS),
        WarmupInput("word", np.dtype(np.int64), (), Filling.RANDOM),
    )
    with pytest.raises(EngineError, match="warm-up sample 'far' failed: ONNX Runtime"):
        warm_up(engine, (Warmup("far", 4, inputs),))
    engine.close()


def test_a_program_gets_its_samples_and_nothing_else(tmp_path) -> None:
    engine = program(tmp_path)
    warm_up(engine)
    assert engine._model.seen == []
    warm_up(engine, (sample(FP32, (2,), Filling.ZEROS, rows=3),))
    assert engine._model.seen == [(3, ["x"], None)]
    engine.close()


def test_a_sample_is_a_sequence_of_its_own_where_there_are_sequences(tmp_path) -> None:
    engine = program(tmp_path)
    controls = (ControlInput("START", SequenceControl.START, "INT32"),)
    warm_up(engine, (sample(FP32, (2,), Filling.ZEROS),), Sequences(controls=controls))
    ((rows, names, turn),) = engine._model.seen
    assert (rows, names, turn.start, turn.end) == (1, ["START", "x"], True, True)
    engine.close()


def test_what_a_program_raises_fails_its_sample(tmp_path) -> None:
    (tmp_path / "row").write_bytes(np.array([9, 9], np.float32).tobytes())
    engine = program(tmp_path)
    with pytest.raises(EngineError, match="warm-up sample 'w' failed: RuntimeError: too warm"):
        warm_up(engine, (sample(FP32, (2,), Filling.FILE, tmp_path / "row"),))
    engine.close()
