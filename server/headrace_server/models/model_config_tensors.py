"""A configuration's inputs and outputs: what callers should see, and what is in the way of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import numpy as np

from headrace_engines import files
from headrace_engines.declaration import DeclaredTensor
from headrace_engines.errors import ModelFileError
from headrace_engines.reshaping import same_elements
from headrace_engines.spec import ANY
from headrace_proto.tensors import DTYPES
from headrace_proto.v1 import model_config_pb2 as config_pb
from headrace_server.models.model_config_paths import inside, near
from headrace_server.models.model_config_problems import Findings

_IMAGE_DIMS: Final = 3
_MOST_LABEL_BYTES: Final = 64 << 20

Tensor = config_pb.ModelInput | config_pb.ModelOutput


def dtype_of(data_type: config_pb.DataType.ValueType) -> np.dtype[Any] | None:
    """Return the dtype that a configuration's data type stands for; None where it says nothing."""
    name = config_pb.DataType.Name(data_type).removeprefix("TYPE_")
    return DTYPES.get("BYTES" if name == "STRING" else name)


def data_type_of(datatype: str) -> config_pb.DataType.ValueType:
    """Return the configuration's data type for the protocol's word."""
    return config_pb.DataType.Value("TYPE_STRING" if datatype == "BYTES" else f"TYPE_{datatype}")


def declared(kind: str, tensors: Sequence[Tensor], findings: Findings) -> tuple[DeclaredTensor, ...]:
    """Return the tensors of one kind, "input" or "output"."""
    seen: dict[str, str] = {}
    found = []
    for position, tensor in enumerate(tensors):
        path = f"{kind}[{position}]"
        findings.check_name(f"{path}.name", tensor.name, seen)
        seen.setdefault(tensor.name, f"{path} already")
        found.append(_declared(path, tensor, findings))
    return tuple(found)


def _declared(path: str, tensor: Tensor, findings: Findings) -> DeclaredTensor:
    check_dims(f"{path}.dims", tensor.dims, findings)
    check_dims(f"{path}.reshape.shape", tensor.reshape.shape, findings)
    dims = tuple(tensor.dims) if f"{path}.dims" in findings else None
    model_dims = tuple(tensor.reshape.shape) if tensor.HasField("reshape") else None
    if model_dims is not None:
        if dims is None:
            findings.report(f"{path}.reshape", "the dims that callers see are missing", "say `dims` as well")
            model_dims = None
        elif not same_elements(dims, model_dims):
            findings.report(
                f"{path}.reshape",
                f"{list(dims)} does not have the elements of {list(model_dims)}",
                f"the sizes before, between and after each {ANY} must have the same product",
            )
            model_dims = None
    is_optional = False
    if isinstance(tensor, config_pb.ModelInput):
        is_optional = tensor.optional
        if tensor.format != config_pb.ModelInput.FORMAT_NONE and len(tensor.dims) != _IMAGE_DIMS:
            layout = config_pb.ModelInput.Format.Name(tensor.format)
            findings.report(f"{path}.format", f"{layout} is the layout of {_IMAGE_DIMS} dims, as of images")
    return DeclaredTensor(tensor.name, dtype_of(tensor.data_type), dims, model_dims, is_optional)


def check_dims(path: str, dims: Sequence[int], findings: Findings) -> None:
    """Report the sizes that no tensor has."""
    for position, dim in enumerate(dims):
        if dim < 1 and dim != ANY:
            findings.report(f"{path}[{position}]", f"{dim} came, 1 or more, or {ANY} for any size, expected")


def labels(
    outputs: Sequence[config_pb.ModelOutput], folder: Path, findings: Findings
) -> Mapping[str, tuple[str, ...]]:
    """Return the names of the classes by output, read from the label files in the model's folder."""
    found = {}
    for position, output in enumerate(outputs):
        if output.label_filename:
            path = f"output[{position}].label_filename"
            found[output.name] = _labels(folder, output.label_filename, path, findings)
    return MappingProxyType(found)


def _labels(folder: Path, name: str, path: str, findings: Findings) -> tuple[str, ...]:
    """Return a label file's lines; an empty one at the end is none."""
    file = inside(folder, name, path, findings)
    if file is None:
        return ()
    try:
        return tuple(line.strip() for line in files.text(file, _MOST_LABEL_BYTES).rstrip().split("\n"))
    except ModelFileError as error:
        hint = near(file) or f"one label a line is expected in {name} in the model's folder"
        findings.report(path, str(error), hint)
        return ()
