"""One recipe tried on one model: made, taken through the gates, and kept or not.

Where quantisation loses too much, the layers that suffer most stay in FP32: first the worst, then the
two worst, then four, until little enough is lost. That is decided by some of the held-out rows, and what
was chosen is judged once, by the others: the rows that it was chosen by would flatter it.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np

from headrace_engines import gates, independence, metrics, outputs, timing, trial
from headrace_engines.compress.make import compress
from headrace_engines.compress.recipes import CPU, TENSORRT, Compression
from headrace_engines.compress.sensitivity import LayerError, errors
from headrace_engines.compress.steps import Half, Quantise, QuantiseFloat8
from headrace_engines.engine import Engine
from headrace_engines.errors import EngineError, GateError, ModelFileError, UnsupportedModelError
from headrace_engines.gates import Quality
from headrace_engines.judgement import Judgement
from headrace_engines.manifest import Artefact, Recipe, artefact_of
from headrace_engines.outputs import Answers
from headrace_engines.report import Comparison, Layer
from headrace_engines.runtime.onnxruntime import OnnxRuntimeEngine
from headrace_engines.source import Prepared

_log = logging.getLogger(__name__)

GOOD: Final = "as good as FP32"
GOOD_ELSEWHERE: Final = "as good as FP32; its speed shows on a GPU alone"
NOT_JUDGED: Final = "not made"
"""What is said of an artefact that nothing could prove to be good, ahead of why."""
NOT_GOOD: Final = "not good enough: it lost too much against FP32"
NOT_ROWS: Final = "not served: the rows of a batch would change each other"

_PROMISING_SHARE: Final = 0.5
"""The share of the accepted loss that may be lost on the rows that an artefact is chosen by: by others it is
judged once, and they may speak a little more against it."""

_LAYER_ROWS: Final = 64
"""Rows that the layers are looked at with: more move no layer from its place."""


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
    """What came of a recipe; without a comparison where nothing could be made by it.

    `recipe` is what was done in the end, with the layers that were kept in FP32. `artefact` is judged by its
    answers, which are the same wherever it is made again; what was measured stands in `comparison`.
    """

    recipe: Recipe
    artefact: Artefact
    comparison: Comparison | None

    @property
    def lost_too_much(self) -> bool:
        """Whether a file was made, and the gate of its answers did not let it pass."""
        return self.artefact.reason == NOT_GOOD


@dataclass(frozen=True, slots=True)
class _Trial:
    """What was found out about a compressed file's answers."""

    quality: Quality | None
    likeness: dict[str, float]
    why_not: str
    """The figures that speak against it, or ""."""


def attempt(how: Compression, reference: Reference) -> Attempt:
    """Make an artefact beside the model; the file of one that does not pass is not left there."""
    path = reference.path.with_name(f"model.{how.name}.onnx")
    if not reference.judgement.tells:
        reason = f"{NOT_JUDGED}: {reference.judgement.notes[-1]}"
        return Attempt(how.recipe, _refused(how, path, reason), None)
    if how.target == TENSORRT and (foreign := reference.prepared.cpu_only):
        reason = f"does not fit this model: TensorRT has nothing for {', '.join(foreign)}"
        return Attempt(how.recipe, _refused(how, path, reason), None)
    try:
        with _compressed(how, path, reference, ()) as engine:
            made = _judged(how, path, engine, reference)
        made = _with_layers(how, path, reference, made)
    except (UnsupportedModelError, ModelFileError) as error:
        made = Attempt(
            how.recipe, _refused(how, path, f"does not fit this model: {_named(error, how)}"), None
        )
    except OSError:
        raise  # of the folder, which no recipe could be made in
    except Exception as error:  # of a library, whose fault with one recipe is no reason to lose the others
        _log.warning("%s failed", how.name, exc_info=True)
        told = " ".join(f"{type(error).__name__}: {error}".replace(f"{path.parent}/", "").split())
        made = Attempt(how.recipe, _refused(how, path, f"could not be made: {told}"), None)
    if not made.artefact.passed:
        path.unlink(missing_ok=True)
    return made


def _with_layers(how: Compression, path: Path, reference: Reference, made: Attempt) -> Attempt:
    """Look at the layers in another number format, and keep the worst in FP32 while too much is lost."""
    if made.comparison is None or not isinstance(how.steps[-1], Quantise | QuantiseFloat8 | Half):
        return made
    few = {name: rows[:_LAYER_ROWS] for name, rows in reference.prepared.calibration.items()}
    worst = errors(reference.prepared.basis(how.target), path, few)
    if made.lost_too_much:
        made = _with_kept(how, path, reference, [error.name for error in worst]) or made
    kept = set(str(made.recipe.settings.get("kept", "")).split(","))
    layers = tuple(_layer(error, kept) for error in worst)
    comparison = replace(made.comparison, layers=layers) if made.comparison else None
    return replace(made, comparison=comparison)


def _layer(error: LayerError, kept: set[str]) -> Layer:
    return Layer(error.name, error.operator, round(error.sqnr_db, 2), error.name in kept)


def _with_kept(how: Compression, path: Path, reference: Reference, worst: Sequence[str]) -> Attempt | None:
    """Judge the first that is promising of those that keep 1, 2, 4, ... layers.

    None where none is, too few rows are left to judge it by, or too little is left to compress.
    """
    parts = reference.judgement.divided(len(reference.answers[0]))
    if parts is None:
        return None
    choosing, judging = parts
    if not judging.compare(reference.answers, reference.answers).passed:
        return None
    counts = [1 << power for power in range(len(worst).bit_length()) if 1 << power < len(worst)]
    for count in counts:
        keep = worst[:count]
        share = _PROMISING_SHARE if count < counts[-1] else 1.0
        try:
            with _compressed(how, path, reference, keep) as engine:
                if _loss(engine, reference, choosing) > share * choosing.max_loss:
                    continue
                made = _judged(how, path, engine, replace(reference, judgement=judging))
        except UnsupportedModelError:  # too little is left to compress: it fits the model, and lost too much
            return None
        return replace(made, recipe=Recipe(how.name, {**how.recipe.settings, "kept": ",".join(keep)}))
    return None


def _loss(engine: Engine, reference: Reference, choosing: Judgement) -> float:
    """Return what is lost on the rows to choose by, which are executed alone."""
    rows = {name: choosing.seen(array) for name, array in reference.prepared.held_out.items()}
    expected = [choosing.seen(array) for array in reference.answers]
    try:
        return replace(choosing, rows=None).compare(expected, trial.answers(engine, rows)).loss
    except EngineError:
        return math.inf


@contextmanager
def _compressed(
    how: Compression, path: Path, reference: Reference, keep: Sequence[str]
) -> Iterator[OnnxRuntimeEngine]:
    """Make the artefact's file with these layers in FP32, and yield an engine of it."""
    basis = reference.prepared.basis(how.target)
    compress(how, basis, path, reference.prepared.calibration, keep=keep)
    size = min(reference.sizes[-1], how.max_rows or reference.sizes[-1])
    with closing(OnnxRuntimeEngine(path, max_batch_size=size, fuses=how.target == CPU)) as engine:
        yield engine


def _judged(how: Compression, path: Path, engine: Engine, reference: Reference) -> Attempt:
    """Take a compressed file through the gates: what it answers, its rows apart, its speed."""
    seen = _answers_judged(path, engine, reference)
    artefact = artefact_of(path, how.name, how.target, GOOD, how.max_rows or 0)
    comparison = Comparison(
        recipe=how.name,
        target=how.target,
        passed=False,
        verdict=seen.why_not or artefact.reason,
        reference_bytes=reference.path.stat().st_size,
        candidate_bytes=artefact.size_bytes,
        quality=seen.quality,
        likeness=seen.likeness,
        speeds=(),
    )
    made = Attempt(how.recipe, artefact, comparison)
    if seen.why_not:
        return _not(made, NOT_GOOD, seen.why_not)
    found = independence.check(engine)
    if not found.independent:
        return _not(made, NOT_ROWS, f"{path.name}: {found.why}")
    if how.target != CPU:
        passed = replace(comparison, passed=True, verdict=GOOD_ELSEWHERE)
        return replace(made, artefact=replace(artefact, reason=GOOD_ELSEWHERE), comparison=passed)
    rows, sizes = reference.prepared.held_out, reference.sizes
    return replace(
        made, comparison=timing.timed(comparison, path.name, engine, reference.engine, rows, sizes)
    )


def _not(made: Attempt, reason: str, verdict: str) -> Attempt:
    comparison = replace(made.comparison, verdict=verdict) if made.comparison else None
    return replace(made, artefact=replace(made.artefact, passed=False, reason=reason), comparison=comparison)


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


def _likeness(answers: Answers, reference: Reference) -> dict[str, float]:
    """Return how like those of FP32 the answers are, whatever the gate judges by."""
    told: dict[str, float] = {}
    if any(array.dtype.kind == "f" for array in answers):
        noise = metrics.row_errors(answers, reference.answers)
        told["sqnr_db"] = metrics.sqnr_db(noise)
        told["worst_row"] = math.sqrt(float(noise.max()))
    first = reference.judgement.first
    answered = answers[first.index]
    names_classes = outputs.width(answered) > 1 or answered.dtype.kind != "f" or first.threshold is not None
    if first.metric not in metrics.REGRESSING and answered.ndim <= 2 and names_classes:
        same = first.classes(answered) == first.classes(reference.answers[first.index])
        told["agreement"] = float(np.mean(same))
    return told


def _refused(how: Compression, path: Path, reason: str) -> Artefact:
    return Artefact(path.name, how.name, how.target, "", 0, False, reason, how.max_rows or 0)


def _named(error: EngineError, how: Compression) -> str:
    """Return the complaint without the name of the recipe or the file, which stand beside it."""
    return str(error).removeprefix(f"{how.name}: ").removeprefix(f"model.{how.name}.onnx: ")
