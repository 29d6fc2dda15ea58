"""Makes, judges and describes the artefacts of one source."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headrace_engines import gates, manifest, report, trial
from headrace_engines.compress.make import compress
from headrace_engines.compress.recipes import RECIPES, Compression
from headrace_engines.engine import Engine
from headrace_engines.errors import GateError
from headrace_engines.gates import Speed
from headrace_engines.manifest import FP32, Artefact, Manifest, Recipe, artefact_of
from headrace_engines.progress import Progress
from headrace_engines.report import Comparison, Report
from headrace_engines.rows import Rows
from headrace_engines.runtime.onnxruntime import OnnxRuntimeEngine
from headrace_engines.source import Prepared, Source

BATCH_SIZES = (1, 8, 32, 64)
"""Sizes at which speed is compared."""

_MADE = (RECIPES["int8-cpu"],)
_MODEL = "model.onnx"
_IMPORT_TOLERANCE = 1e-5
"""Probabilities of the converted model may be this far from those of its source."""


def make(source: Source, tools: Mapping[str, str], folder: Path, progress: Progress) -> None:
    """Fill the folder with the artefacts of a source, their manifest and their report.

    Raises GateError if the converted model or a compressed one is not as good as it has to be. One
    that is only no faster is left out, and the manifest says so.
    """
    steps = _Steps(progress)
    with steps("training", 0.0):
        prepared = source.prepare()
    model = folder / _MODEL
    model.write_bytes(prepared.model)
    with closing(OnnxRuntimeEngine(model, max_batch_size=max(BATCH_SIZES))) as reference:
        with steps("checking the conversion", 0.5):
            expected = trial.answers(reference, prepared.held_out)
            gates.check_same(_MODEL, float(np.abs(expected - prepared.expected).max()), _IMPORT_TOLERANCE)
        fp32 = artefact_of(model, FP32, "cpu", "the model as it was trained")
        made = [_compress(how, prepared, expected, reference, model, steps) for how in _MADE]
        spec = reference.spec
    described = Manifest(
        source=source.recipe,
        recipes=(Recipe(FP32, {}), *(how.recipe for how in _MADE)),
        data=prepared.data,
        tools=tools,
        inputs=spec.inputs,
        outputs=spec.outputs,
        artefacts=(fp32, *(artefact for artefact, _ in made)),
    )
    measured = Report(tuple(comparison for _, comparison in made), report.machine(), steps.seconds)
    (folder / manifest.FILE_NAME).write_bytes(described.to_bytes())
    (folder / report.FILE_NAME).write_bytes(measured.to_bytes())


class _Steps:
    """Announces each step and remembers the seconds that it took."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, step: str, fraction: float) -> Iterator[None]:
        self._progress(step, fraction)
        start = time.perf_counter()
        yield
        self.seconds[step] = round(time.perf_counter() - start, 3)


def _compress(
    how: Compression,
    prepared: Prepared,
    expected: NDArray[Any],
    reference: Engine,
    model: Path,
    steps: _Steps,
) -> tuple[Artefact, Comparison]:
    """Make one compressed artefact beside the model and take it through the gates."""
    path = model.with_name(f"model.{how.name}.onnx")
    with steps(f"quantising to {how.name}", 0.55):
        compress(how, model, path, prepared.calibration)
    with closing(OnnxRuntimeEngine(path, max_batch_size=max(BATCH_SIZES))) as candidate:
        with steps(f"checking the accuracy of {how.name}", 0.65):
            answers = trial.answers(candidate, prepared.held_out)
            accuracy = gates.compare_accuracy(
                _right(expected, prepared.labels), _right(answers, prepared.labels)
            )
            gates.check_accuracy(path.name, accuracy)
        with steps(f"measuring the speed of {how.name}", 0.7):
            speeds = _speeds(reference, candidate, prepared.held_out)
    comparison = Comparison(how.name, model.stat().st_size, path.stat().st_size, accuracy, speeds)
    artefact = artefact_of(path, how.name, how.target, "as accurate as FP32 and faster")
    try:
        gates.check_speed(path.name, speeds)
    except GateError:
        path.unlink()
        return replace(artefact, passed=False, reason="not better: no faster than FP32"), comparison
    return artefact, comparison


def _speeds(reference: Engine, candidate: Engine, rows: Rows) -> tuple[Speed, ...]:
    """Compare the speed, once more if there is no gain: a busy machine may have hidden it.

    The verdict is stored with the artefacts, so it would outlive whatever kept the machine busy.
    """
    speeds = trial.compare_speed(reference, candidate, rows, BATCH_SIZES)
    if gates.speed_ratio(speeds) < gates.MIN_SPEED_RATIO:
        return trial.compare_speed(reference, candidate, rows, BATCH_SIZES)
    return speeds


def _right(answers: NDArray[Any], labels: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Tell for each row whether the most probable class is the true one."""
    return np.asarray(answers.argmax(axis=-1) == labels)
