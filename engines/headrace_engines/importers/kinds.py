"""The families of models, and what is found of one before it is opened."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


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
class Finding:
    """What a file's content tells: what people call such a file, and whether opening it can execute code."""

    kind: Kind
    label: str
    runs_code: bool
