"""From a plan's tensors to the spec that the rooms above agree on.

The library tells the shapes of outputs for any shapes of inputs, so that what counts rows is proved without
an execution: axis 0 of all inputs is left open, and axis 0 of all outputs is what was put in, and nothing
else changes with it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

from headrace_engines.agreement import agree
from headrace_engines.declaration import Declaration
from headrace_engines.errors import (
    DeclarationError,
    Difference,
    ExecutionError,
    UnsupportedModelError,
)
from headrace_engines.runtime.signature import best_batch_sizes
from headrace_engines.runtime.tensorrt.tensors import OPEN, PlanTensor, PlanTensors, Shape
from headrace_engines.spec import ANY, ModelSpec, TensorSpec

OutputShapes = Callable[[Mapping[str, Shape]], Mapping[str, Shape]]
"""Returns the shapes of the outputs; raises ExecutionError for inputs that no profile takes."""


def plan_spec(tensors: PlanTensors, shapes_of: OutputShapes, max_batch_size: int) -> ModelSpec:
    """Return what the plan has: with a batch axis, if it has one, of the rows that profiles and caller allow.

    Raises UnsupportedModelError where an output's size depends on what the inputs hold, or the profiles
    take no batch as small.
    """
    if max_batch_size < 1:
        raise ValueError(f"max_batch_size is {max_batch_size}, expected at least 1")
    rows = row_range(tensors)
    seen = _seen_rows(tensors, shapes_of, rows) if rows else None
    if rows is None or seen is None:
        best = {tensor.name: tensors.profiles[0].shapes[tensor.name][1] for tensor in tensors.inputs}
        outputs = _tensors(tensors.outputs, 0, shapes_of(best) if _are_fixed(tensors, 0) else {})
        return ModelSpec(_tensors(tensors.inputs, 0, {}), outputs, 0)
    if max_batch_size < rows[0]:
        raise UnsupportedModelError(
            f"the plan takes batches of {rows[0]} to {rows[1]} rows, and {max_batch_size} are allowed at most"
        )
    most = min(max_batch_size, rows[1])
    outputs = _tensors(tensors.outputs, 1, seen)
    return ModelSpec(_tensors(tensors.inputs, 1, {}), outputs, most, best_batch_sizes(most))


def row_range(tensors: PlanTensors) -> tuple[int, int] | None:
    """Return the fewest and the most rows that the profiles take; None if axis 0 is not always open.

    Where they leave a gap, what is below it is not used: batches that small are padded.
    """
    if not tensors.inputs or any(tensor.shape[:1] != (OPEN,) for tensor in tensors.inputs):
        return None
    ranges = [
        (
            min(most[0] for _, _, most in profile.shapes.values()),
            max(least[0] for least, _, _ in profile.shapes.values()),
        )
        for profile in tensors.profiles
    ]
    ranges.sort(reverse=True)
    most, least = ranges[0]
    for below, start in ranges[1:]:
        if below >= least - 1:
            least = min(least, start)
    return least, most


def agreed_spec(
    tensors: PlanTensors, shapes_of: OutputShapes, found: ModelSpec, declaration: Declaration
) -> ModelSpec:
    """Return the spec to execute, as it was declared, with outputs of fixed sizes where inputs have them.

    Raises DeclarationError naming what the plan has otherwise.
    """
    declared, has = declaration.max_batch_size or 0, found.max_batch_size
    if found.has_batch_axis and declared > has:
        text = f"the configuration says {declared}, and the plan was built for {has} at most"
        raise DeclarationError([Difference("max_batch_size", text)])
    spec = agree(found, declaration)
    if not spec.is_staged:
        return spec
    try:
        shapes = shapes_of(input_shapes(spec, spec.max_batch_size))
    except ExecutionError as error:
        raise DeclarationError([Difference("input", str(error))]) from error
    dims = {name: shape[1:] for name, shape in shapes.items()}
    outputs = tuple(dataclasses.replace(tensor, dims=dims[tensor.name]) for tensor in spec.outputs)
    return dataclasses.replace(spec, outputs=outputs)


def input_shapes(spec: ModelSpec, rows: int) -> dict[str, Shape]:
    """Return the shapes of a staged model's inputs with so many rows."""
    return {tensor.name: (rows, *tensor.dims) for tensor in spec.inputs}


def _seen_rows(
    tensors: PlanTensors, shapes_of: OutputShapes, rows: tuple[int, int]
) -> dict[str, Shape] | None:
    """Return the outputs' shapes, if axis 0 of each counts the rows and nothing else does; else None.

    The shapes are empty where inputs leave more open than their rows.
    """
    seen = []
    for count in rows:
        profile = next(
            (
                each
                for each in tensors.profiles
                if all(s[0][0] <= count <= s[2][0] for s in each.shapes.values())
            ),
            tensors.profiles[0],
        )
        shapes = {name: (count, *best[1:]) for name, (_, best, _) in profile.shapes.items()}
        try:
            outputs = shapes_of(shapes)
        except ExecutionError:
            return None
        if any(shape[:1] != (count,) for shape in outputs.values()):
            return None
        seen.append(outputs)
    if not _are_fixed(tensors, 1):
        return {}
    if any(seen[0][name][1:] != seen[1][name][1:] for name in seen[0]):
        return None
    return dict(seen[0])


def _are_fixed(tensors: PlanTensors, first_dim: int) -> bool:
    return all(OPEN not in tensor.shape[first_dim:] for tensor in tensors.inputs)


def _tensors(
    tensors: Sequence[PlanTensor], first_dim: int, seen: Mapping[str, Shape]
) -> tuple[TensorSpec, ...]:
    return tuple(
        TensorSpec(
            tensor.name,
            tensor.dtype,
            tuple(ANY if size == OPEN else size for size in seen.get(tensor.name, tensor.shape)[first_dim:]),
        )
        for tensor in tensors
    )
