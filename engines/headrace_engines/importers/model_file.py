"""ONNX files read whole, also those whose weights lie in files beside them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError

from headrace_engines import files
from headrace_engines.errors import ModelFileError


def read(path: Path) -> onnx.ModelProto:
    """Return the model of a file with all its weights.

    Raises ModelFileError if it is damaged, or if a file that its weights lie in is not there.
    """
    files.check(path)
    try:
        model = onnx.load(path, load_external_data=False)
    except DecodeError as error:
        raise ModelFileError(f"{path.name}: no ONNX model: {files.nature(path)}") from error
    try:
        onnx.external_data_helper.load_external_data_for_model(model, str(path.parent))
    except (OSError, ValueError, onnx.checker.ValidationError) as error:
        raise ModelFileError(f"{path.name}: {_missing(model, path) or error}") from error
    return model


def weight_bytes(model: onnx.ModelProto) -> int:
    """Return the bytes of all constants of the main graph."""
    return sum(tensor.ByteSize() for tensor in model.graph.initializer)


def weight_files(model: onnx.ModelProto) -> list[str]:
    """Return the names of the files beside a model in which it keeps its weights, in their order.

    Weights are constants of graphs and what nodes hold, also of graphs inside nodes and of functions.
    """
    nodes = (_of_nodes(function.node) for function in model.functions)
    tensors = chain(_of_graph(model.graph), *nodes)
    return sorted(
        {entry.value for tensor in tensors for entry in tensor.external_data if entry.key == "location"}
    )


def _of_graph(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    yield from _of_nodes(graph.node)


def _of_nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.TensorProto]:
    for attribute in (attribute for node in nodes for attribute in node.attribute):
        if attribute.HasField("t"):
            yield attribute.t
        yield from attribute.tensors
        if attribute.HasField("g"):
            yield from _of_graph(attribute.g)
        for graph in attribute.graphs:
            yield from _of_graph(graph)


def _missing(model: onnx.ModelProto, path: Path) -> str:
    """Return what to say of a file of weights that is not there; "" if all are."""
    absent = [name for name in weight_files(model) if not (path.parent / name).is_file()]
    return f"its weights are in {absent[0]!r}, which is not there: put that file beside it" if absent else ""
