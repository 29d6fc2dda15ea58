"""Tensors whose shape a model's file does not tell: it is whatever was declared of them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

from headrace_engines.declaration import Declaration, DeclaredTensor
from headrace_engines.errors import DeclarationError, Difference
from headrace_engines.runtime.signature import SHAPE_UNTOLD, Declared
from headrace_engines.spec import ANY


def with_told_shapes(
    inputs: Sequence[Declared],
    outputs: Sequence[Declared],
    declaration: Declaration,
    scalars: Callable[[], Collection[str]],
) -> tuple[list[Declared], list[Declared]]:
    """Return the same tensors, with declared shapes where the file tells none.

    An empty shape is one that was not told unless its tensor is among the `scalars`, which are asked for
    only where there is such a shape. Without a declared one an output is marked: executions show its rank.
    Raises DeclarationError naming each input without any.
    """
    if all(tensor.shape or tensor.is_optional for tensor in (*inputs, *outputs)):
        return list(inputs), list(outputs)
    known = scalars()
    has_batch_axis = bool(declaration.max_batch_size)
    taken = [_told(tensor, declaration.inputs, known, has_batch_axis=has_batch_axis) for tensor in inputs]
    given = [_told(tensor, declaration.outputs, known, has_batch_axis=has_batch_axis) for tensor in outputs]
    untold = [Difference("input", SHAPE_UNTOLD, tensor.name) for tensor in taken if tensor.is_untold]
    if untold:
        raise DeclarationError(untold)
    return taken, given


def _told(
    tensor: Declared, declared: Sequence[DeclaredTensor], scalars: Collection[str], *, has_batch_axis: bool
) -> Declared:
    if tensor.shape or tensor.is_optional or tensor.name in scalars:
        return tensor
    for said in declared:
        dims = said.dims if said.model_dims is None else said.model_dims
        if said.name == tensor.name and dims is not None:
            sizes = tuple(None if dim == ANY else dim for dim in dims)
            return replace(tensor, shape=(None, *sizes) if has_batch_axis else sizes)
    return replace(tensor, is_untold=True)
