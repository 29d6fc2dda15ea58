"""The inputs of a request as NumPy sees them."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from headrace_engines.spec import TensorSpec
from headrace_server.core.request import Work

STRING_BYTES: Final = 64
"""What a string takes in memory beside its characters, once it is an object."""


def array_of(work: Work, position: int, spec: TensorSpec) -> NDArray[Any]:
    """Return one input that came with the work, in its whole shape: a view of what came, where aligned."""
    data: Any = work.data[position]
    shape: Any = work.shapes[position] if work.shapes is not None else (work.rows, *spec.dims)
    array = data if isinstance(data, np.ndarray) else np.frombuffer(data, spec.dtype)
    if not array.flags.aligned:  # a part of a larger message
        array = array.copy()
        array.setflags(write=False)
    return array.reshape(shape)
