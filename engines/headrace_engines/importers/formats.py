"""What kind of model a file holds, told by its content: names are often wrong."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from headrace_engines import files
from headrace_engines.errors import ModelFileError, UnsupportedModelError
from headrace_engines.importers import archives, binaries, pickles, strangers, texts
from headrace_engines.importers.kinds import Finding
from headrace_engines.importers.kinds import Kind as Kind
from headrace_engines.printable import printable


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
    Kind.PMML: _Family("pmml", "build", ()),
    Kind.XGBOOST: _Family("boosting", "boost", ("xgboost", "onnxmltools")),
    Kind.LIGHTGBM: _Family("boosting", "boost", ("lightgbm", "onnxmltools")),
}

_READ: Final = (
    "what is read: pickle, joblib or skops files of scikit-learn, XGBoost and LightGBM, their own model "
    "files, PyTorch, Keras, a TensorFlow SavedModel folder, ONNX and PMML"
)
_START_BYTES: Final = 1 << 16
_SOME: Final = 3


def detect(path: Path) -> Format:
    """Return what kind of model lies at the path, which is a file or a folder; nothing of it is executed.

    Raises ModelFileError if it cannot be read or is damaged, UnsupportedModelError if it is none of the
    kinds that are read; the text says what was found, and what helps.
    """
    try:
        found = _in_folder(path) if path.is_dir() else _in_file(path)
    except OSError as error:
        raise files.unreadable(path, error) from error
    family = _FAMILIES[found.kind]
    module = f"{__package__}.{family.module}"
    return Format(found.kind, found.label, module, found.runs_code, family.extra, family.tools)


def _in_file(path: Path) -> Finding:
    files.check(path)
    with path.open("rb") as file:
        start = file.read(_START_BYTES)
    if start.startswith(archives.MAGIC):
        return archives.finding(path)
    strangers.refuse(path, start)
    for finding in (binaries.finding, pickles.finding, texts.finding):
        if found := finding(path, start):
            return found
    if path.suffix == ".onnx":
        raise ModelFileError(f"{path.name}: no ONNX model: {files.nature(path)}")
    raise UnsupportedModelError(
        f"{path.name}: its {path.stat().st_size} bytes are no kind of model that is known here; {_READ}"
    )


def _in_folder(path: Path) -> Finding:
    """Tell a folder by its files: a SavedModel, or one ONNX model with its weights beside it."""
    names = sorted(entry.name for entry in path.iterdir())
    if "saved_model.pb" in names or "saved_model.pbtxt" in names:
        return Finding(Kind.SAVED_MODEL, "TensorFlow SavedModel", runs_code=True)
    models = [name for name in names if name.endswith(".onnx")]
    if len(models) == 1:
        return _in_file(path / models[0])
    shown = printable(", ".join((models or names)[:_SOME]))
    if models:
        raise UnsupportedModelError(f"{path.name}: a folder with several models: name one of {shown}")
    what = f"a folder with {shown}, and no model that is read" if names else "an empty folder"
    raise UnsupportedModelError(f"{path.name}: {what}: give the model's file; {_READ}")
