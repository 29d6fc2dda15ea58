"""What a person says about a model, beside what its file says: the loader checks one against the other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

import numpy as np

THREADS: Final = "intra_op_thread_count"
"""The parameter that says how many threads compute one batch of an ONNX model."""


@dataclass(frozen=True, slots=True)
class DeclaredTensor:
    """One input or output as callers should see it; the batch axis is left out of `dims`.

    `model_dims`, where given, are the dims that the model itself has: the same elements in another shape.
    `dtype` is None where nothing was said.
    """

    name: str
    dtype: np.dtype[np.generic] | None
    dims: tuple[int, ...] | None
    model_dims: tuple[int, ...] | None = None
    is_optional: bool = False


@dataclass(frozen=True, slots=True)
class Declaration:
    """All that was said; whatever was not is derived from the model."""

    inputs: tuple[DeclaredTensor, ...] = ()
    outputs: tuple[DeclaredTensor, ...] = ()
    max_batch_size: int | None = None
    """0 says that requests are executed one by one, as they come; None derives it."""
    file: str = ""
    """Name of the model's file in the version's folder; "" is the usual one."""
    platform: str = ""
    """The protocol's word for what should run it; "" leaves it to what is found."""
    is_decoupled: bool = False
    cuda_graphs: bool = True
    """Whether a GPU may be given a batch as one graph of kernels."""
    parameters: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def threads(self) -> int:
        """Threads that compute one batch of an ONNX model; 0 is one for each core."""
        return int(self.parameters.get(THREADS, "1"))


NOTHING_DECLARED: Final = Declaration()
