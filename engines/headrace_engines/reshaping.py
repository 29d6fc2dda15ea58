"""The same elements in another shape: callers see a tensor's declared dims, and the engine its own.

Only views are made, so staging costs no copy.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from headrace_engines.declaration import Declaration, DeclaredTensor
from headrace_engines.engine import DeviceSide, Engine
from headrace_engines.spec import ANY, TensorSpec


def same_elements(dims: Sequence[int], other: Sequence[int]) -> bool:
    """Whether every shape that fits `dims` has one and only one of the same elements that fits `other`.

    That is so if both leave as many sizes open, and the fixed ones before, between and after these
    have the same products.
    """
    return _products(dims) == _products(other)


def reshaped(shape: Sequence[int], dims: Sequence[int], other: Sequence[int]) -> tuple[int, ...]:
    """Return the shape that fits `other`, for one that fits `dims`; see `same_elements`."""
    sizes = iter([size for size, dim in zip(shape, dims, strict=True) if dim == ANY])
    return tuple(next(sizes) if dim == ANY else dim for dim in other)


def _products(dims: Sequence[int]) -> list[int]:
    """Return the products of the fixed sizes around those that are open."""
    opened = [-1, *(position for position, dim in enumerate(dims) if dim == ANY), len(dims)]
    return [math.prod(dims[start + 1 : end]) for start, end in itertools.pairwise(opened)]


class ReshapingEngine:
    """Another engine's tensors with the dims that were declared for its callers."""

    def __init__(self, engine: Engine, declaration: Declaration) -> None:
        """`engine` has the model's own dims, which the declaration's `model_dims` are."""
        self._engine = engine
        self._declaration = declaration
        spec = engine.spec
        self.spec = dataclasses.replace(
            spec,
            inputs=_as_declared(spec.inputs, declaration.inputs),
            outputs=_as_declared(spec.outputs, declaration.outputs),
        )
        self._lead = 1 if spec.has_batch_axis else 0

    @property
    def platform(self) -> str:
        """What runs it."""
        return self._engine.platform

    @property
    def slots(self) -> int:
        """The other engine's."""
        return self._engine.slots

    @property
    def device(self) -> DeviceSide | None:
        """What it has besides if it runs on a device of its own."""
        return self._engine.device

    @property
    def computes_on_caller(self) -> bool:
        """The other engine's."""
        return self._engine.computes_on_caller

    def inputs(self, slot: int) -> tuple[NDArray[Any], ...]:
        """Return views of the other engine's staging buffers."""
        buffers = zip(self._engine.inputs(slot), self.spec.inputs, strict=True)
        return tuple(buffer.reshape(len(buffer), *seen.dims) for buffer, seen in buffers)

    def submit(self, slot: int, rows: int) -> None:
        """Start computing."""
        self._engine.submit(slot, rows)

    def wait(self, slot: int) -> tuple[NDArray[Any], ...]:
        """Return views of the outputs."""
        return self._answered(self._engine.wait(slot))

    def run(self, arrays: Sequence[NDArray[Any] | None]) -> tuple[NDArray[Any], ...]:
        """Execute arrays."""
        own = zip(arrays, self.spec.inputs, self._engine.spec.inputs, strict=True)
        taken = [None if array is None else self._reshaped(array, seen, to) for array, seen, to in own]
        return self._answered(self._engine.run(taken))

    def replicate(self) -> ReshapingEngine:
        """Return another instance, over another one of the engine."""
        return ReshapingEngine(self._engine.replicate(), self._declaration)

    def close(self) -> None:
        """Close the other engine."""
        self._engine.close()

    def _answered(self, outputs: Sequence[NDArray[Any]]) -> tuple[NDArray[Any], ...]:
        own = zip(outputs, self._engine.spec.outputs, self.spec.outputs, strict=True)
        return tuple(self._reshaped(output, has, seen) for output, has, seen in own)

    def _reshaped(self, array: NDArray[Any], own: TensorSpec, other: TensorSpec) -> NDArray[Any]:
        if own.dims == other.dims:
            return array
        lead = array.shape[: self._lead]
        return array.reshape(*lead, *reshaped(array.shape[self._lead :], own.dims, other.dims))


def reshapes(declaration: Declaration) -> bool:
    """Whether callers see any tensor with other dims than the model has."""
    return any(
        tensor.model_dims not in (None, tensor.dims) for tensor in (*declaration.inputs, *declaration.outputs)
    )


def _as_declared(tensors: Sequence[TensorSpec], declared: Sequence[DeclaredTensor]) -> tuple[TensorSpec, ...]:
    said = {tensor.name: tensor.dims for tensor in declared}
    return tuple(
        dataclasses.replace(tensor, dims=tensor.dims if (dims := said.get(tensor.name)) is None else dims)
        for tensor in tensors
    )
