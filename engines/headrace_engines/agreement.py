"""What a person declares about a model against what its file has.

A declaration may say less than the file (what is missing is derived), narrow a size that the file leaves
open, leave outputs out, and call for a model without a batch axis. What else differs is told tensor by
tensor, all at once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from headrace_engines.declaration import Declaration, DeclaredTensor
from headrace_engines.engine import Engine
from headrace_engines.errors import DeclarationError, Difference, ExecutionError
from headrace_engines.near import near
from headrace_engines.python_model import DTYPES
from headrace_engines.samples import accepted_recipe
from headrace_engines.spec import ANY, ModelSpec, TensorSpec

_DATATYPES = {dtype: datatype for datatype, dtype in DTYPES.items()}


def agree(found: ModelSpec, declaration: Declaration) -> ModelSpec:
    """Return the spec to execute: what the file has, as it was declared, with the model's own dims.

    `found` is the file's; its inputs that are `is_optional` may be left out. Raises DeclarationError
    naming each tensor that differs, what the model has and what was declared.
    """
    spec = _with_batch_axis(found, declaration)
    differences: list[Difference] = []
    inputs = _agreed("input", spec, spec.inputs, declaration.inputs, differences)
    outputs = _agreed("output", spec, spec.outputs, declaration.outputs, differences)
    if differences:
        raise DeclarationError(differences)
    return dataclasses.replace(spec, inputs=inputs, outputs=outputs)


def check_answers(engine: Engine, declaration: Declaration) -> None:
    """Execute a made-up row, and raise DeclarationError where an output has not the dims that were declared.

    A model that executes none is believed, as is one of whose outputs nothing was said.
    """
    spec = engine.spec
    if not any(tensor.dims for tensor in declaration.outputs):
        return
    rows = 1 if spec.has_batch_axis else None
    try:
        recipe = accepted_recipe(spec.inputs, rows, engine.run)
        answers = engine.run(recipe.rows(spec.inputs, rows, np.random.default_rng(0)))
    except ExecutionError:
        return
    for tensor, answer in zip(spec.outputs, answers, strict=True):
        dims = answer.shape[1:] if spec.has_batch_axis else answer.shape
        if not _fits(dims, tensor.dims):
            text = f"the model answers {list(dims)}, the configuration says {list(tensor.dims)}"
            raise DeclarationError([Difference("output", text, tensor.name)])


def _with_batch_axis(found: ModelSpec, declaration: Declaration) -> ModelSpec:
    """Return the spec with the batch axis that was declared."""
    most = declaration.max_batch_size
    if found.has_batch_axis:
        return _whole(found) if most == 0 or (most is None and _are_whole(found, declaration)) else found
    if not most:
        return found
    tensors = (*found.inputs, *found.outputs)
    if most == 1 and all(tensor.dims and tensor.dims[0] in (1, ANY) for tensor in tensors):
        return ModelSpec(_rows(found.inputs), _rows(found.outputs), 1, (1,))
    fixed = [tensor for tensor in tensors if not tensor.dims or tensor.dims[0] != ANY]
    reason = "axis 0 does not count the rows of every tensor"
    if fixed:
        reason = f"{fixed[0].name!r} is {list(fixed[0].dims)}, whose axis 0 is not left open"
    text = (
        f"the configuration says {most}, and the model has no batch axis: {reason}; "
        "write max_batch_size: 0, or export it with an axis 0 of any size"
    )
    raise DeclarationError([Difference("max_batch_size", text)])


def _are_whole(found: ModelSpec, declaration: Declaration) -> bool:
    """Whether all dims that were declared count the batch axis in: then the model is meant to have none."""
    ranks = {tensor.name: len(tensor.dims) for tensor in (*found.inputs, *found.outputs)}
    said = [
        (len(_model_dims(tensor) or ()), ranks.get(tensor.name, 0))
        for tensor in (*declaration.inputs, *declaration.outputs)
        if _model_dims(tensor) is not None
    ]
    return bool(said) and all(declared == rank + 1 for declared, rank in said)


def _whole(spec: ModelSpec) -> ModelSpec:
    """Return the same model without a batch axis: its requests carry that dimension themselves."""

    def whole(tensors: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
        return tuple(dataclasses.replace(tensor, dims=(ANY, *tensor.dims)) for tensor in tensors)

    return ModelSpec(whole(spec.inputs), whole(spec.outputs), 0)


def _rows(tensors: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
    return tuple(dataclasses.replace(tensor, dims=tensor.dims[1:]) for tensor in tensors)


def _agreed(
    kind: str,
    spec: ModelSpec,
    found: Sequence[TensorSpec],
    declared: Sequence[DeclaredTensor],
    differences: list[Difference],
) -> tuple[TensorSpec, ...]:
    """Return the tensors of one kind, in the file's order; outputs that were not declared are left out."""
    if not declared:
        return tuple(tensor for tensor in found if not tensor.is_optional)
    said = {tensor.name: tensor for tensor in declared}
    names = [tensor.name for tensor in found]
    for name in said:
        if name not in names:
            meant = near(name, names)
            hint = f"; did you mean {meant[0]!r}?" if meant else ""
            text = f"the model has {', '.join(map(repr, names))} alone{hint}"
            differences.append(Difference(kind, text, name))
    agreed = []
    for tensor in found:
        if tensor.name in said:
            agreed.append(_narrowed(kind, spec, tensor, said[tensor.name], differences))
        elif kind == "input" and not tensor.is_optional:
            text = "the model needs it, the configuration does not list it"
            differences.append(Difference(kind, text, tensor.name))
    return tuple(agreed)


def _narrowed(
    kind: str, spec: ModelSpec, found: TensorSpec, said: DeclaredTensor, differences: list[Difference]
) -> TensorSpec:
    """Return the tensor as it was declared, with the model's own dims."""
    dtype = found.dtype if said.dtype is None else said.dtype
    model_dims = _model_dims(said)
    dims = found.dims if model_dims is None else model_dims
    if dtype != found.dtype or not _fits(dims, found.dims):
        text = (
            f"the model has {_told(found.dtype, found.dims)}, the configuration says "
            f"{_told(dtype, dims)}{_hint(spec, found.dims, dims)}"
        )
        differences.append(Difference(kind, text, found.name))
    if said.is_optional and not found.is_optional:
        text = "it is optional in the configuration, and the model needs it"
        differences.append(Difference(kind, text, found.name))
    return TensorSpec(found.name, dtype, dims, said.is_optional)


def _model_dims(tensor: DeclaredTensor) -> tuple[int, ...] | None:
    return tensor.dims if tensor.model_dims is None else tensor.model_dims


def _fits(dims: Sequence[int], wider: Sequence[int]) -> bool:
    """Whether each shape that fits `dims` fits `wider`, which may leave sizes open that `dims` fixes."""
    return len(dims) == len(wider) and all(
        size == wide or wide == ANY for size, wide in zip(dims, wider, strict=True)
    )


def _hint(spec: ModelSpec, found: Sequence[int], said: Sequence[int]) -> str:
    """Return what is probably wrong about the number of dims; "" if nothing comes to mind."""
    if spec.has_batch_axis and _fits(said[1:], found):
        return "; with a max_batch_size, dims leave the batch axis out"
    if not spec.has_batch_axis and _fits(said, found[1:]):
        return "; without a max_batch_size, dims are the whole shape"
    if len(said) == len(found) and ANY in said:
        return f"; the model fixes what {ANY} would leave open"
    return ""


def _told(dtype: np.dtype[Any], dims: Sequence[int]) -> str:
    return f"{_DATATYPES.get(dtype, str(dtype))} {list(dims)}"
