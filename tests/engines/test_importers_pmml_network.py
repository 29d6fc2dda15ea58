"""Neural networks in PMML, beside scikit-learn's perceptrons with the same weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from classical_models import FEATURES, ROWS, THREE, VALUES, assert_faithful
from pmml_documents import document, written
from sklearn.neural_network import MLPClassifier, MLPRegressor

from headrace_engines.errors import EngineError, ModelFileError, UnsupportedModelError
from headrace_engines.importers.importer import ImportOptions
from headrace_engines.importers.pmml import open_source

_FIELDS = [f"x{place}" for place in range(FEATURES)]
_FIT = {"hidden_layer_sizes": (6, 4), "max_iter": 30, "random_state": 0}
_NAMES = {"logistic": "logistic", "tanh": "tanh", "relu": "rectifier", "identity": "identity"}

pytestmark = pytest.mark.filterwarnings("ignore:.*converge")


def network(perceptron: Any, outputs: str, last: str = "none") -> str:
    """A perceptron's weights, each layer with the activation that it has."""
    inputs = "".join(
        f'<NeuralInput id="0,{place}"><DerivedField optype="continuous" dataType="double">'
        f'<FieldRef field="{name}"/></DerivedField></NeuralInput>'
        for place, name in enumerate(_FIELDS)
    )
    layers = ""
    for depth, (weights, biases) in enumerate(zip(perceptron.coefs_, perceptron.intercepts_, strict=True), 1):
        is_last = depth == len(perceptron.coefs_)
        neurons = ""
        for place, (column, bias) in enumerate(zip(weights.T, biases, strict=True)):
            told = "".join(
                f'<Con from="{depth - 1},{at}" weight="{value!s}"/>' for at, value in enumerate(column)
            )
            neurons += f'<Neuron id="{depth},{place}" bias="{bias!s}">{told}</Neuron>'
        kind = f' activationFunction="identity" normalizationMethod="{last}"' if is_last else ""
        layers += f"<NeuralLayer{kind}>{neurons}</NeuralLayer>"
    task = "classification" if hasattr(perceptron, "classes_") else "regression"
    return (
        f'<NeuralNetwork functionName="{task}" activationFunction="{_NAMES[perceptron.activation]}">MINING'
        f"<NeuralInputs>{inputs}</NeuralInputs>{layers}<NeuralOutputs>{outputs}</NeuralOutputs></NeuralNetwork>"
    )


def output(neuron: int, inside: str, depth: int = 3) -> str:
    return (
        f'<NeuralOutput outputNeuron="{depth},{neuron}"><DerivedField optype="continuous" dataType="double">'
        f"{inside}</DerivedField></NeuralOutput>"
    )


_CLASSES = "".join(output(neuron, f'<NormDiscrete field="y" value="{neuron}"/>') for neuron in (2, 0, 1))
_VALUE = output(0, '<FieldRef field="y"/>')


@pytest.mark.parametrize("activation", _NAMES)
def test_classes_are_told_as_before(activation: str, tmp_path: Path) -> None:
    perceptron = MLPClassifier(activation=activation, **_FIT).fit(ROWS, THREE)
    text = document(
        network(perceptron, _CLASSES, "softmax"),
        classes=("0", "1", "2"),
        class_type="integer",
        fields=_FIELDS,
    )
    importer = open_source(written(text, tmp_path), ImportOptions())
    assert_faithful(importer, tmp_path, {"input": ROWS})
    label, shares = importer.answers({"input": ROWS})
    np.testing.assert_allclose(shares, perceptron.predict_proba(ROWS), rtol=0, atol=1e-5)
    np.testing.assert_array_equal(label, perceptron.predict(ROWS))


@pytest.mark.parametrize(
    ("inside", "factor", "constant"),
    [
        ('<FieldRef field="y"/>', 1, 0),
        (
            '<NormContinuous field="y"><LinearNorm orig="10" norm="0"/><LinearNorm orig="30" norm="4"/>'
            "</NormContinuous>",
            5,
            10,
        ),
    ],
)
def test_a_number_is_predicted_as_before(inside: str, factor: float, constant: float, tmp_path: Path) -> None:
    perceptron = MLPRegressor(activation="tanh", **_FIT).fit(ROWS, VALUES)
    text = document(network(perceptron, output(0, inside)), fields=_FIELDS)
    importer = open_source(written(text, tmp_path), ImportOptions())
    assert_faithful(importer, tmp_path, {"input": ROWS})
    (found,) = importer.answers({"input": ROWS})
    expected = factor * perceptron.predict(ROWS) + constant
    np.testing.assert_allclose(found[:, 0], expected, rtol=0, atol=1e-5 * np.ptp(expected))


@pytest.mark.parametrize(
    ("old", "new", "kind", "told"),
    [
        ('Function="tanh"', 'Function="Gauss"', UnsupportedModelError, "'Gauss' is not read"),
        ('from="1,0"', 'from="0,0"', UnsupportedModelError, "'0,0' is not in the layer before it"),
        (_VALUE, _VALUE * 2, ModelFileError, "2 outputs for one number"),
        ('outputNeuron="3,0"', 'outputNeuron="2,0"', UnsupportedModelError, "'2,0' is not in the layer"),
        ("<NeuralLayer>", "<NeuralLayer/><NeuralLayer>", ModelFileError, "it has no neurons"),
        (
            '<NeuralNetwork function', '<NeuralNetwork normalizationMethod="softmax" function',
            UnsupportedModelError, "normalizationMethod 'softmax' is not read",
        ),
    ],
)  # fmt: skip
def test_what_is_not_read_is_named(
    old: str, new: str, kind: type[EngineError], told: str, tmp_path: Path
) -> None:
    perceptron = MLPRegressor(activation="tanh", **_FIT).fit(ROWS, VALUES)
    text = document(network(perceptron, _VALUE), fields=_FIELDS)
    assert old in text
    with pytest.raises(kind) as refused:
        open_source(written(text.replace(old, new, 1), tmp_path), ImportOptions())
    assert told in str(refused.value)
