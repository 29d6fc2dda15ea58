"""Runs engines on rows: what they answer, and how long it takes them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headrace_engines.engine import Engine
from headrace_engines.gates import Speed
from headrace_engines.rows import Rows

# Shorter than a time slice, so that on a busy machine most rounds are undisturbed and the median is.
_ROUND_SECONDS = 0.001
_ROUNDS = 61


def answers(engine: Engine, rows: Rows) -> NDArray[Any]:
    """Return the engine's first output for all rows."""
    arrays = [rows[tensor.name] for tensor in engine.spec.inputs]
    size = engine.spec.max_batch_size or len(arrays[0])
    parts = [
        engine.run([array[start : start + size] for array in arrays])[0]
        for start in range(0, len(arrays[0]), size)
    ]
    return np.concatenate(parts)


def compare_speed(
    reference: Engine, candidate: Engine, rows: Rows, sizes: Sequence[int]
) -> tuple[Speed, ...]:
    """Time both at each size of batch, through their staging buffers as in service.

    They take turns, so that whatever else the machine does meets both alike. Raises ValueError if
    one has no staging buffers.
    """
    return tuple(_compare(reference, candidate, rows, size) for size in sizes)


def _compare(reference: Engine, candidate: Engine, rows: Rows, size: int) -> Speed:
    executions = [_execution(engine, rows, size) for engine in (reference, candidate)]
    single = [min(_seconds(execute, 1) for _ in range(5)) for execute in executions]
    repeats = [max(1, round(_ROUND_SECONDS / seconds)) for seconds in single]
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(_ROUNDS):
        for execute, repeat, taken in zip(executions, repeats, times, strict=True):
            taken.append(_seconds(execute, repeat))
    return Speed(size, *(statistics.median(taken) for taken in times))


def _execution(engine: Engine, rows: Rows, size: int) -> Callable[[], object]:
    """Return a function that executes one batch, which has been executed once already."""
    for buffer, tensor in zip(engine.inputs(0), engine.spec.inputs, strict=True):
        buffer[:size] = np.resize(rows[tensor.name], (size, *tensor.dims))

    def execute() -> object:
        engine.submit(0, size)
        return engine.wait(0)

    execute()
    return execute


def _seconds(execute: Callable[[], object], repeats: int) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        execute()
    return (time.perf_counter() - start) / repeats
