"""Preprocessing of pictures inside the model: clients send pixels in UINT8, the source still gets numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headrace_engines.data.options import Pixels
from headrace_engines.errors import UnsupportedModelError
from headrace_engines.rows import Rows


@dataclass(frozen=True, slots=True)
class Fold:
    """That pixels are to be scaled inside the model; with `channels_last` it takes them in that order."""

    channels_last: bool = False


def fold_in(model: Path, pixels: Pixels, fold: Fold) -> Callable[[Rows], Rows]:
    """Put the scaling of pixels before the model's one input, and return what the source is to be asked with.

    That is a function from rows of pixels in UINT8 to the rows that the source itself takes. Raises
    UnsupportedModelError if the model has several inputs, or takes no pictures.
    """
    import onnx

    from headrace_engines.data.preprocess import fold as folded

    proto = onnx.load(model)
    weights = {tensor.name for tensor in proto.graph.initializer}
    inputs = [tensor for tensor in proto.graph.input if tensor.name not in weights]
    if len(inputs) != 1:
        names = ", ".join(tensor.name for tensor in inputs)
        raise UnsupportedModelError(f"pixels are put into models of one input, and this has {names}")
    name = inputs[0].name
    ranks = [dim.dim_value for dim in inputs[0].type.tensor_type.shape.dim]
    onnx.save(folded(proto, name, pixels, channels_last=fold.channels_last), model)
    takes_channels_first = len(ranks) > 1 and ranks[1] in (1, 3, 4)
    axis = -1 if fold.channels_last or not takes_channels_first else 1
    is_turned = fold.channels_last and takes_channels_first

    def unfolded(rows: Rows) -> Rows:
        numbers = _scaled(rows[name], pixels, axis)
        return {name: np.ascontiguousarray(np.moveaxis(numbers, -1, 1)) if is_turned else numbers}

    return unfolded


def _scaled(array: NDArray[Any], pixels: Pixels, axis: int) -> NDArray[np.float32]:
    mean, std = (np.asarray(values, np.float64) for values in (pixels.mean, pixels.std))
    channels_last = np.moveaxis(array.astype(np.float64), axis, -1)
    numbers = (channels_last * pixels.scale - mean) / std
    return np.ascontiguousarray(np.moveaxis(numbers, -1, axis), np.float32)
