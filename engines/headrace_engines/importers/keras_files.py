"""What a file of Keras says of itself, read as data: which Keras wrote it, its architecture, its code."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import h5py

from headrace_engines.errors import ModelFileError, UnsupportedModelError
from headrace_engines.rows import text_of

_CODE_CLASSES: Final = frozenset({"Lambda", "TorchModuleWrapper", "__lambda__"})
"""Parts of a model that are Python code of their own, stored with it."""

_KERAS_MODULES: Final = frozenset({"keras", "tf_keras", "builtins"})


@dataclass(frozen=True, slots=True)
class KerasFile:
    """One model of Keras: the version that wrote it, and its architecture as the file has it."""

    path: Path
    version: str
    config: Any
    is_hdf5: bool

    @property
    def is_of_keras_2(self) -> bool:
        """Whether Keras 2 wrote it, some of whose layers Keras 3 does not read."""
        return self.version.startswith("2.")

    def code(self) -> tuple[str, ...]:
        """Return the parts that would execute code which is not Keras's, by name."""
        names = {str(node["class_name"]) for node in _classes(self.config) if _is_code(node)}
        return tuple(sorted(names))


def read(path: Path) -> KerasFile:
    """Read what a .keras or .h5 file says of itself; nothing of it is executed.

    Raises ModelFileError for a file that is damaged, UnsupportedModelError for one that has no architecture.
    """
    try:
        return _zipped(path) if zipfile.is_zipfile(path) else _hdf5(path)
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise ModelFileError(f"{path.name}: it cannot be read as a model of Keras: {error}") from error


def _zipped(path: Path) -> KerasFile:
    with zipfile.ZipFile(path) as archive:
        version = str(json.loads(archive.read("metadata.json"))["keras_version"])
        return KerasFile(path, version, json.loads(archive.read("config.json")), is_hdf5=False)


def _hdf5(path: Path) -> KerasFile:
    with h5py.File(path, "r") as file:
        if "model_config" not in file.attrs:
            raise UnsupportedModelError(
                f"{path.name}: it holds weights without the architecture that they belong to: load them "
                "into the "
                "model where it is made (model.load_weights) and store it whole: model.save('model.keras')"
            )
        version = text_of(file.attrs.get("keras_version", "2."))
        return KerasFile(path, version, json.loads(text_of(file.attrs["model_config"])), is_hdf5=True)


def _is_code(node: dict[str, Any]) -> bool:
    package = str(node.get("module") or "keras").partition(".")[0]
    return node["class_name"] in _CODE_CLASSES or package not in _KERAS_MODULES


def _classes(tree: Any) -> Iterator[dict[str, Any]]:
    """Yield everything in an architecture that is an instance of some class."""
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict):
            if "class_name" in node:
                yield node
            waiting.extend(node.values())
        elif isinstance(node, list):
            waiting.extend(node)
