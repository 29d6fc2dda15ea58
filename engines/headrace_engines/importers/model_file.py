"""ONNX files read whole, also those whose weights lie in files beside them."""

from __future__ import annotations

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


def _missing(model: onnx.ModelProto, path: Path) -> str:
    """Return what to say of a file of weights that is not there; "" if all are."""
    names = {
        entry.value
        for tensor in model.graph.initializer
        for entry in tensor.external_data
        if entry.key == "location"
    }
    absent = sorted(name for name in names if not (path.parent / name).is_file())
    return f"its weights are in {absent[0]!r}, which is not there: put that file beside it" if absent else ""
