"""One recipe tried on one model: made, taken through the gates, and kept or not."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from headrace_engines import gates, independence, metrics, trial
from headrace_engines.compress.make import compress
from headrace_engines.compress.recipes import CPU, Compression
from headrace_engines.engine import Engine
from headrace_engines.errors import EngineError, GateError, ModelFileError, UnsupportedModelError
from headrace_engines.gates import Quality, Speed
from headrace_engines.judgement import Answers, Judgement
from headrace_engines.manifest import Artefact, artefact_of
from headrace_engines.metrics import AGREEMENT
from headrace_engines.report import Comparison
from headrace_engines.runtime.onnxruntime import OnnxRuntimeEngine
from headrace_engines.source import Prepared

GOOD: Final = "as good as FP32 and faster"
GOOD_ELSEWHERE: Final = "as good as FP32; its speed shows on a GPU alone"
NOT_GOOD: Final = "not good enough: it lost too much of what FP32 answers right"
NOT_FASTER: Final = "not better: no faster than FP32"
NOT_ROWS: Final = "not served: the rows of a batch would change each other"


@dataclass(frozen=True, slots=True)
class Reference:
    """The model in FP32, beside which every artefact is judged.

    `sizes` are the batches whose speed is compared, ascending; the last one is the largest that the
    model is executed with.
    """

    path: Path
    engine: Engine
    prepared: Prepared
    answers: Answers
    judgement: Judgement
    sizes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Attempt:
    """What came of a recipe; without a comparison where nothing could be made by it."""

    artefact: Artefact
    comparison: Comparison | None


@dataclass(frozen=True, slots=True)
class _Trial:
    """What was found out about a compressed file."""

    quality: Quality | None
    likeness: dict[str, float]
    why_not: str
    """The figures that speak against it, or ""."""


def attempt(how: Compression, reference: Reference) -> Attempt:
    """Make an artefact beside the model; the file of one that does not pass is not left there."""
    path = reference.path.with_name(f"model.{how.name}.onnx")
    try:
        compress(how, reference.path, path, reference.prepared.calibration)
        size = min(reference.sizes[-1], how.max_rows or reference.sizes[-1])
        engine = OnnxRuntimeEngine(path, max_batch_size=size)
    except (UnsupportedModelError, ModelFileError) as error:
        path.unlink(missing_ok=True)
        return Attempt(_refused(how, path, f"does not fit this model: {_named(error, how)}"), None)
    with closing(engine):
        made = _judged(how, path, engine, reference)
    if not made.artefact.passed:
        path.unlink()
    return made


def _judged(how: Compression, path: Path, engine: Engine, reference: Reference) -> Attempt:
    """Take a compressed file through the gates: what it answers, its rows apart, its speed."""
    seen = _answers_judged(path, engine, reference)
    artefact = artefact_of(path, how.name, how.target, GOOD, how.max_rows or 0)
    comparison = Comparison(
        recipe=how.name,
        target=how.target,
        passed=False,
        verdict=seen.why_not,
        reference_bytes=reference.path.stat().st_size,
        candidate_bytes=artefact.size_bytes,
        quality=seen.quality,
        likeness=seen.likeness,
        speeds=(),
    )
    if seen.why_not:
        return Attempt(replace(artefact, passed=False, reason=NOT_GOOD), comparison)
    found = independence.check(engine)
    if not found.independent:
        verdict = f"{path.name}: {found.why}"
        refused = replace(artefact, passed=False, reason=NOT_ROWS)
        return Attempt(refused, replace(comparison, verdict=verdict))
    if how.target != CPU:
        passed = replace(artefact, reason=GOOD_ELSEWHERE)
        return Attempt(passed, replace(comparison, passed=True, verdict=GOOD_ELSEWHERE))
    return _timed(artefact, replace(comparison, verdict=GOOD), engine, reference)


def _answers_judged(path: Path, engine: Engine, reference: Reference) -> _Trial:
    try:
        answers = trial.answers(engine, reference.prepared.held_out)
        quality = reference.judgement.compare(reference.answers, answers)
    except EngineError as error:
        return _Trial(None, {}, f"{path.name}: {str(error).removeprefix(f'{path.name}: ')}")
    likeness = _likeness(answers, reference)
    try:
        gates.check_quality(path.name, quality)
    except GateError as error:
        return _Trial(quality, likeness, str(error))
    return _Trial(quality, likeness, "")


def _timed(artefact: Artefact, comparison: Comparison, engine: Engine, reference: Reference) -> Attempt:
    """Compare the speed, once more if there is no gain: a busy machine may have hidden it.

    The verdict is stored with the artefacts, so it would outlive whatever kept the machine busy.
    """
    sizes = [size for size in reference.sizes if size <= max(engine.spec.max_batch_size, 1)]
    speeds = _speeds(engine, reference, sizes)
    if gates.speed_ratio(speeds) < gates.MIN_SPEED_RATIO:
        speeds = _speeds(engine, reference, sizes)
    compared = replace(comparison, speeds=speeds)
    try:
        gates.check_speed(artefact.file, speeds)
    except GateError as error:
        refused = replace(artefact, passed=False, reason=NOT_FASTER)
        return Attempt(refused, replace(compared, verdict=str(error)))
    return Attempt(artefact, replace(compared, passed=True))


def _speeds(engine: Engine, reference: Reference, sizes: Sequence[int]) -> tuple[Speed, ...]:
    return trial.compare_speed(reference.engine, engine, reference.prepared.held_out, sizes)


def _likeness(answers: Answers, reference: Reference) -> dict[str, float]:
    """Return how like those of FP32 the answers are, whatever the gate judges by."""
    told: dict[str, float] = {}
    if any(array.dtype.kind == "f" for array in answers):
        errors = metrics.row_errors(answers, reference.answers)
        told["sqnr_db"] = metrics.sqnr_db(errors)
        told["worst_row"] = math.sqrt(float(errors.max()))
    judged = reference.judgement.outputs[0][0]
    if reference.judgement.metric not in metrics.REGRESSING and answers[judged].ndim <= 2:
        same = metrics.hits(AGREEMENT, answers[judged], reference.answers[judged])
        if same is not None:
            told["agreement"] = float(same.mean())
    return told


def _refused(how: Compression, path: Path, reason: str) -> Artefact:
    return Artefact(path.name, how.name, how.target, "", 0, False, reason, how.max_rows or 0)


def _named(error: EngineError, how: Compression) -> str:
    """Return the complaint without the name of the recipe or the file, which stand beside it."""
    return str(error).removeprefix(f"{how.name}: ").removeprefix(f"model.{how.name}.onnx: ")
