from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import sklearn
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MaxAbsScaler, MinMaxScaler, StandardScaler

from headrace_engines.errors import UnsupportedModelError
from headrace_engines.importers.sklearn import convert
from headrace_engines.runtime.onnxruntime import OnnxRuntimeEngine

_RANDOM = np.random.default_rng(0)
_ROWS = _RANDOM.normal(size=(120, 5)).astype(np.float32) * np.float32([1, 2, 3, 4, 0])
_LABELS = np.arange(120) % 3


def _perceptron(activation: str = "relu", hidden: tuple[int, ...] = (7,)) -> MLPClassifier:
    return MLPClassifier(hidden, activation=activation, max_iter=20, tol=1.0, random_state=0)


@pytest.mark.parametrize(
    "estimator",
    [
        *(_perceptron(activation) for activation in ("relu", "tanh", "logistic", "identity")),
        _perceptron(hidden=(4, 6, 3)),
        make_pipeline(MaxAbsScaler(), _perceptron()),
        make_pipeline(StandardScaler(), _perceptron()),
        make_pipeline(StandardScaler(with_mean=False), _perceptron()),
        make_pipeline(StandardScaler(with_std=False), _perceptron()),
        make_pipeline(StandardScaler(), make_pipeline(MaxAbsScaler(), _perceptron())),
    ],
    ids=str,
)
def test_the_graph_answers_like_the_estimator(tmp_path: Path, estimator: Any) -> None:
    estimator.fit(_ROWS, _LABELS)
    path = tmp_path / "model.onnx"
    path.write_bytes(convert(estimator, input_name="x", output_name="y").SerializeToString())
    engine = OnnxRuntimeEngine(path)
    for rows in (1, 7, 120):
        (answers,) = engine.run([_ROWS[:rows]])
        assert np.abs(answers - estimator.predict_proba(_ROWS[:rows])).max() < 1e-6
    assert [tensor.name for tensor in (*engine.spec.inputs, *engine.spec.outputs)] == ["x", "y"]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_graph_uses_standard_operators_alone(dtype: type) -> None:
    estimator = make_pipeline(StandardScaler(), _perceptron()).fit(_ROWS.astype(dtype), _LABELS)
    model = convert(estimator, input_name="x", output_name="y")
    assert [node.op_type for node in model.graph.node] == ["Sub", "Div", "Gemm", "Relu", "Gemm", "Softmax"]
    assert {node.domain for node in model.graph.node} == {""}
    assert [opset.domain for opset in model.opset_import] == [""]
    constants = {weight.name: weight for weight in model.graph.initializer}
    assert {weight.data_type for weight in constants.values()} == {onnx.TensorProto.FLOAT}
    biases = [constants[node.input[2]] for node in model.graph.node if node.op_type == "Gemm"]
    assert [len(bias.dims) for bias in biases] == [1, 1]
    for tensor in (*model.graph.input, *model.graph.output):
        assert tensor.type.tensor_type.shape.dim[0].dim_param == "batch"


@pytest.mark.parametrize(
    ("estimator", "labels", "complaint"),
    [
        (RandomForestClassifier(2), _LABELS, "RandomForestClassifier cannot be converted"),
        (LogisticRegression(), _LABELS, "LogisticRegression cannot be converted"),
        (
            MLPRegressor(hidden_layer_sizes=(3,), max_iter=20, tol=10.0),
            _LABELS,
            "MLPRegressor cannot be converted",
        ),
        (_perceptron(), _LABELS % 2, "MLPClassifier with logistic outputs"),
        (_perceptron(), np.eye(3, dtype=int)[_LABELS], "MLPClassifier with logistic outputs"),
        (make_pipeline(MinMaxScaler(), _perceptron()), _LABELS, "MinMaxScaler.* cannot be converted"),
    ],
    ids=str,
)
def test_anything_else_is_refused_by_name(estimator: Any, labels: Any, complaint: str) -> None:
    estimator.fit(_ROWS, labels)
    with pytest.raises(UnsupportedModelError, match=complaint):
        convert(estimator, input_name="x", output_name="y")


def test_a_scaler_that_clips_is_refused_by_name() -> None:
    if "clip" not in MaxAbsScaler().get_params():
        pytest.skip(f"scikit-learn {sklearn.__version__}'s MaxAbsScaler never clips")
    estimator = make_pipeline(MaxAbsScaler(clip=True), _perceptron()).fit(_ROWS, _LABELS)
    with pytest.raises(UnsupportedModelError, match=r"clip=True.* cannot be converted"):
        convert(estimator, input_name="x", output_name="y")


def test_an_estimator_that_was_not_fitted_is_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="MLPClassifier was not fitted"):
        convert(_perceptron(), input_name="x", output_name="y")
