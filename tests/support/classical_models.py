"""Estimators beside their ONNX: what they answer to the same rows, on a CPU and as TensorRT gets it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from ml_models import answers, operators
from numpy.typing import NDArray

from headrace_engines.importers.importer import Importer

NEAR = 1e-5
"""The most that an answer may differ, relative to the range of the source's."""

_RANDOM = np.random.default_rng(7)
FEATURES = 5
ROWS = _RANDOM.normal(size=(240, FEATURES)).astype(np.float32) * np.float32([1, 2, 0.5, 3, 1])
THREE = (ROWS[:, 0] > 0).astype(int) + (ROWS[:, 1] > 0.4)
TWO = (ROWS[:, 0] + ROWS[:, 1] > 0).astype(int)
VALUES = (ROWS @ np.arange(FEATURES) + ROWS[:, 0] ** 2).astype(float)


def models(path: Path) -> dict[str, onnx.ModelProto]:
    """The model for CPUs and, where there is another, the one for TensorRT."""
    standard = path.with_name(f"{path.stem}.standard.onnx")
    found = {"cpu": onnx.load(path)}
    return found | ({"standard": onnx.load(standard)} if standard.exists() else {})


def assert_faithful(
    importer: Importer, folder: Path, rows: Mapping[str, NDArray[Any]], *, left: set[str] = frozenset()
) -> dict[str, onnx.ModelProto]:
    """Convert, and fail unless both models answer as the source does: within 1e-5, with the same top-1.

    `left` are operators that may remain of the machine-learning domain in the last model.
    """
    path = folder / "model.onnx"
    importer.convert(path)
    found = models(path)
    widths = [float(np.ptp(output)) or 1.0 for output in importer.answers(rows)]
    for kind, model in found.items():
        onnx.checker.check_model(model, full_check=True)
        for value in (*model.graph.input, *model.graph.output):
            assert value.type.tensor_type.shape.dim[0].dim_param == "batch", value.name
        assert [value.name for value in model.graph.input] == list(rows)
        for count in (1, 7, len(next(iter(rows.values())))):
            some = {name: array[:count] for name, array in rows.items()}
            _assert_near(answers(model, *some.values()), importer.answers(some), widths, kind)
    last = list(found.values())[-1]
    assert {operator for operator in operators(last) if operator.startswith("ai.onnx.ml")} <= left
    return found


def _assert_near(
    given: list[NDArray[Any]], expected: tuple[NDArray[Any], ...], widths: list[float], kind: str
) -> None:
    for answer, source, width in zip(given, expected, widths, strict=True):
        assert (answer.dtype, answer.shape) == (source.dtype, source.shape), kind
        if source.dtype.kind != "f":
            np.testing.assert_array_equal(answer, source, kind)
            continue
        np.testing.assert_allclose(answer, source, rtol=0, atol=NEAR * width, err_msg=kind)
        if source.shape[1] > 1:
            best = np.sort(source, axis=1)
            is_clear = best[:, -1] - best[:, -2] > 2 * NEAR * width
            assert (answer.argmax(1) == source.argmax(1))[is_clear].all(), kind
