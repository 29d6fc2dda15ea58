"""Is a compressed artefact faster than FP32? That is measured, and true of the machine it is measured on."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from headrace_engines import gates, report, trial
from headrace_engines.engine import Engine
from headrace_engines.errors import GateError, ModelFileError
from headrace_engines.manifest import FP32, Artefact, Manifest
from headrace_engines.report import Comparison, Report
from headrace_engines.rows import Rows
from headrace_engines.runtime.onnxruntime import OnnxRuntimeEngine
from headrace_engines.standing import CPU_TARGET, FASTER


def timed(
    comparison: Comparison, file: str, engine: Engine, reference: Engine, rows: Rows, sizes: Sequence[int]
) -> Comparison:
    """Return the comparison with the speed of a file's engine beside the reference's, and its verdict.

    It is measured once more if there is no gain: a busy machine may have hidden it, and the verdict is
    stored, so that it would outlive whatever kept the machine busy.
    """
    fit = [size for size in sizes if size <= max(engine.spec.max_batch_size, 1)]
    speeds = trial.compare_speed(reference, engine, rows, fit)
    if gates.speed_ratio(speeds) < gates.MIN_SPEED_RATIO:
        speeds = trial.compare_speed(reference, engine, rows, fit)
    try:
        gates.check_speed(file, speeds)
    except GateError as error:
        return replace(comparison, speeds=speeds, passed=False, verdict=str(error))
    return replace(comparison, speeds=speeds, passed=True, verdict=FASTER)


def timed_here(folder: Path, described: Manifest, known: Report, rows: Rows) -> Report:
    """Return a report, of another machine, with the speeds of the folder's artefacts on this one.

    Raises ModelFileError if the manifest does not tell what was compared.
    """
    made = {one.recipe: one for one in described.artefacts if one.passed and one.target == CPU_TARGET}
    if FP32 not in made:
        raise ModelFileError(f"the manifest has no model in FP32 for the target {CPU_TARGET!r}")
    sizes = tuple(map(int, str(described.gates["batch_sizes"]).split(",")))
    with closing(OnnxRuntimeEngine(folder / made[FP32].file, max_batch_size=sizes[-1])) as reference:
        comparisons = tuple(
            _again(one, folder, made[one.recipe], reference, rows, sizes)
            if one.target == CPU_TARGET and one.recipe in made
            else one
            for one in known.comparisons
        )
    return replace(known, comparisons=comparisons, machine=report.machine())


def _again(
    known: Comparison, folder: Path, made: Artefact, reference: Engine, rows: Rows, sizes: Sequence[int]
) -> Comparison:
    size = min(sizes[-1], made.max_rows or sizes[-1])
    with closing(OnnxRuntimeEngine(folder / made.file, max_batch_size=size)) as engine:
        return timed(known, made.file, engine, reference, rows, sizes)
