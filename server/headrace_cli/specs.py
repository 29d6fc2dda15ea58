"""A model's tensors and batches, as commands show them."""

from __future__ import annotations

from headrace_engines.spec import ModelSpec, TensorSpec
from headrace_proto.tensors import datatype_of


def batches(spec: ModelSpec) -> str:
    """Say how many rows a model executes at once."""
    if not spec.has_batch_axis:
        return "none"
    return "one row at a time" if spec.max_batch_size == 1 else f"up to {spec.max_batch_size} rows"


def dims(tensor: TensorSpec) -> str:
    """Say what shape a tensor's rows have."""
    return " x ".join("any" if dim < 0 else str(dim) for dim in tensor.dims) or "one value"


def tensor_document(tensor: TensorSpec) -> dict[str, object]:
    """Return a tensor for a JSON document."""
    return {"name": tensor.name, "datatype": datatype_of(tensor.dtype), "dims": list(tensor.dims)}
