"""What exporters of classical models wrote, brought into the form in which it runs on CPUs and GPUs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from headrace_engines.importers import exported, typical
from headrace_engines.importers.importer import standard_path, typical_path
from headrace_engines.importers.standard import is_native, standardise
from headrace_engines.importers.standard.graph import operator_of

ML_OPSET: Final = 3
"""The version of the machine-learning domain that exporters are asked for: each has all they write."""

LABEL: Final = "label"
PROBABILITIES: Final = "probabilities"
SCORES: Final = "scores"
PREDICTION: Final = "prediction"


@dataclass(frozen=True, slots=True)
class Converted:
    """A model for CPUs, and the same in ONNX's own domain where that is another: `standard`, for TensorRT.

    `typical` are rows [rows, features] near which it was trained, where it tells of any.
    """

    cpu: onnx.ModelProto
    standard: onnx.ModelProto
    typical: NDArray[np.float32] | None = None

    def save(self, path: Path) -> None:
        """Write the model, and the other beside it, as `standard_path`, if there is one."""
        exported.save(self.cpu, path)
        if self.standard is not self.cpu:
            exported.save(self.standard, standard_path(path))
        if self.typical is not None:
            np.save(typical_path(path), self.typical)


def written(
    model: onnx.ModelProto,
    opset: int,
    outputs: Sequence[str],
    names: Mapping[str, str],
    amend: Callable[[onnx.ModelProto], None],
) -> Converted:
    """Return what an exporter wrote for an opset with these outputs, with other names where told.

    An output whose name is empty is dropped. Labels come in one dimension. `amend` may change the graph
    once its outputs are tensors.
    """
    _declare(model, opset)
    near = typical.rows(model)
    for node in model.graph.node:
        # Every system has this locale for lowering letters. A category that is unknown is told by zeros,
        # as the alternative is to fail the whole batch.
        for kind, attribute, value in (
            ("StringNormalizer", "locale", "C.UTF-8"),
            ("OneHotEncoder", "zeros", 1),
        ):
            if node.op_type == kind:
                _set(node, attribute, value)
    cpu = standardise(model, for_cpu=True).model
    amend(cpu)
    _name_outputs(cpu, outputs, names)
    _take_labels_from_probabilities(cpu)
    cpu = standardise(cpu, for_cpu=True).model
    is_twofold = any(map(is_native, cpu.graph.node))
    standard = standardise(cpu).model if is_twofold else cpu
    kept = [output.name for output in cpu.graph.output]
    shapes = _row_shapes(standard)
    for each in (cpu, standard) if is_twofold else (cpu,):
        for output in each.graph.output:
            element = output.type.tensor_type.elem_type
            output.CopyFrom(helper.make_tensor_value_info(output.name, element, shapes[output.name]))
        exported.settle(each, kept)
    return Converted(cpu, standard, near)


def relabel(model: onnx.ModelProto, classes: NDArray[np.int64]) -> None:
    """Let the first output, which is a class's place, be that class's own number."""
    if np.array_equal(classes, np.arange(len(classes))):
        return
    output = model.graph.output[0].name
    place, table = f"{output}_place", f"{output}_classes"
    _rename(model.graph, output, place)
    model.graph.initializer.append(numpy_helper.from_array(classes, table))
    model.graph.node.append(helper.make_node("Gather", [table, place], [output], axis=0))


def _declare(model: onnx.ModelProto, opset: int) -> None:
    """Name the opset that the exporter was asked for; it names the oldest that its operators are of."""
    others = [each for each in model.opset_import if each.domain]
    del model.opset_import[:]
    model.opset_import.extend([helper.make_opsetid("", opset), *others])


def _set(node: onnx.NodeProto, name: str, value: str | int) -> None:
    others = [attribute for attribute in node.attribute if attribute.name != name]
    del node.attribute[:]
    node.attribute.extend([*others, helper.make_attribute(name, value)])


def _name_outputs(model: onnx.ModelProto, outputs: Sequence[str], names: Mapping[str, str]) -> None:
    """Give inputs and outputs their names by copies that are tidied away, and drop outputs without one."""
    graph = model.graph
    for output in graph.output:
        _rename(graph, output.name, f"{output.name}_given")
    for name in {names.get(name, name) for name in outputs}:
        _rename(graph, name, f"{name}_inside")
    kept: list[onnx.ValueInfoProto] = []
    for output, name in zip(graph.output, outputs, strict=True):
        if not name:
            continue
        source = f"{output.name}_given"
        described = onnx.ValueInfoProto()
        described.CopyFrom(output)
        described.name = names.get(name, name)
        if name == LABEL and len(output.type.tensor_type.shape.dim) > 1:
            graph.initializer.append(numpy_helper.from_array(np.array([-1]), f"{source}_shape"))
            graph.node.append(helper.make_node("Reshape", [source, f"{source}_shape"], [described.name]))
        else:
            graph.node.append(helper.make_node("Identity", [source], [described.name]))
        kept.append(described)
    del graph.output[:]
    graph.output.extend(kept)
    for value in graph.input:
        if value.name in names:
            _rename(graph, value.name, names[value.name])
            value.name = names[value.name]


def _rename(graph: onnx.GraphProto, old: str, new: str) -> None:
    for node in graph.node:
        for listed in (node.input, node.output):
            for index, name in enumerate(listed):
                if name == old:
                    listed[index] = new


def _take_labels_from_probabilities(model: onnx.ModelProto) -> None:
    """Let the more probable of two classes be the label of trees whose leaves all speak for the second.

    The operator takes such leaves for shares of votes, of which more than one half is needed, whatever
    becomes of their sum.
    """
    graph = model.graph
    for node in [each for each in graph.node if each.op_type == "TreeEnsembleClassifier"]:
        attributes = operator_of(node).attributes
        labels = attributes.get("classlabels_int64s", ())
        if attributes.get("post_transform") != "LOGISTIC" or len(labels) != 2:
            continue
        label, scores = node.output
        node.output[0] = f"{label}_by_votes"
        table = numpy_helper.from_array(np.array(labels, np.int64), f"{label}_table")
        graph.initializer.append(table)
        best = helper.make_node("ArgMax", [scores], [f"{label}_place"], axis=1, keepdims=0)
        taken = helper.make_node("Gather", [table.name, f"{label}_place"], [label])
        place = list(graph.node).index(node) + 1
        graph.node.insert(place, taken)
        graph.node.insert(place, best)


def _row_shapes(model: onnx.ModelProto) -> dict[str, list[Any]]:
    """Return the shapes of the outputs as they follow from the operators; exporters declare some wrongly."""
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    for output in bare.graph.output:
        output.type.tensor_type.ClearField("shape")
    inferred = {output.name: output for output in onnx.shape_inference.infer_shapes(bare).graph.output}
    shapes: dict[str, list[Any]] = {}
    for output in model.graph.output:
        tensor = inferred[output.name].type.tensor_type
        source = tensor if tensor.HasField("shape") else output.type.tensor_type
        dims = [dim.dim_value or None for dim in source.shape.dim]
        shapes[output.name] = [exported.BATCH_AXIS, *dims[1:]]
    return shapes
