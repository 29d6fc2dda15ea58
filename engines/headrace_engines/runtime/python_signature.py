"""What a program takes and gives: what its class says and what its owner declares, which must agree."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from headrace_engines.declaration import Declaration, DeclaredTensor
from headrace_engines.errors import DeclarationError, Difference, ModelFileError
from headrace_engines.python_model import DTYPES, Tensor
from headrace_engines.spec import ModelSpec, TensorSpec

_DATATYPES: Final = {dtype: datatype for datatype, dtype in DTYPES.items()}


def spec_of(model_class: type[Any], declaration: Declaration, most_rows: int) -> ModelSpec:
    """Return the model's spec, `most_rows` being the most that the server executes at once.

    Raises ModelFileError saying what is wrong with the class, DeclarationError naming the setting in which
    it differs from what was declared.
    """
    inputs = _tensors("input", getattr(model_class, "inputs", ()), declaration.inputs)
    outputs = _tensors("output", getattr(model_class, "outputs", ()), declaration.outputs)
    most = min(_max_batch_size(model_class, declaration), most_rows)
    return ModelSpec(inputs, outputs, most, takes_any_bytes=True)


def is_decoupled(model_class: type[Any], declaration: Declaration) -> bool:
    """Return whether a request may have none or many responses. Raises ModelFileError, DeclarationError."""
    said = getattr(model_class, "decoupled", None)
    if said not in (None, True, False):
        raise ModelFileError(f"decoupled = {said!r}: True or False expected")
    if said is False and declaration.is_decoupled:
        text = "the class says False, the configuration True: both must agree"
        raise DeclarationError([Difference("model_transaction_policy.decoupled", text)])
    return bool(said) or declaration.is_decoupled


def _max_batch_size(model_class: type[Any], declaration: Declaration) -> int:
    said = getattr(model_class, "max_batch_size", None)
    given = declaration.max_batch_size
    if said is not None and (not isinstance(said, int) or said < 0):
        raise ModelFileError(f"max_batch_size = {said!r}: a whole number expected, 0 for no batch axis")
    if None not in (said, given) and said != given:
        text = f"the class says {said}, the configuration {given}: both must agree"
        raise DeclarationError([Difference("max_batch_size", text)])
    return said if said is not None else given or 0


def _tensors(kind: str, said: Any, given: Sequence[DeclaredTensor]) -> tuple[TensorSpec, ...]:
    if not isinstance(said, list | tuple) or not all(isinstance(tensor, Tensor) for tensor in said):
        raise ModelFileError(f"{kind}s = {said!r}: a list of Tensor expected")
    if not said and not given:
        raise ModelFileError(f'no {kind}s: {kind}s = [Tensor("x", "FP32", [4])] expected in the class')
    names = [tensor.name for tensor in said or given]
    if len(set(names)) != len(names):
        raise ModelFileError(f"{kind}s: {', '.join(names)}: each name is expected once")
    declared = {tensor.name: tensor for tensor in given}
    if said and given and set(names) != set(declared):
        text = f"the class has {', '.join(names)}, the configuration {', '.join(declared)}: both must agree"
        raise DeclarationError([Difference(kind, text)])
    if not said:
        return tuple(_declared(kind, tensor) for tensor in given)
    return tuple(_agreed(kind, tensor, declared.get(tensor.name)) for tensor in said)


def _declared(kind: str, given: DeclaredTensor) -> TensorSpec:
    _refuse_reshape(kind, given)
    if given.dtype is None or given.dims is None:
        text = "neither the class nor the configuration says all of it"
        raise DeclarationError([Difference(kind, text, given.name)])
    return TensorSpec(given.name, given.dtype, given.dims, given.is_optional)


def _agreed(kind: str, said: Tensor, given: DeclaredTensor | None) -> TensorSpec:
    spec = TensorSpec(said.name, DTYPES[said.datatype], tuple(said.dims), said.optional)
    if given is None:
        return spec
    _refuse_reshape(kind, given)
    dtype = spec.dtype if given.dtype is None else given.dtype
    dims = spec.dims if given.dims is None else given.dims
    if (dtype, dims) != (spec.dtype, spec.dims):
        text = (
            f"the class says {said.datatype} {list(spec.dims)}, the configuration "
            f"{_datatype(dtype)} {list(dims)}: both must agree"
        )
        raise DeclarationError([Difference(kind, text, said.name)])
    return TensorSpec(spec.name, spec.dtype, spec.dims, spec.is_optional or given.is_optional)


def _refuse_reshape(kind: str, given: DeclaredTensor) -> None:
    if given.model_dims is not None and given.model_dims != given.dims:
        text = "a program takes the dims that its callers see: no reshape"
        raise DeclarationError([Difference(kind, text, given.name)])


def _datatype(dtype: np.dtype[Any]) -> str:
    return _DATATYPES.get(dtype, str(dtype))
