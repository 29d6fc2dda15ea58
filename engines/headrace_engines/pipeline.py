"""Makes, judges and describes the artefacts of one source."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from headrace_engines import class_labels, gates, manifest, page, report, timing, trial
from headrace_engines.attempt import Attempt, Reference, attempt
from headrace_engines.compress.recipes import CPU, TENSORRT, Compression
from headrace_engines.data import missing
from headrace_engines.documents import Scalar
from headrace_engines.errors import GateError
from headrace_engines.judgement import Answers, Wish, judgement
from headrace_engines.manifest import FP32, Artefact, Manifest, Recipe, artefact_of
from headrace_engines.planned import Planned, plans
from headrace_engines.progress import Progress, Stages
from headrace_engines.report import Report
from headrace_engines.runtime.onnxruntime import OnnxRuntimeEngine
from headrace_engines.source import Prepared, Source

BATCH_SIZES = (1, 8, 32)
"""Sizes at which speed is compared, beside the largest."""

CONVERSION_TOLERANCE = 1e-4
"""Answers of the converted model may be this far from those of its source, in parts of their range."""

_FP32_FILE = "model.onnx"
_AS_TRAINED = "the model as it was trained"
_FOR_TENSORRT = "the model as it was trained, in operators that TensorRT knows"
_ALONE = "the model as it was trained; its rows do not share a batch"
_PREPARED, _JUDGED = 0.4, 0.95


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be made of a source, all of which decides the outcome.

    `alone` are the recipes for a model that is served one row at a time; the same ones where there are none.
    The recipes in `demanded` were asked for by name: where one is not good enough, so is the build.
    `builds_plans` says that TensorRT is a target.
    """

    recipes: tuple[Compression, ...]
    alone: tuple[Compression, ...] = ()
    demanded: frozenset[str] = frozenset()
    wish: Wish = Wish()
    max_batch_size: int = 64
    builds_plans: bool = False


def make(
    source: Source, plan: Plan, tools: Mapping[str, str], folder: Path, progress: Progress, caches: Path
) -> None:
    """Fill the folder with the artefacts of a source, their manifest, their report and a page of both.

    What TensorRT measured of kernels is kept in the folder `caches`.

    Raises GateError if the converted model, or an artefact that was demanded, does not answer as well as
    it has to. Any other that is not good enough is left out, and the manifest says so; one that is no
    faster on this machine stays, and the report says so.
    """
    stages = Stages(progress)
    prepared = source.prepare(folder, stages)
    most = plan.max_batch_size if prepared.rows_apart else 1
    with closing(OnnxRuntimeEngine(prepared.model, max_batch_size=most)) as engine:
        with stages("checking the model", _PREPARED):
            reference, error = _reference(engine, prepared, plan)
        made = _attempts(reference, plan, stages)
        spec = engine.spec
    fp32 = artefact_of(prepared.model, FP32, CPU, _AS_TRAINED if prepared.rows_apart else _ALONE)
    standard = _standard(plan, reference, stages)
    originals = (fp32, *standard)
    planned = _planned(plan, reference, [*originals, *(single.artefact for single in made)], caches, stages)
    artefacts = (*originals, *(single.artefact for single in made), *planned.artefacts)
    described = Manifest(
        source=Recipe(source.recipe.name, {**source.recipe.settings, **prepared.facts}),
        recipes=(Recipe(FP32, {}), *(single.recipe for single in made), *planned.recipes),
        data=prepared.data,
        tools=tools,
        inputs=spec.inputs,
        outputs=spec.outputs,
        artefacts=artefacts,
        gates=_gates(reference),
        made_up=prepared.made_up,
        weights=manifest.weights_in(folder, artefacts),
    )
    measured = Report(
        comparisons=tuple(single.comparison for single in made if single.comparison),
        machine=report.machine(),
        seconds=stages.seconds,
        conversion_error=error,
        warnings=(*_warnings(plan, reference), *([planned.warning] if planned.warning else [])),
        reference=reference.judgement.reference(reference.answers),
    )
    _write(folder, described, measured)


def measure(source: Source, described: Manifest, known: Report, folder: Path, progress: Progress) -> None:
    """Time artefacts that another machine has made and described, and write report and page beside them.

    What that machine's report tells of their answers is kept.
    """
    stages = Stages(progress)
    with stages("reading the rows that are held out", 0.0):
        rows = source.held_out(folder / _FP32_FILE, described.source.settings)
    with stages("measuring speed on this machine", _PREPARED):
        measured = timing.timed_here(folder, described, known, rows)
    _write_report(folder, replace(measured, seconds=stages.seconds))


def _write(folder: Path, described: Manifest, measured: Report) -> None:
    (folder / manifest.FILE_NAME).write_bytes(described.to_bytes())
    _write_report(folder, measured)


def _write_report(folder: Path, measured: Report) -> None:
    (folder / report.FILE_NAME).write_bytes(measured.to_bytes())
    page.write_page(folder)


def _reference(engine: OnnxRuntimeEngine, prepared: Prepared, plan: Plan) -> tuple[Reference, float]:
    """Execute the model in FP32, and return it with how far it is from what its source answers."""
    answers = trial.answers(engine, prepared.held_out)
    asked = len(prepared.expected[0])
    error = trial.largest_difference(prepared.expected, [array[:asked] for array in answers])
    if not math.isfinite(error):
        _check_answered(prepared, answers)
    apart = trial.differing_rows(
        prepared.expected, [array[:asked] for array in answers], CONVERSION_TOLERANCE
    )
    gates.check_same(prepared.model.name, error, CONVERSION_TOLERANCE, apart.tolist(), asked)
    names = [tensor.name for tensor in engine.spec.outputs]
    judged = judgement(
        names,
        answers,
        prepared.labels,
        plan.wish,
        made_up=prepared.made_up,
        classes=class_labels.known(prepared.facts),
        places=prepared.places,
    )
    most = engine.spec.max_batch_size
    sizes = (*(size for size in BATCH_SIZES if size < most), most)
    return Reference(prepared.model, engine, prepared, answers, judged, sizes), error


def _check_answered(prepared: Prepared, answers: Answers) -> None:
    """Raise GateError naming the first row that only one of the source and its ONNX answers with NaN."""
    for expected, found in zip(prepared.expected, answers, strict=True):
        if expected.dtype.kind != "f" or expected.shape[1:] != found.shape[1:]:
            continue
        missed = [np.isnan(array).reshape(len(array), -1).any(axis=1) for array in (expected, found)]
        apart = np.flatnonzero(missed[0] != missed[1][: len(expected)])
        if apart.size:
            at = int(apart[0])
            place = missing.row(prepared.places, at)
            who = "its source" if missed[0][at] else "the ONNX"
            rows = {name: array[at : at + 1] for name, array in prepared.held_out.items()}
            why = missing.place(rows, (place,))
            told = f"; {why}: put a number there, or leave the row out" if why else ""
            raise GateError(f"{prepared.model.name}: {who} alone answers {place} with NaN{told}")


def _attempts(reference: Reference, plan: Plan, stages: Stages) -> list[Attempt]:
    made: list[Attempt] = []
    recipes = plan.alone or plan.recipes if reference.sizes[-1] == 1 else plan.recipes
    share = (_JUDGED - _PREPARED) / max(len(recipes), 1)
    for number, how in enumerate(recipes):
        with stages(f"trying {how.name}", _PREPARED + (number + 0.1) * share):
            tried = attempt(how, reference)
        if how.name in plan.demanded:
            _check_demanded(tried)
        made.append(tried)
    return made


def _check_demanded(tried: Attempt) -> None:
    """Raise GateError if what was demanded cannot be had; that it is no faster is only told."""
    if tried.artefact.passed:
        return
    if tried.comparison is None:
        raise GateError(f"{tried.artefact.recipe} {tried.artefact.reason}")
    raise GateError(tried.comparison.verdict)


def _standard(plan: Plan, reference: Reference, stages: Stages) -> list[Artefact]:
    """Return the form of the model that TensorRT takes, where that is another and answers the same.

    It is not left there where nothing is built for TensorRT.
    """
    path = reference.prepared.standard
    if path is None:
        return []
    if not plan.builds_plans:
        path.unlink()
        return []
    with (
        stages("checking the form for TensorRT", _JUDGED),
        closing(OnnxRuntimeEngine(path, max_batch_size=reference.sizes[-1])) as engine,
    ):
        answers = trial.answers(engine, reference.prepared.held_out)
        error = trial.largest_difference(reference.answers, answers)
    made = artefact_of(path, FP32, TENSORRT, _FOR_TENSORRT)
    if error <= CONVERSION_TOLERANCE:
        return [made]
    path.unlink()
    return [replace(made, passed=False, reason="not good enough: it does not answer as the model does")]


def _planned(
    plan: Plan, reference: Reference, made: Sequence[Artefact], caches: Path, stages: Stages
) -> Planned:
    """Build plans of the model itself and of what was made for TensorRT and is good."""
    if not plan.builds_plans or reference.prepared.cpu_only:
        return Planned((), None)
    suited = [single for single in made if single.passed and single.target == TENSORRT]
    if reference.prepared.standard is None:
        suited.insert(0, made[0])
    return plans(
        reference.path.parent,
        suited,
        reference.sizes,
        caches=caches,
        stages=stages,
        fraction=_JUDGED,
    )


def _gates(reference: Reference) -> dict[str, Scalar]:
    judged = reference.judgement
    threshold = next((one.threshold for one in judged.criteria if one.threshold is not None), None)
    told: dict[str, Scalar] = {} if threshold is None else {"threshold": threshold}
    if len({one.metric for one in judged.criteria}) > 1:
        told["metrics"] = ",".join(one.metric for one in judged.criteria)
    if not judged.tells:
        told["judged"] = False
    return {
        "metric": judged.first.metric,
        "outputs": ",".join(one.name for one in judged.criteria),
        "rows": len(next(iter(reference.prepared.held_out.values()))),
        "max_loss": judged.max_loss,
        "confidence": gates.CONFIDENCE,
        "min_speed_ratio": gates.MIN_SPEED_RATIO,
        "batch_sizes": ",".join(map(str, reference.sizes)),
        **told,
    }


def _warnings(plan: Plan, reference: Reference) -> tuple[str, ...]:
    told = list(reference.prepared.notes)
    if reference.prepared.made_up:
        told.append(
            "without data, the artefacts could only be compared with FP32 on noise, and scales were taken "
            "from it: give rows like those that will be asked about with --data"
        )
    elif reference.prepared.labels is None:
        told.append("without labels, only likeness to FP32 was judged, and not whether answers are right")
    told += reference.judgement.notes
    if not reference.prepared.rows_apart:
        told.append("the rows of a batch change each other's answers: the model is served one row at a time")
    if reference.prepared.cpu_only and plan.builds_plans:
        told.append(f"for CPUs alone: TensorRT has nothing for {', '.join(reference.prepared.cpu_only)}")
    return tuple(told)
