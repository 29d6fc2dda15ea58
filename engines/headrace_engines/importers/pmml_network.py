"""NeuralNetwork as PMML writes it: layers each of which is connected with the one before it alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from headrace_engines.errors import ModelFileError, UnsupportedModelError
from headrace_engines.importers.pmml_document import Expression, Layer, Network
from headrace_engines.importers.pmml_fields import EXPRESSIONS, Classes, expression
from headrace_engines.importers.pmml_xml import Element
from headrace_engines.printable import printable

_PARTS: Final = (
    "MiningSchema", "Output", "LocalTransformations", "Targets", "NeuralInputs", "NeuralLayer",
    "NeuralOutputs",
)  # fmt: skip
_ACTIVATIONS: Final = ("logistic", "tanh", "identity", "rectifier")
_NORMALIZATIONS: Final = ("none", "softmax", "simplemax")


def network(element: Element, known: set[str], target: Classes | None) -> Network:
    """Return a NeuralNetwork over fields that are known; `target` is None where it predicts a number."""
    element.only(*_PARTS)
    inputs: list[Expression] = []
    places: dict[str, int] = {}
    for each in element.one("NeuralInputs").only("NeuralInput"):
        places[each.needed("id")] = len(inputs)
        inputs.append(expression(each.one("DerivedField").sole(*EXPRESSIONS), known))
    layers: list[Layer] = []
    for each in element.all("NeuralLayer"):
        layers.append(_layer(each, element, places))
        places = {neuron.needed("id"): place for place, neuron in enumerate(each.children)}
    if not inputs or not layers:
        raise ModelFileError(f"{element.where}: it has {len(inputs)} inputs and {len(layers)} layers")
    outputs = element.one("NeuralOutputs").only("NeuralOutput")
    if target is None:
        return _of_number(element, outputs, Network(tuple(inputs), tuple(layers), (), 1.0, 0.0), places)
    neurons = dict(_class_output(each, places, target) for each in outputs)
    if len(neurons) != len(target.values):
        raise UnsupportedModelError(
            f"{element.where}: its outputs tell {len(neurons)} of the target's {len(target.values)} classes"
        )
    return Network(tuple(inputs), tuple(layers), tuple(neurons[place] for place in sorted(neurons)), 1.0, 0.0)


def _layer(element: Element, whole: Element, before: Mapping[str, int]) -> Layer:
    """Return a layer whose neurons are connected with those that have these places."""
    default = whole.get("activationFunction")
    activation = element.choice("activationFunction", default, _ACTIVATIONS)
    if "normalizationMethod" not in element.attributes and len(whole.all("NeuralLayer")) > 1:
        # The standard does not tell whether it is every layer's or the last one's.
        whole.choice("normalizationMethod", "none", ("none",))
    normalization = element.choice(
        "normalizationMethod", whole.get("normalizationMethod", "none"), _NORMALIZATIONS
    )
    weights: list[tuple[float, ...]] = []
    for neuron in element.only("Neuron"):
        row = [0.0] * len(before)
        for each in neuron.only("Con"):
            row[_place(each, "from", before)] += each.number("weight")
        weights.append(tuple(row))
    biases = tuple(neuron.number("bias", 0.0) for neuron in element.children)
    if not weights:
        raise ModelFileError(f"{element.where}: it has no neurons")
    return Layer(tuple(weights), biases, activation, normalization)


def _place(element: Element, name: str, places: Mapping[str, int]) -> int:
    neuron = element.needed(name)
    if neuron not in places:
        raise UnsupportedModelError(f"{element.where}: {printable(neuron)!r} is not in the layer before it")
    return places[neuron]


def _class_output(element: Element, places: Mapping[str, int], target: Classes) -> tuple[int, int]:
    """Return the place of a class, and of the neuron that tells its probability."""
    inner = element.one("DerivedField").sole("NormDiscrete")
    return target.place(inner, inner.needed("value")), _place(element, "outputNeuron", places)


def _of_number(
    element: Element, outputs: list[Element], found: Network, places: Mapping[str, int]
) -> Network:
    """Return a network that predicts a number: what its neuron says, or what a line makes that of."""
    if len(outputs) != 1:
        raise ModelFileError(f"{element.where}: {len(outputs)} outputs for one number")
    neuron = (_place(outputs[0], "outputNeuron", places),)
    inner = outputs[0].one("DerivedField").sole("FieldRef", "NormContinuous")
    if inner.name == "FieldRef":
        return Network(found.inputs, found.layers, neuron, 1.0, 0.0)
    inner.choice("outliers", "asIs", ("asIs",))
    points = [(each.number("orig"), each.number("norm")) for each in inner.only("LinearNorm")]
    if len(points) != 2 or points[0][1] == points[1][1]:
        raise UnsupportedModelError(f"{inner.where}: {len(points)} points; two different ones are read")
    (start, low), (end, high) = points
    factor = (end - start) / (high - low)
    return Network(found.inputs, found.layers, neuron, factor, start - low * factor)
