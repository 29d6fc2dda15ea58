"""Runs engines on rows: what they answer, and how long it takes them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from headrace_engines.engine import Engine
from headrace_engines.gates import Speed
from headrace_engines.rows import Rows

# Shorter than a time slice, so that also on a busy machine a quarter of the rounds is undisturbed.
_ROUND_SECONDS: Final = 0.001
_UNDISTURBED: Final = 0.25
_MOST_ROUNDS: Final = 61
_FEWEST_ROUNDS: Final = 3
_LEAST_SPAN: Final = 1 / 256
"""Of the range of all columns: less is what FP32 leaves of numbers that are summed together."""
_SIZE_SECONDS: Final = 4.0
"""Large models are timed in fewer rounds: one batch of theirs is longer than any disturbance."""


def answers(engine: Engine, rows: Rows) -> tuple[NDArray[Any], ...]:
    """Return the engine's outputs for all rows, executed in batches as large as it takes."""
    arrays = [rows[tensor.name] for tensor in engine.spec.inputs]
    size = engine.spec.max_batch_size or len(arrays[0])
    parts = [
        engine.run([array[start : start + size] for array in arrays])
        for start in range(0, len(arrays[0]), size)
    ]
    return tuple(np.concatenate(part) for part in zip(*parts, strict=True))


def largest_difference(reference: Sequence[NDArray[Any]], others: Sequence[NDArray[Any]]) -> float:
    """Return how far two models' answers are apart, in parts of the range of the reference's output.

    Each column of a matrix is measured by its own range, so that a large one hides no other. Of classes and
    strings it is the share of rows that differ. What is NaN in both is no difference; NaN or infinite where
    numbers cannot tell.
    """
    if [array.shape for array in reference] != [array.shape for array in others]:
        return np.inf
    return max((_difference(*pair) for pair in zip(reference, others, strict=True)), default=0.0)


def differing_rows(
    reference: Sequence[NDArray[Any]], others: Sequence[NDArray[Any]], limit: float
) -> NDArray[np.int64]:
    """Return the rows in which the answers of two models are farther apart than the limit."""
    if [array.shape for array in reference] != [array.shape for array in others]:
        return np.arange(max((len(array) for array in reference), default=0))
    apart = [~(_apart(*pair) <= limit) for pair in zip(reference, others, strict=True)]
    return np.flatnonzero(np.any(apart, axis=0))


def _difference(reference: NDArray[Any], other: NDArray[Any]) -> float:
    apart = _apart(reference, other)
    is_number = reference.dtype.kind == other.dtype.kind == "f"
    return float(apart.max(initial=0.0) if is_number else np.mean(apart))


def _apart(reference: NDArray[Any], other: NDArray[Any]) -> NDArray[np.float64]:
    """Return for each row how far it is apart; 1 for classes and strings that differ."""
    if reference.dtype.kind != "f" or other.dtype.kind != "f":
        differs = reference.astype(str) != other.astype(str)
        return np.asarray(differs.reshape(len(differs), -1).any(axis=1), np.float64)
    one, two = reference.astype(np.float64), other.astype(np.float64)
    same = (one == two) | (np.isnan(one) & np.isnan(two))
    with np.errstate(invalid="ignore"):
        apart = np.where(same, 0.0, np.abs(one - two)) / _spans(one)
    return np.asarray(apart.reshape(len(apart), -1).max(axis=1, initial=0.0))


def _spans(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return by what differences are divided: the range of what is finite, of a matrix column by column."""
    finite = values[np.isfinite(values)]
    whole = float(np.ptp(finite) if finite.size else 0) or float(np.abs(finite).max(initial=0.0)) or 1.0
    if values.ndim != 2 or not len(values):
        return np.array(whole)
    is_finite = np.isfinite(values)
    high = np.where(is_finite, values, -np.inf).max(axis=0)
    low = np.where(is_finite, values, np.inf).min(axis=0)
    return np.asarray(np.maximum(high - low, whole * _LEAST_SPAN))


def compare_speed(
    reference: Engine, candidate: Engine, rows: Rows, sizes: Sequence[int]
) -> tuple[Speed, ...]:
    """Time both at each size of batch, through their staging buffers as in service where they have such.

    They take turns, so that whatever else the machine does meets both alike.
    """
    return tuple(_compare(reference, candidate, rows, size) for size in sizes)


def _compare(reference: Engine, candidate: Engine, rows: Rows, size: int) -> Speed:
    executions = [_execution(engine, rows, size) for engine in (reference, candidate)]
    single = [min(_seconds(execute, 1) for _ in range(3)) for execute in executions]
    repeats = [max(1, round(_ROUND_SECONDS / seconds)) for seconds in single]
    round_seconds = sum(map(float.__mul__, single, map(float, repeats)))
    rounds = min(_MOST_ROUNDS, max(_FEWEST_ROUNDS, round(_SIZE_SECONDS / round_seconds)))
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        for execute, repeat, taken in zip(executions, repeats, times, strict=True):
            taken.append(_seconds(execute, repeat))
    return Speed(size, *(float(np.quantile(taken, _UNDISTURBED)) for taken in times))


def _execution(engine: Engine, rows: Rows, size: int) -> Callable[[], object]:
    """Return a function that executes one batch, which has been executed once already."""
    arrays = [_repeated(rows[tensor.name], size) for tensor in engine.spec.inputs]
    if not engine.spec.is_staged:
        engine.run(arrays)
        return lambda: engine.run(arrays)
    for buffer, array in zip(engine.inputs(0), arrays, strict=True):
        buffer[:size] = array

    def execute() -> object:
        engine.submit(0, size)
        return engine.wait(0)

    execute()
    return execute


def _repeated(array: NDArray[Any], size: int) -> NDArray[Any]:
    return array[np.arange(size) % len(array)]


def _seconds(execute: Callable[[], object], repeats: int) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        execute()
    return (time.perf_counter() - start) / repeats
