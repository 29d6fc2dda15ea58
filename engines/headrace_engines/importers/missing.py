"""A module that is not there: a framework that an extra brings, or code that a model was pickled with."""

from __future__ import annotations

from typing import Final

from headrace_engines.errors import UnsupportedModelError

_EXTRAS: Final = {
    "onnx": "build",
    "sklearn": "build",
    "skl2onnx": "build",
    "skops": "build",
    "pandas": "data",
    "torch": "torch",
    "onnxscript": "torch",
    "safetensors": "torch",
    "tensorflow": "keras",
    "keras": "keras",
    "tf2onnx": "keras",
    "h5py": "keras",
    "xgboost": "boost",
    "lightgbm": "boost",
    "onnxmltools": "boost",
    "onnxruntime": "cpu",
}


def missing(error: ModuleNotFoundError) -> UnsupportedModelError:
    """Return the error, to be raised, that says what to install for a module that was not found."""
    name = (error.name or str(error)).partition(".")[0]
    if extra := _EXTRAS.get(name):
        return UnsupportedModelError(
            f"this needs {name}, which is not installed; in a clone of Headrace: pip install '.[{extra}]'"
        )
    return UnsupportedModelError(
        f"the model needs the module {error.name!r}, which is not installed here: install what it was made "
        "with, or build it in the folder where that module lies"
    )
