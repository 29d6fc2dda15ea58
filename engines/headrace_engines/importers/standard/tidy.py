"""Leaves of a graph what has an effect, in the form that runtimes and quantisation like best."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, MutableSequence
from typing import Final

import numpy as np
import onnx
from onnx import helper, numpy_helper

from headrace_engines.importers.standard.graph import Tensor

STANDARD: Final = ("", "ai.onnx")
"""What ONNX's own domain is called."""


def tensors(model: onnx.ModelProto) -> dict[str, Tensor]:
    """Return what can be inferred of every tensor of the main graph."""
    try:
        graph = onnx.shape_inference.infer_shapes(model).graph
    except onnx.shape_inference.InferenceError:  # what an operator says of itself does not fit: know less
        graph = model.graph
    constants = graph.initializer
    known = {constant.name: Tensor(constant.data_type, len(constant.dims)) for constant in constants}
    for value in (*graph.value_info, *graph.input, *graph.output):
        kind = value.type.tensor_type
        if value.type.HasField("tensor_type"):
            rank = len(kind.shape.dim) if kind.HasField("shape") else None
            known[value.name] = Tensor(kind.elem_type, rank)
    return known


def subgraphs(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.GraphProto]:
    """Yield the graphs inside operators, and those inside them."""
    for node in nodes:
        for attribute in node.attribute:
            for graph in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
                yield graph
                yield from subgraphs(graph.node)


def tidy(model: onnx.ModelProto) -> None:
    """Drop what changes nothing and what nobody reads; join each matrix product and its bias to one Gemm."""
    _drop_copies(model)
    _join_biases(model)
    _drop_unread(model)
    _drop_unused_domains(model)
    del model.graph.value_info[:]


def _drop_copies(model: onnx.ModelProto) -> None:
    """Drop Identity, and Cast to the type that a tensor has."""
    graph = model.graph
    known = tensors(model)
    fixed = {value.name for value in (*graph.input, *graph.output)} | _read_inside(graph)
    fixed |= {constant.name for constant in graph.initializer}
    names: dict[str, str] = {}
    kept: list[onnx.NodeProto] = []
    for node in graph.node:
        _rename(node.input, names)
        if not _is_copy(node, known) or {node.input[0], node.output[0]} <= fixed:
            kept.append(node)
        elif node.output[0] in fixed:  # whoever made the source makes it under this name
            turned = {node.input[0]: node.output[0]}
            for other in kept:
                _rename(other.input, turned)
                _rename(other.output, turned)
            names.update(turned)
        else:
            names[node.output[0]] = node.input[0]
    del graph.node[:]
    graph.node.extend(kept)


def _is_copy(node: onnx.NodeProto, known: dict[str, Tensor]) -> bool:
    if node.domain not in STANDARD:
        return False
    if node.op_type == "Cast":
        kind = known.get(node.input[0], Tensor()).element_type
        return kind != 0 and kind == helper.get_node_attr_value(node, "to")
    return node.op_type == "Identity"


def _rename(names: MutableSequence[str], new: Mapping[str, str]) -> None:
    for index, name in enumerate(names):
        if name in new:
            names[index] = new[name]


def _read_inside(graph: onnx.GraphProto) -> set[str]:
    """Return the names that graphs inside operators read, some of them from the graph around them."""
    inside = tuple(subgraphs(graph.node))
    return {
        name for inner in inside for names in (*(node.input for node in inner.node),) for name in names
    } | {value.name for inner in inside for value in inner.output}


def _join_biases(model: onnx.ModelProto) -> None:
    """Make Gemm of each MatMul by a constant and the Add behind it; its bias has one dimension."""
    graph = model.graph
    known = tensors(model)
    constants = {constant.name: constant for constant in graph.initializer}
    fixed = {output.name for output in graph.output} | _read_inside(graph)
    reads = Counter(name for node in graph.node for name in node.input)
    products = {
        node.output[0]: node
        for node in graph.node
        if node.op_type == "MatMul"
        and known.get(node.input[0], Tensor()).rank == 2
        and node.input[1] in constants
        and len(constants[node.input[1]].dims) == 2
        and reads[node.output[0]] == 1
        and node.output[0] not in fixed
    }
    joined: list[onnx.NodeProto] = []
    for node in graph.node:
        if node.op_type != "Add":
            continue
        for product, bias in (tuple(node.input), tuple(node.input)[::-1]):
            if product in products and bias in constants:
                matrix = products[product]
                row = _row(constants[bias], constants[matrix.input[1]].dims[1])
                if row is not None:
                    row.name = f"{node.output[0]}_bias"
                    graph.initializer.append(row)
                    inputs = [*matrix.input, row.name]
                    node.CopyFrom(
                        helper.make_node("Gemm", inputs, list(node.output), node.name or matrix.name)
                    )
                    joined.append(matrix)
                break
    for matrix in joined:
        graph.node.remove(matrix)


def _row(bias: onnx.TensorProto, columns: int) -> onnx.TensorProto | None:
    """Return a constant that is the same for all rows as one row; None for any other."""
    values = numpy_helper.to_array(bias)
    if (
        values.ndim > 2
        or values.size not in (1, columns)
        or (values.ndim and values.shape[-1] != values.size)
    ):
        return None
    return numpy_helper.from_array(np.ascontiguousarray(np.broadcast_to(values.reshape(-1), columns)))


def _drop_unread(model: onnx.ModelProto) -> None:
    graph = model.graph
    read = {output.name for output in graph.output}
    kept: list[onnx.NodeProto] = []
    for node in reversed(graph.node):
        if read.isdisjoint(node.output):
            continue
        kept.append(node)
        read.update(node.input)
        for inner in subgraphs([node]):
            read.update(name for inside in inner.node for name in inside.input)
            read.update(value.name for value in inner.output)
    constants = [constant for constant in graph.initializer if constant.name in read]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(reversed(kept))
    graph.initializer.extend(constants)


def _drop_unused_domains(model: onnx.ModelProto) -> None:
    """Name each domain once, and none that no operator is of."""
    nodes = [*model.graph.node, *(node for inner in subgraphs(model.graph.node) for node in inner.node)]
    used = {"", *(node.domain for node in nodes if node.domain not in STANDARD)}
    versions: dict[str, int] = {}
    for opset in model.opset_import:
        domain = "" if opset.domain in STANDARD else opset.domain
        versions[domain] = max(opset.version, versions.get(domain, 0))
    del model.opset_import[:]
    model.opset_import.extend(
        helper.make_opsetid(domain, version) for domain, version in versions.items() if domain in used
    )
