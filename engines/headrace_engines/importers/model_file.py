"""ONNX files read and written whole, also those whose weights lie in files beside them."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import onnx
from google.protobuf.message import DecodeError

from headrace_engines import files
from headrace_engines.errors import ModelFileError

MOST_BYTES: Final = (1 << 31) - 1
"""Of one message: what is larger has its weights in a file beside it."""

_ROOM_BYTES: Final = 1 << 20
"""Left for what is not weights, where these alone come near the most."""


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


def write(model: onnx.ModelProto, path: Path) -> None:
    """Write the model, with its weights in `path`.data beside it where they do not fit into one file."""
    if weight_bytes(model) < MOST_BYTES - _ROOM_BYTES:
        path.write_bytes(model.SerializeToString(deterministic=True))
        return
    onnx.save_model(model, path, save_as_external_data=True, location=f"{path.name}.data")


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
