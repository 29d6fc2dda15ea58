"""What a model that is a program imports.

A version folder's `model.py` holds a class `Model`:

    class Model:
        inputs = [Tensor("x", "FP32", [4])]
        outputs = [Tensor("y", "FP32", [4])]
        max_batch_size = 8

        def execute(self, batch: Batch) -> dict[str, NDArray]:
            return {"y": 2 * batch["x"]}

`load(self, context)` and `close(self)` are called, where there are any, before the first and after the
last `execute`. Raise `InputError` for values that the program does not take, and `ExecutionError` for
whatever else the caller should be told: their texts reach the caller. The text of any other exception
stays in the server's log, under an id that the caller gets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import ml_dtypes
import numpy as np
from numpy.typing import ArrayLike, NDArray

from headrace_engines.errors import ExecutionError, InputError
from headrace_engines.spec import ANY
from headrace_engines.steps import Call as Request

__all__ = [
    "ANY",
    "DTYPES",
    "Batch",
    "Context",
    "ExecutionError",
    "InputError",
    "Request",
    "Response",
    "Tensor",
]

DTYPES: Final[Mapping[str, np.dtype[Any]]] = MappingProxyType(
    {
        "BOOL": np.dtype(np.bool_),
        "UINT8": np.dtype(np.uint8),
        "UINT16": np.dtype(np.uint16),
        "UINT32": np.dtype(np.uint32),
        "UINT64": np.dtype(np.uint64),
        "INT8": np.dtype(np.int8),
        "INT16": np.dtype(np.int16),
        "INT32": np.dtype(np.int32),
        "INT64": np.dtype(np.int64),
        "FP16": np.dtype(np.float16),
        "FP32": np.dtype(np.float32),
        "FP64": np.dtype(np.float64),
        "BF16": np.dtype(ml_dtypes.bfloat16),
        "BYTES": np.dtype(object),
    }
)
"""The protocol's datatypes and the dtypes of their arrays; the elements of BYTES are bytes objects."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """One input or output of a program. `dims` are those of one row, -1 for what each request chooses.

    An input that is `optional` may be left out of a request. Raises ValueError for what cannot be.
    """

    name: str
    datatype: str
    dims: Sequence[int]
    optional: bool = False

    def __post_init__(self) -> None:
        if self.datatype not in DTYPES:
            raise ValueError(
                f"tensor {self.name!r}: datatype {self.datatype!r} came, one of {', '.join(DTYPES)} expected"
            )
        if any(not isinstance(dim, int) or dim < ANY for dim in self.dims):
            raise ValueError(f"tensor {self.name!r}: dims {self.dims} came, whole numbers from -1 expected")


@dataclass(frozen=True, slots=True)
class Context:
    """What a program is told when it is loaded.

    `folder` is the version's own; `parameters` are those of config.pbtxt; `max_batch_size` is the most
    rows of one batch, 0 where requests are executed one by one, without a batch axis. Where several
    instances of the program are loaded, each has its number, `instance`.
    """

    folder: Path
    version: str
    parameters: Mapping[str, str]
    max_batch_size: int
    instance: int


class Batch:
    """Requests that are executed together.

    `batch["x"]` has the rows of all of them in the order of `requests`, read-only; in a model without a
    batch axis, where each request comes alone, it is that request's array.
    """

    __slots__ = ("_arrays", "requests")

    def __init__(self, requests: Sequence[Request]) -> None:
        self.requests = requests
        """Each with its id, rows, inputs, parameters, and place in a sequence."""
        self._arrays: dict[str, NDArray[Any]] = {}

    @property
    def rows(self) -> int:
        """How many rows there are in all."""
        return sum(request.rows for request in self.requests)

    def __contains__(self, name: str) -> bool:
        """Whether the input came: an optional one may not have."""
        return all(name in request.inputs for request in self.requests)

    def __getitem__(self, name: str) -> NDArray[Any]:
        array = self._arrays.get(name)
        if array is None:
            array = self._arrays[name] = self._all_rows(name)
        return array

    def _all_rows(self, name: str) -> NDArray[Any]:
        arrays = [request.inputs[name] for request in self.requests]
        if len(arrays) == 1:
            return arrays[0]
        rows = np.concatenate(arrays)
        rows.flags.writeable = False
        return rows


@dataclass(frozen=True, slots=True, eq=False)
class Response:
    """A response to one request of a batch: its outputs by name, or an error.

    A program that is not decoupled gives each request exactly one. A decoupled one gives as many as it
    likes, and says with `final` that it gives no more; a final response may have no outputs, and an
    error is always final. Requests that were told nothing final have their end when `execute` ends.
    """

    request: Request
    outputs: Mapping[str, ArrayLike] | None = None
    error: ExecutionError | None = None
    final: bool = False

    def __post_init__(self) -> None:
        if self.error is None and self.outputs is None and not self.final:
            raise ValueError("a response needs outputs or an error, unless it is final")
        if self.error is not None and self.outputs is not None:
            raise ValueError("a response has either outputs or an error")
        if self.error is not None and not isinstance(self.error, ExecutionError):
            raise TypeError(
                f"the error is a {type(self.error).__name__}: InputError or ExecutionError expected"
            )
