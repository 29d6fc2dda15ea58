"""Rows of noise, for a model that comes without data: around rows that it tells of, where it does."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from headrace_engines.data import missing
from headrace_engines.errors import DataError, ExecutionError
from headrace_engines.rows import Rows
from headrace_engines.samples import Execute, Recipe, accepted_recipe
from headrace_engines.spec import TensorSpec

_ROWS: Final = 512
_FEWEST_ROWS: Final = 32
_MOST_BYTES: Final = 200 << 20
"""Larger rows are of models that take longer for each; pictures of 224 by 224 are enough to judge by."""
_TRIED_ROWS: Final = 8
_NEAREST: Final = 1e-3


def rows(
    inputs: Sequence[TensorSpec], execute: Execute, seed: int, typical: NDArray[np.float32] | None = None
) -> Rows:
    """Return some hundred rows that the model executes, fewer where rows are large.

    They are such that it answers with numbers where it does for any: no logarithm of what is below 0. They
    lie near `typical` rows where it tells of such and executes those. Raises DataError with what the model
    said if it executes no made-up rows.
    """

    def answered(arrays: Sequence[NDArray[Any]]) -> Sequence[NDArray[Any]]:
        answers = execute(arrays)
        if not all(missing.finite(array).all() for array in answers):
            raise ExecutionError("it answers with NaN or infinity")
        return answers

    if typical is not None and [tensor.dims for tensor in inputs] == [typical.shape[1:]]:
        near = _near(typical, np.random.default_rng(seed))
        with suppress(ExecutionError):
            answered([near])
            return {inputs[0].name: near}
    try:
        recipe = _first_accepted(inputs, (answered, execute))
    except ExecutionError as error:
        raise DataError(f"the model executes no made-up rows, so that it needs data: {error}") from error
    one = recipe.rows(inputs, 1, np.random.default_rng(seed))
    fitting = _MOST_BYTES // max(1, sum(array.nbytes for array in one))
    count = max(_FEWEST_ROWS, min(_ROWS, fitting))
    drawn = recipe.rows(inputs, count, np.random.default_rng(seed))
    return {tensor.name: array for tensor, array in zip(inputs, drawn, strict=True)}


def _near(typical: NDArray[np.float32], random: np.random.Generator) -> NDArray[np.float32]:
    """Return rows around these, from a thousandth of their spread away up to half: kernels are as narrow."""
    chosen = typical[random.integers(len(typical), size=_ROWS)]
    spread = np.ptp(typical.astype(np.float64), axis=0) + np.finfo(np.float32).tiny
    away = 10 ** random.uniform(np.log10(_NEAREST), 0, size=(_ROWS, 1))
    drawn: NDArray[np.float64] = chosen + random.standard_normal(chosen.shape) * away * spread / 2
    return drawn.astype(np.float32)


def _first_accepted(inputs: Sequence[TensorSpec], ways: Sequence[Execute]) -> Recipe:
    """Return a recipe that the first of the ways takes that takes any."""
    *demanding, last = ways
    for execute in demanding:
        try:
            return accepted_recipe(inputs, _TRIED_ROWS, execute)
        except ExecutionError:
            continue
    return accepted_recipe(inputs, _TRIED_ROWS, last)
