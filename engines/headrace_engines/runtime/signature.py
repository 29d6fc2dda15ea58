"""From the tensors that a model file declares to the spec that the rooms above agree on.

A file does not say which axis counts rows. The rule: axis 0 of every input and every output is left
open, and the inputs give it one name where they name it. An output that does not carry that name is
proved by executing the model at two batch sizes. Whether a row's answer depends on its neighbours is
another question (`headrace_engines.independence`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from headrace_engines.errors import DeclarationError, Difference, ExecutionError
from headrace_engines.samples import Execute, accepted_recipe
from headrace_engines.spec import ANY, ModelSpec, TensorSpec

_PROOF_ROWS = (2, 3)
SHAPE_UNTOLD: Final = (
    "the model's file does not tell its shape; say its `dims` in config.pbtxt, where all inputs are listed, "
    "such as `dims: [-1, 64]`, or with `max_batch_size: 8` those of one row, `dims: [64]`"
)


@dataclass(frozen=True, slots=True)
class Declared:
    """One tensor as its file declares it: a dimension is a size, a symbol's name, or None.

    An empty shape is a scalar or, in an output, possibly one that `is_untold`.
    """

    name: str
    dtype: np.dtype[np.generic]
    shape: tuple[int | str | None, ...]
    is_optional: bool = False
    """Whether the file has a value for an input that does not come."""
    is_untold: bool = False
    """Whether the file does not tell the rank of an output."""

    @property
    def is_open(self) -> bool:
        """Whether there is an axis 0 and its size is not fixed."""
        return bool(self.shape) and not isinstance(self.shape[0], int)

    def tensor(self, first_dim: int) -> TensorSpec:
        """Return the spec of the dims from `first_dim` on."""
        dims = tuple(dim if isinstance(dim, int) else ANY for dim in self.shape[first_dim:])
        return TensorSpec(self.name, self.dtype, dims, self.is_optional)


def model_spec(
    inputs: Sequence[Declared], outputs: Sequence[Declared], max_batch_size: int, execute: Execute
) -> ModelSpec:
    """Return the spec of a model: with `max_batch_size` if it has a batch axis, with 0 if it has none.

    Raises DeclarationError for an output whose rank nothing tells.
    """
    if max_batch_size < 1:
        raise ValueError(f"max_batch_size is {max_batch_size}, expected at least 1")
    symbols = {tensor.shape[0] for tensor in inputs if tensor.is_open} - {None}
    if not inputs or len(symbols) > 1 or not all(tensor.is_open for tensor in inputs):
        return _without_batch_axis(inputs, outputs, execute)
    named = all(tensor.is_open and tensor.shape[0] in symbols for tensor in outputs)
    given = tuple(tensor.tensor(1) for tensor in inputs)
    ranks = [len(tensor.shape) for tensor in outputs] if named else _proved_ranks(given, outputs, execute)
    if ranks is None:
        return _without_batch_axis(inputs, outputs, execute)
    answered = tuple(
        tensor.tensor(1) if tensor.shape else TensorSpec(tensor.name, tensor.dtype, (ANY,) * (rank - 1))
        for tensor, rank in zip(outputs, ranks, strict=True)
    )
    return ModelSpec(given, answered, max_batch_size, best_batch_sizes(max_batch_size))


def best_batch_sizes(max_batch_size: int) -> tuple[int, ...]:
    """Return the powers of two up to the largest batch, and that."""
    powers = {1 << exponent for exponent in range(max_batch_size.bit_length())}
    return tuple(sorted(powers | {max_batch_size}))


def _without_batch_axis(
    inputs: Sequence[Declared], outputs: Sequence[Declared], execute: Execute
) -> ModelSpec:
    given = tuple(tensor.tensor(0) for tensor in inputs)
    answered = tuple(tensor.tensor(0) for tensor in outputs)
    if any(tensor.is_untold for tensor in outputs):
        shown = _shown_ranks(given, outputs, execute)
        answered = tuple(
            replace(tensor, dims=(ANY,) * rank) if declared.is_untold else tensor
            for tensor, declared, rank in zip(answered, outputs, shown, strict=True)
        )
    return ModelSpec(given, answered, 0)


def _shown_ranks(inputs: Sequence[TensorSpec], outputs: Sequence[Declared], execute: Execute) -> list[int]:
    """Return the ranks of the answers to made-up arrays."""
    try:
        recipe = accepted_recipe(inputs, None, execute)
        answers = execute(recipe.rows(inputs, None, np.random.default_rng(0)))
    except ExecutionError as error:
        untold = [Difference("output", SHAPE_UNTOLD, tensor.name) for tensor in outputs if tensor.is_untold]
        raise DeclarationError(untold) from error
    return [answer.ndim for answer in answers]


def _proved_ranks(
    inputs: Sequence[TensorSpec], outputs: Sequence[Declared], execute: Execute
) -> list[int] | None:
    """Return the outputs' ranks if axis 0 of each counts the rows at two batch sizes, else None."""
    if any(tensor.shape and not tensor.is_open for tensor in outputs):
        return None
    try:
        recipe = accepted_recipe(inputs, _PROOF_ROWS[0], execute)
        proofs = [execute(recipe.rows(inputs, rows, np.random.default_rng(0))) for rows in _PROOF_ROWS]
    except ExecutionError:
        return None
    for rows, answers in zip(_PROOF_ROWS, proofs, strict=True):
        if any(answer.ndim == 0 or len(answer) != rows for answer in answers):
            return None
    return [answer.ndim for answer in proofs[0]]
