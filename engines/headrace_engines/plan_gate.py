"""Does a plan that was rebuilt answer as the ONNX file does that it was built from?

Both hold the same numbers in the same precision, so that only kernels differ: they are compared on made-up
rows, of which there are always enough. How good the file itself is was judged when it was made.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from headrace_engines import metrics, outputs
from headrace_engines.engine import Engine
from headrace_engines.errors import ExecutionError, GateError
from headrace_engines.samples import accepted_recipe

_Answers = list[NDArray[Any]]

LEAST_SQNR_DB: Final = 20.0
"""A hundredth of the outputs' power: what an artefact may differ from FP32 by."""
LEAST_AGREEMENT: Final = 0.95
TIE: Final = 0.05
"""Classes whose scores are as close, in parts of the row's range, are as good as each other."""
_BATCHES: Final = 8
_ROWS: Final = 8


@dataclass(frozen=True, slots=True)
class Likeness:
    """How like the reference's the answers are; `agreement` is 1 where no output tells classes.

    `sqnr_db` is that of the worst column. `rows` are 1 where the reference answers all of them alike.
    """

    rows: int
    sqnr_db: float
    agreement: float

    def __str__(self) -> str:
        rows = f"{self.rows} rows" if self.rows > 1 else "rows that are answered alike, which tells little"
        return f"SQNR {self.sqnr_db:.1f} dB, top-1 agreement {self.agreement:.3f}, on {rows}"


def judge(name: str, reference: Engine, candidate: Engine) -> Likeness:
    """Execute the same made-up rows on both. Raises GateError with the figures if they differ too much.

    So it does where the two have different tensors, or one of them executes no made-up rows.
    """
    _check_tensors(name, reference, candidate)
    try:
        draws = _draws(reference, candidate.spec.max_batch_size)
        expected = _answers(reference, draws)
        answers = _answers(candidate, draws)
    except ExecutionError as error:
        raise GateError(f"{name}: it cannot be compared with ONNX Runtime: {error}") from error
    told = [tensor.name for tensor in candidate.spec.outputs]
    aligned = [answers[told.index(tensor.name)] for tensor in reference.spec.outputs]
    found = likeness(expected, aligned)
    if not (found.sqnr_db >= LEAST_SQNR_DB and found.agreement >= LEAST_AGREEMENT):
        raise GateError(
            f"{name}: it does not answer as ONNX Runtime does: {found}; {LEAST_SQNR_DB:g} dB and "
            f"{LEAST_AGREEMENT:g} at least are expected"
        )
    return found


def likeness(reference: Sequence[NDArray[Any]], answers: Sequence[NDArray[Any]]) -> Likeness:
    """Compare answers to the same rows, an array per output; axis 0 counts rows."""
    pairs = [(_plain(one), _plain(other)) for one, other in zip(reference, answers, strict=True)]
    if any(one.shape != other.shape for one, other in pairs):
        return Likeness(len(reference[0]), -math.inf, 0.0)
    floats = [pair for pair in pairs if pair[0].dtype.kind == "f"]
    sqnr = min(
        (metrics.sqnr_db(metrics.row_errors([other], [one])) for one, other in floats),
        default=metrics.sqnr_db(np.zeros(1)),
    )
    agreement = min((_agreement(*pair) for pair in pairs), default=1.0)
    differ = any(outputs.differ(one) for one, _ in pairs)
    return Likeness(len(reference[0]) if differ else 1, sqnr, agreement)


def _agreement(reference: NDArray[Any], answers: NDArray[Any]) -> float:
    """Return the share of rows whose class is the reference's, or scores as well there; 1 without any."""
    if reference.dtype.kind != "f":
        rows = len(reference)
        return float(np.mean((reference == answers).reshape(rows, -1).all(axis=1)))
    if reference.ndim != 2 or reference.shape[1] < 2:
        return 1.0
    chosen = np.take_along_axis(reference, answers.argmax(axis=1)[:, None], axis=1)[:, 0]
    return float(np.mean(reference.max(axis=1) - chosen <= TIE * np.ptp(reference, axis=1)))


def _plain(array: NDArray[Any]) -> NDArray[Any]:
    return array.astype(np.float32) if array.dtype == np.dtype(ml_dtypes.bfloat16) else array


def _check_tensors(name: str, reference: Engine, candidate: Engine) -> None:
    if reference.spec.has_batch_axis != candidate.spec.has_batch_axis:
        axes = ["a batch axis" if one.spec.has_batch_axis else "none" for one in (candidate, reference)]
        raise GateError(f"{name}: batch axes differ: it has {axes[0]}, and the ONNX file {axes[1]}")
    for kind in ("inputs", "outputs"):
        theirs, own = (
            {tensor.name: tensor.dtype for tensor in getattr(engine.spec, kind)}
            for engine in (reference, candidate)
        )
        if theirs != own:
            told = ", ".join(f"{tensor} {dtype}" for tensor, dtype in own.items())
            expected = ", ".join(f"{tensor} {dtype}" for tensor, dtype in theirs.items())
            raise GateError(f"{name}: its {kind} are {told}; those of the ONNX file are {expected}")


def _draws(engine: Engine, most_rows: int) -> list[dict[str, NDArray[Any]]]:
    """Return some batches by the names of inputs; of a model without a batch axis, some requests."""
    spec = engine.spec
    rows = min(_ROWS, most_rows, spec.max_batch_size) if spec.has_batch_axis else None
    recipe = accepted_recipe(spec.inputs, rows, engine.run)
    names = [tensor.name for tensor in spec.inputs]
    return [
        dict(zip(names, recipe.rows(spec.inputs, rows, np.random.default_rng(seed)), strict=True))
        for seed in range(_BATCHES)
    ]


def _answers(engine: Engine, draws: Sequence[dict[str, NDArray[Any]]]) -> _Answers:
    """Return an array per output, in which axis 0 counts rows, or requests where there is no batch axis."""
    parts = [
        [np.copy(output) for output in engine.run([draw[tensor.name] for tensor in engine.spec.inputs])]
        for draw in draws
    ]
    join = np.concatenate if engine.spec.has_batch_axis else np.stack
    return [join(part) for part in zip(*parts, strict=True)]
