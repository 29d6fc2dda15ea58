from __future__ import annotations

import math
from contextlib import closing

import pytest
from onnx import TensorProto

from headrace_engines import independence
from headrace_engines.errors import MemoryExhausted
from headrace_engines.runtime.onnxruntime import OnnxRuntimeEngine
from headrace_engines.runtime.reference import ReferenceEngine

OPEN = ("N", "T")
BESIDE = "with the other rows of its batch"

engines = pytest.mark.parametrize("engine_type", [OnnxRuntimeEngine, ReferenceEngine])


def found(engine_type, path, max_batch_size=64):
    with closing(engine_type(path, max_batch_size=max_batch_size)) as engine:
        return independence.check(engine)


@engines
@pytest.mark.parametrize(
    "build",
    [
        pytest.param(lambda m: m.mlp((64, 512, 512, 10)), id="mlp"),
        pytest.param(lambda m: m.mlp((784, 300, 1)), id="wide mlp"),
        pytest.param(lambda m: m.embedding(), id="two inputs, one of them an index"),
        pytest.param(lambda m: m.unary("Softmax", TensorProto.FLOAT, axis=1), id="softmax over features"),
        pytest.param(lambda m: m.unary("Tanh", TensorProto.DOUBLE), id="fp64"),
        pytest.param(lambda m: m.unary("Relu", TensorProto.FLOAT16), id="fp16"),
        pytest.param(lambda m: m.unary("Identity", TensorProto.BFLOAT16), id="bf16"),
        pytest.param(lambda m: m.unary("Neg", TensorProto.INT8), id="int8"),
        pytest.param(lambda m: m.unary("Not", TensorProto.BOOL), id="bool"),
        pytest.param(lambda m: m.unary("Identity", TensorProto.STRING), id="strings"),
        pytest.param(lambda m: m.unary("Relu", TensorProto.FLOAT, OPEN, OPEN), id="open dimension"),
        pytest.param(lambda m: m.unary("Log", TensorProto.FLOAT), id="answers with NaN"),
        pytest.param(lambda m: m.unary("Neg", TensorProto.FLOAT, ("N",), ("N",)), id="a number a row"),
    ],
)
def test_rows_that_keep_apart(models, build, engine_type):
    finding = found(engine_type, build(models))
    assert finding.independent, finding.why
    assert finding.worst_error < 1e-5
    assert "its own answer" in finding.why


@engines
@pytest.mark.parametrize(
    ("build", "why"),
    [
        pytest.param(lambda m: m.dynamically_quantised(), BESIDE, id="dynamic quantisation"),
        pytest.param(lambda m: m.normalised_over_batch(), BESIDE, id="normalised over the batch"),
        pytest.param(lambda m: m.unary("Softmax", TensorProto.FLOAT, axis=0), BESIDE, id="softmax"),
        pytest.param(lambda m: m.cumulative(), BESIDE, id="cumulative sum"),
        pytest.param(lambda m: m.gram(), BESIDE, id="first axis is no batch"),
        pytest.param(lambda m: m.faintly_dependent(), BESIDE, id="a millionth of the mean"),
        pytest.param(lambda m: m.boundedly_dependent(), BESIDE, id="bounded"),
        pytest.param(lambda m: m.vote(), BESIDE, id="a class"),
        pytest.param(lambda m: m.position_dependent(), "its place", id="position"),
        pytest.param(lambda m: m.repeated(), "its batch's size", id="shape"),
    ],
)
def test_rows_that_change_each_other(models, build, why, engine_type):
    finding = found(engine_type, build(models))
    assert not finding.independent
    assert finding.tensor == "y"
    assert finding.worst_error > 1e-6
    assert finding.why.startswith("output 'y' changes")
    assert why in finding.why


def test_a_model_that_answers_at_random(models):
    finding = found(OnnxRuntimeEngine, models.random())
    assert not finding.independent
    assert "from one execution to the next" in finding.why


def test_a_batch_of_two_is_enough(models):
    assert not found(OnnxRuntimeEngine, models.cumulative(), max_batch_size=2).independent
    assert found(OnnxRuntimeEngine, models.mlp(), max_batch_size=2).independent


@pytest.mark.parametrize(
    ("dims", "max_batch_size"), [(("N", 3), 1), ((2, 3), 64)], ids=["largest batch 1", "no batch axis"]
)
def test_nothing_to_prove_where_nothing_is_shared(models, dims, max_batch_size):
    path = models.unary("Softmax", TensorProto.FLOAT, dims, dims, axis=0)
    finding = found(OnnxRuntimeEngine, path, max_batch_size)
    assert finding.independent
    assert finding.why == "each row is executed alone"


def test_a_shortage_of_memory_says_nothing_of_the_rows(models, monkeypatch):
    def refuse(arrays):
        raise MemoryExhausted("not now")

    with closing(OnnxRuntimeEngine(models.adding(1))) as engine:
        monkeypatch.setattr(engine, "run", refuse)
        with pytest.raises(MemoryExhausted, match="not now"):
            independence.check(engine)


def test_what_never_runs_is_not_proved(models):
    finding = found(OnnxRuntimeEngine, models.reshaped((-1, 7), ("N", 7)))
    assert not finding.independent
    assert math.isnan(finding.worst_error)
    assert finding.why.startswith("could not be proved: ONNX Runtime: ")


def test_the_finding_is_the_same_every_time(models):
    path = models.dynamically_quantised()
    assert found(OnnxRuntimeEngine, path) == found(OnnxRuntimeEngine, path)
