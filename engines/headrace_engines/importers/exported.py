"""What a framework's exporter made, brought into the one form in which sources become ONNX.

Exporters leave traces of the machine and the run in a graph (paths, stack traces, counters), name the
batch axis as they like, and give the format's newest version. Here the same source becomes the same
bytes anywhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

import onnx
from onnx import helper

BATCH_AXIS: Final = "batch"

_LARGEST_BYTES: Final = 2**31 - 2**20
"""Protobuf holds less than 2 GiB; what is no weight takes some of it."""


def settle(model: onnx.ModelProto, outputs: Sequence[str]) -> None:
    """Bring a model into the common form, in place; its outputs get this order.

    Axis 0 of every input and output is named "batch". Notes, shapes of what lies between, and domains
    that no operator is of are dropped; the format's version is the first that has these operators.
    """
    _order(model.graph, outputs)
    _, *inner = every = list(graphs(model.graph))
    for graph in every:
        _strip(graph)
    for tensor in (tensor for graph in inner for tensor in graph.output):
        _forget_names(tensor)
    for tensor in (*model.graph.input, *model.graph.output):
        dims = tensor.type.tensor_type.shape.dim
        if dims:
            dims[0].dim_param = BATCH_AXIS
    model.graph.name = "model"
    used = {node.domain for graph in every for node in graph.node}
    opsets = [helper.make_opsetid(opset.domain, opset.version) for opset in model.opset_import]
    del model.opset_import[:]
    model.opset_import.extend(opset for opset in opsets if opset.domain in used)
    model.ir_version = helper.find_min_ir_version_for(list(model.opset_import), ignore_unknown=True)
    model.producer_name = "headrace"
    for note in ("producer_version", "domain", "model_version", "doc_string", "metadata_props"):
        model.ClearField(note)


def save(model: onnx.ModelProto, path: Path) -> None:
    """Write the model; weights go to a file of their own beside it where they do not fit into one.

    What was written there before, and is held by the model as far as it is wanted, is replaced.
    """
    beside = path.with_name(f"{path.name}.data")
    beside.unlink(missing_ok=True)  # the library would write behind what is there
    weights = sum(len(tensor.raw_data) for tensor in model.graph.initializer)
    if weights < _LARGEST_BYTES:
        path.write_bytes(model.SerializeToString(deterministic=True))
    else:
        onnx.save_model(model, path, save_as_external_data=True, location=beside.name)
        beside.chmod(path.stat().st_mode)  # a server under another user may read both, or neither


def unlike(names: Iterable[str], others: Iterable[str]) -> tuple[str, ...]:
    """Return the names, changed where they are taken already: inputs and outputs share one space."""
    taken = set(others)
    free: list[str] = []
    for name in names:
        chosen, count = name, 0
        while chosen in taken:
            count += 1
            chosen = f"{name}_output" if count == 1 else f"{name}_output_{count}"
        taken.add(chosen)
        free.append(chosen)
    return tuple(free)


def graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """Yield a graph and those inside of its operators."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                if inner.node:
                    yield from graphs(inner)


def _order(graph: onnx.GraphProto, names: Sequence[str]) -> None:
    outputs = {tensor.name: tensor for tensor in graph.output}
    ordered = [outputs[name] for name in names]
    copies = [onnx.ValueInfoProto.FromString(tensor.SerializeToString()) for tensor in ordered]
    del graph.output[:]
    graph.output.extend(copies)


def _forget_names(tensor: onnx.ValueInfoProto) -> None:
    """Leave the dynamic dims of a tensor inside of an operator without names, which nothing goes by."""
    for dim in tensor.type.tensor_type.shape.dim:
        dim.ClearField("dim_param")


def _strip(graph: onnx.GraphProto) -> None:
    del graph.value_info[:]
    for note in (graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
        note.ClearField("doc_string")
        note.ClearField("metadata_props")
