"""Whether a file has the tensors that its manifest tells of."""

from __future__ import annotations

from collections.abc import Sequence

from headrace_engines.errors import ModelFileError
from headrace_engines.manifest import FILE_NAME
from headrace_engines.spec import ANY, ModelSpec, TensorSpec


def check_described(
    found: ModelSpec, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], file: str
) -> None:
    """Raise ModelFileError unless the file has these tensors, in whatever order."""
    for kind, has, told in (("inputs", found.inputs, inputs), ("outputs", found.outputs, outputs)):
        by_name = {tensor.name: tensor for tensor in has}
        if by_name.keys() != {tensor.name for tensor in told} or not all(
            _can_be(by_name[tensor.name], tensor) for tensor in told
        ):
            raise ModelFileError(f"{file}: its {kind} are {_text(has)}, and {FILE_NAME} says {_text(told)}")


def _can_be(found: TensorSpec, told: TensorSpec) -> bool:
    """Whether two specs can be the same tensor; a dimension that one leaves open fits any."""
    return (found.dtype, len(found.dims)) == (told.dtype, len(told.dims)) and all(
        a == b or ANY in (a, b) for a, b in zip(found.dims, told.dims, strict=True)
    )


def _text(tensors: Sequence[TensorSpec]) -> str:
    return ", ".join(f"{tensor.name} {tensor.dtype} {list(tensor.dims)}" for tensor in tensors)
