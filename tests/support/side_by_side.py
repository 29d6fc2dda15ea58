"""Asks a model in its own framework and its ONNX the same."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

from headrace_engines.importers.importer import Importer
from headrace_engines.rows import Rows

_NEAR = 1e-5
"""The most that two answers may differ, relative to the range of the source's."""


@dataclass(frozen=True, slots=True)
class Tensors:
    """What an ONNX model takes and gives, as it tells: name, and dims with names where they are dynamic."""

    inputs: dict[str, list[int | str]]
    outputs: dict[str, list[int | str]]


def converted(importer: Importer, path: Path) -> Tensors:
    """Have the model written to the path, check it as a whole and return what it tells of its tensors."""
    importer.convert(path)
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    assert {opset.domain for opset in model.opset_import} == {""}
    return Tensors(_dims(model.graph.input), _dims(model.graph.output))


def assert_same_answers(importer: Importer, path: Path, rows: Rows) -> None:
    """Fail unless both give the same within 1e-5 of the output's range, and the same top-1."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    expected = importer.answers(rows)
    given = session.run(None, dict(rows))
    assert len(given) == len(expected)
    for output, answer, source in zip(session.get_outputs(), given, expected, strict=True):
        assert answer.dtype == source.dtype, output.name
        assert answer.shape == source.shape, output.name
        width = float(np.ptp(source)) or 1.0
        assert np.abs(answer - source).max() <= _NEAR * width, output.name
        assert (answer.argmax(-1) == source.argmax(-1)).all(), output.name


def _dims(tensors: list[onnx.ValueInfoProto]) -> dict[str, list[int | str]]:
    return {
        tensor.name: [dim.dim_param or dim.dim_value for dim in tensor.type.tensor_type.shape.dim]
        for tensor in tensors
    }
