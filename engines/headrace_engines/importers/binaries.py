"""Models in binary files of one framework each: HDF5 of Keras, safetensors, ONNX."""

from __future__ import annotations

import json
import mmap
from pathlib import Path
from typing import Final

from headrace_engines.errors import ModelFileError, UnsupportedModelError
from headrace_engines.importers.kinds import Finding, Kind
from headrace_engines.importers.onnx_layout import Layout, layout

_HDF5: Final = b"\x89HDF\r\n\x1a\n"
_CODE_LAYERS: Final = (b'"Lambda"', b'"TorchModuleWrapper"', b'"__lambda__"')
"""What is code in an architecture; the importer, which reads all of it, goes by its own view besides."""
_HDF5_END_AT: Final = 40
_MOST_HEADER_BYTES: Final = 100_000_000
"""Of safetensors, by its own rules."""


def finding(path: Path, start: bytes) -> Finding | None:
    """Return what kind of model a binary file holds; None if it is none. `start` is how it begins.

    Raises ModelFileError if it was cut short, UnsupportedModelError if it lacks what makes a model.
    """
    if start.startswith(_HDF5):
        return _hdf5(path)
    return _safetensors(path, start) or _onnx(path)


def _hdf5(path: Path) -> Finding:
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        if content.find(b"model_config") < 0:
            raise UnsupportedModelError(
                f"{path.name}: an HDF5 file without a Keras model's architecture, perhaps weights "
                "alone: load them into the model and save it whole, with model.save('model.keras')"
            )
        runs_code = any(content.find(name) >= 0 for name in _CODE_LAYERS)
    return Finding(Kind.KERAS, "Keras HDF5 model", runs_code=runs_code)


def _safetensors(path: Path, start: bytes) -> Finding | None:
    length = int.from_bytes(start[:8], "little")
    if start[8:9] != b"{" or not 2 <= length <= _MOST_HEADER_BYTES:
        return None
    with path.open("rb") as file:
        header = file.read(8 + length)[8:]
    try:
        tensors = json.loads(header)
        ends = [entry["data_offsets"][1] for name, entry in tensors.items() if name != "__metadata__"]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        if len(header) < length:
            raise ModelFileError(f"{path.name}: safetensors whose header was cut short") from error
        return None
    if 8 + length + max(ends, default=0) > path.stat().st_size:
        raise ModelFileError(f"{path.name}: safetensors whose weights were cut short")
    return Finding(Kind.TORCH, "safetensors file of weights", runs_code=False)


def _onnx(path: Path) -> Finding | None:
    match layout(path):
        case Layout.WHOLE:
            return Finding(Kind.ONNX, "ONNX model", runs_code=False)
        case Layout.CUT_SHORT:
            raise ModelFileError(f"{path.name}: an ONNX model that was cut short")
        case Layout.OTHER:
            return None
