"""What every imported model must be before anything is built of it; each complaint says what to do."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
import onnx
from onnx import inliner, numpy_helper

from headrace_engines.errors import ModelFileError, UnsupportedModelError
from headrace_engines.importers import batch_axis, exported, model_file, opsets
from headrace_engines.importers.opsets import STANDARD, opset
from headrace_engines.importers.simplify import simplified
from headrace_engines.importers.standard.tidy import subgraphs
from headrace_engines.printable import printable

_RUNTIMES_OWN: Final = "com.microsoft"
"""The domains of operators that ONNX Runtime brings begin so."""
_WEIGHTED: Final = frozenset(
    (
        "BatchNormalization",
        "Conv",
        "ConvTranspose",
        "Gemm",
        "GRU",
        "LayerNormalization",
        "LSTM",
        "MatMul",
        "RNN",
    )
)
_RANDOM: Final = frozenset(
    ("Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike")
)
_CONSTANTS_APART: Final = 4
"""The first IR version in which constants are no inputs."""
_ROUNDED: Final = (
    onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16,
)  # fmt: skip
_SOME: Final = 3


def finish(path: Path, least_opset: int) -> None:
    """Make of what an importer wrote the model that everything else is made of, in the same place.

    One file that ONNX's checker accepts, in at least this opset, each domain named once; the first axis of
    inputs and outputs is dynamic and named "batch"; simplified, with shapes inferred. Raises
    UnsupportedModelError or ModelFileError where that cannot be, saying why and what to do.
    """
    model = model_file.read(path)
    check_types(model)
    check_operators(model)
    check_weights(model)
    if model.functions:
        model = inliner.inline_local_functions(model, convert_version=True)
    opsets.merge(model)
    _keep_constants(model)
    model = batch_axis.open_first_axis(opsets.suited(model, least_opset))
    model = simplified(model)
    batch_axis.name_outputs(model)
    exported.settle(model, [output.name for output in model.graph.output])
    exported.save(model, path)
    check_whole(path)


def _keep_constants(model: onnx.ModelProto) -> None:
    """Take the constants off the inputs, among which the oldest IR versions list them."""
    inputs = batch_axis.real_inputs(model.graph)
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    model.ir_version = max(model.ir_version, _CONSTANTS_APART)


def check_operators(model: onnx.ModelProto) -> None:
    """Raise UnsupportedModelError for operators that are random, or unknown in the model's opset."""
    if not opset(model) and any(node.domain in STANDARD for node in _nodes(model)):
        raise UnsupportedModelError("the model does not say in which opset it is written: export it anew")
    versions = {
        "" if entry.domain in STANDARD else entry.domain: entry.version for entry in model.opset_import
    }
    local = {(function.domain, function.name) for function in model.functions}
    unknown: set[str] = set()
    for node in _nodes(model):
        domain = "" if node.domain in STANDARD else node.domain
        label = printable(node.name or node.output[0])
        if node.op_type in _RANDOM and not domain:
            raise UnsupportedModelError(
                f"the operator {node.op_type} ({label!r}) answers differently each time, so that the model "
                "can neither be judged nor its answers be kept: export it in evaluation mode, or take what "
                "is random as an input"
            )
        if (node.domain, node.op_type) in local or domain.startswith(_RUNTIMES_OWN):
            continue
        if not onnx.defs.has(node.op_type, domain):
            unknown.add(f"{domain}.{node.op_type}".removeprefix("."))
        elif not onnx.defs.has(node.op_type, versions.get(domain, 0), domain):
            since = onnx.defs.get_schema(node.op_type, domain=domain).since_version
            raise UnsupportedModelError(
                f"the operator {node.op_type} ({label!r}) is of opset {since}, and the model says "
                f"{versions.get(domain, 0)}: export it with opset {since} or newer"
            )
    if unknown:
        shown = printable(", ".join(sorted(unknown)[:_SOME]))
        raise UnsupportedModelError(
            f"the model has operators that are not ONNX's: {shown}: export it with ONNX's own, or with a "
            "function for each that is made of them"
        )


def check_weights(model: onnx.ModelProto) -> None:
    """Raise ModelFileError for weights that are no numbers: every answer would be none either.

    Infinities are refused in weights alone: masks of transformers are made of them.
    """
    readers = {
        name: node.op_type for node in _nodes(model) for name in node.input[1:] if node.op_type in _WEIGHTED
    }
    for name, tensor in _constants(model):
        if tensor.data_type not in _ROUNDED:
            continue
        values = numpy_helper.to_array(tensor)
        if values.size < 2 or np.isfinite(values).all():
            continue
        is_bad = ~np.isfinite(values) if name in readers else np.isnan(values)
        if is_bad.any():
            what = "NaN" if np.isnan(values).any() else "infinite"
            raise ModelFileError(
                f"{int(is_bad.sum())} of the {values.size} values of {printable(name)!r} are {what}: the "
                "training diverged, or the file is damaged; save it from a state before that"
            )


def check_types(model: onnx.ModelProto) -> None:
    """Raise UnsupportedModelError for inputs and outputs that are no tensors."""
    for kind, values in (("input", model.graph.input), ("output", model.graph.output)):
        for value in values:
            if not value.type.HasField("tensor_type") and value.type.WhichOneof("value"):
                found = value.type.WhichOneof("value").removesuffix("_type")
                raise UnsupportedModelError(
                    f"the {kind} {printable(value.name)!r} is a {found}, and only tensors are served: export "
                    "the model with tensors alone (with skl2onnx: options={'zipmap': False})"
                )


def check_whole(path: Path) -> None:
    """Raise ModelFileError for a model that breaks ONNX's own rules."""
    try:
        onnx.checker.check_model(str(path))
    except onnx.checker.ValidationError as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = printable(lines[0]) if lines else "no reason is told"
        raise ModelFileError(f"the model breaks ONNX's rules: {reason}") from error


def _nodes(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    for nodes in (model.graph.node, *(function.node for function in model.functions)):
        yield from nodes
        for inner in subgraphs(nodes):
            yield from inner.node


def _constants(model: onnx.ModelProto) -> Iterator[tuple[str, onnx.TensorProto]]:
    for graph in (model.graph, *subgraphs(model.graph.node)):
        for tensor in graph.initializer:
            yield tensor.name, tensor
    for node in _nodes(model):
        if node.op_type == "Constant":
            for attribute in node.attribute:
                if attribute.name == "value":
                    yield node.output[0], attribute.t
