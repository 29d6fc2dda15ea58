"""What models in ZIP archives are: several frameworks write these, and each has members of its own."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, Final

from headrace_engines.errors import ModelFileError, UnsupportedModelError
from headrace_engines.importers.kinds import Finding, Kind
from headrace_engines.importers.pickles import globals_of, torch_finding
from headrace_engines.printable import printable

MAGIC: Final = b"PK\x03\x04"

_MOST_BYTES: Final = 1 << 28
"""Of a member that describes a model: weights are others."""
_SAFE_PACKAGES: Final = frozenset({"builtins", "collections", "numpy", "scipy", "sklearn"})
_CODE_LAYERS: Final = frozenset({"Lambda", "TorchModuleWrapper", "__lambda__"})


def finding(path: Path) -> Finding:
    """Return what kind of model an archive holds.

    Raises ModelFileError if it is damaged, UnsupportedModelError if it holds none that is read.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return _found(path, archive)
    except (zipfile.BadZipFile, zipfile.LargeZipFile, EOFError, ValueError, RecursionError) as error:
        raise ModelFileError(f"{path.name}: a damaged archive, perhaps cut short: {error}") from error


def _found(path: Path, archive: zipfile.ZipFile) -> Finding:
    names = archive.namelist()
    members = {PurePosixPath(name).name: name for name in reversed(names)}
    if "schema.json" in names:
        return _skops(json.loads(_read(archive, "schema.json")))
    if {"config.json", "model.weights.h5"} <= set(names):
        return _keras(json.loads(_read(archive, "config.json")))
    if "archive_format" in members or "serialized_exported_program.json" in names:
        return _exported(path, names)
    if "constants.pkl" in members:
        return Finding(Kind.TORCH, "TorchScript program", runs_code=True)
    if "data.pkl" in members:
        content = io.BytesIO(_read(archive, members["data.pkl"]))
        return torch_finding(globals_of(content), "PyTorch file")
    if names and all(name.endswith(".npy") for name in names):
        raise UnsupportedModelError(f"{path.name}: arrays of NumPy, and no model: data are given by --data")
    some = ", ".join(names[:3])
    raise UnsupportedModelError(
        f"{path.name}: an archive of {printable(some)}, and no model that is read: unpack it"
    )


def _read(archive: zipfile.ZipFile, name: str) -> bytes:
    if archive.getinfo(name).file_size > _MOST_BYTES:
        raise ModelFileError(f"{name} has more than {_MOST_BYTES} bytes")
    return archive.read(name)


def _exported(path: Path, names: list[str]) -> Finding:
    if any("aotinductor" in name for name in names):
        raise UnsupportedModelError(
            f"{path.name}: a program that AOTInductor compiled: save what torch.export.export returned"
        )
    return Finding(Kind.TORCH, "torch.export program", runs_code=True)


def _skops(schema: Any) -> Finding:
    modules = {str(node["__module__"]).partition(".")[0] for node in _nodes(schema) if "__module__" in node}
    return Finding(Kind.SCIKIT_LEARN, "skops file", runs_code=not modules <= _SAFE_PACKAGES)


def _keras(config: Any) -> Finding:
    """Tell whether a model has parts that are code, or that are looked up outside Keras."""
    runs_code = any(
        node.get("class_name") in _CODE_LAYERS
        or str(node.get("module") or "keras").partition(".")[0] != "keras"
        for node in _nodes(config)
        if "class_name" in node
    )
    return Finding(Kind.KERAS, "Keras model", runs_code=runs_code)


def _nodes(tree: Any) -> Iterator[dict[str, Any]]:
    """Yield every object of a JSON document."""
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict):
            yield node
            waiting.extend(node.values())
        elif isinstance(node, list):
            waiting.extend(node)
