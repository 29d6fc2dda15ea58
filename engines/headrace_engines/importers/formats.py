"""What kind of model a file holds, told by its content: names are often wrong."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Final

from headrace_engines import files
from headrace_engines.errors import UnsupportedModelError


class Kind(Enum):
    """The families of models that are read; the value is what people call each."""

    SCIKIT_LEARN = "scikit-learn"
    TORCH = "PyTorch"
    KERAS = "Keras"
    SAVED_MODEL = "TensorFlow SavedModel"
    ONNX = "ONNX"
    PMML = "PMML"
    XGBOOST = "XGBoost"
    LIGHTGBM = "LightGBM"


@dataclass(frozen=True, slots=True)
class Format:
    """How one kind of file is read.

    `label` is what people call it, `module` the importer, `runs_code` whether opening it can execute code
    that its author put in it, `extra` Headrace's extra that brings what the importer needs, and `tools`
    the distributions whose versions decide the bytes that come out.
    """

    kind: Kind
    label: str
    module: str
    runs_code: bool
    extra: str
    tools: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Family:
    """What all formats of one kind have in common."""

    module: str
    extra: str
    tools: tuple[str, ...]


_FAMILIES: Final = {
    Kind.SCIKIT_LEARN: _Family("sklearn", "build", ("scikit-learn", "scipy", "skl2onnx")),
    Kind.TORCH: _Family("torch", "torch", ("torch", "onnxscript")),
    Kind.KERAS: _Family("keras", "keras", ("tensorflow", "keras", "tf2onnx")),
    Kind.SAVED_MODEL: _Family("keras", "keras", ("tensorflow", "keras", "tf2onnx")),
    Kind.ONNX: _Family("onnx", "build", ()),
    Kind.PMML: _Family("pmml", "pmml", ()),
    Kind.XGBOOST: _Family("boosting", "boost", ("xgboost", "onnxmltools")),
    Kind.LIGHTGBM: _Family("boosting", "boost", ("lightgbm", "onnxmltools")),
}

_READ: Final = (
    "a pickle or joblib file of scikit-learn, XGBoost or LightGBM, skops, PyTorch, Keras, a TensorFlow "
    "SavedModel folder, ONNX, PMML, XGBoost's JSON or UBJ, LightGBM's text"
)
_START_BYTES: Final = 512


def detect(path: Path) -> Format:
    """Return what kind of model lies at the path, which is a file or a folder; nothing of it is executed.

    Raises ModelFileError if it cannot be read, UnsupportedModelError if it is none of the kinds that are
    read; the text says what was found and what is read.
    """
    files.check(path)
    with path.open("rb") as file:
        start = file.read(_START_BYTES)
    if start[:1] == b"\x80":
        return _format(Kind.SCIKIT_LEARN, "pickle", runs_code=True)
    if path.suffix == ".onnx":
        return _format(Kind.ONNX, "ONNX model", runs_code=False)
    raise UnsupportedModelError(f"{path.name}: {files.nature(path)}; what is read: {_READ}")


def _format(kind: Kind, label: str, *, runs_code: bool) -> Format:
    family = _FAMILIES[kind]
    module = f"{__package__}.{family.module}"
    return Format(kind, label, module, runs_code, family.extra, family.tools)
