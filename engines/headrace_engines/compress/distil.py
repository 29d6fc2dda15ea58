"""Distillation: a small network learns to answer as the model does.

The model itself names the answers, so that no labels are needed and rows can be made up between those
that were given (Ba and Caruana, "Do Deep Nets Really Need to be Deep?", 2014; Zhang et al., "mixup",
2018). What comes out is another network with the same inputs and outputs, to be judged as any other.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray

from headrace_engines.compress import graph
from headrace_engines.compress.steps import Distil, Framework
from headrace_engines.compress.students import Head, Labels, Layer, head_of, labels_of, write_student
from headrace_engines.errors import UnsupportedModelError
from headrace_engines.importers.missing import missing
from headrace_engines.progress import Progress
from headrace_engines.rows import Rows

_MOST_VALUES: Final = 1 << 25
"""Rows are made up as long as all of them hold no more values than this, which are kept in memory."""


def distil(model: onnx.ModelProto, how: Distil, calibration: Rows, progress: Progress) -> onnx.ModelProto:
    """Return a prepared student of a prepared model.

    Raises UnsupportedModelError if a student cannot have such inputs and outputs, is no smaller than
    the model, or needs a framework that is not installed.
    """
    lessons = _lessons(calibration, how)
    answers = _answers(model, lessons)
    heads, labels = _heads(model, answers)
    sums = np.concatenate([head.sums(answers[head.name]) for head in heads], axis=1)
    known = graph.constants(model.graph)
    inputs = [tensor for tensor in model.graph.input if tensor.name not in known]
    layers = _trained([lessons[tensor.name] for tensor in inputs], sums, how, progress)
    _check_smaller(model, layers)
    student = write_student(layers, inputs, list(model.graph.output), heads, labels)
    with tempfile.TemporaryDirectory(prefix="headrace-") as folder:
        path = Path(folder) / "student.onnx"
        onnx.save(student, path)
        return graph.prepared(path)


def _lessons(calibration: Rows, how: Distil) -> dict[str, NDArray[Any]]:
    """Return the given rows and, up to as many as are wanted, others between two of them."""
    for name, array in calibration.items():
        if array.dtype.kind not in "fiu":
            raise UnsupportedModelError(f"nothing to distil: input {name!r} is {array.dtype}, not of numbers")
    random = np.random.default_rng(how.seed)
    given = min(len(array) for array in calibration.values())
    values = sum(array[:1].size for array in calibration.values())
    more = max(0, min(how.rows, _MOST_VALUES // max(values, 1)) - given)
    first, second = random.integers(given, size=(2, more))
    share = random.uniform(size=more).astype(np.float32)
    mixed = {}
    for name, array in calibration.items():
        weight = share.reshape(-1, *[1] * (array.ndim - 1))
        between = array[first] * weight + array[second] * (1 - weight)
        rounded = between if array.dtype.kind == "f" else np.rint(between)
        mixed[name] = np.concatenate([array[:given], rounded.astype(array.dtype)])
    return mixed


def _answers(model: onnx.ModelProto, rows: Rows) -> dict[str, NDArray[Any]]:
    observe = graph.Observer(model, [output.name for output in model.graph.output])
    parts = [observe(batch) for batch in graph.batches(rows, model.graph)]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _heads(model: onnx.ModelProto, answers: dict[str, NDArray[Any]]) -> tuple[list[Head], list[Labels]]:
    names = [output.name for output in model.graph.output]
    scores = [name for name in names if answers[name].dtype.kind == "f"] or names
    heads = [head_of(name, answers[name]) for name in scores]
    first = answers[heads[0].name]
    return heads, [labels_of(name, answers[name], heads[0], first) for name in names if name not in scores]


def _trained(
    inputs: list[NDArray[Any]], sums: NDArray[np.float32], how: Distil, progress: Progress
) -> list[Layer]:
    try:
        if how.framework is Framework.TORCH:
            from headrace_engines.compress import torch_student

            return torch_student.train(inputs, sums, how, progress)
        from headrace_engines.compress import sklearn_student

        return sklearn_student.train(inputs, sums, how, progress)
    except ModuleNotFoundError as error:
        raise missing(error) from error


def _check_smaller(model: onnx.ModelProto, layers: list[Layer]) -> None:
    before = sum(int(np.prod(constant.dims)) for constant in model.graph.initializer)
    after = sum(layer.weights.size + layer.bias.size for layer in layers)
    if after >= before:
        raise UnsupportedModelError(
            f"nothing to distil: the student has {after} parameters, and the model {before}"
        )
