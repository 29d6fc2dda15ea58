"""Does each row get its own answer, whoever its neighbours in the batch are?

A graph with an open first axis promises nothing: one that normalises over that axis, or takes one
quantisation scale from all rows, answers a caller with something that depends on other callers. Two
experiments settle it, both on made-up rows:

- Contents. The same row at the same place of a batch of the same size, beside other neighbours:
  another draw, zeros, rows a thousand times as large, the largest that the dtype holds. The
  arithmetic of that row is then the same instruction for instruction, so hardly any difference is
  allowed, and even a faint dependence shows beside a neighbour of 1e30.
- Size and place. The same row alone, in smaller batches and at another place. Kernels differ by
  batch size in the last bits, which a rounding step may widen, so more is allowed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from headrace_engines.engine import Engine
from headrace_engines.errors import ExecutionError, MemoryExhausted
from headrace_engines.samples import Floats, accepted_recipe, is_floating
from headrace_engines.spec import ModelSpec

_ROWS: Final = 8
_SEED: Final = 20
_MAGNITUDES: Final = (1.0, 0.0, 1e3, 1e30)
_LARGEST_INTEGER: Final = 1_000_000
_CONTENTS_EPSILONS: Final = 16
_PLACE_EPSILONS: Final = 4
_PLACE_TOLERANCE: Final = 1e-3

# The relative rounding step, FP32's at least since that is what models compute in, and a magnitude
# that leaves some room below the largest.
_PRECISION: Final[dict[np.dtype[Any], tuple[float, float]]] = {
    np.dtype(ml_dtypes.bfloat16): (2.0**-7, 1e38),
    np.dtype(np.float16): (2.0**-10, 3e4),
    np.dtype(np.float32): (2.0**-23, 1e38),
    np.dtype(np.float64): (2.0**-23, 1e38),
}

_Rows = Sequence[NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Independence:
    """The finding. `worst_error` is relative to the range of the output `tensor` that it was seen in."""

    independent: bool
    worst_error: float
    tensor: str
    why: str


@dataclass(frozen=True, slots=True)
class _Observation:
    """How far one output was from what it was before, how far it may be, and under what circumstance."""

    tensor: str
    error: float
    allowed: float
    circumstance: str


def check(engine: Engine) -> Independence:
    """Find out whether rows can share a batch; some thirty executions of at most eight rows.

    A model that executes no made-up rows counts as dependent, since nothing is proved. Raises
    MemoryExhausted, which tells of the moment, and EngineSpoilt or DeviceError.
    """
    if engine.spec.max_batch_size < 2:
        return Independence(True, 0.0, "", "each row is executed alone")
    worst = _Observation("", 0.0, 0.0, "")
    for floats in _kinds(engine.spec):
        try:
            for seen in _Experiment(engine, floats).observations():
                if not seen.error <= seen.allowed:
                    return Independence(False, seen.error, seen.tensor, _accusation(seen))
                worst = max(worst, seen, key=lambda observation: observation.error)
        except MemoryExhausted:
            raise
        except ExecutionError as error:
            return Independence(False, math.nan, "", f"could not be proved: {error}")
    precision = f"to within {worst.error:.1e} of the output's range" if worst.error else "to the last bit"
    why = f"each row got its own answer, {precision}"
    return Independence(True, worst.error, worst.tensor, why)


def _kinds(spec: ModelSpec) -> tuple[Floats, ...]:
    """Return the draws worth trying: what normal values saturate or switch off, uniform ones may not."""
    rounded = any(is_floating(tensor.dtype) for tensor in spec.inputs)
    return (Floats.NORMAL, Floats.UNIFORM) if rounded else (Floats.ONE,)


def _accusation(seen: _Observation) -> str:
    figure = f" by {seen.error:.1e} of its range" if math.isfinite(seen.error) else ""
    return f"output {seen.tensor!r} changes{figure} {seen.circumstance}"


class _Experiment:
    """Both experiments on one draw of rows."""

    def __init__(self, engine: Engine, floats: Floats) -> None:
        self._engine = engine
        self._inputs = engine.spec.inputs
        self._count = min(_ROWS, engine.spec.max_batch_size)
        self._recipe = accepted_recipe(self._inputs, self._count, engine.run, (floats, Floats.ONE))
        self._random = np.random.default_rng(_SEED)
        self._rows = self._recipe.rows(self._inputs, self._count, self._random)
        self._answers = engine.run(self._rows)
        self._scales = [_scale(answer) for answer in self._answers]

    def observations(self) -> Iterator[_Observation]:
        """Yield everything that was seen, gross faults first; raises ExecutionError."""
        every = np.arange(self._count)
        again = self._engine.run(self._rows)
        yield from self._compare(every, again, _allowed_beside, "from one execution to the next")
        for magnitude in _MAGNITUDES:
            for kept in (every[::2], every[1::2]):
                answers = self._beside(kept, magnitude)
                yield from self._compare(kept, answers, _allowed_beside, "with the other rows of its batch")
        for chosen in (every[:1], every[-1:], every[: self._count // 2 + 1], every[::-1]):
            answers = self._engine.run([rows[chosen] for rows in self._rows])
            yield from self._compare(
                chosen, answers, _allowed_elsewhere, "with its batch's size or its place"
            )

    def _beside(self, kept: NDArray[np.intp], magnitude: float) -> tuple[NDArray[Any], ...]:
        """Return the answers of the rows kept when all others are new ones, times the magnitude.

        Integers may be indices that must stay small: then only the other inputs are magnified.
        """
        others = self._recipe.rows(self._inputs, self._count, self._random)
        try:
            answers = self._engine.run(self._mixed(kept, [_magnified(rows, magnitude) for rows in others]))
        except ExecutionError:
            gentle = [_magnified(rows, magnitude) if is_floating(rows.dtype) else rows for rows in others]
            answers = self._engine.run(self._mixed(kept, gentle))
        return tuple(a[kept] if a.ndim and len(a) == self._count else a for a in answers)

    def _mixed(self, kept: NDArray[np.intp], others: _Rows) -> _Rows:
        for mine, other in zip(self._rows, others, strict=True):
            other[kept] = mine[kept]
        return others

    def _compare(
        self,
        chosen: NDArray[np.intp],
        answers: _Rows,
        allowed: Callable[[np.dtype[Any]], float],
        circumstance: str,
    ) -> Iterator[_Observation]:
        for tensor, before, after, scale in zip(
            self._engine.spec.outputs, self._answers, answers, self._scales, strict=True
        ):
            error = _error(before, after, chosen, scale)
            yield _Observation(tensor.name, error, allowed(before.dtype), circumstance)


def _allowed_beside(dtype: np.dtype[Any]) -> float:
    """Return what may differ beside other neighbours: next to nothing, for the instructions are the same."""
    return _CONTENTS_EPSILONS * _PRECISION[dtype][0] if is_floating(dtype) else 0.0


def _allowed_elsewhere(dtype: np.dtype[Any]) -> float:
    """Return what may differ between batch sizes and places, for which kernels differ."""
    return max(_PLACE_TOLERANCE, _PLACE_EPSILONS * _PRECISION[dtype][0]) if is_floating(dtype) else 0.0


def _magnified(rows: NDArray[Any], magnitude: float) -> NDArray[Any]:
    """Return the rows times the magnitude, as far as their dtype goes; strings and booleans as they are."""
    if is_floating(rows.dtype):
        limit = _PRECISION[rows.dtype][1]
        return np.clip(rows.astype(np.float64) * magnitude, -limit, limit).astype(rows.dtype)
    if rows.dtype.kind in "iu":
        limit = min(int(np.iinfo(rows.dtype).max), _LARGEST_INTEGER)
        return np.minimum(rows.astype(np.float64) * magnitude, limit).astype(rows.dtype)
    return rows


def _scale(answer: NDArray[Any]) -> float:
    """Return the largest finite magnitude in an output, 1 where there is none."""
    if not is_floating(answer.dtype):
        return 1.0
    magnitudes = np.abs(answer.astype(np.float64))
    return float(np.max(magnitudes, where=np.isfinite(magnitudes), initial=0.0)) or 1.0


def _error(before: NDArray[Any], after: NDArray[Any], chosen: NDArray[np.intp], scale: float) -> float:
    """Return the largest change in the chosen rows; infinite where no number can tell it."""
    if before.ndim == 0 or len(before) <= chosen.max() or after.shape != before[chosen].shape:
        return math.inf
    expected = before[chosen]
    if not is_floating(expected.dtype):
        return 0.0 if np.array_equal(expected, after) else math.inf
    expected, after = expected.astype(np.float64), after.astype(np.float64)
    if np.array_equal(expected, after, equal_nan=True):
        return 0.0
    same = (expected == after) | (np.isnan(expected) & np.isnan(after))
    with np.errstate(invalid="ignore"):
        largest = float(np.max(np.abs(np.where(same, 0.0, expected - after))))
    return largest / scale if math.isfinite(largest) else math.inf
